"""`%sandbox` inside the sandbox: says where such a line belongs, and completes the commands' names.

The lines that the kernel process runs never come here. Imported by launcher.py, so it imports nothing of ours.
"""

from __future__ import annotations

from typing import Any, NoReturn

COMMANDS = {
    "help": (),
    "pause": (),
    "pull": (),
    "push": (),
    "restart": (),
    "resume": (),
    "shell": (),
    "start": (),
    "status": ("--log",),
    "stop": (),
}
"""The options of each command, for completion. A test keeps it equal to what sandbox_magics has."""


def register(shell: Any) -> None:
    """Add the magics, and the completion of their names, to an IPython shell."""
    shell.register_magic_function(sandbox_line, "line", "sandbox")
    shell.register_magic_function(sandbox_cell, "cell", "sandbox")
    shell.set_hook("complete_command", complete, str_key="%sandbox")


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
    """Run a cell in a sandbox. For notebooks of an ordinary kernel; in this one every cell is."""
    _refuse("In this kernel every cell runs in the sandbox; remove the line %%sandbox. It is for ordinary kernels.")


def complete(shell: Any, event: Any) -> list[str]:  # noqa: ARG001
    """Return what the word at the cursor may be (hook `complete_command`)."""
    words = event.text_until_cursor.split()[1:]
    if words and not event.text_until_cursor[-1].isspace():
        words.pop()
    if words in ([], ["help"]):
        return [name for name in COMMANDS if name.startswith(event.symbol)]
    options = (*COMMANDS.get(words[0], ()), "--help")
    return [option for option in options if option.startswith(event.symbol)]


def _refuse(message: str) -> NoReturn:
    from IPython.core.error import UsageError

    raise UsageError(message)
