"""`Sandbox`: a sandbox for programs that have an event loop."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Union

from sandbox_kernel.errors import CommandError, StateError
from sandbox_kernel.host_tools import ToolSource
from sandbox_kernel.lifecycle import State
from sandbox_kernel.providers.base import FileEntry
from sandbox_kernel.session import SandboxSession
from sandbox_kernel.session_info import SessionInfo

from .client import ANSWERING, Cell, Client
from .contents import Content, pieces_of
from .outputs import MAX_KEPT, Error, InputRequest, Json, Output, Recording, Result
from .settings import make_session

if TYPE_CHECKING:
    from types import TracebackType

    from traitlets.config import Config
    from typing_extensions import Self

OnInput = Callable[[InputRequest], Union[str, Awaitable[str]]]
"""Answers `input()` in a cell; it may be a coroutine function."""

OnApproval = Callable[[str], Union[str, Awaitable[str]]]
"""Answers whether a cell's call of a tool is allowed: "y", "a" (always), "n" or "never"; it gets the question."""

MAX_CORRELATION_ID = 128


class HasVariables(Protocol):
    """A `RuntimeContext` of the tools."""

    @property
    def variables(self) -> Mapping[str, Any]:
        """What tools see."""


class Sandbox:
    """One sandbox: it starts with its first use, and ends by `close`, or with the ``async with`` block.

    All its methods belong to one event loop, and to the thread in which that runs.
    """

    max_output = MAX_KEPT
    """Bytes of output, about, that a `Result` keeps; `stream` has no such limit."""

    max_pull = 4 * 1024**3
    """Bytes that a variable may have that comes out of the sandbox."""

    def __init__(
        self,
        provider: str = "",
        *,
        directory: str | Path | None = None,
        auto_start: bool = True,
        on_input: OnInput | None = None,
        on_approval: OnApproval | None = None,
        tools: ToolSource | None = None,
        available_tools: Sequence[str] | None = None,
        context: HasVariables | None = None,
        argv: Sequence[str] = (),
        config: Config | None = None,
        keep_changes: bool = True,
        private_paths: Sequence[str] = (),
        **options: Any,
    ) -> None:
        """Take the configuration of the kernel: its files and environment, over them ``argv``, over that the arguments.

        ``config`` is taken in place of files and ``argv``, as it is.

        ``options`` are options of the session or of the provider by their names in docs/configuration.md, as in
        ``memory="1 GiB"``. ``auto_start=False`` makes a first use before `start` an error.

        ``tools`` are what cells may call outside (a `ToolRegistry`), ``available_tools`` the names among them, or
        patterns of names, ``context`` a `RuntimeContext` whose variables the tools see. ``on_approval`` answers for
        tools with the policy "ask".

        With ``keep_changes=False`` it sees the folder as it is on this machine, and what its cells change there ends
        with it. ``private_paths`` are further absolute paths that cells must not see, wherever they lie.

        Raises ConfigurationError, also for mistakes in the configuration files.
        """
        self._client = Client()
        self._session = make_session(
            self._client,
            provider,
            options,
            argv,
            Path(directory) if directory else None,
            config,
            keep_changes=keep_changes,
            private_paths=private_paths,
        )
        self._client.attach(self._session)
        self._client.serve_tools(tools, context.variables if context else None, available_tools)
        self._auto_start = auto_start
        self._on_input = on_input
        self._on_approval = on_approval
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def create(cls, provider: str = "", **arguments: Any) -> Starting:
        """Start a sandbox at once: ``await Sandbox.create()`` or ``async with Sandbox.create() as sandbox``."""
        return Starting(cls(provider, **arguments))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return repr(self._session).replace("SandboxSession", "Sandbox", 1)

    # ---- what it is

    @property
    def session(self) -> SandboxSession:
        """The session behind it, which `%sandbox` commands are about."""
        return self._session

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._session.state

    @property
    def info(self) -> SessionInfo:
        """A snapshot: provider, isolation, identifier, limits and what they leave."""
        return self._session.info

    # ---- running

    async def run(
        self,
        code: str,
        *,
        timeout: float | None = None,
        correlation_id: str = "",
        on_input: OnInput | None = None,
        on_approval: OnApproval | None = None,
        available_tools: Sequence[str] | None = None,
        context: HasVariables | None = None,
    ) -> Result:
        """Run a cell and return what it came to; an exception in it is part of that.

        ``timeout`` in seconds counts from the cell's beginning (default: SandboxSession.execution_timeout); 0 is none.
        ``correlation_id`` names this run in the log, and in the audit log of the tools that it calls. Cells run one
        after the other. Who is cancelled interrupts his cell. ``available_tools`` and ``context`` hold for this cell,
        within and over those of the sandbox.

        Raises SandboxTimeoutError, SandboxLostError when the sandbox ended, and what keeps a sandbox from starting.
        """
        execution = self.stream(
            code,
            timeout=timeout,
            correlation_id=correlation_id,
            on_input=on_input,
            on_approval=on_approval,
            available_tools=available_tools,
            context=context,
        )
        async for _ in execution:
            pass
        return execution.result

    def stream(
        self,
        code: str,
        *,
        timeout: float | None = None,
        correlation_id: str = "",
        on_input: OnInput | None = None,
        on_approval: OnApproval | None = None,
        available_tools: Sequence[str] | None = None,
        context: HasVariables | None = None,
    ) -> Execution:
        """Run a cell and iterate over its outputs as they come; then `Execution.result` is there.

        The arguments are those of `run`. A sandbox waits for who does not take its outputs.
        """
        _require_text(code, correlation_id)
        seconds = self._session.execution_timeout if timeout is None else _seconds(timeout)
        scope = {"available_tools": available_tools, "variables": context.variables if context else None}
        approval = on_approval or self._on_approval
        return Execution(self, code, seconds, correlation_id, on_input or self._on_input, approval, scope)

    def interrupt(self) -> bool:
        """Interrupt the cell that runs, variables kept; return whether one runs."""
        return self._client.interrupt()

    # ---- variables

    async def push(self, **variables: Any) -> None:
        """Give variables these values: data frames, arrays, and what JSON carries. Raises TransferError."""
        from . import transfer

        for name, value in variables.items():
            await transfer.push(self, name, value)

    async def pull(self, name: str) -> Any:
        """Return the value of a variable in the sandbox; nothing is unpickled. Raises TransferError."""
        from . import transfer

        return await transfer.pull(self, name, self.max_pull)

    # ---- files

    async def read(self, path: str, *, limit: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield a file's content in pieces; see `SandboxFiles.read`. Relative paths begin in the working folder."""
        await self.ensure_started()
        async with aclosing(self._session.files.read(path, limit=limit)) as pieces:
            async for piece in pieces:
                yield piece

    async def write(self, path: str, content: Content, *, mode: int = 0o644) -> int:
        """Write a file and return its size in bytes; see `SandboxFiles.write`.

        From bytes, from an iterable of bytes (asynchronous or not), or from a file that is open for reading bytes;
        what is not asynchronous is read in a thread.
        """
        pieces = pieces_of(content, asyncio.to_thread)
        await self.ensure_started()
        return await self._session.files.write(path, pieces, mode=mode)

    async def list(
        self, pattern: str = "*", *, recursive: bool = False, limit: int = 100_000
    ) -> AsyncGenerator[FileEntry, None]:
        """Yield the files that match a pattern; see `SandboxFiles.list`."""
        await self.ensure_started()
        async with aclosing(self._session.files.list(pattern, recursive=recursive, limit=limit)) as entries:
            async for entry in entries:
                yield entry

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file or a folder; see `SandboxFiles.remove`."""
        await self.ensure_started()
        await self._session.files.remove(path, recursive=recursive)

    # ---- its life

    async def start(self) -> None:
        """Start it now, or resume it. Raises what keeps it from starting."""
        self._belong_here()
        if self.state is not State.ACTIVE:
            await self._session.start()

    async def stop(self) -> None:
        """Give the sandbox back; the next use starts a fresh one."""
        self._belong_here()
        await self._session.stop()
        self._client.loss = None

    async def restart(self) -> None:
        """Renew Python in the sandbox: files stay, variables go."""
        self._belong_here()
        await self._session.restart()
        self._client.loss = None

    async def pause(self) -> None:
        """Freeze it; the next use resumes it. Raises SandboxError where the provider cannot."""
        self._belong_here()
        await self._session.pause()

    async def resume(self) -> None:
        """Let it go on where it was paused."""
        self._belong_here()
        await self._session.resume()

    async def close(self) -> None:
        """Give the sandbox back for good. Idempotent."""
        error = StateError("The sandbox was closed.")
        await self._session.close()
        self._client.on_ended(error)

    # ---- for the library

    async def ensure_started(self) -> None:
        """Start it, or resume it, if it does not run. Raises what keeps it from that, and what it was lost of."""
        self._belong_here()
        loss, self._client.loss = self._client.loss, None
        if loss is not None:
            raise loss
        match self.state:
            case State.CLOSED:
                raise StateError("This sandbox was closed; make another one.")
            case State.INACTIVE | State.ERROR if not self._auto_start:
                raise StateError("This sandbox does not run: call start() first (it was made with auto_start=False).")
            case State.ACTIVE:
                return
        await self._session.start()

    async def run_cell(self, cell: Cell) -> None:
        """Submit a cell when the sandbox is ready for it."""
        await self.ensure_started()
        self._client.submit(cell)

    @property
    def client(self) -> Client:
        """What cells are sent by."""
        return self._client

    def _belong_here(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise StateError("This sandbox belongs to another event loop; make one in each, or use BlockingSandbox.")


def _require_text(code: object, correlation_id: object) -> None:
    if not isinstance(code, str):
        raise CommandError(f"The code of a cell is text, and this is {type(code).__name__}.")
    is_text = isinstance(correlation_id, str) and correlation_id.isprintable()
    if not is_text or len(str(correlation_id)) > MAX_CORRELATION_ID:
        raise CommandError(f"A correlation id is printable text of at most {MAX_CORRELATION_ID} characters.")


def _seconds(timeout: float) -> float:
    if isinstance(timeout, (int, float)) and 0 <= timeout < math.inf:
        return timeout
    raise CommandError(f"A timeout is a number of seconds, 0 for none, and this is {timeout!r}.")


class Execution:
    """One run of a cell: iterate over it for its outputs. Nothing happens before the iteration begins."""

    def __init__(
        self,
        sandbox: Sandbox,
        code: str,
        timeout: float,
        correlation_id: str,
        on_input: OnInput | None,
        on_approval: OnApproval | None,
        scope: Mapping[str, Any],
    ) -> None:
        self._sandbox = sandbox
        self._code = code
        self._timeout = timeout
        self._on_input = on_input
        self._on_approval = on_approval
        self._scope = scope
        self._answering: asyncio.Task[None] | None = None
        self._complaint: Exception | None = None
        self._begun = False
        self.result = Result(correlation_id=correlation_id)
        """What it came to; complete when the iteration is over."""

    async def __aiter__(self) -> AsyncIterator[Output]:
        if self._begun:
            raise StateError("An execution can be iterated over once.")
        self._begun = True
        sandbox, result = self._sandbox, self.result
        cell = Cell(
            self._code,
            correlation_id=result.correlation_id,
            timeout=self._timeout,
            on_input=(lambda request: self._ask(cell, request)) if self._on_input else None,
            approve=(lambda prompt: self._approve(cell, prompt)) if self._on_approval else None,
            **self._scope,
        )
        result.correlation_id = cell.correlation_id
        recording = Recording(result, sandbox.max_output)
        await sandbox.run_cell(cell)
        try:
            while (output := await cell.next_output()) is not None:
                sandbox.client.look_again()
                recording.add(output)
                yield output
        finally:
            # Who leaves early does not want the rest.
            sandbox.client.abandon(cell)
            if self._answering is not None:
                self._answering.cancel()
            if cell.began:
                result.duration = cell.finished - cell.began
        self._finish(cell.ended.result())

    def _finish(self, reply: Json) -> None:
        if self._complaint is not None:
            raise self._complaint
        count = reply.get("execution_count")
        self.result.execution_count = count if isinstance(count, int) else None
        if reply.get("status") == "error" and self.result.error is None:
            # Such as a cell that calls for input() where nobody can answer; its output may have been too large, too.
            lines = [str(line) for line in reply.get("traceback") or ()]
            self.result.error = Error(str(reply.get("ename", "")), str(reply.get("evalue", "")), lines)

    def _ask(self, cell: Cell, request: InputRequest) -> None:
        self._answering = asyncio.ensure_future(self._answer(cell, request))

    async def _approve(self, cell: Cell, prompt: str) -> str:
        assert self._on_approval is not None
        token = ANSWERING.set(cell)
        try:
            answer = self._on_approval(prompt)
            return str(await answer if inspect.isawaitable(answer) else answer)
        except Exception as exc:
            # The caller's own, which is raised where he waits.
            self._complaint = exc
            raise CommandError("the program that was asked failed.") from exc
        finally:
            ANSWERING.reset(token)

    async def _answer(self, cell: Cell, request: InputRequest) -> None:
        assert self._on_input is not None
        # This task's own, so that it need not be reset.
        ANSWERING.set(cell)
        try:
            answer = self._on_input(request)
            value = await answer if inspect.isawaitable(answer) else answer
        except Exception as exc:  # noqa: BLE001 - the caller's own, which is raised where he waits
            self._complaint = exc
            self._sandbox.interrupt()
        else:
            self._sandbox.client.answer(cell, str(value))


class Starting:
    """What `Sandbox.create` gives: to be awaited, or to be entered by ``async with``."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def __await__(self) -> Generator[Any, None, Sandbox]:
        return self._started().__await__()

    async def __aenter__(self) -> Sandbox:
        return await self._started()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._sandbox.close()

    async def _started(self) -> Sandbox:
        try:
            await self._sandbox.start()
        except BaseException:
            await self._sandbox.close()
            raise
        return self._sandbox
