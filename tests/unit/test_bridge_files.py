"""Files inside the sandbox: one piece a turn, nothing that waits, and nothing half written."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox_kernel.bridge.files import CHUNK, UNSIZED, FileOperations
from sandbox_kernel.bridge.paths import matches

MEGABYTE = 1024**2


class Bridge:
    """Gives operations their turns and keeps what they say."""

    def __init__(self) -> None:
        self.said: list[tuple[dict[str, Any], bytes]] = []
        self.files = FileOperations(lambda said, data: self.said.append((said, data)))

    def begin(self, do: str, path: object, **fields: object) -> None:
        defaults = {"credit": 1 << 40, "mode": 0o644, "recursive": False, "limit": 1000}
        self.files.command({"op": "file", "id": 1, "do": do, "path": str(path), **defaults, **fields}, b"")

    def go_on(self, op: str, data: bytes = b"", **fields: object) -> None:
        self.files.command({"op": op, "id": 1, **fields}, data)

    def run(self) -> None:
        for _ in range(100_000):
            if not self.files.want_turn:
                return
            self.files.turn()
        raise AssertionError("it does not end")

    @property
    def data(self) -> bytes:
        return b"".join(data for _, data in self.said)

    @property
    def end(self) -> dict[str, Any]:
        said, _ = self.said[-1]
        assert said["end"]
        return said

    def entries(self) -> list[list[Any]]:
        return [entry for _, data in self.said if data for entry in json.loads(data)]


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    made = Bridge()
    yield made
    made.files.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def list_of(bridge: Bridge, pattern: str, **fields: object) -> list[str]:
    bridge.begin("list", pattern, **fields)
    bridge.run()
    return sorted(entry[0] for entry in bridge.entries())


# ---- reading


def test_a_file_is_read_one_piece_a_turn(bridge: Bridge, folder: Path) -> None:
    content = os.urandom(3 * CHUNK + 5)
    (folder / "big").write_bytes(content)
    bridge.begin("read", "big")
    assert bridge.said == [({"id": 1, "size": len(content)}, b"")]
    bridge.files.turn()
    assert len(bridge.data) == CHUNK
    bridge.run()
    assert bridge.data == content
    assert bridge.end == {"id": 1, "end": True}


def test_no_more_is_read_than_there_is_credit_for(bridge: Bridge, folder: Path) -> None:
    (folder / "big").write_bytes(bytes(4 * MEGABYTE))
    bridge.begin("read", "big", credit=MEGABYTE)
    bridge.run()
    assert len(bridge.data) == MEGABYTE
    bridge.go_on("file-credit", size=10)
    bridge.run()
    assert len(bridge.data) == MEGABYTE + 10
    bridge.go_on("file-cancel")
    assert not bridge.files.want_turn


def test_a_file_that_grows_is_read_to_where_it_ended(bridge: Bridge, folder: Path) -> None:
    (folder / "log").write_bytes(bytes(2 * CHUNK))
    bridge.begin("read", "log")
    bridge.files.turn()
    (folder / "log").write_bytes(bytes(10 * CHUNK))
    bridge.run()
    assert len(bridge.data) == 2 * CHUNK


def test_a_file_that_says_it_is_empty_is_read_to_a_bound(bridge: Bridge) -> None:
    bridge.begin("read", "/proc/self/maps")
    bridge.run()
    assert 0 < len(bridge.data) <= UNSIZED


def test_links_are_followed_with_the_sandboxs_own_rights(bridge: Bridge, folder: Path) -> None:
    (folder / "real").write_text("content")
    (folder / "link").symlink_to("real")
    bridge.begin("read", "link")
    bridge.run()
    assert bridge.data == b"content"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("missing", "ENOENT"),
        (".", "EISDIR"),
        ("fifo", "SPECIAL"),
        ("socket", "SPECIAL"),
        ("/dev/zero", "SPECIAL"),
        ("loop", "ELOOP"),
        ("to-fifo", "SPECIAL"),
        ("zero\0byte", "EINVAL"),
        ("x" * 5000, "ENAMETOOLONG"),
    ],
)
def test_what_cannot_be_read_is_told_at_once(bridge: Bridge, folder: Path, name: str, code: str) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to("loop")
    (folder / "to-fifo").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        bridge.begin("read", name)
    assert bridge.end["code"] == code


# ---- writing


def test_a_file_gets_its_name_when_it_is_whole(bridge: Bridge, folder: Path) -> None:
    (folder / "new").mkdir()
    (folder / "new/file").write_text("before")
    bridge.begin("write", "new/file", mode=0o755)
    bridge.go_on("file-data", b"one ")
    bridge.go_on("file-data", memoryview(b"two"))  # type: ignore[arg-type]
    assert [said.get("taken") for said, _ in bridge.said] == [0, 4, 7]
    assert (folder / "new/file").read_text() == "before"
    bridge.go_on("file-commit")
    assert bridge.end == {"id": 1, "end": True}
    assert (folder / "new/file").read_text() == "one two"
    assert (folder / "new/file").stat().st_mode & 0o777 == 0o755
    assert [path.name for path in (folder / "new").iterdir()] == ["file"]


def test_folders_on_the_way_are_made(bridge: Bridge, folder: Path) -> None:
    bridge.begin("write", "a/b/c")
    bridge.go_on("file-commit")
    assert (folder / "a/b/c").read_bytes() == b""


@pytest.mark.parametrize("way", ["cancel", "close"])
def test_a_file_that_is_given_up_leaves_nothing(bridge: Bridge, folder: Path, way: str) -> None:
    bridge.begin("write", "file")
    bridge.go_on("file-data", b"half")
    if way == "cancel":
        bridge.go_on("file-cancel")
    else:
        bridge.files.close()
    assert list(folder.iterdir()) == []


def test_a_link_is_replaced_and_not_written_through(bridge: Bridge, folder: Path) -> None:
    (folder / "target").write_text("kept")
    (folder / "link").symlink_to("target")
    bridge.begin("write", "link")
    bridge.go_on("file-data", b"new")
    bridge.go_on("file-commit")
    assert (folder / "target").read_text() == "kept"
    assert (folder / "link").read_text() == "new"


@pytest.mark.parametrize(("name", "code"), [("", "EISDIR"), ("there", "EISDIR"), ("file/below", "ENOTDIR")])
def test_what_cannot_be_written_is_told_at_once(bridge: Bridge, folder: Path, name: str, code: str) -> None:
    (folder / "there").mkdir()
    (folder / "file").touch()
    bridge.begin("write", name)
    assert bridge.end["code"] in (code, "EEXIST")
    bridge.go_on("file-data", b"late")
    assert len(bridge.said) == 1


def test_a_full_disk_is_told_and_leaves_nothing(bridge: Bridge, folder: Path) -> None:
    bridge.begin("write", "file")
    # As a disk that is full: what is written behind its back makes the next write fail.
    os.close(bridge.files._operations[1]._fd)  # type: ignore[union-attr]
    bridge.files._operations[1]._fd = os.open("/dev/full", os.O_WRONLY)  # type: ignore[union-attr]
    bridge.go_on("file-data", b"more")
    assert bridge.end["code"] == "ENOSPC"
    assert list(folder.iterdir()) == []


# ---- lists


@pytest.fixture
def tree(folder: Path) -> Path:
    """Some files, some of them hidden."""
    for name in ("a.csv", "b.txt", "d/a.csv", "d/e/a.csv", ".hidden", ".h/a.csv", "x[1].csv", "x1.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "up").symlink_to("..")
    return folder


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.csv", ["a.csv"]),
        ("*.csv", ["a.csv", "x1.csv", "x[1].csv"]),
        ("?.*", ["a.csv", "b.txt"]),
        ("[ab].*", ["a.csv", "b.txt"]),
        ("x[1].csv", ["x[1].csv"]),
        ("*/a.csv", ["d/a.csv"]),
        ("**/a.csv", ["a.csv", "d/a.csv", "d/e/a.csv"]),
        ("d/**", ["d", "d/a.csv", "d/e", "d/e/a.csv"]),
        (".*", [".h", ".hidden"]),
        ("d", ["d"]),
        ("up", ["up"]),
    ],
)
def test_patterns_mean_what_a_shell_means(bridge: Bridge, tree: Path, pattern: str, names: list[str]) -> None:
    assert list_of(bridge, pattern) == names


def test_patterns_mean_the_same_in_a_folder_that_is_named(tree: Path) -> None:
    found = sorted(path for path in matches("*/a.csv", str(tree)) if path)
    assert found == [f"{tree}/d/a.csv"]


def test_what_is_in_folders_is_listed_with_hidden_names_and_no_link_entered(bridge: Bridge, tree: Path) -> None:
    assert list_of(bridge, "d", recursive=True) == ["d", "d/a.csv", "d/e", "d/e/a.csv"]
    assert ".h/a.csv" in list_of(bridge, ".", recursive=True) or "./.h/a.csv" in list_of(bridge, ".", recursive=True)
    assert not any("up/" in name for name in list_of(bridge, ".", recursive=True))


def test_entries_say_what_they_are(bridge: Bridge, tree: Path) -> None:
    os.mkfifo("fifo")
    (tree / "b.txt").write_text("12345")
    (tree / "b.txt").chmod(0o640)
    bridge.begin("list", "*")
    bridge.run()
    kinds = {entry[0]: entry[1:3] for entry in bridge.entries()}
    assert kinds["b.txt"] == ["file", 5]
    assert (kinds["d"][0], kinds["up"][0], kinds["fifo"][0]) == ("folder", "link", "special")
    assert next(entry for entry in bridge.entries() if entry[0] == "b.txt")[4] == 0o640


def test_names_of_any_bytes_are_told_and_can_be_read(bridge: Bridge, folder: Path) -> None:
    for name in (b"new\nline", b"bad\xff", b"\x1b[2J"):
        (folder / os.fsdecode(name)).write_text("x")
    names = list_of(bridge, "*")
    assert sorted(map(os.fsencode, names)) == [b"\x1b[2J", b"bad\xff", b"new\nline"]
    other = Bridge()
    other.begin("read", next(name for name in names if name.startswith("bad")))
    other.run()
    assert other.data == b"x"


def test_a_long_list_is_cut_and_says_so(bridge: Bridge, folder: Path) -> None:
    for number in range(50):
        (folder / str(number)).touch()
    bridge.begin("list", "*", limit=20)
    bridge.run()
    assert len(bridge.entries()) == 21
    assert bridge.entries()[-1] == []


def test_a_search_leaves_the_loop_its_turns(bridge: Bridge, folder: Path) -> None:
    for number in range(2000):
        (folder / str(number)).touch()
    bridge.begin("list", "*.nothing")
    turns = 0
    while bridge.files.want_turn:
        bridge.files.turn()
        turns += 1
    assert bridge.end["code"] == "ENOENT"
    assert turns > 0


# ---- removal


def test_files_and_folders_are_removed_and_links_not_followed(bridge: Bridge, tree: Path) -> None:
    (tree / "d/away").symlink_to(tree / ".h")
    bridge.begin("remove", "d")
    bridge.run()
    assert bridge.end["code"] == "ENOTEMPTY"
    bridge.begin("remove", "d", recursive=True)
    bridge.run()
    assert bridge.end == {"id": 1, "end": True}
    assert not (tree / "d").exists()
    assert (tree / ".h/a.csv").exists()
    for name in ("up", "a.csv"):
        bridge.begin("remove", name)
        bridge.run()
        assert not os.path.lexists(name)
    bridge.begin("remove", "nothing")
    assert bridge.files.want_turn
    bridge.run()
    assert bridge.end["code"] == "ENOENT"


# ---- passages


def test_what_is_sent_into_a_passage_is_read_by_its_path(bridge: Bridge) -> None:
    bridge.begin("pass", "", credit=0)
    with Path(bridge.said[0][0]["reader"]).open("rb", buffering=0) as pipe:
        bridge.go_on("file-data", b"one")
        bridge.go_on("file-data", b"two")
        assert [said["taken"] for said, _ in bridge.said[1:]] == [3, 6]
        assert pipe.read(100) == b"onetwo"


def test_a_passage_says_no_more_is_taken_than_the_pipe_holds(bridge: Bridge) -> None:
    bridge.begin("pass", "", credit=0)
    content = os.urandom(3 * MEGABYTE)
    bridge.go_on("file-data", content)
    assert bridge.said[-1][0]["taken"] < len(content)
    came = b""
    with Path(bridge.said[0][0]["reader"]).open("rb", buffering=0) as pipe:
        while len(came) < len(content):
            came += pipe.read(MEGABYTE)
            _, writable = bridge.files.descriptors
            bridge.files.turn(writable)
    assert came == content
    assert bridge.said[-1][0]["taken"] == len(content)
    assert bridge.files.descriptors == (set(), set())


def test_what_a_cell_writes_comes_out_as_far_as_there_is_credit(bridge: Bridge) -> None:
    bridge.begin("pass", "", credit=4)
    with Path(bridge.said[0][0]["writer"]).open("wb", buffering=0) as pipe:
        pipe.write(b"abcdefgh")
    readable, _ = bridge.files.descriptors
    bridge.files.turn(readable)
    assert bridge.data == b"abcd"
    assert bridge.files.descriptors == (set(), set())
    bridge.go_on("file-credit", size=100)
    bridge.go_on("file-commit")
    bridge.run()
    assert bridge.data == b"abcdefgh"
    assert bridge.end == {"id": 1, "end": True}


def test_a_passage_that_is_given_up_ends_who_reads_and_who_writes(bridge: Bridge) -> None:
    bridge.begin("pass", "", credit=0)
    paths = bridge.said[0][0]
    with Path(paths["reader"]).open("rb", buffering=0) as reader:
        bridge.go_on("file-cancel")
        assert reader.read(1) == b""
    bridge.begin("pass", "", credit=10)
    with Path(bridge.said[-1][0]["writer"]).open("wb", buffering=0) as writer:
        bridge.go_on("file-cancel")
        with pytest.raises(BrokenPipeError):
            writer.write(b"x")
