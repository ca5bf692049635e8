"""The sandbox's half of `map`. Run in the inner kernel, in one namespace with values.py.

It reads inputs from one pipe and writes into another one what it does: that it begins with an input, before it does,
and what came of it. So whoever reads knows of every input whether it can have run, also when all this ends in between.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import struct
import traceback
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from sandbox_kernel.library.values import Buffer, TransferError, decode, encode  # noqa: TC004 - they are in the namespace

FRAME = struct.Struct("!IQ")
"""Of a frame: bytes of its JSON object, and of what follows it. A frame without an object is the last one."""
READ_SIZE = 256 * 1024
MAX_TRACEBACK = 20_000
"""Characters."""


def serve(
    shell: Any, buffers: Sequence[Buffer], function: dict[str, Any], path_in: str, path_out: str, most: int
) -> None:
    """Call a function with each input that comes, until the last frame. A result may have MOST bytes."""
    with open(path_in, "rb", buffering=0) as source, open(path_out, "wb", buffering=0) as sink:  # noqa: PTH123 - as elsewhere inside
        reader, writer = Reader(source), Writer(sink)
        try:
            call = made(shell, function, buffers)
        except BaseException as exc:  # noqa: BLE001 - whatever is wrong with the user's code is told, also that it exits
            writer.tell({"failed": f"{type(exc).__name__}: {exc}"[:2000]})
            return
        writer.tell({"ready": True})
        with without_loop():
            work(call, reader, writer, most)


def work(call: Callable[[Any], Any], reader: Reader, writer: Writer, most: int) -> None:
    """Call the function with each input. A KeyboardInterrupt is told, and ends it."""
    while True:
        found = reader.next(writer.flush)
        if found is None:
            writer.flush()
            return
        said, data = found
        writer.add({"begin": said["index"]})
        # What came of the one before goes along.
        writer.flush()
        try:
            writer.add(*outcome(call, said, data, most))
        except InterruptedFunctionError as exc:
            writer.tell({"end": said["index"], "error": described(exc.cause)})
            raise exc.cause from None


class InterruptedFunctionError(Exception):
    """The function raised a KeyboardInterrupt: its own, or one that was sent."""

    def __init__(self, cause: KeyboardInterrupt) -> None:
        self.cause = cause


@contextmanager
def without_loop() -> Iterator[None]:
    """Let functions use `asyncio.run`: a cell runs within a step of the kernel's own loop, which forbids that."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        yield
        return
    task = asyncio.current_task()
    if task is not None:
        asyncio._leave_task(loop, task)  # noqa: SLF001 - Python documents it for those who extend asyncio
    asyncio._set_running_loop(None)  # noqa: SLF001 - as above
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)  # noqa: SLF001 - as above
        asyncio.set_event_loop(loop)
        if task is not None:
            asyncio._enter_task(loop, task)  # noqa: SLF001 - Python documents it for those who extend asyncio


def outcome(call: Callable[[Any], Any], said: dict[str, Any], data: Buffer, most: int) -> tuple[Any, ...]:
    """Return what is told of one input: an object, and buffers. Raises InterruptedFunctionError."""
    end: dict[str, Any] = {"end": said["index"]}
    process = os.getpid()
    try:
        value = call(loaded(said["header"], data))
    except BaseException as exc:  # noqa: BLE001 - also a function that wants to exit: what it does is told
        if os.getpid() != process:
            leave(exc)
        if isinstance(exc, KeyboardInterrupt):
            raise InterruptedFunctionError(exc) from None
        return ({**end, "error": described(exc)},)
    if os.getpid() != process:
        leave(None)
    try:
        header, buffers = encode(value)
    except TransferError as exc:
        return ({**end, "refused": str(exc)[:2000]},)
    size = sum(memoryview(one).nbytes for one in buffers)
    if size > most:
        return ({**end, "refused": f"it has {size} bytes, and the limit is {most} (max_result)"},)
    return ({**end, "header": header}, *buffers)


def leave(exc: BaseException | None) -> None:
    """End a process that the function forked, and that came back from it: what came of the input says the first one."""
    code = exc.code if isinstance(exc, SystemExit) else int(exc is not None)
    os._exit(code & 0xFF if isinstance(code, int) else int(code is not None))


def described(exc: BaseException) -> list[str]:
    """Return an exception's name, text and traceback, without the lines of this file."""
    frames = exc.__traceback__
    while frames is not None and frames.tb_frame.f_globals is globals():
        frames = frames.tb_next
    try:
        lines = traceback.format_exception(type(exc), exc, frames)
        return [type(exc).__name__[:200], str(exc)[:2000], "".join(lines)[-MAX_TRACEBACK:]]
    except Exception as problem:  # noqa: BLE001 - whatever its own methods do
        return [type(exc).__name__[:200], f"(its text cannot be had: {type(problem).__name__})", ""]


def made(shell: Any, said: dict[str, Any], buffers: Sequence[Buffer]) -> Callable[[Any], Any]:
    """Return the function that came with the cell; the variables of the sandbox are its globals' beginning."""
    whole = b"".join(bytes(one) for one in buffers)
    if said["kind"] == "pickle":
        function = unpickled(whole)
    else:
        import linecache

        file = "<function of map>"
        source = whole.decode()
        # For tracebacks that show the lines.
        linecache.cache[file] = (len(source), None, source.splitlines(True), file)
        space = {**shell.user_ns, "_decode": decode}
        exec(compile(shell.transform_cell(source), file, "exec"), space)  # noqa: S102 - that is what map is for
        function = space.get(said["name"])
    if not callable(function):
        raise TypeError(f"the code defines no function {said.get('name')}")
    found: Callable[[Any], Any] = function
    return found


def loaded(header: dict[str, Any], data: Buffer) -> Any:
    """Return an input."""
    return unpickled(data) if header["kind"] == "pickle" else decode(header, [data])


def unpickled(data: Buffer) -> Any:
    """Return what was pickled outside; into a sandbox that is no danger."""
    try:
        return pickle.loads(data)  # noqa: S301
    except ModuleNotFoundError as exc:
        if exc.name == "cloudpickle":
            raise ModuleNotFoundError("cloudpickle is not installed in the sandbox's environment") from None
        raise


class Reader:
    """Takes frames off a pipe; says when it is about to wait."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._data = bytearray()

    def next(self, before_waiting: Callable[[], None]) -> tuple[dict[str, Any], Buffer] | None:
        """Return the next frame's object and data; None for the last frame."""
        said_size, data_size = FRAME.unpack(self._take(FRAME.size, before_waiting))
        if not said_size:
            return None
        said = json.loads(self._take(said_size, before_waiting))
        return said, self._take(data_size, before_waiting)

    def _take(self, size: int, before_waiting: Callable[[], None]) -> bytearray:
        while len(self._data) < size:
            before_waiting()
            piece = self._pipe.read(max(READ_SIZE, size - len(self._data)))
            if not piece:
                raise EOFError("the inputs ended before they were whole")
            self._data += piece
        taken = self._data[:size]
        del self._data[:size]
        return taken


class Writer:
    """Puts frames into a pipe, several at a time where they are small."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._data = bytearray()

    def add(self, said: dict[str, Any], *buffers: Buffer) -> None:
        """Keep a frame until `flush`; a large one goes at once."""
        text = json.dumps(said).encode()
        size = sum(memoryview(one).nbytes for one in buffers)
        self._data += FRAME.pack(len(text), size) + text
        if size > READ_SIZE:
            self.flush()
            for buffer in buffers:
                self._write(memoryview(buffer).cast("B"))
        else:
            for buffer in buffers:
                self._data += memoryview(buffer).cast("B")

    def tell(self, said: dict[str, Any]) -> None:
        """Write a frame now."""
        self.add(said)
        self.flush()

    def flush(self) -> None:
        """Write what was kept."""
        if self._data:
            data, self._data = self._data, bytearray()
            self._write(memoryview(data))

    def _write(self, rest: memoryview) -> None:
        while len(rest):
            rest = rest[self._pipe.write(rest) :]
