"""A cell's `%sandbox` lines, run in the kernel process: their output, questions, errors and interrupt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .cell_memory import RunCell
from .commands import load_commands
from .errors import CommandError, SandboxKernelError
from .frontend import Frontend
from .requests import Request
from .session import SandboxSession

ShowPast = Callable[[Request, "int | None"], Awaitable[None]]


class KeyboardInterruptError(Exception):
    """A person interrupted; shown under the name that Python gives to it."""


KeyboardInterruptError.__name__ = "KeyboardInterrupt"


@contextmanager
def _told(command: str) -> Iterator[None]:
    """Give what is no error of ours the name of the command that failed of it."""
    try:
        yield
    except SandboxKernelError:
        raise
    except Exception as exc:
        raise CommandError(f"{' '.join(command.split()[:2])} failed: {exc!r}") from exc


class CommandCell:
    """Runs the `%sandbox` lines of one request, one after the other; it is their CommandContext.

    A ``silent`` one collects its text instead of showing it.
    """

    def __init__(
        self,
        frontend: Frontend,
        session: SandboxSession,
        request: Request,
        *,
        silent: bool = False,
        show_past: ShowPast | None = None,
    ) -> None:
        self.request = request
        self.text = ""
        self.rest: str | None = None
        """What a command wants to be run in the sandbox as the rest of this cell."""
        self._frontend = frontend
        self._session = session
        self._silent = silent
        self._show_past = show_past
        self._question: asyncio.Future[str] | None = None
        self._task: asyncio.Task[None] | None = None
        self._interrupted = False

    async def run(self) -> BaseException | None:
        """Run the lines, then the command whose cell it is, until one fails; return what made it fail.

        Interrupting is a failure like others.
        """
        self._task = asyncio.create_task(self._run_commands())
        if self._interrupted:
            self._task.cancel()
        await asyncio.wait([self._task])
        if self._task.cancelled():
            return KeyboardInterruptError("interrupted")
        return self._task.exception()

    async def _run_commands(self) -> None:
        run_command = load_commands()
        for line in self.request.lines:
            with _told(f"%sandbox {line}"):
                await run_command(line, self)
        if self.request.cell_command is not None:
            line, body = self.request.cell_command
            with _told(f"%%sandbox {line}"):
                await run_command(line, self, body)

    def cancel(self) -> None:
        """Interrupt the command that runs, or is about to: front ends see the cell run before its task begins."""
        self._interrupted = True
        if self._task is not None:
            self._task.cancel()

    # ---- CommandContext

    @property
    def session(self) -> SandboxSession:
        """The notebook's session."""
        return self._session

    def write(self, text: str, *, error: bool = False) -> None:
        """Show text as it is, at once."""
        if self._silent:
            self.text += text
        else:
            content = {"name": "stderr" if error else "stdout", "text": text}
            self._frontend.publish("stream", content, self.request.header)

    def display(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *,
        display_id: str = "",
        update: bool = False,
    ) -> None:
        """Show a MIME bundle, or another one in its place."""
        if not self._silent:
            transient = {"display_id": display_id} if display_id else {}
            content = {"data": data, "metadata": metadata or {}, "transient": transient}
            self._frontend.publish("update_display_data" if update else "display_data", content, self.request.header)
        elif not display_id:
            self.text += str(data.get("text/plain", "")) + "\n"

    async def show_past(self, count: int | None) -> None:
        """Show what cells of this sandbox sent before. Raises CommandError where nothing can be shown here."""
        if self._show_past is None:
            raise CommandError("Past outputs can be shown in a cell only.")
        await self._show_past(self.request, count)

    def add_cell(self, text: str) -> None:
        """Put a new cell below this one, with the reply."""
        if self._silent:
            self.text += f"{text}\n"
        else:
            self.request.payloads.append({"source": "set_next_input", "text": text, "replace": False})

    def run_rest(self, code: str, on_ended: Callable[[RunCell], None] | None = None) -> None:
        """Run code in the sandbox as the rest of this cell, when its commands are done."""
        if self._silent or self.request.has_code or self.rest is not None:
            raise CommandError("Only a command that is alone in its cell can run something behind itself.")
        self.rest = code
        self.request.on_ended = on_ended

    async def ask(self, prompt: str) -> str:
        """Ask the person in front of the notebook. Raises CommandError where nobody can answer."""
        request = self.request
        if self._silent or not request.stdin:
            raise CommandError("Nobody can be asked here; allow the command in the configuration.")
        self._question = asyncio.get_running_loop().create_future()
        content = {"prompt": prompt, "password": False}
        self._frontend.reply("stdin", request.idents, "input_request", content, request.header)
        try:
            return await self._question
        finally:
            self._question = None

    @property
    def asking(self) -> bool:
        """Whether an answer is waited for."""
        return self._question is not None

    def answer(self, value: str) -> None:
        """Take the answer."""
        if self._question is not None and not self._question.done():
            self._question.set_result(value)
