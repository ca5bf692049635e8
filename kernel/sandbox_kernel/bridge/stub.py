"""`%sandbox` and `tools` inside the sandbox: says where such a line belongs, and completes the commands' names.

The lines that the kernel process runs never come here. Imported by launcher.py, so it imports nothing of ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, NoReturn

COMMANDS = {
    "agents": (),
    "apply": (),
    "attach": ("--force",),
    "cluster": (),
    "detach": (),
    "context": ("--clear",),
    "diff": ("--stat",),
    "discard": (),
    "download": ("--to",),
    "explain": ("--model", "--no-context", "--show-context"),
    "files": (),
    "fix": ("--run", "--model", "--no-context", "--show-context"),
    "forget": (),
    "fork": (),
    "help": (),
    "history": ("--show",),
    "install": ("--requirement",),
    "kept": (),
    "list": (),
    "models": ("--check",),
    "pause": (),
    "pull": (),
    "push": (),
    "replay": (),
    "restart": (),
    "restore": (),
    "resume": (),
    "shell": (),
    "snapshot": ("--as-file", "--stay", "--no-files"),
    "start": ("--template", "--cpus", "--gpus", "--memory"),
    "status": ("--log",),
    "stop": ("--all", "--orphans"),
    "sync": (),
    "templates": ("--tag",),
    "tool": ("--json", "--timeout", "--background", "--version", "--artifact", "--all"),
    "tools": ("--all",),
    "upload": ("--to",),
}
"""The options of each command, for completion. A test keeps it equal to what sandbox_magics has."""

CELL_COMMANDS = {
    "agent": ("--session", "--stream", "--batch", "--concurrency", "--timeout"),
    "generate": ("--run", "--model", "--no-context", "--show-context"),
    "map": ("--sandboxes", "--to", "--idempotent", "--stop-on-failure"),
    "replicas": (),
    "run": ("--language",),
    "tool": ("--language", "--version", "--update"),
}
"""The same for `%%sandbox NAME` cells."""

WITH_FILES = {"apply", "diff", "discard", "download", "files", "upload"}
"""Commands that are about files. Inside, the notebook's folder looks as it does to those on this machine."""
WITH_FILE = {"download": ("--to",), "install": ("-r", "--requirement"), "upload": ("--to",)}
"""Options of commands that are followed by a file or a folder."""
MAX_PATHS = 500
MAGICS = ("%sandbox", "%%sandbox")
IDENTIFIER = "sandbox_magics"
"""Of what completes their lines, among IPython's matchers."""

INSTALL_HINT = """
This sandbox has no network, so pip cannot fetch packages in it. `%sandbox install PACKAGE …`, at the beginning of a
cell, fetches them outside and installs them in the sandbox."""


def register(shell: Any) -> None:
    """Add the magics, and the completion of their names, to an IPython shell."""
    shell.register_magic_function(sandbox_line, "line", "sandbox")
    shell.register_magic_function(sandbox_cell, "cell", "sandbox")
    add_matcher(shell, complete)
    shell.register_magic_function(with_hint(shell, shell.find_line_magic("pip")), "line", "pip")


class Later:
    """`tools` or `agents`: what they are is loaded when somebody uses them."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self.__dict__["_load"] = load

    def __getattr__(self, name: str) -> Any:
        return getattr(self._load(), name)

    def __getitem__(self, name: str) -> Any:
        return self._load()[name]

    def __iter__(self) -> Any:
        return iter(self._load())

    def __len__(self) -> int:
        return len(self._load())

    def __contains__(self, name: object) -> bool:
        return name in self._load()

    def __dir__(self) -> list[str]:
        return list(self._load().__dir__())

    def __repr__(self) -> str:
        return repr(self._load())

    def _repr_html_(self) -> Any:
        return self._load()._repr_html_()

    def _ipython_key_completions_(self) -> Any:
        return list(self._load())


def add_tools(shell: Any, address: str) -> None:
    """Give cells the names `tools` and `agents`, also after a %reset; they are not listed among the user's."""
    made: dict[str, Any] = {}

    def load() -> dict[str, Any]:
        if not made:
            source = __spec__.loader.get_data(os.path.join(os.path.dirname(__file__), "toolbox.py"))  # type: ignore[name-defined, union-attr, unused-ignore]
            toolbox = type(sys)("sandbox_tools")
            toolbox.__dict__["__file__"] = "<sandbox tools>"
            # dataclasses, pickle and the like look classes up by their module.
            sys.modules["sandbox_tools"] = toolbox
            exec(compile(source, "<sandbox tools>", "exec"), toolbox.__dict__)  # noqa: S102 - it lies beside this file
            made.update(toolbox.make(address))
        return made

    names = {"tools": Later(lambda: load()["tools"]), "agents": Later(lambda: load()["agents"])}
    init = shell.init_user_ns

    def init_with_tools() -> None:
        init()
        shell.user_ns.update(names)
        shell.user_ns_hidden.update(names)

    shell.init_user_ns = init_with_tools
    shell.user_ns.update(names)
    shell.user_ns_hidden.update(names)


def with_hint(shell: Any, pip: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return IPython's `%pip` with a word about `%sandbox install` where pip has failed for want of a network."""

    @wraps(pip)
    def pip_with_hint(line: str) -> Any:
        offline = has_no_network()
        if offline:
            # It would try again for many seconds.
            os.environ.setdefault("PIP_RETRIES", "0")
        result = pip(line)
        if offline and line.split()[:1] == ["install"] and shell.user_ns.get("_exit_code"):
            print(INSTALL_HINT, file=sys.stderr)  # noqa: T201 - in the cell's output
        return result

    return pip_with_hint


def has_no_network() -> bool:
    """Whether there is no network device but the loopback."""
    import socket

    return all(name.startswith("lo") for _, name in socket.if_nameindex())


def sandbox_line(line: str) -> NoReturn:
    """Run a command about this notebook's sandbox: %sandbox COMMAND; `%sandbox help` lists them.

    Such lines stand at the beginning of a cell and are run outside the sandbox, before the rest of the cell.
    """
    called = f"%sandbox {line}".strip()
    _refuse(
        f"`{called}` stands too late: %sandbox lines are run outside the sandbox, before the code of a cell. "
        "Move it to the beginning of the cell, or to a cell of its own."
    )


def sandbox_cell(line: str, cell: str) -> NoReturn:  # noqa: ARG001
    """Give a cell to a command: %%sandbox COMMAND; `%sandbox help` lists them.

    Without a command: run the cell in a sandbox. For notebooks of an ordinary kernel; in this one every cell is.
    """
    if line.strip() and not line.lstrip().startswith("-"):
        _refuse(
            f"`%%sandbox {line.strip()}` is run outside the sandbox, where a person writes it as a cell's first line. "
            "Code that runs in here cannot call it."
        )
    if line.lstrip().startswith("--session"):
        _refuse(
            "This kernel has one sandbox: leave --session and its name out, and the whole line where no command stands "
            "behind them. It is for notebooks of ordinary kernels."
        )
    _refuse("In this kernel every cell runs in the sandbox; remove the line %%sandbox. It is for ordinary kernels.")


class Alone(list):  # type: ignore[type-arg]
    """Completions beside which IPython looks for no others, also where there are none: it asks how many they are."""

    def __len__(self) -> int:
        return max(1, super().__len__())


def words_of(context: Any) -> tuple[str, list[str], str]:
    """Return the magic on the line at the cursor, the words behind it, and how the word at the cursor begins."""
    text = context.line_with_cursor[: len(context.text_until_cursor)]
    first, *words = text.split() or [""]
    if first not in MAGICS or not (words or text[-1].isspace()):
        return "", [], ""
    symbol = "" if text[-1].isspace() else words.pop()
    return first, words, symbol


def alone(found: Iterable[str], symbol: str) -> dict[str, Any]:
    """Return to IPython's completer what a word that begins like ``symbol`` may be, and nothing else may."""
    from IPython.core.completer import SimpleCompletion

    matching = sorted({word for word in found if word.startswith(symbol)})
    completions = Alone(SimpleCompletion(word, type="sandbox") for word in matching)
    return {"completions": completions, "matched_fragment": symbol, "suppress": True}


def add_matcher(shell: Any, complete: Callable[[Any], dict[str, Any]]) -> None:
    """Have IPython's completer ask this first; before version 8.6 it cannot be had that others keep silent."""
    try:
        from IPython.core.completer import context_matcher
    except ImportError:
        return
    matcher = context_matcher(identifier=IDENTIFIER, priority=100)(lambda context: complete(context))  # noqa: PLW0108 - a method takes no attributes, which this one gets
    shell.Completer.custom_matchers.append(matcher)


def complete(context: Any) -> dict[str, Any]:
    """Return what the word at the cursor of one of our lines may be."""
    magic, words, symbol = words_of(context)
    if not magic:
        return {"completions": []}
    return alone(_of_cell(words) if magic == "%%sandbox" else _of_line(words, symbol), symbol)


def _of_cell(words: list[str]) -> Iterable[str]:
    return (*CELL_COMMANDS.get(words[0], ()), "--help") if words else CELL_COMMANDS


def _of_line(words: list[str], symbol: str) -> Iterable[str]:
    if words in ([], ["help"]):
        return COMMANDS
    command = words[0]
    if words[-1] in WITH_FILE.get(command, ()):
        return paths(symbol)
    if command == "upload" and symbol.startswith(("/", "~", "..")):
        # What lies there on this machine is not seen from here.
        return ()
    options = (*COMMANDS.get(command, ()), "--help")
    return (*paths(symbol), *options) if command in WITH_FILES else options


def paths(beginning: str) -> list[str]:
    """Return the paths that begin so, those of folders with a slash behind; hidden ones where that is asked for."""
    folder, name = os.path.split(beginning)
    try:
        with os.scandir(os.path.expanduser(folder) or ".") as entries:
            found = [
                os.path.join(folder, entry.name) + ("/" if entry.is_dir() else "")
                for _, entry in zip(range(10 * MAX_PATHS), entries)  # noqa: B905 - the shorter one ends it
                if entry.name.startswith(name) and (name or not entry.name.startswith("."))
            ]
    except (OSError, ValueError):
        return []
    return sorted(found)[:MAX_PATHS]


def _refuse(message: str) -> NoReturn:
    from IPython.core.error import UsageError

    raise UsageError(message)
