"""Link chunks that are written and read by hand are those of executor.proto."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("google.protobuf")

from google.protobuf.message import DecodeError

from sandbox_kernel.executor_api import executor_pb2 as pb
from sandbox_kernel.executor_api.link_chunks import data_chunk, parse, serialize


@pytest.mark.parametrize("size", [1, 127, 128, 16_383, 16_384, 98_304, 2_097_151, 2_097_152])
def test_data_is_written_as_protobuf_writes_it(size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    content = content[:size]
    written = data_chunk((content[:100], memoryview(content)[100:]))
    assert written == pb.LinkChunk(data=content).SerializeToString()
    assert serialize(written) is written
    assert parse(written) == content


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_what_protobuf_wrote_is_read(pieces: list[bytes]) -> None:
    content = b"".join(pieces)
    read = parse(pb.LinkChunk(data=content).SerializeToString())
    assert isinstance(read, memoryview)
    assert read == content == parse(data_chunk(pieces))


def test_other_chunks_are_messages() -> None:
    for chunk in (
        pb.LinkChunk(open=pb.LinkOpen(sandbox_id="one")),
        pb.LinkChunk(alive=pb.LinkAlive()),
        pb.LinkChunk(close=pb.LinkClose(reason="over", ended=True)),
    ):
        assert parse(serialize(chunk)) == chunk


def test_another_way_of_writing_the_same_is_read_too() -> None:
    # A length that is longer than it must be, and a field that is there twice: the last one counts.
    assert parse(b"\x12\x83\x00abc") == b"abc"
    twice = parse(pb.LinkChunk(data=b"one").SerializeToString() + pb.LinkChunk(data=b"two").SerializeToString())
    assert isinstance(twice, pb.LinkChunk)
    assert twice.data == b"two"


@given(st.binary(max_size=40))
def test_whatever_comes_is_read_as_protobuf_reads_it_or_refused(encoded: bytes) -> None:
    for message in (encoded, b"\x12" + encoded):
        try:
            expected = pb.LinkChunk.FromString(message)
        except DecodeError:
            with pytest.raises(DecodeError):
                parse(message)
            continue
        read = parse(message)
        assert (read == expected.data) if isinstance(read, memoryview) else (read == expected)
