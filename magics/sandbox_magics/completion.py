"""Completion of `%sandbox` and `%%sandbox` lines in an ordinary kernel; inside a sandbox bridge/stub.py does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from glob import escape
from typing import Any

from sandbox_kernel.bridge.stub import MAX_PATHS, WITH_FILE, alone, paths, words_of
from sandbox_kernel.errors import SandboxKernelError
from sandbox_kernel.lifecycle import State

from .notebook import DEFAULT_SESSION, Notebook
from .registry import CellCommand, Command, all_cell_commands, all_commands

CELL = "%%sandbox"
CELL_OPTIONS = ("--provider", "--replicas", "--session", "-o")


def variables(notebook: Notebook, beginning: str) -> Iterable[str]:  # noqa: ARG001 - a completer's parameter
    """Names of the notebook's variables."""
    hidden = notebook.shell.user_ns_hidden
    return (name for name in notebook.shell.user_ns if not name.startswith("_") and name not in hidden)


def command_names(notebook: Notebook, beginning: str = "") -> Iterable[str]:  # noqa: ARG001 - a completer's parameters
    """Names of the commands."""
    return (one.name for one in all_commands())


def files(notebook: Notebook, beginning: str) -> Iterable[str]:  # noqa: ARG001 - a completer's parameter
    """Paths in the notebook's folder."""
    return paths(beginning)


def sandbox_files(notebook: Notebook, beginning: str) -> Iterable[str]:
    """Paths in the sandbox where one is running; before that it would show what the notebook's folder has."""
    for name in notebook:
        sandbox = notebook.sandbox(name)
        if name == DEFAULT_SESSION and sandbox.state is State.ACTIVE:
            try:
                found = sandbox.list(f"{escape(beginning)}*", limit=MAX_PATHS)
            except SandboxKernelError:
                return ()
            return [f"{entry.path}/" if entry.kind == "folder" else entry.path for entry in found]
    return paths(beginning)


def providers(notebook: Notebook) -> Iterable[str]:
    """Names of the providers among which a cell may choose."""
    try:
        return notebook.providers
    except SandboxKernelError:
        # The cell will say it.
        return ()


COMPLETERS: dict[str, Callable[[Notebook, str], Iterable[str]]] = {
    "apply": sandbox_files,
    "diff": sandbox_files,
    "discard": sandbox_files,
    "download": sandbox_files,
    "files": sandbox_files,
    "help": command_names,
    "push": variables,
    "upload": files,
}
"""What the words behind a command may be, by how the word begins; besides the command's options."""


class Completer:
    """Knows what may stand on a line of ours, where nothing else has anything to say."""

    def __init__(self, notebook: Notebook) -> None:
        self._notebook = notebook

    def complete(self, context: Any) -> dict[str, Any]:
        """Return what the word at the cursor may be."""
        magic, words, symbol = words_of(context)
        if not magic:
            return {"completions": []}
        return alone(self._of_cell(words) if magic == CELL else self._of_line(words, symbol), symbol)

    def _of_cell(self, words: list[str]) -> Iterable[str]:
        match words[-1:]:
            case ["--session"]:
                return self._notebook
            case ["--provider"]:
                return providers(self._notebook)
            case ["-o"]:
                return ()
        match words:
            case ["--session", _, *rest]:
                words = rest
        named = [one for one in all_cell_commands() if one.name in words[:1]]
        if named:
            return (option for one in named for option in options_of(one))
        return CELL_OPTIONS if words else (*CELL_OPTIONS, *(one.name for one in all_cell_commands()))

    def _of_line(self, words: list[str], symbol: str) -> Iterable[str]:
        match words:
            case ["--session"]:
                return self._notebook
            case ["--session", _, *rest]:
                words = rest
            case []:
                return (*command_names(self._notebook), "--session")
        if not words:
            return command_names(self._notebook)
        if words[-1] in WITH_FILE.get(words[0], ()):
            return (sandbox_files if words[0] == "upload" else files)(self._notebook, symbol)
        named = [one for one in all_commands() if one.name == words[0]]
        others = COMPLETERS[words[0]](self._notebook, symbol) if words[0] in COMPLETERS else ()
        return (*others, *(option for one in named for option in options_of(one)))


def options_of(one: Command | CellCommand) -> Iterable[str]:
    """The long options of a command."""
    if isinstance(one, Command) and one.raw:
        return ["--help"]
    return [name for action in one.parser._actions for name in action.option_strings if name.startswith("--")]  # noqa: SLF001 - argparse has no public way
