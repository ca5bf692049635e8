"""What the bridge says of itself, read from bytes that may be anybody's: a cell owns the bridge."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Union

from .link.envelope import TOKEN_SIZE
from .link.protocol import Buffer

MAX_EVENT = 64 * 1024
"""Bytes of an event's JSON; what belongs to a command is not part of it."""
MAX_LAST_WORDS = 4000
"""Characters of what an inner kernel wrote before it died that are kept."""

MAX_OPEN = 1000
MAX_ID = 200
"""Characters of a message's id."""

_VERSION = re.compile(r"\d{1,3}\.\d{1,3}[\w.+]{0,20}", re.ASCII)
_CONTROLS = re.compile(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff\n\t]+")


class OpenCell(NamedTuple):
    """A cell of an earlier kernel process that is not done."""

    token: bytes
    msg_id: str
    hidden: bool


class Skipped(NamedTuple):
    """So many messages that should stand here were dropped, since nobody took them for too long."""

    messages: int


class Replayed(NamedTuple):
    """All messages of some past cells were sent again, as operation ``number``."""

    number: int
    cells: int
    whole: bool
    """Nothing of them was dropped."""


@dataclass(frozen=True)
class Ready:
    """A fresh inner kernel takes requests."""

    python: str
    life: int
    missed: int = 0
    """Cells that ran, or run, for a kernel process before this one, which did not get all that they sent."""
    count: int = 0
    """The number of the last cell that the kernel began, where it began any for an earlier kernel process."""
    open: tuple[OpenCell, ...] = ()
    ipython: str = ""
    """The version of IPython, where the sandbox tells it."""


@dataclass(frozen=True)
class Died:
    """The inner kernel ended; ``exit`` is negative for a signal."""

    exit: int
    stderr: str


@dataclass(frozen=True)
class Output:
    """A shell command wrote something."""

    command: int
    data: bytes


@dataclass(frozen=True)
class Finished:
    """A shell command ended; ``exit`` is negative for a signal."""

    command: int
    exit: int


@dataclass(frozen=True)
class Operation:
    """What came of an operation; its ``fields`` but ``id`` are as they came, and read by who knows the operation."""

    fields: dict[str, Any]
    data: Buffer


@dataclass(frozen=True)
class ToolFrame:
    """What a process in the sandbox says to the tools outside; empty when its connection has ended."""

    connection: int
    data: Buffer


BridgeEvent = Union[Ready, Died, Output, Finished, Operation, ToolFrame, Skipped, Replayed]


def read_event(parts: Sequence[Buffer]) -> BridgeEvent | None:
    """Read the parts of an event; None for a kind that is not known here. Raises ValueError where they are none."""
    if len(parts) != 3 or len(parts[1]) > MAX_EVENT:
        raise ValueError(f"an event of {len(parts)} parts")
    try:
        event = json.loads(bytes(parts[1]))
    except RecursionError as exc:
        raise ValueError("an event that is nested too deep") from exc
    if not isinstance(event, dict):
        raise ValueError("an event that is no object")  # noqa: TRY004 - of the wrong shape, like the others
    reader = _READERS.get(str(event.get("event")))
    return reader(event, parts[2]) if reader is not None else None


def _operation(event: dict[str, Any], data: Buffer) -> Operation:
    _number(event, "id")
    return Operation(event, data)


def _ready(event: dict[str, Any]) -> Ready:
    missed = max(0, _number(event, "missed")) if "missed" in event else 0
    count = max(0, _number(event, "count")) if "count" in event else 0
    entries = event.get("open", [])
    if not isinstance(entries, list) or len(entries) > MAX_OPEN:
        raise ValueError("no list of cells")
    cells = tuple(_open_cell(entry) for entry in entries)
    ipython = _version(event, "ipython") if event.get("ipython") else ""
    return Ready(_version(event, "python"), _number(event, "life"), missed, count, cells, ipython)


def _open_cell(entry: object) -> OpenCell:
    match entry:
        case [str(token), str(msg_id), bool(hidden)] if 0 < len(msg_id) <= MAX_ID:
            found = bytes.fromhex(token)
            if len(found) == TOKEN_SIZE:
                return OpenCell(found, msg_id, hidden)
    raise ValueError("no cell")


def _number(event: dict[str, Any], name: str) -> int:
    value = event.get(name)
    if type(value) is not int or not -(1 << 31) <= value < 1 << 31:
        raise ValueError(f"{name} is no number")
    return value


def _text(event: dict[str, Any], name: str) -> str:
    value = event.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")  # noqa: TRY004 - of the wrong shape, like the others
    # It ends up in a log and in errors that terminals show.
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", value)


def _version(event: dict[str, Any], name: str) -> str:
    version = _text(event, name)
    if not _VERSION.fullmatch(version):
        raise ValueError(f"no version of {name}")
    return version


_READERS: dict[str, Callable[[dict[str, Any], Buffer], BridgeEvent]] = {
    "ready": lambda event, _: _ready(event),
    "died": lambda event, _: Died(_number(event, "exit"), _text(event, "stderr")[-MAX_LAST_WORDS:]),
    "output": lambda event, data: Output(_number(event, "id"), bytes(data)),
    "operation": _operation,
    "tool": lambda event, data: ToolFrame(_number(event, "connection"), data),
    "finished": lambda event, _: Finished(_number(event, "id"), _number(event, "exit")),
    "skipped": lambda event, _: Skipped(max(0, _number(event, "messages"))),
    "replayed": lambda event, _: Replayed(
        _number(event, "id"), max(0, _number(event, "cells")), event.get("whole") is True
    ),
}
