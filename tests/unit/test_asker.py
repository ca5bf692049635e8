"""What calls carry to a sandbox that can only be called, and back: deflated where that pays."""

from __future__ import annotations

import os
import zlib

import pytest

from sandbox_kernel.bridge.asker import SAMPLE, SMALL, deflated


@pytest.mark.parametrize("plain", [b"", b"x" * SMALL, os.urandom(100_000), os.urandom(SAMPLE) * 4], ids=len)
def test_what_deflating_hardly_makes_shorter_stays_as_it_is(plain: bytes) -> None:
    assert deflated(plain) == b"r" + plain


def test_text_is_deflated() -> None:
    plain = b"".join(b"line %d of a file\n" % number for number in range(1000))
    packed = deflated(plain)
    assert len(packed) < len(plain) / 4
    assert (packed[:1], zlib.decompress(packed[1:])) == (b"z", plain)
