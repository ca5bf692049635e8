"""Copies of a folder: what is looked at, what is compared, and what the bridge does with its end."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("sandboxes run on Linux", allow_module_level=True)

from sandbox_kernel.bridge.copies import Digests, Packing, Unpacking, contents
from sandbox_kernel.mirror.comparing import GONE, compared, conflicts, to_send
from sandbox_kernel.workspace.entries import FILE, FOLDER, LINK, SPECIAL, Entry, is_same, load, save
from sandbox_kernel.workspace.host_files import Caps, Found, HostFiles, open_to_send
from sandbox_kernel.workspace.patterns import Patterns
from sandbox_kernel.workspace.secrets import Secrets

LARGE = 10**12


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def file(content: str = "", **fields: Any) -> Entry:
    return Entry(FILE, len(content), 0o644, said=sha(content.encode()), **fields)


FOLDER_ENTRY = Entry(FOLDER)


# ---- this machine


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "project"
    (path / "sub").mkdir(parents=True)
    (path / "data.csv").write_text("a,b\n")
    (path / "sub/file").write_text("mine")
    monkeypatch.chdir(path)
    return path


def secrets_of(folder: Path) -> Secrets:
    found = Secrets(str(folder), Patterns([".env*", "*.pem"]))
    found.search()
    return found


def look(folder: Path, known: dict[str, Entry] | None = None, **caps: int) -> Found:
    limits = {"files": 1000, "size": 10**9, "file_size": 10**9, **caps}
    return HostFiles(secrets_of(folder), Caps(**limits), Patterns(["skipped/"])).look(known or {})


def old(path: Path) -> None:
    """Let a file be changed some time ago, so that its times can be relied on."""
    os.utime(path, (1_000_000_000, 1_000_000_000))


def test_a_look_finds_digests_links_and_modes(folder: Path) -> None:
    (folder / "data.csv").chmod(0o755)
    (folder / "link").symlink_to("sub/file")
    found = look(folder).entries
    assert list(found) == ["data.csv", "link", "sub", "sub/file"]
    assert found["data.csv"].said == sha(b"a,b\n")
    assert found["data.csv"].mode == 0o755
    assert found["link"] == Entry(LINK, modified=found["link"].modified, said="sub/file")
    assert found["sub"].kind == FOLDER


def test_what_does_not_go_is_named(folder: Path) -> None:
    (folder / ".env").touch()
    os.link(folder / ".env", folder / "other-name")
    os.mkfifo(folder / "fifo")
    (folder / "skipped").mkdir()
    (folder / "out").symlink_to("../x")
    (folder / "large").write_bytes(bytes(100))
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).touch()
    found = look(folder, file_size=50)
    assert set(found.entries) == {"data.csv", "sub", "sub/file"}
    assert found.left_out == {
        "out": "it is a link that leads out of the folder",
        "large": "it is larger than Workspace.sync_file_size",
        "\udcff": "its name is no text",
    }
    assert found.skipped == {"skipped"}


def test_caps_hold_for_all_together(folder: Path) -> None:
    assert set(look(folder, files=2).entries) == {"data.csv", "sub"}
    assert look(folder, files=2).left_out == {"sub/file": "there are more files than Workspace.sync_files"}
    assert set(look(folder, size=5).entries) == {"data.csv", "sub"}


def test_a_digest_counts_until_the_file_changes(folder: Path) -> None:
    data = folder / "data.csv"
    fresh = look(folder).entries["data.csv"]
    assert fresh.signature == ()
    secrets = secrets_of(folder)
    files = HostFiles(secrets, Caps(10, 10**9, 10**9), Patterns([]))
    settled = Entry(FILE, 4, 0o644, 1, "remembered", signature=signature_of(data))
    assert files.look({"data.csv": settled}).entries["data.csv"].said == "remembered"
    data.write_text("a,c\n")
    assert files.look({"data.csv": settled}).entries["data.csv"].said == sha(b"a,c\n")


def signature_of(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def test_what_is_hidden_now_is_not_opened_to_be_sent(folder: Path) -> None:
    secrets = secrets_of(folder)
    os.close(open_to_send(secrets, "data.csv"))
    (folder / "data.csv").rename(folder / ".env")
    with pytest.raises(OSError, match="not to be sent"):
        open_to_send(secrets, ".env")
    (folder / "data.csv").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match=r"[Ll]ink"):
        open_to_send(secrets, "data.csv")


def test_entries_are_remembered(tmp_path: Path) -> None:
    entries = {"a\udcff": file("x", signature=(1, 2)), "b": FOLDER_ENTRY, "c": Entry(LINK, said="b")}
    save(str(tmp_path / "copy.json"), entries)
    assert load(str(tmp_path / "copy.json")) == entries
    assert (tmp_path / "copy.json").stat().st_mode & 0o777 == 0o600
    for broken in ("", "[]", '{"a": 1}', '{"a": ["file"]}', "null"):
        (tmp_path / "copy.json").write_text(broken)
        assert not load(str(tmp_path / "copy.json"))
    assert load(str(tmp_path / "absent")) is None


# ---- comparing


def test_times_do_not_count_and_modes_only_for_running() -> None:
    assert is_same(file("a", modified=1), file("a", modified=2))
    assert is_same(Entry(FILE, 1, 0o644, said="x"), Entry(FILE, 1, 0o600, said="x"))
    assert not is_same(Entry(FILE, 1, 0o644, said="x"), Entry(FILE, 1, 0o755, said="x"))
    assert not is_same(Entry(FILE, 1), Entry(FILE, 1))
    assert not is_same(file("a"), None)
    assert is_same(None, None)
    assert not is_same(Entry(SPECIAL), Entry(SPECIAL))


def test_what_changed_here_is_sent_with_what_it_replaces() -> None:
    base = {"same": file("s"), "changed": file("old"), "gone": FOLDER_ENTRY, "gone/in": file("x"), "big": file("b")}
    host = {"same": file("s"), "changed": file("new"), "added": file("a")}
    found = to_send(host, {"big"}, base, {})
    assert list(found.items()) == [
        ("gone/in", (GONE, sha(b"x"))),
        ("gone", (GONE, "folder")),
        ("changed", (file("new"), sha(b"old"))),
        ("added", (file("a"), "absent")),
    ]
    # What was not taken is not sent again and again.
    assert to_send(host, {"big"}, base, {**host, "gone": GONE, "gone/in": GONE}) == {}


def test_what_changed_there_is_planned() -> None:
    base = {"same": file("s"), "changed": file("old"), "sub": FOLDER_ENTRY, "sub/in": file("x"), "both": file("x")}
    claims = {
        "same": file("s"),
        "changed": file("new"),
        "both": file("equal"),
        "added": FOLDER_ENTRY,
        "added/fifo": Entry(SPECIAL),
        "added/large": Entry(FILE, 100),
    }
    host = {**base, "both": file("equal")}
    plan = compared(claims, base, host, largest=50, room=1000)
    assert plan.wanted == {"changed": file("new"), "added": FOLDER_ENTRY, "sub": GONE}
    assert plan.alike == {"both"}
    assert {change.path: change.refused for change in plan.odd} == {
        "added/fifo": "it is a device, a pipe or a socket",
        "added/large": "it is larger than Workspace.sync_file_size",
    }


def test_changes_that_are_too_much_together_are_not_fetched() -> None:
    claims = {name: Entry(FILE, 40, said="x") for name in "abc"}
    plan = compared(claims, {}, {}, largest=50, room=100)
    assert set(plan.wanted) == {"a", "b"}
    assert "sync_size" in plan.odd[0].refused


def test_what_cannot_be_looked_into_counts_as_unchanged() -> None:
    base = {"shut": FOLDER_ENTRY, "shut/in": file("x"), "shut/deep": FOLDER_ENTRY, "shut/deep/in": file("y")}
    plan = compared({"shut": Entry(FOLDER, said="closed")}, base, base, LARGE, LARGE)
    assert plan.wanted == {}
    assert "look into" in plan.odd[0].refused


def test_what_both_ends_removed_is_no_change() -> None:
    plan = compared({}, {"a": file("x")}, {}, LARGE, LARGE)
    assert plan.wanted == {}
    assert plan.alike == {"a"}


def test_conflicts() -> None:
    base = {"a": file("old")}
    assert not conflicts("a", {"a": file("old")}, base, is_there=True)
    assert conflicts("a", {"a": file("new")}, base, is_there=True)
    assert conflicts("a", {}, base, is_there=False)
    assert not conflicts("b", {}, base, is_there=False)
    assert conflicts("b", {}, base, is_there=True)


# ---- the bridge's end


class Inside:
    """The bridge's end of one copy, in the working directory."""

    def __init__(self) -> None:
        self.digests = Digests()

    def put(self, *pieces: dict[str, Any], data: bytes = b"") -> dict[str, str]:
        """Put entries; return what was refused."""
        unpacking = Unpacking(self.digests)
        refused: list[list[str]] = []
        for piece in (*pieces, {"last": True}):
            whole = {"expected": None, "mode": 0o644, "modified": 10**18, "digest": "", "target": "", **piece}
            unpacking.take(whole, data if "last" not in piece else b"")
            said = unpacking.turn()
            refused += said[0]["refused"] if said is not None else []
        unpacking.close()
        assert unpacking.done
        return dict(refused)  # type: ignore[arg-type]

    def contents(self, limit: int = 1000, largest: int = 10**9) -> dict[str, list[Any]]:
        return {one[0]: one[1:] for one in contents(self.digests, limit, largest) if one}


def test_contents_tell_everything_and_follow_nothing(folder: Path) -> None:
    (folder / "link").symlink_to("/etc")
    os.mkfifo(folder / "fifo")
    found = Inside().contents()
    assert set(found) == {"data.csv", "sub", "sub/file", "link", "fifo"}
    assert (found["data.csv"][0], found["data.csv"][1], found["data.csv"][4]) == ("file", 4, sha(b"a,b\n"))
    assert (found["link"][0], found["link"][4]) == ("link", "/etc")
    assert found["fifo"][0] == "special"
    assert Inside().contents(largest=3)["data.csv"][4] == ""


def test_contents_stop_at_the_limit(folder: Path) -> None:
    said = [one for one in contents(Digests(), 1, 1000) if one is not None]
    assert len(said) == 2
    assert said[-1] == []


def test_a_change_of_equal_size_is_noticed(folder: Path) -> None:
    inside = Inside()
    assert inside.put({"path": "x", "kind": "file", "digest": sha(b"abc")}, data=b"abc") == {}
    assert inside.contents()["x"][4] == sha(b"abc")
    (folder / "x").write_bytes(b"abd")
    assert inside.contents()["x"][4] == sha(b"abd")


def test_entries_are_put_and_removed(folder: Path) -> None:
    inside = Inside()
    assert inside.put({"path": "new/deep/file", "kind": "file", "mode": 0o755}, data=b"text") == {}
    assert (folder / "new/deep/file").read_text() == "text"
    assert (folder / "new/deep/file").stat().st_mode & 0o777 == 0o755
    assert (folder / "new/deep/file").stat().st_mtime_ns == 10**18
    assert inside.put({"path": "link", "kind": "link", "target": "sub"}, {"path": "empty", "kind": "folder"}) == {}
    assert (folder / "link").readlink() == Path("sub")
    removed = [{"path": path, "kind": "removed", "expected": "folder"} for path in ("empty", "sub")]
    assert inside.put(*removed) == {}
    assert not (folder / "empty").exists()
    assert (folder / "sub/file").exists()


@pytest.mark.parametrize("kind", ["file", "link", "folder", "removed"])
def test_what_a_cell_made_meanwhile_stays(folder: Path, kind: str) -> None:
    piece = {"path": "data.csv", "kind": kind, "expected": sha(b"something else"), "target": "sub"}
    assert Inside().put(piece, data=b"new") == {"data.csv": "a cell changed it"}
    assert (folder / "data.csv").read_text() == "a,b\n"
    assert [path.name for path in folder.iterdir() if path.name.endswith(".part")] == []


def test_what_is_as_expected_is_replaced(folder: Path) -> None:
    piece = {"path": "data.csv", "kind": "file", "expected": sha(b"a,b\n")}
    assert Inside().put(piece, data=b"new") == {}
    assert (folder / "data.csv").read_bytes() == b"new"
    assert Inside().put({"path": "sub/file", "kind": "file", "expected": "absent"}, data=b"new") != {}


def test_a_file_in_pieces_is_one_and_an_aborted_one_none(folder: Path) -> None:
    first = {"path": "x", "kind": "file", "more": True}
    assert Inside().put(first, first, {"path": "x", "kind": "file"}, data=b"ab") == {}
    assert (folder / "x").read_bytes() == b"ababab"
    aborted = {"path": "x", "kind": "file", "abort": True}
    assert Inside().put(first, aborted, data=b"cd") == {"x": "it could not be read to its end"}
    assert (folder / "x").read_bytes() == b"ababab"


def test_one_that_cannot_be_put_does_not_stop_the_next(folder: Path) -> None:
    refused = Inside().put(
        {"path": "data.csv/in", "kind": "file"},
        {"path": "sub", "kind": "file"},
        {"path": "y", "kind": "file"},
        data=b"z",
    )
    assert set(refused) == {"data.csv/in", "sub"}
    assert (folder / "y").read_bytes() == b"z"


def test_files_are_packed_one_after_the_other_within_credit(folder: Path) -> None:
    (folder / "big").write_bytes(b"x" * 500_000)
    os.mkfifo(folder / "fifo")
    (folder / "link").symlink_to("data.csv")
    packing = Packing(["data.csv", "absent", "fifo", "link", "sub", "big"], 100_000)
    got: dict[int, bytes] = {}
    gone, whole = set(), set()
    credit = 100_000
    while not packing.done:
        assert packing.wants_turn or credit == 0
        if not packing.wants_turn:
            packing.allow(100_000)
            credit = 100_000
        said = packing.turn()
        if said is None:
            continue
        event, data = said
        credit -= len(data)
        got[event["file"]] = got.get(event["file"], b"") + data
        gone |= {event["file"]} if event.get("gone") else set()
        whole |= {event["file"]} if event.get("whole") else set()
    packing.close()
    assert gone == {1, 2, 3, 4}
    assert whole == {0, 5}
    assert (got[0], len(got[5])) == (b"a,b\n", 500_000)
