"""One session's use of models: what is configured, what was said, and how each model did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import cached_property

from sandbox_kernel.cell_memory import RunCell
from sandbox_kernel.errors import ConfigurationError, GenerationError, SandboxError, SandboxKernelError
from sandbox_kernel.lifecycle import State
from sandbox_kernel.session import SandboxSession

from .answers import Answer
from .chain import Answered, Chain, Step
from .code_redaction import redact_answer, redact_kept
from .context import NotebookContext, gather
from .conversation import MAX_ANSWER, Conversation, question
from .history import Entry, History, entry
from .models.base import ModelRequest
from .models.registry import make_model
from .redaction import redact, redact_message
from .settings import Generation, read_settings
from .text import one_line, tokens, without_full_stop

CHARACTERS = 3
"""Of a token, about."""


@dataclass(frozen=True)
class Checked:
    """What the sandbox says of code that is to run in it."""

    error: str = ""
    """Why it cannot run; "" if nothing is known against it."""
    unknown: str = ""
    """Why it could not be looked at; "" if it was."""
    missing: tuple[str, ...] = ()
    """Modules that it imports and that are not there."""


class Generator:
    """Made by the first command of a session that needs it. Raises ConfigurationError where it is set up wrongly."""

    def __init__(self, session: SandboxSession) -> None:
        self._session = session
        self.settings: Generation = read_settings(session.config)
        self.chain = Chain([make_model(one, session.config) for one in self.settings.models], self.settings)
        self.conversation = Conversation()
        self.confirmed = False
        """Whether somebody has agreed, in this session, that models are asked."""
        self._tasks: set[asyncio.Task[None]] = set()

    @cached_property
    def history(self) -> History:
        """What was asked before, in this folder."""
        return History(self._session.directory)

    def clean(self, text: str) -> str:
        """Return text without secrets."""
        return redact(text, self.settings.secrets)

    # ---- asking

    async def context(self, prompt: str) -> NotebookContext:
        """Return what a model is to be told of the notebook. Raises what keeps a sandbox from starting."""
        session = self._session
        costs = session.capabilities.billed and session.state in (State.INACTIVE, State.ERROR)
        if session.state is not State.ACTIVE and not costs:
            await session.start()
        return await gather(self._session, self.settings, prompt)

    def request(self, system: str, wish: str, context: NotebookContext | None) -> ModelRequest:
        """Return what a model is asked, without secrets and within the limit. Raises GenerationError."""
        wish = self.clean(wish)
        room = self.settings.max_context - tokens(system)
        if tokens(wish) > room:
            raise GenerationError(f"The request is too long: {tokens(wish)} tokens, about (Generation.max_context).")
        known = self.clean(context.text(max(0, (room - tokens(wish))) * CHARACTERS)) if context is not None else ""
        return ModelRequest(system, self.conversation.messages(question(wish, known), room), self.settings.max_tokens)

    def ask(self, request: ModelRequest, model: str = "") -> AsyncGenerator[Step, None]:
        """Ask the models in their order; see `Chain.ask`."""
        return self.chain.ask(request, model)

    async def check(self, code: str) -> Checked:
        """Let the sandbox look at code. What it says may be anything, so it decides about nothing but what is shown."""
        if self._session.state is not State.ACTIVE:
            await self._session.start()
        try:
            said = await self._session.describe(code=code)
        except SandboxError as exc:
            # That the sandbox says nothing is no fault of the code's; running it will tell.
            return Checked(unknown=without_full_stop(one_line(str(exc), 200)))
        missing = said.get("missing")
        names = [one_line(name, 60) for name in missing[:20]] if isinstance(missing, list) else []
        error = without_full_stop(one_line(said.get("error"), 300))
        return Checked(error, missing=tuple(name for name in names if name.isidentifier()))

    # ---- keeping

    async def remember(self, request: str, answer: Answer) -> None:
        """Let the requests after this one be about it."""
        # More than is kept, since of half a secret nobody could tell that it is one.
        said = await asyncio.to_thread(redact_answer, answer.text[: 2 * MAX_ANSWER], self.settings.secrets)
        self.conversation.add(self.clean(request), said)

    async def keep(self, command: str, wish: str, answer: Answer, answered: Answered) -> int:
        """Write a request and its answer into the history; return its number, 0 if none is kept."""
        if not self.settings.history:
            return 0
        # In a thread: an answer may be made to take long.
        kept, code = await asyncio.to_thread(redact_kept, wish, answer.code, self.settings.secrets)
        made = entry(self._session.directory, command, kept, code, answered)
        return await self._kept(made)

    async def _kept(self, made: Entry) -> int:
        try:
            return await asyncio.to_thread(self.history.add, made)
        except ConfigurationError as exc:
            # What was answered is worth more than its record.
            self._session.log.write("history_failed", level="warning", error=str(exc))
            return 0

    def note_run(self, number: int, cell: RunCell) -> None:
        """Add to the history what became of the code; in the background."""
        if not number:
            return
        result = self.clean(redact_message(f"{cell.error}: {cell.message}"))[:500] if cell.failed else "ok"
        self._spawn(lambda: self.history.note_run(number, result, cell.seconds))

    def _spawn(self, work: Callable[[], None]) -> None:
        async def done() -> None:
            try:
                await asyncio.to_thread(work)
            except SandboxKernelError as exc:
                self._session.log.write("history_failed", level="warning", error=str(exc))

        task = asyncio.ensure_future(done())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """Wait for what is still to be written."""
        if self._tasks:
            await asyncio.wait(self._tasks)
