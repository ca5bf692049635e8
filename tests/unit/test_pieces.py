"""Streams of bytes that travel as messages: whole or over, whatever becomes of the messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_kernel.link.pieces import ASK_AFTER, SIZE, WINDOW, GapError, Piece, Pieces


def carry(source: Pieces, target: Pieces, now: float = 0.0, *, takes: bool = True) -> bytes:
    """Bring over what there is to be sent; return the bytes that arrived."""
    fresh = b""
    for piece in source.to_send(now):
        fresh += bytes(target.receive(piece, now))
    if takes:
        target.take(len(fresh))
    return fresh


@given(
    st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=20),
    st.lists(st.sampled_from(["pass", "drop", "repeat"]), max_size=40),
)
def test_what_arrives_is_a_beginning_of_what_was_sent_and_a_gap_is_noticed(
    written: list[bytes], fates: list[str]
) -> None:
    sender, receiver = Pieces(), Pieces()
    arrived, lost = b"", False
    for data in written:
        sender.write(data)
        for piece in sender.to_send(0.0):
            fate = fates.pop() if fates else "pass"
            if fate == "drop":
                lost = True
                continue
            for _ in range(2 if fate == "repeat" else 1):
                if lost:
                    with pytest.raises(GapError):
                        receiver.receive(piece, 0.0)
                else:
                    arrived += bytes(receiver.receive(piece, 0.0))
    assert b"".join(written).startswith(arrived)
    assert lost or arrived == b"".join(written)


def test_a_writer_waits_until_what_it_sent_was_taken() -> None:
    sender, receiver = Pieces(), Pieces()
    sender.write(bytes(WINDOW + SIZE))
    assert len(carry(sender, receiver, takes=False)) == WINDOW
    assert (sender.backlog, sender.has_room) == (SIZE, False)
    assert carry(receiver, sender) == b""
    assert sender.to_send(0.0) == []
    receiver.take(WINDOW)
    carry(receiver, sender)
    assert len(carry(sender, receiver)) == SIZE
    assert sender.has_room


def test_the_last_bytes_are_missed_when_they_were_lost() -> None:
    sender, receiver = Pieces(), Pieces()
    sender.write(b"lost")
    assert len(sender.to_send(0.0)) == 1
    assert sender.to_send(ASK_AFTER / 2) == []
    (question,) = sender.to_send(ASK_AFTER)
    assert question.asks
    with pytest.raises(GapError):
        receiver.receive(question, ASK_AFTER)


def test_who_is_not_answered_counts_it_and_who_is_asks_no_more() -> None:
    sender, receiver = Pieces(), Pieces()
    sender.write(b"data")
    carry(sender, receiver)
    for number in (1, 2):
        (question,) = sender.to_send(number * ASK_AFTER)
        assert sender.unanswered == number
    assert bytes(receiver.receive(question, 0.0)) == b""
    carry(receiver, sender)
    assert (sender.unanswered, sender.due) == (0, None)


@pytest.mark.parametrize("piece", [Piece(0, 1, False, b""), Piece(-1, 0, False, b""), Piece(0, -1, False, b"")])
def test_numbers_that_cannot_be_are_refused(piece: Piece) -> None:
    with pytest.raises(GapError):
        Pieces().receive(piece, 0.0)
