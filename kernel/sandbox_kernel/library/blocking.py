"""`BlockingSandbox`: a sandbox for programs and notebook cells without ``await``; all of it is in `Sandbox`."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from sandbox_kernel.errors import SandboxKernelError, StateError
from sandbox_kernel.lifecycle import State
from sandbox_kernel.providers.base import FileEntry
from sandbox_kernel.session_info import SessionInfo

from .contents import Content, pieces_of
from .loop_thread import LoopThread, Turn, awaitable
from .outputs import InputRequest, Output, Result
from .sandbox import Sandbox

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

T = TypeVar("T")

EXIT_TIMEOUT = 10.0
"""Seconds that the end of the program waits for a sandbox that was not closed."""


class BlockingSandbox:
    """Does what `Sandbox` does, in an event loop of its own: its methods wait, also where a loop runs already.

    It may be used by several threads. Interrupting who waits (Ctrl-C) interrupts the cell that he waits for, and raises
    KeyboardInterrupt when that has ended.
    ``on_input`` and ``on_approval`` are called in the thread that waits. What is not closed ends with the program.
    """

    def __init__(self, provider: str = "", **arguments: Any) -> None:
        """Take the arguments of `Sandbox`."""
        self._sandbox = Sandbox(provider, **{**arguments, "on_input": None, "on_approval": None})
        self._on_input: Callable[[InputRequest], str] | None = arguments.get("on_input")
        self._on_approval: Callable[[str], str] | None = arguments.get("on_approval")
        self._made_thread: LoopThread | None = None
        self._closed = False

    @classmethod
    def create(cls, provider: str = "", **arguments: Any) -> Self:
        """Make one and start it at once."""
        sandbox = cls(provider, **arguments)
        try:
            sandbox.start()
        except BaseException:
            sandbox.close()
            raise
        return sandbox

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._sandbox).replace("Sandbox", "BlockingSandbox", 1)

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._sandbox.state

    @property
    def info(self) -> SessionInfo:
        """A snapshot: provider, isolation, identifier, limits and what they leave."""
        return self._sandbox.info

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox itself; its coroutines are for `wait`."""
        return self._sandbox

    # ---- what Sandbox does

    def run(
        self,
        code: str,
        *,
        timeout: float | None = None,
        correlation_id: str = "",
        on_input: Callable[[InputRequest], str] | None = None,
        **scope: Any,
    ) -> Result:
        """Run a cell; see `Sandbox.run`, also for ``scope``: `on_approval`, `available_tools` and `context`."""
        turn = self.turn()
        asker, scope = self._asker(on_input, turn), self._approver(scope, turn)
        work = self._sandbox.run(code, timeout=timeout, correlation_id=correlation_id, on_input=asker, **scope)
        return turn.wait(work, self._sandbox.interrupt)

    def stream(
        self,
        code: str,
        *,
        timeout: float | None = None,
        correlation_id: str = "",
        on_input: Callable[[InputRequest], str] | None = None,
        **scope: Any,
    ) -> Iterator[Output]:
        """Run a cell and give its outputs as they come; who stops early interrupts it. See `Sandbox.stream`.

        After an interrupt the outputs go on to the cell's end, and then KeyboardInterrupt is raised.
        """
        turn = self.turn()
        asker, scope = self._asker(on_input, turn), self._approver(scope, turn)
        execution = self._sandbox.stream(code, timeout=timeout, correlation_id=correlation_id, on_input=asker, **scope)
        outputs = execution.__aiter__()

        async def following() -> Output | None:
            # None is no output: a coroutine cannot raise StopAsyncIteration.
            return await anext(outputs, None)

        interrupted = False
        try:
            while (output := turn.wait_gently(following(), self._sandbox.interrupt)) is not None:
                interrupted = interrupted or turn.interrupted
                yield output
            interrupted = interrupted or turn.interrupted
        finally:
            with suppress(StateError):
                self.wait(outputs.aclose())  # type: ignore[attr-defined]
        if interrupted:
            raise KeyboardInterrupt

    def interrupt(self) -> None:
        """Interrupt the cell that runs; from another thread, since this one waits for it."""
        thread = self._thread()

        async def interrupt() -> bool:
            return self._sandbox.interrupt()

        thread.submit(interrupt()).result()

    def push(self, **variables: Any) -> None:
        """Give variables in the sandbox these values; see `Sandbox.push`."""
        self.wait(self._sandbox.push(**variables))

    def pull(self, name: str) -> Any:
        """Return the value of a variable in the sandbox; see `Sandbox.pull`."""
        return self.wait(self._sandbox.pull(name))

    def read(self, path: str, *, limit: int | None = None) -> bytes:
        """Return a file's content; `read_pieces` gives it in pieces."""

        async def whole() -> bytes:
            return b"".join([piece async for piece in self._sandbox.read(path, limit=limit)])

        return self.wait(whole())

    def read_pieces(self, path: str, *, limit: int | None = None) -> Iterator[bytes]:
        """Give a file's content in pieces, of which only one is in memory; see `Sandbox.read`."""
        pieces = self._sandbox.read(path, limit=limit)

        async def following() -> bytes | None:
            return await anext(pieces, None)

        try:
            while (piece := self.wait(following())) is not None:
                yield piece
        finally:
            with suppress(StateError):
                self.wait(pieces.aclose())

    def write(self, path: str, content: Content, *, mode: int = 0o644) -> int:
        """Write a file and return its size in bytes; see `Sandbox.write`. Pieces are made in the thread that waits."""
        turn = self.turn()
        return turn.wait(self._sandbox.write(path, pieces_of(content, turn.call), mode=mode))

    def list(self, pattern: str = "*", *, recursive: bool = False, limit: int = 100_000) -> Sequence[FileEntry]:
        """Return the files that match a pattern; see `Sandbox.list`."""

        async def entries() -> Sequence[FileEntry]:
            return [entry async for entry in self._sandbox.list(pattern, recursive=recursive, limit=limit)]

        return self.wait(entries())

    def remove(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file or a folder; see `Sandbox.remove`."""
        self.wait(self._sandbox.remove(path, recursive=recursive))

    def start(self) -> None:
        """Start it now, or resume it."""
        self.wait(self._sandbox.start())

    def stop(self) -> None:
        """Give the sandbox back; the next use starts a fresh one."""
        self.wait(self._sandbox.stop())

    def restart(self) -> None:
        """Renew Python in the sandbox: files stay, variables go."""
        self.wait(self._sandbox.restart())

    def pause(self) -> None:
        """Freeze it; the next use resumes it."""
        self.wait(self._sandbox.pause())

    def resume(self) -> None:
        """Let it go on where it was paused."""
        self.wait(self._sandbox.resume())

    def close(self) -> None:
        """Give the sandbox back for good. Idempotent."""
        thread, self._made_thread = self._made_thread, None
        self._closed = True
        if thread is not None:
            atexit.unregister(self._close_at_exit)
            try:
                Turn(thread).wait(self._sandbox.close())
            finally:
                thread.close()

    # ---- waiting

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on this sandbox's loop and return its result."""
        try:
            turn = self.turn()
        except StateError:
            # It will not run; Python would complain of that.
            work.close()
            raise
        return turn.wait(work)

    def turn(self) -> Turn:
        """Return what waits for a coroutine, and does meanwhile what that wants done in this thread."""
        return Turn(self._thread())

    def _thread(self) -> LoopThread:
        if self._closed:
            raise StateError("This sandbox was closed; make another one.")
        if self._made_thread is None:
            self._made_thread = LoopThread()
            self._owner = os.getpid()
            atexit.register(self._close_at_exit)
        if self._made_thread.is_current:
            raise StateError("A BlockingSandbox cannot be waited for in its own thread; use another sandbox there.")
        return self._made_thread

    def _approver(self, scope: dict[str, Any], turn: Turn) -> dict[str, Any]:
        approve = scope.get("on_approval") or self._on_approval
        return {**scope, "on_approval": None if approve is None else awaitable(approve, turn)}

    def _asker(self, own: Callable[[InputRequest], str] | None, turn: Turn) -> Any:
        on_input = own or self._on_input
        return awaitable(on_input, turn) if on_input else None

    def _close_at_exit(self) -> None:
        # A forked child has the sandbox's name, and not its thread.
        if self._made_thread is not None and os.getpid() == self._owner:
            with suppress(SandboxKernelError, TimeoutError):
                self._made_thread.submit(self._sandbox.close()).result(EXIT_TIMEOUT)
