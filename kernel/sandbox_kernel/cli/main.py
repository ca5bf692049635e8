"""`jupyter sandbox …`: the parser of all subcommands, and how their errors end the program."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from sandbox_kernel import __version__
from sandbox_kernel.errors import CommandError, ConfigurationError, SandboxKernelError

from . import attach, doctor, emulate, kernelspec, layers, sandboxes, serve, serving

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{self.prog}: {message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code: 0, 1 if it failed, 2 if it was called wrongly."""
    try:
        arguments = _parser().parse_args(argv)
        code = int(arguments.run(arguments))
        sys.stdout.flush()
    except (CommandError, ConfigurationError) as exc:
        return _fail(exc, BAD_INPUT)
    except SandboxKernelError as exc:
        return _fail(exc, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Who read the output has enough; Python must not complain when it flushes the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("jupyter sandbox", description="Sandboxes of notebooks, and the kernels that use them.")
    parser.add_argument("--version", action="version", version=f"sandbox-kernel {__version__}")
    families = parser.add_subparsers(metavar="COMMAND", required=True)
    for family in (sandboxes, attach, layers, doctor, kernelspec, serve, serving, emulate):
        family.add_commands(families)
    return parser


def _fail(error: SandboxKernelError, code: int) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
    return code
