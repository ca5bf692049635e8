"""The variables of a notebook whose cells run in the sandbox, for commands that work with them outside of it."""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sandbox_kernel.commands import CommandContext
from sandbox_kernel.errors import CommandError, TransferError
from sandbox_kernel.lifecycle import State

PATIENCE = 120.0
"""Seconds that the sandbox's Python has for it."""
MAX_BYTES = 4 * 1024**3
"""Bytes that come out of the sandbox at most."""
LARGEST = 1024**3
"""Bytes of one item."""
SIZE = struct.Struct("!Q")


class SandboxVariables:
    """Those of the notebook's sandbox. They travel through a file in it; nothing is unpickled (library/values.py)."""

    def __init__(self, context: CommandContext) -> None:
        self._context, self._session = context, context.session

    async def get(self, name: str) -> list[Any]:
        """Return the items of a variable. Raises CommandError, TransferError, LinkProtocolError."""
        from sandbox_kernel.library import values
        from sandbox_kernel.library.fan_out.frames import Frames

        if self._session.state in (State.INACTIVE, State.ERROR):
            raise CommandError(f"There is no variable {name}: no sandbox is running; run a cell that makes it.")
        # It may be paused.
        await self._ensure_active()
        if self._session.mode != "bridge":
            raise CommandError(
                f"The inputs cannot be had: the notebook's sandbox is in {self._session.mode} mode, which has no way "
                "for variables; use an ordinary kernel with %load_ext sandbox_magics."
            )
        path = await self._written(_program())
        try:
            said = await self._session.describe(give=name, at=path, patience=PATIENCE)
            if "refused" in said:
                raise CommandError(f"The inputs cannot be had: {str(said['refused'])[:500]}.")
            frames, items = Frames(LARGEST), []
            async for piece in self._session.files.read(path, limit=MAX_BYTES):
                items += [values.decode(header, [data]) for header, data in frames.feed(piece)]
        except values.TransferError as exc:
            raise TransferError(f"{name} does not travel: {exc}.") from None
        finally:
            await self._session.files.remove(path)
        if len(items) != said.get("count"):
            raise TransferError(f"{name} did not travel: the sandbox sent {len(items)} items of {said.get('count')}.")
        return items

    async def put(self, name: str, value: list[Any] | dict[int, Any]) -> None:
        """Give a variable a list of results, or a dict of some. A failure becomes a dict.

        Where the sandbox was lost meanwhile a fresh one gets it.
        """
        if self._session.state in (State.INACTIVE, State.ERROR):
            self._context.write(
                f"The notebook's sandbox was lost meanwhile, with its variables: {name} is in a fresh one.\n",
                error=True,
            )
        await self._ensure_active()
        keys = isinstance(value, dict)
        items = [list(value), *value.values()] if isinstance(value, dict) else value
        path = await self._written(_program(), *map(_framed, items))
        try:
            await self._session.describe(take=name, at=path, keys=keys, patience=PATIENCE)
        finally:
            await self._session.files.remove(path)

    async def _ensure_active(self) -> None:
        if self._session.state is not State.ACTIVE:
            await self._session.start()

    async def _written(self, *parts: bytes) -> str:
        async def pieces() -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        path = f".sandbox-kernel-{os.urandom(6).hex()}"
        await self._session.files.write(path, pieces(), mode=0o600)
        return path


def _program() -> bytes:
    from sandbox_kernel.library import values

    source = Path(values.__file__).read_bytes()
    return SIZE.pack(len(source)) + source


def _framed(item: Any) -> bytes:
    from sandbox_kernel.library import Failure, values
    from sandbox_kernel.library.fan_out.frames import frame

    header, buffers = values.encode(asdict(item) if isinstance(item, Failure) else item)
    return b"".join(bytes(one) for one in frame(header, buffers))
