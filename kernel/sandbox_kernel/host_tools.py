"""What stands between a session and the tools outside its sandbox: who answers calls, and who knows the cells.

The tools themselves are in the package tools, above; here are the contracts, so that kernel and library can serve them.
"""

from __future__ import annotations

import json
import re
import secrets
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from .link.protocol import Buffer

if TYPE_CHECKING:
    from pathlib import Path

    from .events import EventLog

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_correlation_id() -> str:
    """Return a name for a cell's run, ``cm-`` with the time and chance in it."""
    number, text = int(time.time() * 1000), ""
    for _ in range(6):
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return f"cm-{text}-{''.join(secrets.choice(_DIGITS) for _ in range(8))}"


@dataclass(frozen=True)
class CellScope:
    """What holds for the calls of one cell that is under way."""

    correlation_id: str
    available: frozenset[str] | None = None
    """The tools that it may use; None for all that the session may."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """Of its context; over those of the session."""


class ToolSession(Protocol):
    """What of a session the tools need."""

    log: EventLog

    @property
    def directory(self) -> Path:
        """The notebook's folder."""

    @property
    def sandbox_ids(self) -> dict[str, str]:
        """Provider, sandbox and correlation id, as far as there are any."""

    @property
    def tool_backlog(self) -> int:
        """Bytes that wait to leave for the sandbox."""

    async def room_for_tools(self) -> None:
        """Wait while much waits to leave for the sandbox."""

    def send_tool_frame(self, connection: int, data: Sequence[Buffer]) -> None:
        """Answer a process in the sandbox; dropped where there is none. Raises ValueError where it is too large."""


class HostTools(Protocol):
    """Who answers what cells ask of the tools outside. Called on the event loop's thread."""

    def on_frame(self, connection: int, data: Buffer) -> None:
        """A process in the sandbox said something; empty data: its connection has ended. Anybody may have made it."""

    async def offered(self) -> list[str]:
        """Return a line for each tool that cells may call, as in "tools.search(query=…): finds pages"."""

    def on_lost(self) -> None:
        """The sandbox is gone, and with it everybody who waits for an answer."""

    async def close(self) -> None:
        """The session is closed for good. Idempotent."""


class Cells(Protocol):
    """Who knows the cells: the kernel, or the library's client."""

    async def settle(self, cell: str) -> None:
        """Wait until it is known whether a cell runs: a call of its can be quicker than its status."""

    def scope(self, cell: str) -> CellScope | None:
        """Return what holds for the cell of that message id; None if no such cell is under way: it may call nothing."""

    def scopes(self) -> Iterable[CellScope]:
        """Give those of all cells that are under way."""

    async def ask(self, cell: str, prompt: str) -> str:
        """Ask the person who ran the cell; what is asked so no cell can answer.

        Raises CommandError where nobody can be asked, for example since no such cell is under way.
        """


class ToolSource(Protocol):
    """Where a sandbox gets the tools that its cells may call."""

    def attach(
        self,
        session: ToolSession,
        cells: Cells,
        *,
        variables: Mapping[str, Any] | None = None,
        available: Iterable[str] | None = None,
    ) -> HostTools:
        """Return what serves the calls of this session's cells.

        ``variables`` are those of the session's context; ``available`` are patterns of the names that it may call.
        """


FRAME = struct.Struct("!II")
"""Of a frame: bytes of its JSON object, and of what follows it (bridge/toolbox.py)."""


class LateTools:
    """Tools that are loaded when the first cell asks for them (contract `HostTools`)."""

    def __init__(self, load: Callable[[], HostTools]) -> None:
        self._load = load
        self._loaded: HostTools | None = None

    @property
    def served(self) -> HostTools:
        """What answers; loaded now, if it was not. Raises ConfigurationError."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def on_frame(self, connection: int, data: Buffer) -> None:
        self.served.on_frame(connection, data)

    async def offered(self) -> list[str]:
        return await self.served.offered()

    def on_lost(self) -> None:
        if self._loaded is not None:
            self._loaded.on_lost()

    async def close(self) -> None:
        if self._loaded is not None:
            await self._loaded.close()


class NoTools:
    """Says that there are none, or why there are none (contract `HostTools`)."""

    def __init__(self, session: ToolSession, reason: str) -> None:
        self._session = session
        self.reason = reason

    def on_frame(self, connection: int, data: Buffer) -> None:
        number = asked_number(data)
        if number is not None:
            said = {"id": number, "do": "error", "error": "UnknownToolError", "message": self.reason}
            text = json.dumps(said).encode()
            if self._session.tool_backlog < MAX_UNREAD:
                self._session.send_tool_frame(connection, [FRAME.pack(len(text), 0), text])

    async def offered(self) -> list[str]:
        return []

    def on_lost(self) -> None:
        """Nobody waits here."""

    async def close(self) -> None:
        """There is nothing to close."""


MAX_UNREAD = 1024 * 1024
"""Bytes of such answers that wait for who takes none."""


_NUMBER = re.compile(rb'"id": ?(\d{1,15})[,}]')
_CANCEL = re.compile(rb'"do": ?"cancel"')
_BEGINNING = 300


def asked_number(data: Buffer) -> int | None:
    """Return the number of a request, also of one that cannot be read; None where there is none to be answered.

    It is looked for at the beginning, where toolbox.py puts it.
    """
    beginning = bytes(memoryview(data)[FRAME.size : FRAME.size + _BEGINNING])
    found = _NUMBER.search(beginning)
    return int(found[1]) if found and not _CANCEL.search(beginning) else None
