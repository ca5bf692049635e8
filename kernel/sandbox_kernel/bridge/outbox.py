"""What a bridge that outlives its stream has to say: all of it goes through the journal, which is the queue.

A message that the link takes at once leaves at once. What comes while there is no stream, or while a past cell is shown
again, waits in the journal only; so a kernel process that is away stops no cell, and fills no memory.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from typing import Any

from sandbox_kernel.bridge.cells import Cell, CellBook
from sandbox_kernel.bridge.journal import BOUND, Journal
from sandbox_kernel.bridge.wire import MAX_BACKLOG, Wire
from sandbox_kernel.link import envelope
from sandbox_kernel.link.protocol import Buffer

MAX_TOLD = 200
"""Cells that are under way of which a new kernel process is told."""

_TYPE = re.compile(rb'"msg_type": ?"(\w+)"')
_BULK = {b"stream", b"display_data", b"update_display_data", b"comm_open", b"comm_msg"}
"""Types of outputs of which the oldest are dropped where there are too many."""


class Outbox:
    """Journal, cells, and how far the kernel process of the moment has come."""

    def __init__(self, wire: Wire, folder: str, bound: int = BOUND) -> None:
        self.cells = CellBook()
        self._wire = wire
        self._link = wire.link
        self._journal = Journal(folder, bound)
        self._position = 0
        """The record that the link gets next."""
        self._handed: deque[int] = deque()
        """For each bulk message that the link has and that is not acknowledged: how far the journal is seen by it."""
        self._acknowledged = 0
        self._seen = 0
        """Records before this one have reached a kernel process."""
        self._missing = False
        """The kernel process has not asked yet for what it missed."""
        self._replay: Iterator[list[Buffer]] | None = None
        self._replay_first = 0
        self._replay_end: dict[str, Any] = {}

    @property
    def behind(self) -> bool:
        """Whether something waits that the link could take."""
        return self._wire.connected and (self._replay is not None or self._position < self._journal.end)

    @property
    def takes_output(self) -> bool:
        """Whether the kernel's outputs may come: the journal takes them while nobody is there, else the link must."""
        return not self._wire.connected or (self._wire.link.bulk_backlog < MAX_BACKLOG and not self.behind)

    # ---- sending

    def send(self, parts: list[Buffer], *, urgent: bool = False, seen: int = 0) -> None:
        """Send what concerns this kernel process only, past the journal."""
        self._wire.link.send(parts, urgent=urgent)
        if not urgent:
            self._handed.append(seen)

    def keep(self, parts: list[Buffer]) -> None:
        """Send a message, or let it wait, and remember it."""
        kind = bytes(parts[0][:1])
        if kind == envelope.IOPUB:
            cell, essential = self._note_output(parts)
        else:
            cell, essential = self.cells.of_token(bytes(parts[0][1:])), True
        number = self._journal.append(parts, cell.serial if cell else 0, essential=essential)
        if cell is not None:
            cell.last = number
            if kind == envelope.STDIN:
                cell.question = number
            elif kind == envelope.SHELL:
                cell.replied = True
        if number == self._position and self._replay is None and self._wire.connected:
            self._hand(number, parts)

    def _note_output(self, parts: list[Buffer]) -> tuple[Cell | None, bool]:
        found = _TYPE.search(bytes(parts[2]))
        msg_type = found[1] if found else b""
        cell = self.cells.of_parent(bytes(parts[3]))
        if cell is not None:
            if msg_type == b"status" and b'"idle"' in bytes(parts[5]):
                cell.idle = True
            elif msg_type == b"execute_input":
                self.cells.counted(cell, bytes(parts[5]))
        return cell, msg_type not in _BULK

    def began(self, token: bytes, parts: list[Buffer]) -> None:
        """Note an execute request that is passed to the kernel."""
        self.cells.began(token, parts, self._journal.end)

    def ended(self) -> None:
        """The inner kernel's life has ended."""
        self.cells.ended(self._journal.end)

    def _hand(self, number: int, parts: list[Buffer]) -> None:
        self._position = number + 1
        try:
            self.send(parts, seen=0 if self._missing else self._position)
        except ValueError as exc:
            self._event("dropped", reason=str(exc))

    def pump(self) -> None:
        """Hand the link what waits, as far as it takes it."""
        self._note_acknowledged()
        while self.behind and self._wire.link.bulk_backlog < MAX_BACKLOG:
            if self._replay is None:
                self._catch_up()
                continue
            parts = next(self._replay, None)
            if parts is not None:
                self.send(parts)
            else:
                self._replay = None
                self._end_replay()

    def _catch_up(self) -> None:
        number, first = self._position, self._journal.first
        if number < first:
            left = self._journal.essentials_before(number, first)
            for one in left:
                self._hand(one, self._journal.read(one) or [])
            self._position = first
            self._event("skipped", messages=first - number - len(left))
            return
        parts = self._journal.read(number)
        if parts is None:
            self._position += 1
            self._event("skipped", messages=1)
        else:
            self._hand(number, parts)

    def _event(self, name: str, *, seen: int = 0, **fields: object) -> None:
        self.send([envelope.EVENT, json.dumps({"event": name, **fields}).encode(), b""], seen=seen)

    def _note_acknowledged(self) -> None:
        while self._acknowledged < self._link.bulk_acknowledged:
            self._acknowledged += 1
            self._seen = max(self._seen, self._handed.popleft())

    # ---- kernel processes that come later

    def on_peer(self) -> dict[str, Any]:
        """A new kernel process is there; return what it is to be told of the cells before it."""
        self._note_acknowledged()
        self._link = self._wire.link
        self._handed.clear()
        self._acknowledged = 0
        self._replay = None
        self._position = self._journal.end
        missed = self.cells.missed(self._seen)
        self._missing = bool(missed)
        waiting = [[cell.token.hex(), cell.msg_id, cell.hidden] for cell in self.cells.open[:MAX_TOLD]]
        return {"missed": len(missed), "open": waiting, "count": self.cells.last_count}

    def replay(self, number: int, count: int | None) -> None:
        """Send again, as operation NUMBER, what cells sent, as far as it is there.

        ``count`` is a cell's number, 0 for the last one; None stands for all cells of which earlier kernel processes
        did not get everything, each from its beginning.
        """
        cells = []
        if count is None and self._missing:
            cells = self.cells.missed(self._seen)
        elif count is not None and (found := self.cells.with_count(count)) is not None:
            cells = [found]
        self._missing = self._missing and count is not None
        self._begin_replay(number, cells)

    def _begin_replay(self, number: int, cells: list[Cell]) -> None:
        first = min((cell.first for cell in cells), default=self._position)
        self._replay_first = first
        self._replay_end = {"id": number, "cells": len(cells)}
        self._replay = self._records(first, {cell.serial: cell for cell in cells})

    def _records(self, first: int, cells: dict[int, Cell]) -> Iterator[list[Buffer]]:
        for number in self._journal.numbers(first, self._position, cells):
            parts = self._journal.read(number)
            if parts is None:
                continue
            if parts[0][:1] == envelope.STDIN and not any(cell.question == number for cell in cells.values()):
                # It was answered.
                continue
            yield [envelope.JOURNAL, *parts]

    def _end_replay(self) -> None:
        # Some may have gone while it was sent.
        whole = self._replay_first >= self._journal.first
        self._event("replayed", seen=0 if self._missing else self._position, whole=whole, **self._replay_end)

    def close(self) -> None:
        """Remove the journal."""
        self._journal.close()
