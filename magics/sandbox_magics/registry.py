"""What a `%sandbox` command is, and the table of all commands. The commands themselves are one file per family."""

from __future__ import annotations

import argparse
import difflib
import inspect
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from sandbox_kernel.commands import CommandContext
from sandbox_kernel.errors import CommandError

Run = Callable[[CommandContext, argparse.Namespace], Awaitable[None]]

RunCell = Callable[[CommandContext, argparse.Namespace, str], Awaitable[None]]
"""Also gets the cell's body: all lines below the first."""

_commands: dict[str, Command] = {}
_cell_commands: dict[str, CellCommand] = {}


@dataclass(frozen=True)
class Argument:
    """What `argparse.ArgumentParser.add_argument` is called with."""

    flags: tuple[str, ...]
    settings: Mapping[str, Any]


def argument(*flags: str, **settings: Any) -> Argument:
    """Describe an argument of a command in argparse's words."""
    return Argument(flags, settings)


@dataclass(frozen=True)
class _Named:
    """What has a name and a parser. The first line of its docstring is what a list of the commands says of it."""

    name: str
    run: Callable[..., Awaitable[None]]
    parser: Parser

    @property
    def summary(self) -> str:
        """One sentence."""
        return summary_of(self.run)

    @property
    def help(self) -> str:
        """How it is called, and what it does."""
        return self.parser.format_help().rstrip()


@dataclass(frozen=True)
class Command(_Named):
    """One `%sandbox NAME …`."""

    run: Run
    raw: bool
    """Whether the rest of the line is passed as it is (``arguments.text``), quotes and pipes and all."""

    def parse(self, text: str) -> argparse.Namespace:
        """Return what a line says after the command's name. Raises CommandError."""
        if self.raw:
            return argparse.Namespace(text=text)
        return self.parser.parse_args(split(text))


@dataclass(frozen=True)
class CellCommand(_Named):
    """One `%%sandbox NAME …` cell."""

    run: RunCell


def summary_of(run: Callable[..., object]) -> str:
    """Return the first line of a command's docstring."""
    return (inspect.getdoc(run) or "").partition("\n")[0]


class Parser(argparse.ArgumentParser):
    """A parser that neither prints nor exits."""

    def error(self, message: str) -> NoReturn:
        usage = " ".join(self.format_usage().removeprefix("usage: ").split())
        raise CommandError(f"`{self.prog}`: {message}; it is called as: {usage}")


def command(name: str, *arguments: Argument, raw: str = "") -> Callable[[Run], Run]:
    """Register an async function as the command NAME; with RAW (what help calls it) it gets the unparsed text."""

    def register(run: Run) -> Run:
        # argparse takes a usage for a format, and for none of the other texts.
        parser = _parser(f"%sandbox {name}", f"%%sandbox {name} {raw}" if raw else None, inspect.getdoc(run))
        _add_arguments(parser, arguments, with_help=not raw)
        _commands[name] = Command(name, run, parser, bool(raw))
        return run

    return register


def cell_command(name: str, *arguments: Argument) -> Callable[[RunCell], RunCell]:
    """Register an async function as the command of `%%sandbox NAME …` cells; it gets the cell's body, too."""

    def register(run: RunCell) -> RunCell:
        parser = _parser(f"%%sandbox {name}", None, inspect.getdoc(run))
        _add_arguments(parser, arguments, with_help=True)
        _cell_commands[name] = CellCommand(name, run, parser)
        return run

    return register


def _parser(prog: str, usage: str | None, description: str | None) -> Parser:
    parser = Parser(
        prog,
        usage,
        description,
        add_help=False,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # From Python 3.14 on argparse would colour what it formats.
    parser.color = False  # type: ignore[attr-defined, unused-ignore]
    return parser


def _add_arguments(parser: Parser, arguments: Sequence[Argument], *, with_help: bool) -> None:
    for one in arguments:
        parser.add_argument(*one.flags, **one.settings)
    if with_help:
        # Never reached by the parser: `wants_help` looks for it first, because it goes without other arguments.
        parser.add_argument("-h", "--help", action="store_true", help="show this text")


def find_command(name: str) -> Command:
    """Return the command NAME. Raises CommandError with the nearest name, and all of them."""
    if name in _commands:
        return _commands[name]
    if name in _cell_commands:
        raise CommandError(f"`{name}` is for a cell of its own: write %%sandbox {name} on its first line, text below.")
    raise CommandError(_unknown("%sandbox", name, _commands))


def find_cell_command(name: str) -> CellCommand:
    """Return the command of `%%sandbox NAME` cells. Raises CommandError like `find_command`."""
    if name in _cell_commands:
        return _cell_commands[name]
    if name in _commands:
        raise CommandError(f"`{name}` is for a line: write %sandbox {name}, with one %.")
    raise CommandError(_unknown("%%sandbox", name, _cell_commands))


def _unknown(magic: str, name: str, known: Mapping[str, object]) -> str:
    if name.startswith("--session"):
        # In notebooks of ordinary kernels it was read before.
        return f"This kernel has one sandbox: leave --session and its name out, as in {magic} {min(known)}."
    near = difflib.get_close_matches(name.lower(), known, 1)
    hint = f"; did you mean `{near[0]}`?" if near else "."
    return f"There is no command `{magic} {name}`{hint} There are: {', '.join(sorted(known))}."


def all_commands() -> list[Command]:
    """Return the commands of lines by name."""
    return [_commands[name] for name in sorted(_commands)]


def all_cell_commands() -> list[CellCommand]:
    """Return the commands of cells by name."""
    return [_cell_commands[name] for name in sorted(_cell_commands)]


def split(text: str) -> list[str]:
    """Split a line into words as a shell does. Raises CommandError."""
    try:
        return shlex.split(text)
    except ValueError as exc:
        raise CommandError(f"{exc} in: {text}") from exc


def wants_help(one: Command | CellCommand, text: str) -> bool:
    """Whether a line asks for help; a raw command's text may well hold --help for the program it starts."""
    words = [text.strip()] if isinstance(one, Command) and one.raw else split(text)
    return "--help" in words or "-h" in words
