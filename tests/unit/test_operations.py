"""Files over the link with a bridge that keeps to nothing: errors are clear, and memory stays bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from sandbox_kernel.errors import (
    InvocationError,
    LinkProtocolError,
    NotFoundError,
    QuotaError,
    SandboxConnectionError,
    SandboxError,
    SandboxLostError,
)
from sandbox_kernel.operations import MAX_WAITING, Operations
from sandbox_kernel.passages import Passages
from sandbox_kernel.session_files import CREDIT, LinkFiles

Answer = Callable[["Bridge", dict[str, Any], bytes | None], None]


class Bridge:
    """Answers each command as it is told to."""

    def __init__(self, answer: Answer) -> None:
        self.commands: list[dict[str, Any]] = []
        self.backlog = 0
        self._answer = answer
        self._number = 0
        self.operations = Operations(self._send, lambda: self.backlog, self._next_number, lambda: {"sandbox_id": "box"})
        self.files = LinkFiles(self.operations)

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _send(self, fields: dict[str, Any], data: bytes | None, *, begins: bool) -> None:
        self.commands.append(fields)
        self.backlog += len(data or b"")
        asyncio.get_running_loop().call_soon(self._answer, self, fields, data)

    def say(self, data: bytes = b"", **event: object) -> None:
        self.operations.on_event({"id": self._number, **event}, data)

    @property
    def ops(self) -> list[str]:
        return [command["op"] for command in self.commands]


async def content(bridge: Bridge, **options: Any) -> bytes:
    return b"".join([piece async for piece in bridge.files.read("x", **options)])


@pytest.mark.parametrize(
    ("code", "kind"),
    [("ENOENT", NotFoundError), ("EISDIR", InvocationError), ("ENOSPC", QuotaError), ("nonsense", InvocationError)],
)
async def test_errors_have_their_kinds_and_ids(code: str, kind: type[SandboxError]) -> None:
    bridge = Bridge(lambda bridge, command, data: bridge.say(end=True, code=code, reason="why"))
    with pytest.raises(kind, match="'x' cannot be read: ") as caught:
        await content(bridge)
    assert caught.value.sandbox_id == "box"
    assert bridge.ops == ["file"]


async def test_a_reader_that_stops_lets_the_file_go() -> None:
    def answer(bridge: Bridge, command: dict[str, Any], data: bytes | None) -> None:
        if command["op"] == "file":
            bridge.say(size=1 << 30)
            bridge.say(b"x" * 1000)

    bridge = Bridge(answer)
    reading = bridge.files.read("x")
    assert await anext(reading) == b"x" * 1000
    await reading.aclose()
    assert bridge.ops == ["file", "file-cancel"]


async def test_a_file_that_ends_early_is_an_error() -> None:
    def answer(bridge: Bridge, command: dict[str, Any], data: bytes | None) -> None:
        bridge.say(size=10)
        bridge.say(b"short")
        bridge.say(end=True)

    with pytest.raises(InvocationError, match="shorter"):
        await content(Bridge(answer))


@pytest.mark.parametrize("announced", [5, 100])
async def test_no_more_bytes_come_than_the_limit(announced: int) -> None:
    def answer(bridge: Bridge, command: dict[str, Any], data: bytes | None) -> None:
        bridge.say(size=announced)
        bridge.say(b"x" * 100)

    bridge = Bridge(answer)
    with pytest.raises(QuotaError, match="more than 10 bytes"):
        await content(bridge, limit=10)
    assert bridge.ops[-1] == "file-cancel"


async def test_a_bridge_that_floods_is_not_listened_to() -> None:
    def answer(bridge: Bridge, command: dict[str, Any], data: bytes | None) -> None:
        bridge.say(size=1 << 40)
        for _ in range(2 * MAX_WAITING // 100_000):
            bridge.say(bytes(100_000))

    with pytest.raises(InvocationError, match="more than it was asked for"):
        await content(Bridge(answer))


async def test_an_upload_does_not_fill_the_memory_however_much_is_said_to_be_taken() -> None:
    bridge = Bridge(lambda bridge, command, data: bridge.say(taken=1 << 60))

    async def endless() -> AsyncGenerator[bytes, None]:
        while True:
            yield bytes(1 << 20)

    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(bridge.files.write("x", endless()), 0.5)
    assert bridge.backlog <= MAX_WAITING + (1 << 20)
    assert bridge.ops[-1] == "file-cancel"


async def test_an_upload_waits_for_what_was_taken() -> None:
    bridge = Bridge(lambda bridge, command, data: bridge.say(taken=0) if command["op"] == "file" else None)

    async def endless() -> AsyncGenerator[bytes, None]:
        while True:
            yield bytes(1 << 20)

    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(bridge.files.write("x", endless()), 0.5)
    assert bridge.backlog <= CREDIT + (1 << 20)


@pytest.mark.parametrize(
    "said",
    [
        b"{}}",
        b"[1]",
        b'[["x", "door", 1, 1, 1]]',
        b'[["x", "file", -1, 1, 1]]',
        b'[["x", "file", 1e3, 1, 1]]',
        b'[["x", "file", 1, "t", 1]]',
        b'[["x", "file", 1, 1]]',
        b'[[7, "file", 1, 1, 1]]',
    ],
)
async def test_a_list_that_is_none_is_an_error(said: bytes) -> None:
    bridge = Bridge(lambda bridge, command, data: bridge.say(said))
    with pytest.raises(InvocationError, match="no list of files"):
        [entry async for entry in bridge.files.list("*")]


@pytest.mark.parametrize("modified", [float("nan"), float("inf"), 10**400, -(10**30)])
async def test_a_time_that_is_none_becomes_the_first(modified: float) -> None:
    said = json.dumps([["x", "file", 1, modified, 0o100644]]).encode()
    bridge = Bridge(lambda bridge, command, data: (bridge.say(said), bridge.say(end=True))[0])
    (entry,) = [entry async for entry in bridge.files.list("*")]
    assert (entry.modified, entry.mode) == (0.0, 0o644)


async def test_a_list_longer_than_asked_for_ends() -> None:
    said = json.dumps([["x", "file", 1, 1.0, 0]] * 50).encode()
    bridge = Bridge(lambda bridge, command, data: bridge.say(said))
    with pytest.raises(QuotaError, match="more than 20 files"):
        [entry async for entry in bridge.files.list("*", limit=20)]


async def test_what_is_under_way_when_the_sandbox_ends_is_told() -> None:
    bridge = Bridge(lambda bridge, command, data: bridge.operations.on_lost())
    with pytest.raises(SandboxLostError, match="the sandbox ended"):
        await content(bridge)


@pytest.mark.parametrize("number", [None, "1", [], {}, 99, 1.0])
async def test_events_of_nothing_are_dropped(number: object) -> None:
    bridge = Bridge(lambda bridge, command, data: None)
    bridge.operations.on_event({"id": number}, b"")


async def test_without_a_sandbox_nothing_begins() -> None:
    def refuse(fields: dict[str, Any], data: bytes | None, *, begins: bool) -> None:
        raise SandboxConnectionError("no sandbox is running")

    operations = Operations(refuse, lambda: 0, lambda: 1, dict)
    with pytest.raises(SandboxConnectionError):
        await LinkFiles(operations).remove("x")


@pytest.mark.parametrize("taken", ["x", None, [1], -1, 4, 1.5])
async def test_passage_of_which_more_or_nonsense_was_taken_is_refused(taken: object) -> None:
    def answer(bridge: Bridge, fields: dict[str, Any], data: bytes | None) -> None:
        if data is None:
            bridge.say(reader="/proc/2/fd/3", writer="/proc/2/fd/4")
        else:
            bridge.say(taken=taken)

    passages = Passages(Bridge(answer).operations, lambda path, flags: None)
    async with passages.into() as inlet:
        with pytest.raises(LinkProtocolError, match="of 3 taken"):
            await asyncio.wait_for(inlet.send([b"abc"]), 10)
