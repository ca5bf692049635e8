"""The link delivers each message once and in order, whatever happens to its byte streams; and survives any bytes."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_kernel.link import protocol
from sandbox_kernel.link.protocol import FRAME_SIZE, Excess, Link, LinkError, LinkState, Message, Opened


class Wire:
    """Two links and the bytes between them; a cut loses what is under way."""

    def __init__(self, window: int = protocol.WINDOW) -> None:
        self.ends = [Link(bytes(15) + b"a", window=window), Link(bytes(15) + b"b", window=window)]
        self.under_way = [bytearray(), bytearray()]
        self.delivered: list[list[tuple[list[bytes], bool]]] = [[], []]
        self.connect()

    def connect(self) -> None:
        for link in self.ends:
            link.connect()

    def cut(self) -> None:
        for link, lost in zip(self.ends, self.under_way, strict=True):
            link.disconnect()
            lost.clear()
        self.connect()

    def emit(self, end: int) -> None:
        for buffer in self.ends[end].data_to_send():
            self.under_way[end] += buffer

    def carry(self, end: int, size: int) -> None:
        """Carry bytes that this end sent to the other one."""
        chunk = bytes(self.under_way[end][:size])
        del self.under_way[end][:size]
        if chunk:
            for event in self.ends[1 - end].receive(memoryview(chunk)):
                if isinstance(event, Message):
                    self.delivered[1 - end].append(([bytes(part) for part in event.parts], event.urgent))

    def settle(self) -> None:
        while True:
            for end in (0, 1):
                self.emit(end)
            if not any(self.under_way):
                return
            for end in (0, 1):
                self.carry(end, 1 << 30)


messages = st.tuples(st.lists(st.binary(max_size=40), max_size=4), st.booleans())
large_parts = st.one_of(st.integers(0, 40), st.integers(0, 3 * FRAME_SIZE)).map(
    lambda size: os.urandom(8) + bytes(size)
)
large_messages = st.tuples(st.lists(large_parts, min_size=1, max_size=3), st.booleans())
steps = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 1), messages),
    st.tuples(st.just("send"), st.integers(0, 1), large_messages),
    st.tuples(st.just("emit"), st.integers(0, 1), st.none()),
    st.tuples(st.just("carry"), st.integers(0, 1), st.one_of(st.integers(1, 100), st.integers(1, 3 * FRAME_SIZE))),
    st.tuples(st.just("cut"), st.none(), st.none()),
    st.tuples(st.just("hold"), st.integers(0, 1), st.booleans()),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=60), st.sampled_from([FRAME_SIZE, 4 * FRAME_SIZE, protocol.WINDOW]))
def test_each_message_arrives_once_and_in_order_within_its_queue(script: list[tuple], window: int) -> None:
    wire = Wire(window)
    sent: list[list[tuple[list[bytes], bool]]] = [[], []]
    for action, end, value in script:
        match action:
            case "send":
                wire.ends[end].send(value[0], urgent=value[1])
                sent[end].append((value[0], value[1]))
            case "emit":
                wire.emit(end)
            case "carry":
                wire.carry(end, value)
            case "cut":
                wire.cut()
            case "hold":
                wire.ends[end].hold() if value else wire.ends[end].release()
    for link in wire.ends:
        link.release()
    wire.settle()
    for end in (0, 1):
        for urgent in (True, False):
            assert [m for m in wire.delivered[1 - end] if m[1] is urgent] == [m for m in sent[end] if m[1] is urgent]
        assert len(wire.delivered[1 - end]) == len(sent[end])


def test_an_urgent_message_goes_between_the_frames_of_a_bulk_one() -> None:
    wire = Wire()
    wire.settle()
    wire.ends[0].send([bytes(10 * FRAME_SIZE)])
    first = wire.ends[0].data_to_send(limit=1)
    wire.ends[0].send([b"now"], urgent=True)
    wire.under_way[0] += b"".join(first)
    wire.settle()
    assert [urgent for _, urgent in wire.delivered[1]] == [True, False]


def test_bulk_waits_for_the_window_and_urgent_does_not() -> None:
    wire = Wire(window=FRAME_SIZE)
    wire.settle()
    wire.ends[1].hold()
    for _ in range(10):
        wire.ends[0].send([bytes(FRAME_SIZE // 2)])
    wire.settle()
    arrived = len(wire.delivered[1])
    assert arrived < 10
    assert wire.ends[0].unacknowledged <= 2 * FRAME_SIZE
    wire.ends[0].send([b"now"], urgent=True)
    wire.settle()
    assert wire.delivered[1][-1] == ([b"now"], True)
    wire.ends[1].release()
    wire.settle()
    assert len(wire.delivered[1]) == 11


def test_a_frame_that_is_resent_after_it_arrived_is_dropped() -> None:
    wire = Wire()
    wire.settle()
    wire.ends[0].send([b"once"])
    wire.emit(0)
    wire.carry(0, 1 << 20)
    wire.cut()
    wire.settle()
    assert wire.delivered[1] == [([b"once"], False)]


def test_both_ends_learn_how_much_is_sent_again() -> None:
    wire = Wire()
    wire.settle()
    wire.ends[0].send([b"lost"])
    wire.emit(0)
    for link in wire.ends:
        link.disconnect()
    wire.under_way = [bytearray(), bytearray()]
    wire.connect()
    wire.emit(0)
    wire.emit(1)
    assert wire.ends[0].receive(memoryview(bytes(wire.under_way[1]))) == [Opened(1)]


def test_a_peer_that_lost_its_state_is_refused() -> None:
    wire = Wire()
    wire.settle()
    stranger = Link(bytes(15) + b"c")
    wire.ends[0].disconnect()
    wire.ends[0].connect()
    stranger.connect()
    with pytest.raises(LinkError, match="not the one"):
        wire.ends[0].receive(memoryview(b"".join(stranger.data_to_send())))
    assert wire.ends[0].state is LinkState.FAILED
    with pytest.raises(LinkError, match="failed"):
        wire.ends[0].connect()


@settings(max_examples=500, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=20), st.booleans())
def test_no_bytes_do_more_than_fail_the_link(chunks: list[bytes], greeted: bool) -> None:
    link, peer = Link(bytes(16)), Link(bytes(15) + b"p")
    link.connect()
    peer.connect()
    if greeted:
        link.receive(memoryview(b"".join(peer.data_to_send())))
    for chunk in chunks:
        try:
            link.receive(memoryview(chunk))
        except LinkError:
            assert link.state is LinkState.FAILED
            return
    assert link.unacknowledged == 0


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5), st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(0, 5)
        ),
        max_size=10,
    )
)
def test_no_header_makes_the_link_allocate_what_did_not_arrive(headers: list[tuple[int, ...]]) -> None:
    link, peer = Link(bytes(16)), Link(bytes(15) + b"p")
    link.connect()
    peer.connect()
    link.receive(memoryview(b"".join(peer.data_to_send())))
    for header in headers:
        try:
            link.receive(memoryview(protocol._HEADER.pack(*header) + bytes(50)))
        except LinkError:
            return


def test_an_announced_size_over_the_limit_fails_the_link() -> None:
    small, peer = Link(bytes(16), max_message=1000), Link(bytes(15) + b"p")
    small.connect()
    peer.connect()
    peer.receive(memoryview(b"".join(small.data_to_send())))
    small.receive(memoryview(b"".join(peer.data_to_send())))
    peer.send([bytes(4 * FRAME_SIZE)])
    with pytest.raises(LinkError, match="bytes"):
        small.receive(memoryview(b"".join(bytes(buffer) for buffer in peer.data_to_send())))


@pytest.mark.parametrize("cut", [None, 1000, FRAME_SIZE + 500])
def test_a_message_over_what_is_taken_is_dropped_and_told(cut: int | None) -> None:
    link, peer = Link(bytes(16), max_received=3 * FRAME_SIZE), Link(bytes(15) + b"p")

    def connect() -> None:
        link.connect()
        peer.connect()
        peer.receive(memoryview(b"".join(link.data_to_send())))
        link.receive(memoryview(b"".join(peer.data_to_send())))

    connect()
    for content in (bytes(4 * FRAME_SIZE), bytes(2 * FRAME_SIZE)):
        peer.send([b"kind", b"topic", content])
    events = []
    sent = b"".join(bytes(buffer) for buffer in peer.data_to_send(100 * FRAME_SIZE))
    if cut is not None:
        events += link.receive(memoryview(sent[:cut]))
        link.disconnect()
        peer.disconnect()
        connect()
        sent = b"".join(bytes(buffer) for buffer in peer.data_to_send(100 * FRAME_SIZE))
    for start in range(0, len(sent), 10_000):
        events += link.receive(memoryview(sent[start : start + 10_000]))
        assert max(len(queue.body) for queue in link._assembly.values()) < 3 * FRAME_SIZE
    excess, message = events
    assert isinstance(excess, Excess)
    assert excess.parts == [b"kind", b"topic"]
    assert excess.size > 4 * FRAME_SIZE
    assert isinstance(message, Message)
    assert len(message.parts[2]) == 2 * FRAME_SIZE


def test_a_message_that_a_link_cannot_carry_is_refused_where_it_is_sent() -> None:
    link = Link(bytes(16), max_message=1000)
    with pytest.raises(ValueError, match="bytes"):
        link.send([bytes(2000)])
    with pytest.raises(ValueError, match="parts"):
        link.send([b""] * (protocol.MAX_PARTS + 1))


def test_a_message_of_which_nothing_has_left_can_be_taken_back() -> None:
    wire = Wire()
    first, second = (wire.ends[0].send([text]) for text in (b"first", b"second"))
    assert wire.ends[0].withdraw(second)
    assert not wire.ends[0].withdraw(second)
    wire.settle()
    assert wire.delivered[1] == [([b"first"], False)]
    assert not wire.ends[0].withdraw(first)
    assert wire.ends[0].bulk_backlog == 0
