"""Moves variables into a sandbox and out of it, as binary buffers of Jupyter messages, in pieces."""

from __future__ import annotations

import asyncio
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from sandbox_kernel.errors import TransferError
from sandbox_kernel.link.protocol import Buffer

from . import values
from .client import Cell
from .inside import PIECE, PIECES
from .outputs import Json
from .sandbox import Sandbox

_SHELL = "__import__('IPython').get_ipython()"
_RUN = """\
__import__('builtins').exec({code!r}, {{"__name__": "sandbox_values"}})
"""
_PROGRAM = """\
for source in {sources!r}:
    exec(compile(source, "<sandbox values>", "exec"), globals())
WHERE = "in the sandbox's environment"
{call}
"""
_KEEP = "{shell}.__dict__.setdefault({pieces!r}, {{}}).setdefault({key!r}, []).extend({shell}.get_parent()['buffers'])"


async def push(sandbox: Sandbox, name: str, value: Any) -> None:
    """Give the variable NAME in the sandbox this value. Raises TransferError."""
    _require_name(name)
    header, buffers = await asyncio.to_thread(_encode, name, value)
    key = uuid.uuid4().hex
    keep = _KEEP.format(shell=_SHELL, pieces=PIECES, key=key)
    pieces = [(keep, piece) for piece in values.pieces(buffers, PIECE)]
    received = _Received(name, 0)
    call = f"put({_SHELL}, {name!r}, {header!r}, {key!r})"
    await _run(sandbox, Cell(_program(call), hidden=True, on_value=received.take, before=pieces), name)
    received.raise_error()


async def pull(sandbox: Sandbox, name: str, max_bytes: int) -> Any:
    """Return the value of the variable NAME in the sandbox. Raises TransferError, also for more than ``max_bytes``."""
    _require_name(name)
    received = _Received(name, max_bytes)
    cell = Cell(_program(f"get({_SHELL}, {name!r})"), hidden=True, on_value=received.take)
    received.on_error = lambda: sandbox.client.abandon(cell)
    try:
        await _run(sandbox, cell, name)
    finally:
        received.raise_error()
    return await asyncio.to_thread(received.value)


def _require_name(name: str) -> None:
    if not name.isidentifier():
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


@cache
def _sources() -> list[str]:
    folder = Path(__file__).parent
    return [(folder / name).read_text(encoding="utf-8") for name in ("values.py", "inside.py")]


def _program(call: str) -> str:
    """Return code that leaves no name behind in the sandbox."""
    return _RUN.format(code=_PROGRAM.format(sources=_sources(), call=call))


class _Received:
    """What comes of a variable; the sandbox may send anything."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._header: Json | None = None
        self._size = 0
        self._buffers: list[Buffer] = []
        self._error = ""
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
        self._buffers.extend(buffers)
        self._size += sum(len(one) for one in buffers)
        if self._size > self._limit:
            self._fail(f"more than {self._limit} bytes came (Sandbox.max_pull)")

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
