"""What the bridge says of itself, read from bytes that may be anybody's: a cell owns the bridge."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

from .link.protocol import Buffer

MAX_EVENT = 64 * 1024
"""Bytes of an event's JSON; what belongs to a command is not part of it."""
MAX_LAST_WORDS = 4000
"""Characters of what an inner kernel wrote before it died that are kept."""

_VERSION = re.compile(r"\d{1,3}\.\d{1,3}[\w.+]{0,20}", re.ASCII)
_CONTROLS = re.compile(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff\n\t]+")


@dataclass(frozen=True)
class Ready:
    """A fresh inner kernel takes requests."""

    python: str
    life: int


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


BridgeEvent = Union[Ready, Died, Output, Finished, Operation, ToolFrame]


def read_event(parts: Sequence[Buffer]) -> BridgeEvent | None:  # noqa: PLR0911 - one line for each kind
    """Read the parts of an event; None for a kind that is not known here. Raises ValueError where they are none."""
    if len(parts) != 3 or len(parts[1]) > MAX_EVENT:
        raise ValueError(f"an event of {len(parts)} parts")
    try:
        event = json.loads(bytes(parts[1]))
    except RecursionError as exc:
        raise ValueError("an event that is nested too deep") from exc
    if not isinstance(event, dict):
        raise ValueError("an event that is no object")  # noqa: TRY004 - of the wrong shape, like the others
    match event.get("event"):
        case "ready":
            return Ready(_version(event), _number(event, "life"))
        case "died":
            return Died(_number(event, "exit"), _text(event, "stderr")[-MAX_LAST_WORDS:])
        case "output":
            return Output(_number(event, "id"), bytes(parts[2]))
        case "operation":
            _number(event, "id")
            return Operation(event, parts[2])
        case "tool":
            return ToolFrame(_number(event, "connection"), parts[2])
        case "finished":
            return Finished(_number(event, "id"), _number(event, "exit"))
    return None


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


def _version(event: dict[str, Any]) -> str:
    version = _text(event, "python")
    if not _VERSION.fullmatch(version):
        raise ValueError("no version of Python")
    return version
