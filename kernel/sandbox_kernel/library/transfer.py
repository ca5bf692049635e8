"""Moves variables into a sandbox and out of it: small ones with a Jupyter message, others through a pipe beside it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sandbox_kernel.errors import InvocationError, QuotaError, TransferError
from sandbox_kernel.link.protocol import Buffer
from sandbox_kernel.passages import Passage

from . import values
from .client import Cell
from .inside import SMALL_VALUE
from .outputs import Json
from .sandbox import Sandbox

FILES = (Path(__file__).with_name("values.py"), Path(__file__).with_name("inside.py"))
"""The sandbox's half of `push` and `pull`."""
_RUN = "__import__('builtins').exec({loader!r}, {{}})"
_LOADER = """\
shell = __import__("IPython").get_ipython()
buffers = shell.get_parent()["buffers"]
values = shell.__dict__.get({key!r})
if values is None:
    values = {{"__name__": "sandbox_values"}}
    for source in buffers[:{sources}]:
        exec(compile(bytes(source), "<sandbox values>", "exec"), values)
    values["WHERE"] = "in the sandbox's environment"
    shell.__dict__[{key!r}] = values
values[{name!r}](shell, buffers[{sources}:], *{arguments!r})
"""


async def push(sandbox: Sandbox, name: str, value: Any) -> None:
    """Give the variable NAME in the sandbox this value. Raises TransferError."""
    _require_name(name)
    header, buffers = await asyncio.to_thread(_encode, name, value)
    size = sum(memoryview(one).nbytes for one in buffers)
    received = _Received(name, 0)
    if size <= SMALL_VALUE:
        await _run(sandbox, call_inside("put", name, header, on_value=received.take, buffers=buffers), name)
    else:
        await sandbox.ensure_started()
        async with sandbox.session.passages.into() as passage:
            cell = call_inside("put_from", name, header, passage.path, size, on_value=received.take)
            # A cell that ended has read what it wanted.
            await _together(name, _run(sandbox, cell, name), passage.send(buffers), data_to_the_end=False)
    received.raise_error()


async def pull(sandbox: Sandbox, name: str, max_bytes: int) -> Any:
    """Return the value of the variable NAME in the sandbox. Raises TransferError, also for more than ``max_bytes``."""
    _require_name(name)
    received = _Received(name, max_bytes)
    await sandbox.ensure_started()
    async with sandbox.session.passages.out() as passage:
        cell = call_inside("get", name, passage.path, max_bytes, on_value=received.take)
        received.on_error = lambda: sandbox.client.abandon(cell)

        async def run() -> None:
            await _run(sandbox, cell, name)
            received.end()
            passage.finish()

        try:
            await _together(name, run(), received.take_from(passage), data_to_the_end=True)
        finally:
            received.raise_error()
    return await asyncio.to_thread(received.value)


def _require_name(name: str) -> None:
    if not (isinstance(name, str) and name.isidentifier()):
        raise TransferError(f"{name!r} is no name of a variable.")


def _encode(name: str, value: Any) -> tuple[Json, list[Buffer]]:
    try:
        return values.encode(value)
    except values.TransferError as exc:
        raise TransferError(f"{name} cannot be pushed: {exc}.") from None


async def _run(sandbox: Sandbox, cell: Cell, name: str) -> None:
    await sandbox.run_cell(cell)
    try:
        reply = await asyncio.shield(cell.ended)
    finally:
        sandbox.client.abandon(cell)
    if reply.get("status") != "ok":
        error = f"{reply.get('ename')}: {reply.get('evalue')}"
        raise TransferError(f"{name} did not travel, the sandbox's Python says: {error[:500]}")


async def _together(
    name: str, cell: Coroutine[Any, Any, None], data: Coroutine[Any, Any, None], *, data_to_the_end: bool
) -> None:
    """Run a cell and move its data; what one of them fails of ends the other. Raises TransferError."""
    tasks = [asyncio.ensure_future(cell), asyncio.ensure_future(data)]
    waiting = set(tasks)
    try:
        while waiting and (data_to_the_end or tasks[0] in waiting):
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
    except (InvocationError, QuotaError) as exc:
        raise TransferError(f"{name} did not travel: {exc}") from exc
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@cache
def _sources(files: tuple[Path, ...]) -> tuple[bytes, ...]:
    return tuple(file.read_bytes() for file in files)


def call_inside(
    function: str,
    *arguments: object,
    on_value: Callable[[Json, list[Buffer]], None],
    buffers: Sequence[Buffer] = (),
    files: tuple[Path, ...] = FILES,
) -> Cell:
    """Return a cell that calls a function of these files, and leaves no name behind in the sandbox.

    What it needs goes with it each time, and is compiled by the first one that a Python in the sandbox gets.
    """
    sources = _sources(files)
    key = f"_sandbox_values_{hashlib.sha256(b''.join(sources)).hexdigest()[:16]}"
    loader = _LOADER.format(key=key, sources=len(sources), name=function, arguments=arguments)
    return Cell(_RUN.format(loader=loader), hidden=True, on_value=on_value, buffers=[*sources, *buffers])


class _Received:
    """What comes of a variable; the sandbox may send anything."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._header: Json | None = None
        self._size = 0
        self._buffers: list[Buffer] = []
        self._error = ""
        self._announced: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """How many bytes come through the pipe."""
        self.on_error = lambda: None

    def take(self, content: Json, buffers: list[Buffer]) -> None:
        """Take one message of the sandbox's."""
        if self._error:
            return
        if "error" in content:
            self._fail(str(content["error"])[:1000])
        elif self._header is None and isinstance(content.get("header"), dict):
            self._header, size = content["header"], int(content["size"])
            if size > self._limit:
                self._fail(f"it has {size} bytes, and the limit is {self._limit} (Sandbox.max_pull)")
            elif size > SMALL_VALUE:
                self._announced.set_result(size)
        self._buffers.extend(buffers)
        self._size += sum(len(one) for one in buffers)
        if self._size > self._limit:
            self._fail(f"more than {self._limit} bytes came (Sandbox.max_pull)")

    def end(self) -> None:
        """Take note that no more messages come."""
        if not self._announced.done():
            self._announced.set_result(0)

    async def take_from(self, passage: Passage) -> None:
        """Take what comes through the pipe, once a message has said how much that is."""
        size = await self._announced
        if not size:
            return
        try:
            whole = values.fresh_memory(size)
        except OSError as exc:
            raise InvocationError(f"it has {size} bytes, for which this machine has no room: {exc}.") from exc
        await passage.receive(whole)
        self._buffers = [whole]

    def _fail(self, error: str) -> None:
        self._error = error
        self._buffers.clear()
        asyncio.get_running_loop().call_soon(self.on_error)

    def raise_error(self) -> None:
        """Raise TransferError if the sandbox, or what came, gave a reason."""
        if self._error:
            raise TransferError(f"{self._name} did not travel: {self._error}.")

    def value(self) -> Any:
        """Return what came. Raises TransferError."""
        if self._header is None:
            raise TransferError(f"{self._name} did not travel: the sandbox sent nothing.")
        try:
            return values.decode(self._header, self._buffers)
        except values.TransferError as exc:
            raise TransferError(f"{self._name} did not travel: {exc}.") from None
