"""What a `%sandbox` command is, and the table of all commands. The commands themselves are one file per family."""

from __future__ import annotations

import argparse
import difflib
import inspect
import shlex
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from sandbox_kernel.commands import CommandContext
from sandbox_kernel.errors import CommandError

Run = Callable[[CommandContext, argparse.Namespace], Awaitable[None]]

_commands: dict[str, Command] = {}


@dataclass(frozen=True)
class Argument:
    """What `argparse.ArgumentParser.add_argument` is called with."""

    flags: tuple[str, ...]
    settings: Mapping[str, Any]


def argument(*flags: str, **settings: Any) -> Argument:
    """Describe an argument of a command in argparse's words."""
    return Argument(flags, settings)


@dataclass(frozen=True)
class Command:
    """One `%sandbox NAME …`. The first line of its docstring is what a list of the commands says of it."""

    name: str
    run: Run
    parser: argparse.ArgumentParser
    raw: bool
    """Whether the rest of the line is passed as it is (``arguments.text``), quotes and pipes and all."""

    @property
    def summary(self) -> str:
        """One sentence."""
        return (inspect.getdoc(self.run) or "").partition("\n")[0]

    @property
    def help(self) -> str:
        """How the command is called, and what it does."""
        return self.parser.format_help().rstrip()

    def parse(self, text: str) -> argparse.Namespace:
        """Return what a line says after the command's name. Raises CommandError."""
        if self.raw:
            return argparse.Namespace(text=text)
        return self.parser.parse_args(split(text))


class Parser(argparse.ArgumentParser):
    """A parser that neither prints nor exits."""

    def error(self, message: str) -> NoReturn:
        usage = " ".join(self.format_usage().removeprefix("usage: ").split())
        raise CommandError(f"`{self.prog}`: {message}; it is called as: {usage}")


def command(name: str, *arguments: Argument, raw: str = "") -> Callable[[Run], Run]:
    """Register an async function as the command NAME; with RAW (what help calls it) it gets the unparsed text."""

    def register(run: Run) -> Run:
        description = inspect.getdoc(run)
        parser = Parser(
            f"%sandbox {name}",
            # argparse takes a usage for a format, and for none of the other texts.
            f"%%sandbox {name} {raw}" if raw else None,
            description,
            add_help=False,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        # From Python 3.14 on argparse would colour what it formats.
        parser.color = False  # type: ignore[attr-defined, unused-ignore]
        for one in arguments:
            parser.add_argument(*one.flags, **one.settings)
        if not raw:
            # Never reached by the parser: `wants_help` looks for it first, because it goes without other arguments.
            parser.add_argument("-h", "--help", action="store_true", help="show this text")
        _commands[name] = Command(name, run, parser, bool(raw))
        return run

    return register


def find_command(name: str) -> Command:
    """Return the command NAME. Raises CommandError with the nearest name, and all of them."""
    if name in _commands:
        return _commands[name]
    near = difflib.get_close_matches(name.lower(), _commands, 1)
    hint = f"; did you mean `{near[0]}`?" if near else "."
    raise CommandError(f"There is no command `%sandbox {name}`{hint} There are: {', '.join(sorted(_commands))}.")


def all_commands() -> list[Command]:
    """Return the commands by name."""
    return [_commands[name] for name in sorted(_commands)]


def split(text: str) -> list[str]:
    """Split a line into words as a shell does. Raises CommandError."""
    try:
        return shlex.split(text)
    except ValueError as exc:
        raise CommandError(f"{exc} in: {text}") from exc


def wants_help(one: Command, text: str) -> bool:
    """Whether a line asks for help; a raw command's text may well hold --help for the program it starts."""
    words = [text.strip()] if one.raw else split(text)
    return "--help" in words or "-h" in words
