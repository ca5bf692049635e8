"""A connection that is lost is made again, until there is no use in it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sandbox_kernel import connection as module
from sandbox_kernel.connection import Connection
from sandbox_kernel.errors import AuthenticationError, SandboxConnectionError, SandboxError, SandboxLostError
from sandbox_kernel.link.protocol import REFUSED, Link, LinkError, LinkRefusedError, Message
from sandbox_kernel.link.transport import Transport
from sandbox_kernel.retry import RetryPolicy
from tests.hostile import Wire, WiredSandbox

AWAY = SandboxConnectionError("it is away")


class Sandbox(WiredSandbox):
    """Opens wires, or fails as it is told; its bridge's link outlives them."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[Exception] = []
        self.wires: list[Wire] = []
        self.mute = False
        self.bridge = Link(os.urandom(16))
        self.received: list[bytes] = []

    async def open_link(self) -> Transport:
        if self.answers:
            raise self.answers.pop(0)
        self.wires.append(Wire())
        return self.wires[-1]

    def exchange(self) -> None:
        """Let the bridge answer over the newest wire."""
        wire = self.wires[-1]
        if self.bridge.state.value == "disconnected":
            self.bridge.connect()
        while wire.is_open:
            came, wire.sent = bytes(wire.sent), bytearray()
            events = self.bridge.receive(memoryview(came)) if came else []
            self.received += [bytes(event.parts[0]) for event in events if isinstance(event, Message)]
            data = b"".join(bytes(buffer) for buffer in self.bridge.data_to_send())
            if data:
                wire.receiver.data_received(memoryview(data))
            elif not wire.sent:
                return

    def cut(self) -> None:
        """End the newest wire."""
        self.wires[-1].is_open = False
        self.bridge.disconnect()
        self.wires[-1].receiver.connection_lost("cut")


class Case:
    """A connection under test."""

    def __init__(self, patience: float) -> None:
        self.sandbox = Sandbox()
        self.ended: list[tuple[str, SandboxError | LinkError | None]] = []
        self.reports: list[str] = []
        self.connection = Connection(
            self.sandbox,
            Link(os.urandom(16)),
            lambda parts: None,
            lambda parts, size: None,
            lambda reason, error: self.ended.append((reason, error)),
            policy=RetryPolicy(first_delay=0.001, longest_delay=0.002),
            patience=patience,
            report=lambda name, level, fields: self.reports.append(name),
        )

    async def until(self, condition: Callable[[], Any]) -> None:
        for _ in range(2000):
            if condition():
                return
            await asyncio.sleep(0.001)
        raise AssertionError((self.reports, self.ended))


@asynccontextmanager
async def connected(patience: float = 0.0) -> AsyncIterator[Case]:
    case = Case(patience)
    await case.connection.open()
    case.sandbox.exchange()
    yield case
    case.connection.close()


async def test_messages_of_before_and_during_a_loss_arrive_once_and_in_order() -> None:
    async with connected() as case:
        case.connection.send([b"1"])
        case.sandbox.exchange()
        case.connection.send([b"2"])
        case.sandbox.answers = [AWAY, AWAY]
        case.sandbox.cut()
        case.connection.send([b"3"])
        assert case.connection.lost_for is not None
        await case.until(lambda: len(case.sandbox.wires) == 2)
        case.sandbox.exchange()
        assert case.sandbox.received == [b"1", b"2", b"3"]
        assert (case.connection.lost_for, case.ended) == (None, [])
        assert case.reports == ["connection_lost", "reconnecting", "reconnecting", "reconnected"]


async def test_answer_may_be_late_while_there_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEADY_AFTER", 0.05)
    async with connected() as case:
        await case.until(lambda: not case.connection.is_receiving)
        case.sandbox.answers = [AWAY] * 20
        case.sandbox.cut()
        assert case.connection.is_receiving
        await case.until(lambda: len(case.sandbox.wires) == 2)
        case.sandbox.exchange()
        assert case.connection.is_receiving
        await case.until(lambda: not case.connection.is_receiving)


async def test_sandbox_that_is_gone_ends_it() -> None:
    async with connected() as case:
        case.sandbox.answers = [AWAY, SandboxLostError("gone")]
        case.sandbox.cut()
        await case.until(lambda: case.ended)
        assert case.ended == [("cut", None)]


async def test_error_that_trying_does_not_help_ends_it() -> None:
    async with connected() as case:
        refused = AuthenticationError("the key is wrong")
        case.sandbox.answers = [refused]
        case.sandbox.cut()
        await case.until(lambda: case.ended)
        assert case.ended == [("cut", refused)]


async def test_error_that_nobody_expects_ends_it_and_is_told() -> None:
    async with connected() as case:
        case.sandbox.answers = [RecursionError("too deep")]
        case.sandbox.cut()
        await case.until(lambda: case.ended)
        ((reason, error),) = case.ended
        assert (reason, str(error)) == ("cut", "too deep")
        assert isinstance(error, SandboxConnectionError)
        assert case.reports == ["connection_lost", "reconnecting_failed"]


async def test_patience_has_an_end() -> None:
    async with connected(patience=0.05) as case:
        case.sandbox.answers = [AWAY] * 1000
        case.sandbox.cut()
        await case.until(lambda: case.ended)
        assert case.ended == [("cut", AWAY)]


async def test_wire_that_stays_silent_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GREETING_TIMEOUT", 0.01)
    async with connected() as case:
        case.sandbox.cut()
        await case.until(lambda: len(case.sandbox.wires) == 3)
        assert not case.sandbox.wires[1].is_open
        await case.until(lambda: case.sandbox.wires[-1].is_open)
        case.sandbox.exchange()
        assert case.connection.lost_for is None


async def test_paused_sandbox_is_left_alone_until_it_goes_on() -> None:
    async with connected() as case:
        case.connection.sleep(True)
        case.sandbox.cut()
        await asyncio.sleep(0.02)
        assert len(case.sandbox.wires) == 1
        case.connection.sleep(False)
        await case.until(lambda: len(case.sandbox.wires) == 2)


async def test_bridge_that_has_another_peer_ends_it() -> None:
    async with connected() as case:
        case.sandbox.cut()
        await case.until(lambda: len(case.sandbox.wires) == 2)
        case.sandbox.bridge = Link(REFUSED)
        case.sandbox.exchange()
        ((_, error),) = case.ended
        assert isinstance(error, LinkRefusedError)


async def test_closed_connection_is_not_made_again() -> None:
    async with connected() as case:
        case.sandbox.answers = [AWAY] * 1000
        case.sandbox.cut()
        case.connection.close()
        await asyncio.sleep(0.01)
        assert (len(case.sandbox.wires), case.ended) == (1, [])


async def test_attempt_under_way_is_given_up_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow_to_stop() -> Transport:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
        raise AWAY

    async with connected() as case:
        others = asyncio.all_tasks()
        monkeypatch.setattr(case.sandbox, "open_link", slow_to_stop)
        case.sandbox.cut()
        await case.until(lambda: len(asyncio.all_tasks() - others) == 2)
        case.connection.close()
        assert asyncio.all_tasks() - others
        await case.connection.wait_closed()
        assert asyncio.all_tasks() == others


async def test_pauses_do_not_grow_where_each_connection_is_made_and_breaks() -> None:
    async with connected() as case:
        for count in range(2, 12):
            case.sandbox.cut()
            await case.until(lambda count=count: len(case.sandbox.wires) == count)
            case.sandbox.exchange()
            assert case.connection._attempt == 1


async def test_first_connection_that_stays_mute_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GREETING_TIMEOUT", 0.05)
    case = Case(0.0)
    await case.connection.open()
    case.connection.send([b"1"])
    await case.until(lambda: len(case.sandbox.wires) == 2)
    case.sandbox.exchange()
    assert case.sandbox.received == [b"1"]
    assert case.connection.lost_for is None
    case.connection.close()


async def test_connection_that_nobody_opens_is_an_error_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GREETING_TIMEOUT", 0.05)
    case = Case(0.0)
    monkeypatch.setattr(case.sandbox, "open_link", lambda: asyncio.sleep(60))
    with pytest.raises(SandboxConnectionError, match="does not answer"):
        await case.connection.open()
