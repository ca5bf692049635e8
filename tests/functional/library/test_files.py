"""Files that a program puts into its sandbox and takes out."""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sandbox_kernel import BlockingSandbox, Sandbox
from sandbox_kernel.errors import (
    InvocationError,
    NotFoundError,
)

if sys.platform != "linux":
    pytest.skip("the local provider needs bubblewrap, which only Linux has", allow_module_level=True)


async def test_files_go_in_and_out() -> None:
    # A file is a first use, too.
    async with Sandbox() as sandbox:
        assert await sandbox.write("data/a.bin", b"x" * 600_000) == 600_000
        assert (await sandbox.run("len(open('data/a.bin').read())")).text == "600000"
        assert b"".join([piece async for piece in sandbox.read("data/a.bin")]) == b"x" * 600_000
        assert [(entry.path, entry.size) async for entry in sandbox.list("data/*")] == [("data/a.bin", 600_000)]
        await sandbox.remove("data", recursive=True)
        with pytest.raises(NotFoundError):
            await anext(sandbox.read("data/a.bin"))


def test_files_without_an_event_loop() -> None:
    with BlockingSandbox() as sandbox:
        assert sandbox.write("a.txt", b"content") == 7
        assert sandbox.read("a.txt") == b"content"
        assert [entry.path for entry in sandbox.list("*.txt")] == ["a.txt"]
        sandbox.remove("a.txt")
        with pytest.raises(NotFoundError):
            sandbox.read("a.txt")


async def test_file_is_written_from_whatever_gives_bytes(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(b"abc" * 200_000)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        yield bytearray(b"b")

    with (tmp_path / "content").open("rb") as file:
        assert await sandbox.write("a", file) == 600_000
    assert await sandbox.write("a", pieces()) == 2
    assert await sandbox.write("a", (b"xy" for _ in range(3))) == 6
    assert await sandbox.write("a", memoryview(b"xyz")) == 3
    for wrong, reason in (("text", "encode the text"), (["text"], "encode the text"), (7, "this is int")):
        with pytest.raises(InvocationError, match=reason):
            await sandbox.write("a", wrong)  # type: ignore[arg-type]
    with (tmp_path / "content").open() as text, pytest.raises(InvocationError, match="mode 'rb'"):
        await sandbox.write("a", text)  # type: ignore[arg-type]
    assert b"".join([piece async for piece in sandbox.read("a")]) == b"xyz"


def test_files_are_streamed_without_an_event_loop() -> None:
    made: list[int] = []

    def pieces() -> Iterator[bytes]:
        for number in range(40):
            made.append(threading.get_ident())
            yield bytes([number]) * 100_000

    with BlockingSandbox() as sandbox:
        assert sandbox.write("a.bin", pieces(), mode=0o755) == 4_000_000
        assert set(made) == {threading.get_ident()}
        assert sandbox.run("import os; oct(os.stat('a.bin').st_mode & 0o111)").text == "'0o111'"
        read = list(sandbox.read_pieces("a.bin"))
        assert len(read) > 1
        assert b"".join(read) == b"".join(pieces())
        for _ in sandbox.read_pieces("a.bin"):
            break
        with pytest.raises(InvocationError, match="encode the text"):
            sandbox.write("a.bin", "text")  # type: ignore[arg-type]
        with pytest.raises(ZeroDivisionError):
            sandbox.write("a.bin", (b"x" * (1 // n) for n in (1, 0)))
        assert len(sandbox.read("a.bin")) == 4_000_000
