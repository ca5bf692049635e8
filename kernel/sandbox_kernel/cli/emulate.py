"""`jupyter sandbox emulate NAME`: a service's stand-in on this machine, for developing without an account."""

from __future__ import annotations

from importlib import import_module
from typing import Any

EMULATORS = {
    "agentcore": "sandbox_kernel.emulators.agentcore.command",
    "e2b": "sandbox_kernel.emulators.e2b.command",
}
"""Modules with SUMMARY, `add_arguments(parser)` and `run(arguments)`; each imports what is large when it runs."""


def add_commands(families: Any) -> None:
    """Add the subcommand to the program's parser."""
    text = "run a service's stand-in on this machine, for developing without an account, until SIGTERM"
    names = families.add_parser("emulate", help=text, description=text).add_subparsers(metavar="NAME", required=True)
    for name, module_name in EMULATORS.items():
        module = import_module(module_name)
        parser = names.add_parser(name, help=module.SUMMARY, description=module.SUMMARY)
        module.add_arguments(parser)
        parser.set_defaults(run=module.run)
