"""The options of an executor: section `Executor` of the configuration."""

from __future__ import annotations

import os
from pathlib import Path

from traitlets import Bool, Dict, Float, Int, Unicode, default
from traitlets.config.configurable import Configurable

from sandbox_kernel.executor_api import DEFAULT_PORT
from sandbox_kernel.providers.local.limits import Size

_GIB = 1024**3


class Executor(Configurable):
    """What `jupyter sandbox serve` can be told. Times in seconds, sizes in bytes; 0 means no limit."""

    address = Unicode(f"127.0.0.1:{DEFAULT_PORT}", help="Where it listens: host:port, or [IPv6]:port.").tag(config=True)
    certificate_file = Unicode(help="The executor's certificate chain (PEM). Without it there is no TLS.").tag(
        config=True
    )
    private_key_file = Unicode(help="The private key of that certificate (PEM).").tag(config=True)
    client_ca_file = Unicode(
        help="Certificate authorities (PEM) one of which must have signed the certificate of each client (mutual TLS)."
    ).tag(config=True)
    allow_plaintext = Bool(
        help="Listen without TLS on an address that other machines reach. API keys and all that cells say can be read "
        "on the way."
    ).tag(config=True)
    keys_file = Unicode(
        help="The API keys' hashes, mode 0600; `jupyter sandbox key add OWNER` writes it. "
        "Default: sandbox/executor-keys in Jupyter's data folder."
    ).tag(config=True)

    max_sandboxes = Int(8, min=0, help="Sandboxes of one owner at one time.").tag(config=True)
    max_sandboxes_in_total = Int(64, min=0, help="Sandboxes of all owners at one time.").tag(config=True)
    upload_size = Size(10 * _GIB, min=0, help="Bytes of files that one owner may upload in 24 hours.").tag(config=True)
    owners = Dict(
        key_trait=Unicode(),
        value_trait=Dict(),
        help="Quotas that differ by owner: {'ann': {'max_sandboxes': 2, 'upload_size': '1 GiB'}}.",
    ).tag(config=True)

    idle_timeout = Float(
        1800.0, min=0, help="Seconds without a client, and without anything computing, until a sandbox is paused."
    ).tag(config=True)
    quiet_timeout = Float(
        0.0,
        min=0,
        help="Seconds until a sandbox is paused whose client is there, but says nothing, nor anything computes. A cell "
        "that only waits goes on with the next thing that its client says.",
    ).tag(config=True)
    paused_timeout = Float(86400.0, min=0, help="Seconds until a paused sandbox is closed.").tag(config=True)
    lifetime = Float(0.0, min=0, help="Seconds until a sandbox is closed, whatever it does.").tag(config=True)
    drain_timeout = Float(
        30.0, min=0, help="Seconds that sandboxes in use have to be given back after SIGTERM, before they are closed."
    ).tag(config=True)

    metrics_address = Unicode(
        help="Where Prometheus fetches metrics, such as 127.0.0.1:9464, without TLS or key; nowhere by default."
    ).tag(config=True)

    @default("keys_file")
    def _default_keys_file(self) -> str:
        from jupyter_core.paths import jupyter_data_dir

        return os.fspath(Path(jupyter_data_dir(), "sandbox", "executor-keys"))
