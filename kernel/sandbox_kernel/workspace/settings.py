"""What can be configured about the notebook's folder in a sandbox. Nothing of it can be chosen from a cell."""

from __future__ import annotations

import os

from traitlets import Enum, Float, Int, List, Unicode, default
from traitlets.config.configurable import Configurable

_GIB = 1024**3
_MIB = 1024**2

HIDDEN = """
    .env* .envrc *.env .netrc _netrc .pgpass .my.cnf .pypirc .npmrc .yarnrc .yarnrc.yml .git-credentials .htpasswd
    .git .hg .svn .ssh .aws .azure .boto .s3cfg .gnupg .kube .docker .jupyter .ipython .vault-token .password-store
    .bash_history .zsh_history .python_history .config/gcloud/ **/.config/gcloud/ .streamlit/secrets.toml
    **/.streamlit/secrets.toml .terraform *.tfstate *.tfstate.* *.tfvars
    *.pem *.key *.p12 *.pfx *.jks *.keystore *.kdbx *.ppk *.asc *.gpg *.ovpn
    id_rsa* id_dsa* id_ecdsa* id_ed25519* credentials credentials.* client_secret*.json service-account*.json
    service_account*.json application_default_credentials.json secrets.json secrets.yaml secrets.yml secrets.toml
    kernel-*.json
""".split()
"""Names of files that hold keys and passwords, and of folders that a program on the host takes orders from."""

SKIPPED = """
    .venv/ venv/ node_modules/ __pycache__/ .ipynb_checkpoints/ .mypy_cache/ .pytest_cache/ .ruff_cache/ .tox/ .nox/
""".split()
"""Names of folders that programs fill."""


class Workspace(Configurable):
    """The notebook's folder: how cells see it, what of it they never see, and how long their changes are kept."""

    mode = Enum(
        ("overlay", "readonly", "private", "readwrite"),
        "overlay",
        help="How cells see the notebook's folder. overlay: they read it, and what they write stays in a layer of its "
        "own until `%sandbox apply`. readonly: they read it. private: they see an empty folder. readwrite: what they "
        "write is written.",
    ).tag(config=True)
    hidden = List(
        Unicode(),
        HIDDEN,
        help="Files and folders that cells never see and `%sandbox apply` never writes, as patterns of .gitignore; "
        "upper and lower case are the same. To add to the default: c.Workspace.hidden.extend([…]).",
    ).tag(config=True)
    largest_folder = Int(
        200_000,
        min=1,
        help="Files and folders that are looked at for what has to be hidden; folders beyond that are not shown.",
    ).tag(config=True)
    layers = Unicode(
        help="Folder in which the layers are kept that cells write to. It must lie on a disk of this machine. "
        "Default: sandbox/layers in Jupyter's data folder."
    ).tag(config=True)
    keep_days = Float(
        7.0, min=0.0, help="Days for which changes that were not applied are kept after their last use."
    ).tag(config=True)
    keep_size = Int(
        5 * _GIB,
        min=0,
        help="Bytes that all kept layers that no kernel uses may take; the oldest go first.",
    ).tag(config=True)
    largest_file = Int(
        10 * _GIB, min=0, help="Size in bytes beyond which `%sandbox apply` writes no file to the host."
    ).tag(config=True)

    sync_files = Int(
        20_000,
        min=0,
        help="Files and folders of the notebook's folder that are copied to a sandbox on another machine at most.",
    ).tag(config=True)
    sync_size = Int(
        500 * _MIB,
        min=0,
        help="Bytes of files that are copied to a sandbox on another machine at most, and of changed ones back.",
    ).tag(config=True)
    sync_file_size = Int(
        100 * _MIB,
        min=0,
        help="Size in bytes beyond which a file is copied neither to a sandbox on another machine nor back.",
    ).tag(config=True)
    sync_skipped = List(
        Unicode(),
        SKIPPED,
        help="Files and folders that are copied neither to a sandbox on another machine nor back, as patterns of "
        ".gitignore: what is large and can be made again.",
    ).tag(config=True)
    sync_interval = Float(
        60.0,
        min=0.0,
        help="Seconds between two times at which what cells changed on another machine is fetched while no cell runs, "
        "so that it is not lost with the sandbox; 0: only when the sandbox is given back.",
    ).tag(config=True)

    @default("layers")
    def _default_layers(self) -> str:
        from jupyter_core.paths import jupyter_data_dir

        return os.path.join(jupyter_data_dir(), "sandbox", "layers")
