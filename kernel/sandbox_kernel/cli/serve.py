"""`jupyter sandbox serve` and `jupyter sandbox key`: an executor on this machine, and who may use it."""
# ruff: noqa: T201 - a program prints

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox_kernel.configuration import check, load_configuration
from sandbox_kernel.errors import CommandError, ConfigurationError
from sandbox_kernel.events import EventLog
from sandbox_kernel.executor_api import grpc_settings, memory
from sandbox_kernel.providers.registry import SECTIONS, provider_classes

if TYPE_CHECKING:
    from traitlets.config import Config

    from sandbox_kernel.executor.keys import KeyFile


def add_commands(families: Any) -> None:
    """Add the subcommands to the program's parser."""
    text = "run sandboxes on this machine for kernels elsewhere (an executor), until SIGTERM"
    server = families.add_parser("serve", help=text, description=text)
    server.add_argument("--config", metavar="FILE", help="a configuration file besides Jupyter's own")
    server.add_argument("--address", metavar="HOST:PORT", help="where to listen (Executor.address)")
    server.set_defaults(run=serve)
    text = "the API keys of the executor on this machine"
    keys = families.add_parser("key", help=text, description=text).add_subparsers(metavar="COMMAND", required=True)
    _add_key_command(keys, "add", "make a key for an owner and print it; it is never shown again", add_key)
    _add_key_command(keys, "remove", "make all keys of an owner invalid, at once", remove_keys)
    _add_key_command(keys, "list", "show the owners of keys", list_keys)


def _add_key_command(keys: Any, name: str, text: str, run: Any) -> None:
    parser = keys.add_parser(name, help=text, description=text)
    parser.add_argument("--config", metavar="FILE", help="a configuration file besides Jupyter's own")
    if name != "list":
        parser.add_argument("owner", metavar="OWNER", help="who it is that uses it")
    parser.set_defaults(run=run)


def serve(arguments: Namespace) -> int:
    """Run the executor."""
    config = _configuration(arguments)
    if arguments.address:
        config.Executor.address = arguments.address
    asyncio.run(_serve(config))
    return 0


async def _serve(config: Config) -> None:
    grpc_settings.set_up()
    memory.keep_blocks()
    try:
        from sandbox_kernel.executor.server import ExecutorServer
    except ImportError as exc:
        raise ConfigurationError(
            f"The executor needs a package that is not installed ({exc}); try `pip install 'sandbox-kernel[executor]'`."
        ) from exc
    server = ExecutorServer(config)
    port = await server.start()
    print(f"The executor listens on port {port}.", flush=True)
    await server.serve()


def add_key(arguments: Namespace) -> int:
    """Print a new key."""
    print(_key_file(arguments).add(arguments.owner))
    return 0


def remove_keys(arguments: Namespace) -> int:
    """Remove an owner's keys."""
    count = _key_file(arguments).remove(arguments.owner)
    if not count:
        raise CommandError(f"{arguments.owner!r} has no key; `jupyter sandbox key list` shows who has.")
    print(f"Removed {count} key{'s' if count > 1 else ''} of {arguments.owner}.")
    return 0


def list_keys(arguments: Namespace) -> int:
    """Print the owners."""
    file = _key_file(arguments)
    owners = Counter(file.owners()) if file.path.exists() else Counter()
    for owner, count in sorted(owners.items()):
        print(f"{owner}  {count} key{'s' if count > 1 else ''}")
    if not owners:
        print("There are no keys.")
    return 0


def _key_file(arguments: Namespace) -> KeyFile:
    from sandbox_kernel.executor.keys import KeyFile
    from sandbox_kernel.executor.settings import Executor

    return KeyFile(Path(Executor(config=_configuration(arguments)).keys_file).expanduser())


def _configuration(arguments: Namespace) -> Config:
    """Return the configuration, checked as far as an executor is concerned. Raises ConfigurationError."""
    from sandbox_kernel.executor.settings import Executor
    from sandbox_kernel.providers.local.provider import LocalProvider

    config, options = load_configuration([f"--config={arguments.config}"] if arguments.config else [])
    if options.error is not None:
        raise options.error
    names = {*provider_classes(config), *SECTIONS}
    check(config, [Executor, LocalProvider, EventLog], options, names=names)
    return config
