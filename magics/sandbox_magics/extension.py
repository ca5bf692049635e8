"""``%load_ext sandbox_magics``: the commands, and `%%sandbox`, in a notebook of an ordinary kernel."""

from __future__ import annotations

import getpass
import re
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from types import TracebackType
from typing import Any

from sandbox_kernel.bridge.stub import IDENTIFIER, add_matcher
from sandbox_kernel.cell_memory import RunCell
from sandbox_kernel.errors import CellError, CommandError, SandboxKernelError
from sandbox_kernel.library import BlockingSandbox, InputRequest
from sandbox_kernel.library.loop_thread import Turn
from sandbox_kernel.library.outputs import Error, cell_error
from sandbox_kernel.requests import named, names_command

from .commands import run_line
from .completion import Completer
from .notebook import DEFAULT_SESSION, Notebook, NotebookContext
from .registry import Parser, split
from .screen import Screen

_SESSION = re.compile(r"""--session(?:=|\s+)("[^"]*"|'[^']*'|[^\s"']+)(?:\s+(.*))?""", re.DOTALL)
ATTRIBUTE = "_sandbox_notebook"
"""Of the shell: the notebook's sandboxes."""
BEGINNING = frozenset({"start", "attach", "upload", "push", "install", "shell"})
"""Commands with which a new session may begin; of the others, a name that there is not is a mistake."""


def load(shell: Any) -> None:
    """Add the magics and their completion to an IPython shell. Idempotent."""
    known = shell.magics_manager.magics["line"].get("sandbox")
    if getattr(known, "__module__", "") == "sandbox_kernel.bridge.stub":
        print("In this kernel every cell runs in a sandbox, and %sandbox is there; nothing was loaded.")  # noqa: T201
        return
    notebook = getattr(shell, ATTRIBUTE, None)
    if notebook is None:
        notebook = Notebook(shell)
        setattr(shell, ATTRIBUTE, notebook)
    elif not notebook.leaving:
        return
    notebook.leaving = False
    magics = SandboxMagics(notebook)
    shell.register_magic_function(magics.line, "line", "sandbox")
    shell.register_magic_function(magics.cell, "cell", "sandbox")
    add_matcher(shell, Completer(notebook).complete)


def unload(shell: Any) -> None:
    """Remove the magics, and end the sandboxes with the cell: `%reload_ext` loads again in it, and keeps them."""
    notebook = getattr(shell, ATTRIBUTE, None)
    if notebook is None or notebook.leaving:
        return
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("sandbox", None)
    matchers = shell.Completer.custom_matchers
    matchers[:] = [one for one in matchers if getattr(one, "matcher_identifier", "") != IDENTIFIER]
    notebook.leaving = True

    def end(_result: object) -> None:
        shell.events.unregister("post_run_cell", end)
        if notebook.leaving:
            delattr(shell, ATTRIBUTE)
            ended = notebook.close()
            if ended:
                print(f"The sandboxes of this notebook were ended: {', '.join(ended)}.")  # noqa: T201

    shell.events.register("post_run_cell", end)


class SandboxMagics:
    """The two magics of one notebook."""

    def __init__(self, notebook: Notebook) -> None:
        self._notebook = notebook

    def line(self, line: str) -> object:
        """Run a command about a sandbox of this notebook: %sandbox [--session NAME] COMMAND …; `%sandbox help`."""
        with _Told():
            session, command = session_of(line)
            return self._run_command(session, command)

    def cell(self, line: str, cell: str) -> object:
        """Run the cell in a sandbox: %%sandbox [--session NAME] [--provider NAME] [-o NAME].

        Or in N at once: %%sandbox --replicas N. Or give it to a command: %%sandbox [--session NAME] COMMAND …;
        `%sandbox help` lists them.
        """
        with _Told():
            session, command = session_of(line)
            command = named(command)
            if names_command(command):
                return self._run_command(session, command, cell.removesuffix("\n"))
            if set(split(line)) & {"-h", "--help"}:
                print(cell_parser().format_help())  # noqa: T201
                return None
            arguments: Namespace = cell_parser().parse_args(split(line))
            sandbox = self._notebook.sandbox(arguments.session, arguments.provider)
            screen = self._run(sandbox, arguments.session, cell)
            self._notebook.shell.user_ns.update({name: sandbox.pull(name) for name in arguments.outputs})
            return screen.value

    def _run(self, sandbox: BlockingSandbox, session: str, code: str) -> Screen:
        screen = Screen(self._notebook.shell, session)
        try:
            for output in sandbox.stream(code, on_input=ask if self._notebook.can_ask else None):
                screen.show(output)
        except KeyboardInterrupt:
            # What the interrupt did to a cell that came to its end, the cell has said.
            if not screen.ended:
                raise
        if screen.error is not None:
            raise cell_error(screen.error)
        return screen

    def _run_command(self, session: str, line: str, body: str | None = None) -> object:
        begins = line.partition(" ")[0] in BEGINNING
        sandbox = self._notebook.sandbox(session) if begins else self._notebook.existing(session)
        client = sandbox.sandbox.client
        turn = sandbox.turn()
        known = client.loss
        context = NotebookContext(self._notebook, sandbox.sandbox, turn, session)
        turn.wait_for_end(run_line(line, context, body))
        if known is None:
            # Who stops or restarts a sandbox need not be told that its variables are gone.
            client.loss = None
        return None if context.rest is None else self._run_rest(session, sandbox, context, turn)

    def _run_rest(self, session: str, sandbox: BlockingSandbox, context: NotebookContext, turn: Turn) -> object:
        cells = context.session.cells
        before = cells.total
        try:
            return self._run(sandbox, session, context.rest or "").value
        finally:
            if context.on_rest_ended is not None and cells.last is not None and cells.total > before:
                turn.wait(_tell(context.on_rest_ended, cells.last))


async def _tell(listener: Callable[[RunCell], None], cell: RunCell) -> None:
    """Tell on the loop's thread, to which what listens belongs."""
    listener(cell)


class _Told:
    """Shows errors of ours as the kernel Python (sandbox) does: a name and a sentence, no traceback."""

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            raise cell_error(Error("KeyboardInterrupt", "")) from None
        if isinstance(error, SandboxKernelError) and not isinstance(error, CellError):
            name = type(error).__name__
            raise cell_error(Error(name, str(error), [f"\x1b[0;31m{name}\x1b[0m: {error}"])) from None


def session_of(line: str) -> tuple[str, str]:
    """Return the session's name, and the command behind it. Raises CommandError."""
    text = line.strip()
    if found := _SESSION.fullmatch(text):
        (name,) = split(found[1]) or [""]
        return name, found[2] or ""
    if text in ("--session", "--session="):
        raise CommandError("`%sandbox --session` needs a name, as in: %sandbox --session second status")
    return DEFAULT_SESSION, text


def cell_parser() -> Parser:
    """Return what reads the line of a `%%sandbox` cell."""
    # argparse takes this text for a format.
    parser = Parser(
        "%%sandbox",
        description="Run the cell in a sandbox and show its output here.",
        add_help=False,
        allow_abbrev=False,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--session", default=DEFAULT_SESSION, metavar="NAME", help="which of the notebook's sandboxes")
    parser.add_argument("--provider", default="", metavar="NAME", help="what makes it, among those that are allowed")
    parser.add_argument(
        "-o", dest="outputs", action="append", default=[], metavar="NAME", help="pull this variable afterwards"
    )
    return parser


def ask(request: InputRequest) -> str:
    """Ask the person in front of the notebook what `input()` or `getpass()` in the sandbox asks for."""
    return getpass.getpass(request.prompt) if request.password else input(request.prompt)
