"""WebSocket frames: what is sent arrives, however it is cut; what is no frame is refused."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_kernel.link import websocket


@given(st.lists(st.binary(max_size=70_000), max_size=5), st.booleans(), st.integers(1, 5000))
def test_frames_arrive_whole_and_in_order_however_they_are_cut(payloads: list[bytes], masked: bool, size: int) -> None:
    stream = b"".join(websocket.encode(websocket.DATA, payload, masked=masked) for payload in payloads)
    decoder = websocket.Decoder()
    frames = [frame for start in range(0, len(stream), size) for frame in decoder.receive(stream[start : start + size])]
    assert frames == [(websocket.DATA, payload) for payload in payloads]


@given(st.binary(max_size=300))
def test_nonsense_is_refused_or_waited_for(data: bytes) -> None:
    decoder = websocket.Decoder()
    try:
        frames = decoder.receive(data)
    except websocket.WebSocketError:
        return
    assert all(kind in (websocket.DATA, websocket.CLOSE, websocket.PING, websocket.PONG) for kind, _ in frames)


def test_a_frame_that_is_too_large_is_refused_before_it_arrives() -> None:
    head = bytes([0x82, 127]) + (websocket.MAX_FRAME + 1).to_bytes(8, "big")
    with pytest.raises(websocket.WebSocketError):
        websocket.Decoder().receive(head)


@pytest.mark.parametrize("kind", [websocket.CLOSE, websocket.PING, websocket.PONG])
def test_a_control_frame_is_short_and_in_one_piece(kind: int) -> None:
    whole = websocket.encode(kind, b"x" * 125, masked=False)
    assert websocket.Decoder().receive(whole) == [(kind, b"x" * 125)]
    for head in (bytes([0x80 | kind, 126, 0, 126]), bytes([kind, 1])):
        with pytest.raises(websocket.WebSocketError, match="control frame"):
            websocket.Decoder().receive(head)


def test_masking_hides_the_payload_and_is_its_own_inverse() -> None:
    payload = b"payload" * 100
    assert payload not in websocket.encode(websocket.DATA, payload, masked=True)
    assert websocket.apply_mask(websocket.apply_mask(payload, b"key!"), b"key!") == payload


def test_the_handshake_is_the_standards() -> None:
    """The example of RFC 6455, section 1.3."""
    assert websocket.accept_of("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert len(base64.b64decode(websocket.new_key())) == 16
