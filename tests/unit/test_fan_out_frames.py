"""The frames of a worker's pipe: however they are cut, they come whole; what is too large is refused at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_kernel.errors import LinkProtocolError
from sandbox_kernel.library.fan_out.frames import LAST, MAX_SAID, Frames, frame
from sandbox_kernel.library.fan_out.inside import FRAME, described

SAID = st.dictionaries(st.text(max_size=5), st.integers(), max_size=3)


@given(st.lists(st.tuples(SAID, st.binary(max_size=300)), max_size=10), st.integers(1, 400))
def test_frames_come_whole_however_they_are_cut(sent: list[tuple[dict[str, int], bytes]], size: int) -> None:
    whole = b"".join(bytes(part) for said, data in sent for part in frame(said, [data]))
    frames = Frames(300)
    taken = [one for start in range(0, len(whole), size) for one in frames.feed(whole[start : start + size])]
    assert taken == sent


def test_longest_text_of_an_exception_comes_whole() -> None:
    said = {"end": 1 << 60, "error": described(ValueError("\N{PILE OF POO}" * 30_000))}
    (whole,) = frame(said, [])
    assert list(Frames(0).feed(bytes(whole))) == [(said, b"")]


@given(st.binary(max_size=200))
def test_whatever_comes_is_frames_or_refused(noise: bytes) -> None:
    frames = Frames(100)
    try:
        for said, data in frames.feed(noise):
            assert isinstance(said, dict)
            assert len(data) <= 100
    except LinkProtocolError:
        pass


@pytest.mark.parametrize("start", [FRAME.pack(10, 101), FRAME.pack(MAX_SAID + 1, 0), LAST])
def test_what_is_too_large_is_refused_by_its_first_bytes(start: bytes) -> None:
    with pytest.raises(LinkProtocolError):
        list(Frames(100).feed(start))
