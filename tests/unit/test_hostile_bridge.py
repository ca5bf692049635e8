"""The kernel process treats the bridge as an attacker's: nothing it sends costs the front end its kernel."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_kernel import kernel_outputs
from sandbox_kernel.bridge_events import MAX_EVENT, read_event
from sandbox_kernel.lifecycle import State
from sandbox_kernel.link import envelope, protocol
from sandbox_kernel.link.protocol import FRAME_SIZE, MAGIC, VERSION, Link, LinkError
from sandbox_kernel.python_lives import MAX_LIVES
from sandbox_kernel.shell_command import ShellCommand
from tests.hostile import READY, HostileBridge, hostile_bridge

HEADER = struct.Struct("!BBIQQ")
HELLO, DATA, ACK = 1, 2, 3
DEEP = b"[" * 100_000
TOKEN = b"\x00\x00\x00\x01"
"""Of the first request that is forwarded."""


def hello() -> bytes:
    body = struct.pack("!4sB16sI", MAGIC, VERSION, bytes(16), 1 << 20)
    return HEADER.pack(HELLO, 0, len(body), 0, 0) + body


def frame(
    payload: bytes, seq: int, *, kind: int = DATA, flags: int = 3, ack: int = 0, length: int | None = None
) -> bytes:
    return HEADER.pack(kind, flags, len(payload) if length is None else length, seq, ack) + payload


def message(*parts: bytes) -> bytes:
    return struct.pack(f"!H{len(parts)}I", len(parts), *map(len, parts)) + b"".join(parts)


def against(attack: Callable[[HostileBridge], Awaitable[None] | None], *, cell: bool = True) -> HostileBridge:
    """Attack a kernel that is ready and, by default, runs a cell; it has to go on with the next bridge, or this one."""

    async def run() -> HostileBridge:
        async with hostile_bridge() as bridge:
            bridge.event(READY)
            await bridge.turn()
            if cell:
                bridge.ask()
                bridge.exchange()
            waiting = attack(bridge)
            if waiting is not None:
                await waiting
            await bridge.turn()
            assert bridge.faults == []
            if cell and bridge.wire.is_open:
                # The attacked cell is ended, whatever was made of it.
                request = cell_of(bridge)
                bridge.answer(request)
            assert await bridge.is_alive()
            assert bridge.faults == []
            return bridge

    return asyncio.run(run())


# ---- bytes

raw_frames = st.builds(
    lambda kind, flags, length, seq, ack, payload: HEADER.pack(kind, flags, length, seq, ack) + payload,
    st.integers(0, 5),
    st.integers(0, 9),
    st.one_of(st.integers(0, 60), st.sampled_from([FRAME_SIZE, FRAME_SIZE + 1, (1 << 32) - 1])),
    st.one_of(st.integers(0, 6), st.just((1 << 64) - 1)),
    st.one_of(st.integers(0, 3), st.just((1 << 64) - 1)),
    st.binary(max_size=60),
)


@given(st.lists(st.one_of(st.binary(max_size=100), raw_frames, st.just(hello())), max_size=12))
@settings(max_examples=60, deadline=None)
def test_any_bytes_cost_a_sandbox_at_most(chunks: list[bytes]) -> None:
    def attack(bridge: HostileBridge) -> None:
        for chunk in chunks:
            bridge.feed(chunk)

    async def run() -> None:
        async with hostile_bridge() as bridge:
            attack(bridge)
            await bridge.turn()
            assert bridge.faults == []
            if bridge.wire.is_open:
                bridge.wire.is_open = False
                bridge.wire.receiver.connection_lost("it is over")
            await bridge.turn()
            assert await bridge.is_alive()

    asyncio.run(run())


def test_a_message_is_not_allocated_before_it_arrives() -> None:
    link = Link(bytes(16))
    link.connect()
    link.receive(memoryview(hello()))
    lengths = struct.pack("!H4I", 4, *[(1 << 28) - 100] * 4)
    link.receive(memoryview(frame(lengths, 1, flags=1)))
    assert link._assembly[False].total > 1 << 29
    assert len(link._assembly[False].body) < 100
    with pytest.raises(LinkError):
        link.receive(memoryview(frame(struct.pack("!H4I", 4, *[(1 << 32) - 1] * 4), 2, flags=1)))


def test_a_sender_that_ignores_the_window_is_cut_off() -> None:
    link = Link(bytes(16), window=1 << 20)
    link.connect()
    link.receive(memoryview(hello()))
    link.hold()
    payload = message(bytes(FRAME_SIZE - 100))
    most = (link._window + protocol.URGENT_ROOM) // len(payload)
    for seq in range(1, most + 1):
        link.receive(memoryview(frame(payload, seq)))
    with pytest.raises(LinkError, match="room"):
        link.receive(memoryview(frame(payload, most + 1)))


def test_a_flood_for_a_front_end_that_hangs_ends_the_sandbox_and_not_the_memory() -> None:
    async def attack(bridge: HostileBridge) -> None:
        bridge.session.hold(True)
        bridge.wire.sent.clear()
        payload = message(envelope.EVENT, b"{}", bytes(FRAME_SIZE - 100))
        for seq in range(2, 600):
            bridge.feed(frame(payload, seq))
        await bridge.turn()
        assert bridge.session.state is State.ERROR
        bridge.session.hold(False)

    against(attack, cell=False)


# ---- messages

json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10), st.integers(-(10**30), 10**30),
        st.sampled_from(["busy", "idle", "request-1", "status", "error", "ready", "debug_event", "stream"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["msg_id", "msg_type", "event", "id", "exit", "python", "life", "stderr", "execution_state", "status",
                 "execution_count", "subshell_id", "payload", "data", "text", "name"]
            ),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=8,
)  # fmt: skip
bombs = st.sampled_from(
    [
        b"", b"{", DEEP, b'{"a":' * 50_000, b"9" * 1_000_000, b'{"event":"died","exit":' + b"9" * 100_000 + b"}",
        b'{"msg_type":"status","msg_type":[]}', b"NaN", b"[NaN,Infinity,-Infinity,1e999]", b'"\\ud800"', b"\xff\xfe{}",
        b'{"event":"ready","python":"\\ud800","life":1e999}', b'{"event":"died","exit":1e999,"stderr":1}', b"null",
        b'{"event":"finished","id":[],"exit":0}', b'{"event":{"a":1}}',
    ]
)  # fmt: skip
json_parts = st.one_of(
    st.builds(lambda value: json.dumps(value).encode(), json_values),
    st.builds(lambda kind: json.dumps({"msg_type": kind, "msg_id": "request-1", "version": "5.4"}).encode(),
              st.sampled_from(["status", "stream", "display_data", "execute_input", "error", "debug_event", "x"])),
    bombs,
)  # fmt: skip
kinds = st.one_of(
    st.sampled_from([b"o", b"e", b"s", b"c", b"a", b"i", b"x", b"", b"o" + TOKEN]),
    st.sampled_from([b"s" + TOKEN, b"i" + TOKEN, b"c" + TOKEN, b"a" + bytes(4), b"s" + TOKEN + b"x"]),
    st.binary(max_size=6),
)
odd_messages = st.one_of(
    st.just([]),
    st.builds(lambda kind, parts: [kind, *parts], kinds, st.lists(json_parts, max_size=7)),
    st.builds(lambda kind, parts: [kind, *parts], kinds, st.lists(json_parts, min_size=4, max_size=5)),
    st.lists(st.binary(max_size=20), max_size=7),
)


@given(st.lists(st.tuples(odd_messages, st.booleans()), max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_messages_leave_a_kernel_that_works(messages: list[tuple[list[bytes], bool]]) -> None:
    def attack(bridge: HostileBridge) -> None:
        for parts, urgent in messages:
            bridge.say(*parts, urgent=urgent)

    against(attack)


@given(st.lists(json_parts, max_size=4))
@settings(max_examples=200, deadline=None)
def test_an_event_is_read_or_refused(parts: list[bytes]) -> None:
    with contextlib.suppress(ValueError):
        assert read_event([envelope.EVENT, *parts]) is None or len(parts) == 2


@pytest.mark.parametrize("content", [b"[]", b'"ready"', DEEP, b"NaN", b" " * (MAX_EVENT + 1), b'{"event":"died"}'])
def test_an_event_of_another_shape_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        read_event([envelope.EVENT, content, b""])


def test_last_words_reach_no_terminal_as_commands() -> None:
    died = read_event([b"e", json.dumps({"event": "died", "exit": 1, "stderr": "\x1b]0;x\x07y\n\ud800"}).encode(), b""])
    assert died is not None
    assert "\x1b" not in died.stderr  # type: ignore[union-attr]
    assert died.stderr.encode()  # type: ignore[union-attr]


BROKEN = [DEEP, b"", b"[]", b"{", b'{"status":NaN}', b"9" * 100_000]


def cell_of(bridge: HostileBridge) -> list[bytes]:
    """The cell as it was forwarded."""
    return next(parts for parts in bridge.received if parts[0][:1] == envelope.SHELL)


def say_broken_reply(bridge: HostileBridge, content: bytes) -> None:
    request = cell_of(bridge)
    header = json.dumps({"msg_id": "r", "msg_type": "execute_reply", "version": "5.4"}).encode()
    bridge.say(request[0], header, request[1], b"{}", content)


@pytest.mark.parametrize("content", BROKEN)
def test_a_cell_with_a_broken_reply_has_one_that_can_be_read(content: bytes) -> None:
    def attack(bridge: HostileBridge) -> None:
        say_broken_reply(bridge, content)
        assert [reply["status"] for reply in bridge.replies_to("request-1")] == ["error"]
        bridge.answer(cell_of(bridge))
        assert len(bridge.replies_to("request-1")) == 1

    against(attack)


def test_a_cell_without_a_reply_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_outputs, "REPLY_GRACE", 0.0)

    async def attack(bridge: HostileBridge) -> None:
        header = json.dumps({"msg_id": "i", "msg_type": "status", "version": "5.4"}).encode()
        bridge.say(envelope.IOPUB, b"", header, cell_of(bridge)[1], b"{}", b'{"execution_state": "idle"}')
        await bridge.turn()
        assert [reply["status"] for reply in bridge.replies_to("request-1")] == ["error"]

    against(attack)


def test_a_message_that_front_ends_stumble_over_is_dropped() -> None:
    def attack(bridge: HostileBridge) -> None:
        before = len(bridge.frontend.outputs)
        for version in ({}, {"version": "4.1"}, {"version": None}):
            header = json.dumps({"msg_id": "o", "msg_type": "stream", **version}).encode()
            bridge.say(envelope.IOPUB, b"", header, b"{}", b"{}", b'{"name":"stdout","text":"x"}')
        assert len(bridge.frontend.outputs) == before

    against(attack)


def test_a_reply_that_is_said_twice_is_sent_once() -> None:
    def attack(bridge: HostileBridge) -> None:
        request = cell_of(bridge)
        for _ in range(5):
            bridge.answer(request)
        assert len(bridge.replies_to(json.loads(request[1])["msg_id"])) == 1

    against(attack, cell=True)


# ---- what is said again and again


def test_lives_that_end_at_once_end_the_sandbox_and_fill_no_log() -> None:
    async def attack(bridge: HostileBridge) -> None:
        first = bridge.wire
        for life in range(500):
            if not first.is_open:
                break
            bridge.event({"event": "died", "exit": 1, "life": life, "stderr": "x" * 10_000})
            bridge.event({**READY, "life": life})
            await bridge.turn(3)
        assert not first.is_open
        assert bridge.log.file.stat().st_size < MAX_LIVES * 12_000

    against(attack, cell=False)


def test_ready_that_is_said_again_is_not_noted() -> None:
    async def attack(bridge: HostileBridge) -> None:
        size = bridge.log.file.stat().st_size
        for _ in range(300):
            bridge.event(READY)
        assert bridge.session.dropped == 300
        assert bridge.log.file.stat().st_size == size

    against(attack, cell=False)


def test_questions_that_nobody_answers_are_bounded() -> None:
    def attack(bridge: HostileBridge) -> None:
        request = cell_of(bridge)
        header = json.dumps({"msg_id": "q", "msg_type": "input_request", "version": "5.4"}).encode()
        for _ in range(1000):
            bridge.say(b"i" + request[0][1:], header, request[1], b"{}", b'{"prompt":"","password":false}')
        assert len([1 for channel, _ in bridge.frontend.replies if channel == "stdin"]) <= 100

    against(attack)


def test_a_cell_that_may_not_ask_does_not() -> None:
    async def run() -> None:
        async with hostile_bridge() as bridge:
            bridge.event(READY)
            await bridge.turn()
            bridge.ask(allow_stdin=False)
            bridge.exchange()
            request = cell_of(bridge)
            header = json.dumps({"msg_id": "q", "msg_type": "input_request", "version": "5.4"}).encode()
            bridge.say(b"i" + request[0][1:], header, request[1], b"{}", b'{"prompt":"","password":false}')
            assert [channel for channel, _ in bridge.frontend.replies if channel == "stdin"] == []

    asyncio.run(run())


def test_a_cell_that_says_it_begins_again_has_no_more_time() -> None:
    async def run() -> None:
        async with hostile_bridge() as bridge:
            bridge.session.execution_timeout = 1000.0
            bridge.event(READY)
            await bridge.turn()
            bridge.ask()
            bridge.exchange()
            request = cell_of(bridge)
            header = json.dumps({"msg_id": "b", "msg_type": "status", "version": "5.4"}).encode()
            dues = set()
            for _ in range(3):
                bridge.say(envelope.IOPUB, b"", header, request[1], b"{}", b'{"execution_state": "busy"}')
                dues |= {alarm.due for alarm in bridge.kernel._clock._alarms.values()}
            assert len(dues) == 1

    asyncio.run(run())


async def test_a_command_that_nobody_reads_any_more_keeps_nothing() -> None:
    command = ShellCommand(lambda: None)
    command.feed(b"before")
    command.kill()
    for _ in range(1000):
        command.feed(os.urandom(1000))
    command.finish(0)
    assert [chunk async for chunk in command] == [b"before"]


def test_nothing_is_written_but_the_log() -> None:
    def attack(bridge: HostileBridge) -> None:
        for name in ("../escape", "/etc/x", "session", "connection.json"):
            for event in ("file", "write", "output", "open", "ready"):
                bridge.event({"event": event, "path": name, "id": name, "python": name}, b"data")
        assert {path.name for path in bridge.folder.iterdir()} == {"connection.json", "log"}

    against(attack)
