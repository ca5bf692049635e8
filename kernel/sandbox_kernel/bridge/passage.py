"""A pipe between the kernel process and a cell, for values that are too large for a message.

The bridge holds both ends; the cell opens the one it needs by its path in /proc, so nothing is left behind when either
dies. So does a kernel process on the same machine with the other one; then the bridge moves nothing. Nothing is stored
on the way: the pipe, and the credit of the kernel process, bound what is under way.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from typing import Any

from sandbox_kernel.link.protocol import FRAME_SIZE, Buffer

CHUNK = FRAME_SIZE - 1024
"""Bytes in one event; with what belongs to them they fill one frame."""
PIPE_SIZE = 1024 * 1024
"""Bytes that the pipe holds, where the system allows it: the fewer, the more often both sides have to wait."""


class Passage:
    """One value on its way, in or out.

    In: pieces are taken, and `taken` says how much of them is in the pipe. Out: as much is read as there is credit for,
    until the kernel process says that the cell has ended; then what is left in the pipe, and it is done.
    """

    def __init__(self, credit: int) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:
            # More than this user's pipes may have together: it stays small.
            pass
        self._credit = credit
        self._waiting: deque[memoryview] = deque()
        self._taken = self._told = 0
        self._ending = False
        self.greeting = {
            "reader": f"/proc/{os.getpid()}/fd/{self._reader}",
            "writer": f"/proc/{os.getpid()}/fd/{self._writer}",
        }
        self.done = False

    @property
    def wants_turn(self) -> bool:
        """Whether there is something to do without waiting for the cell."""
        return self._ending and self._credit > 0

    @property
    def readable(self) -> int | None:
        """The descriptor that it waits for to be readable."""
        return self._reader if self._credit > 0 and not self._ending else None

    @property
    def writable(self) -> int | None:
        """The descriptor that it waits for to be writable."""
        return self._writer if self._waiting else None

    def take(self, data: Buffer) -> None:
        """Keep a piece until there is room in the pipe."""
        self._waiting.append(memoryview(data))

    def allow(self, size: int) -> None:
        """Give credit for so many more bytes."""
        self._credit += size

    def commit(self) -> None:
        """Take note that no more will be written into the pipe."""
        self._ending = True

    def turn(self) -> tuple[dict[str, Any], bytes] | None:
        """Move one piece, in the direction that is in use."""
        if self._waiting:
            return self._fill()
        try:
            data = os.read(self._reader, min(CHUNK, self._credit))
        except BlockingIOError:
            data = b""
        self._credit -= len(data)
        self.done = self._ending and not data
        return ({}, data) if data else None

    def _fill(self) -> tuple[dict[str, Any], bytes] | None:
        while self._waiting:
            piece = self._waiting[0]
            try:
                written = os.write(self._writer, piece)
            except BlockingIOError:
                break
            self._taken += written
            if written < len(piece):
                self._waiting[0] = piece[written:]
            else:
                self._waiting.popleft()
        told, self._told = self._told, self._taken
        return ({"taken": self._taken}, b"") if self._taken > told else None

    def close(self) -> None:
        """Close both ends; a cell that still reads or writes finds that out."""
        os.close(self._reader)
        os.close(self._writer)
