"""`jupyter sandbox kernelspec install|list|remove`: further kernels, each with options of its own."""
# ruff: noqa: T201 - a program prints

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox_kernel.errors import CommandError, ConfigurationError

if TYPE_CHECKING:
    from jupyter_client.kernelspec import KernelSpecManager

AUTHOR = "jupyter sandbox kernelspec"
MARK = "sandbox_kernel"
"""Key of the kernelspec's metadata under which a spec that was written here is known again."""

_NAME = re.compile(r"[a-z0-9._-]+")
# VS Code takes such specs for the default ones, or for its own, and hides or moves them.
_RESERVED_NAME = re.compile(r"python.*|.*jvsc74a57bd0.*|.*[0-9a-f]{32}")
_RESERVED_DISPLAY_NAME = re.compile(r"python( ?\d[\d.]*)?( \(ipykernel\))?", re.IGNORECASE)


def add_commands(families: Any) -> None:
    """Add the subcommands to the program's parser."""
    text = "kernels with options of their own"
    commands = families.add_parser("kernelspec", help=text, description=text).add_subparsers(
        metavar="COMMAND", required=True
    )
    _add_install(commands)
    commands.add_parser("list", help="show the kernelspecs of this kernel").set_defaults(run=show_list)
    remover = commands.add_parser("remove", help="remove a kernelspec that was written by install")
    remover.add_argument("name", metavar="NAME")
    remover.set_defaults(run=remove)


def _add_install(commands: Any) -> None:
    parser = commands.add_parser("install", help="write a kernelspec, or write it anew")
    parser.add_argument("--name", required=True, help="letters, digits and . _ -; not beginning with python")
    parser.add_argument("--display-name", metavar="TEXT", help="what front ends show; by default Python (sandbox NAME)")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="CLASS.TRAIT=VALUE",
        help="an option of the kernel, such as LocalProvider.memory='4 GiB'; can be given several times",
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--user", action="store_true", help="for this user (default)")
    place.add_argument("--sys-prefix", action="store_true", help="into the Python environment that runs this")
    place.add_argument("--prefix", metavar="DIR", help="into DIR/share/jupyter/kernels")
    parser.set_defaults(run=install)


def install(arguments: Namespace) -> int:
    """Write a kernelspec. Nothing is written unless a kernel could be started with it."""
    from .settings import check_arguments

    manager = _manager()
    name = _checked_name(arguments.name)
    prefix = sys.prefix if arguments.sys_prefix else arguments.prefix
    options = [f"--{option}" for option in arguments.option]
    for option in options:
        if not re.match(r"--[A-Z][\w.]*\.\w+=", option):
            raise CommandError(f"--option {option[2:]!r} is not of the form CLASS.TRAIT=VALUE")
    check_arguments(options)
    _refuse_foreign(name, [*_folders(manager, name), _folder(manager, name, prefix)])
    display_name = _checked_display_name(manager, name, arguments.display_name or f"Python (sandbox {name})")
    folder = _write(manager, name, prefix, specification(display_name, options))
    print(f"Installed the kernelspec {name} ({display_name}) in {folder}")
    return 0


def specification(display_name: str, options: list[str]) -> dict[str, object]:
    """Return the content of a kernel.json that starts the kernel of this very environment."""
    return {
        "argv": [sys.executable, "-m", "sandbox_kernel", "-f", "{connection_file}", *options],
        "display_name": display_name,
        "language": "python",
        "interrupt_mode": "message",
        "metadata": {"debugger": True, "supported_encryption": ["curve"], MARK: {"written_by": AUTHOR}},
    }


def show_list(arguments: Namespace) -> int:  # noqa: ARG001
    """Print the kernelspecs that start this kernel, and what each sets."""
    for name, folder in sorted(_manager().find_kernel_specs().items()):
        content = _read(Path(folder))
        if _is_ours(content):
            options = content["argv"][content["argv"].index("{connection_file}") + 1 :]
            print("  ".join([name, f"({content.get('display_name', '')})", folder, *options]))
    return 0


def remove(arguments: Namespace) -> int:
    """Remove a kernelspec that install wrote, and no other one."""
    manager = _manager()
    folders = _folders(manager, arguments.name)
    if not folders:
        raise CommandError(f"There is no kernelspec {arguments.name!r}; `jupyter kernelspec list` shows all.")
    _refuse_foreign(arguments.name, folders)
    print(f"Removed {manager.remove_kernel_spec(arguments.name)}")
    return 0


# ---- what may be written


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise CommandError(f"The name {name!r} may hold small letters, digits and . _ - only.")
    if _RESERVED_NAME.fullmatch(name):
        raise CommandError(f"The name {name!r} is one that front ends keep for themselves; choose another one.")
    return name


def _checked_display_name(manager: KernelSpecManager, name: str, display_name: str) -> str:
    if not display_name.strip() or not display_name.isprintable():
        raise CommandError("The display name must be one line of text.")
    if _RESERVED_DISPLAY_NAME.fullmatch(display_name.strip()):
        raise CommandError(f"The display name {display_name!r} is one that front ends hide; choose another one.")
    for other, folder in manager.find_kernel_specs().items():
        # Of two with one name, front ends show one.
        if other != name and _read(Path(folder)).get("display_name") == display_name:
            raise CommandError(f"The kernelspec {other!r} has the display name {display_name!r} already.")
    return display_name


def _refuse_foreign(name: str, folders: list[Path]) -> None:
    for folder in folders:
        if folder.exists() and not _is_written_here(_read(folder)):
            what = "came with the package" if _is_ours(_read(folder)) else "belongs to another kernel"
            raise CommandError(f"The kernelspec {name!r} in {folder} {what}; choose another name.")


def _is_ours(content: dict[str, Any]) -> bool:
    argv = content.get("argv", [])
    return argv[1:3] == ["-m", "sandbox_kernel"] and "{connection_file}" in argv


def _is_written_here(content: dict[str, Any]) -> bool:
    metadata = content.get("metadata", {})
    return _is_ours(content) and isinstance(metadata, dict) and MARK in metadata


# ---- where it lies


def _manager() -> KernelSpecManager:
    from jupyter_client.kernelspec import KernelSpecManager

    return KernelSpecManager(ensure_native_kernel=False)


def _folders(manager: KernelSpecManager, name: str) -> list[Path]:
    folder = manager.find_kernel_specs().get(name)
    return [Path(folder)] if folder else []


def _folder(manager: KernelSpecManager, name: str, prefix: str | None) -> Path:
    parent = Path(prefix).absolute() / "share/jupyter/kernels" if prefix else Path(manager.user_kernel_dir)
    return parent / name


def _read(folder: Path) -> dict[str, Any]:
    """Return a kernelspec's content; one that cannot be read is nobody's of ours."""
    try:
        content = json.loads((folder / "kernel.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(manager: KernelSpecManager, name: str, prefix: str | None, content: dict[str, object]) -> str:
    """Install a folder that is made complete before, so that front ends never see half of it."""
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary, name)
        source.mkdir()
        (source / "kernel.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for logo in _logos(manager):
            shutil.copy(logo, source)
        try:
            return manager.install_kernel_spec(str(source), name, user=prefix is None, prefix=prefix)
        except OSError as exc:
            raise ConfigurationError(f"The kernelspec cannot be written: {exc}.") from exc


def _logos(manager: KernelSpecManager) -> list[Path]:
    """Return the pictures of the kernelspec that came with the package, where it is found."""
    return [logo for folder in _folders(manager, "sandbox") for logo in folder.glob("logo-*")]
