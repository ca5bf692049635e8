"""What a sandbox says of its files is not believed: where downloads land, and what uploads take."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable
from pathlib import Path

import pytest

from sandbox_kernel.errors import CommandError, QuotaError
from sandbox_kernel.progress import count_text, size_text
from sandbox_kernel.providers.base import FileEntry, SandboxFiles
from sandbox_kernel.workspace.patterns import Patterns
from sandbox_kernel.workspace.settings import HIDDEN
from sandbox_magics.downloads import Arrivals, Sorter, is_harmless, matches_pattern
from sandbox_magics.files import _fetch, _inside
from sandbox_magics.host_folder import HostFolder
from sandbox_magics.uploads import Chooser


class LyingFiles(SandboxFiles):
    """Says of its files what it is told to say, whatever it is asked."""

    def __init__(self, *entries: FileEntry, below: tuple[FileEntry, ...] = (), content: bytes = b"") -> None:
        self.entries, self.below, self.content = entries, below, content

    async def read(self, path: str, *, limit: int | None = None) -> AsyncGenerator[bytes, None]:
        if limit is not None and len(self.content) > limit:
            raise QuotaError("too much")
        yield self.content

    async def write(self, path: str, chunks: AsyncIterable[bytes], *, mode: int = 0o644) -> int:
        raise AssertionError("nothing is written")

    async def list(
        self, pattern: str, *, recursive: bool = False, limit: int = 100_000
    ) -> AsyncGenerator[FileEntry, None]:
        for entry in self.below if recursive else self.entries:
            yield entry

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        raise AssertionError("nothing is removed")


def file(path: str, size: int = 1) -> FileEntry:
    return FileEntry(path, "file", size, 0.0, 0o644)


async def arrivals(folder: Path, pattern: str, *entries: FileEntry, below: tuple[FileEntry, ...] = ()) -> Arrivals:
    with HostFolder(str(folder)) as opened:
        return await Sorter(LyingFiles(*entries, below=below), opened, (), Patterns(HIDDEN)).sort([pattern])


@pytest.mark.parametrize(
    "path", [".git/hooks/pre-commit", "sub/.Git/config", ".env", ".ENV.local", "a/token.PEM", ".ssh/authorized_keys"]
)
async def test_nothing_lands_under_a_name_that_is_hidden(tmp_path: Path, path: str) -> None:
    found = await arrivals(tmp_path, path, file(path))
    assert found.files == []
    assert found.left_out == {"with a name that Workspace.hidden hides on this machine": 1}
    with HostFolder(str(tmp_path)) as opened:
        sorter = Sorter(LyingFiles(file("config")), opened, (".git",), Patterns(HIDDEN))
        assert (await sorter.sort(["config"])).files == []


async def test_nothing_lands_in_a_home_folder_that_begins_with_a_dot(tmp_path: Path) -> None:
    with HostFolder(str(tmp_path)) as opened:
        sorter = Sorter(LyingFiles(file(".bashrc"), file("a.csv")), opened, (), Patterns(HIDDEN), dotted=False)
        found = await sorter.sort([".bashrc", "a.csv"])
    assert [arrival.path for arrival in found.files] == ["a.csv"]
    assert found.left_out["with a name that begins with a dot, in a folder that is no notebook's own"] == 1


@pytest.mark.parametrize(
    "path",
    [
        "../evil.csv",
        "/etc/evil.csv",
        "a/../../evil.csv",
        "evil.txt",
        ".evil.csv",
        "sub/evil.csv",
        "e\nvil.csv",
        "e\x1bvil.csv",
        "e\x00vil.csv",
        "vsc\u202eevil.csv",
        "bad\udcff.csv",
        "back\\slash.csv",
        " evil.csv",
        "x" * 300 + ".csv",
        "",
        "..",
    ],
)
async def test_a_name_that_was_not_asked_for_or_is_dangerous_is_left_out(tmp_path: Path, path: str) -> None:
    found = await arrivals(tmp_path, "*.csv", file(path), file("good.csv"))
    assert [one.path for one in found.files] == ["good.csv"]
    assert found.left_out.total() == 1


@pytest.mark.parametrize("path", ["elsewhere/x", "/abs", "box/../../x", "box/.git/config", "boxx/y", "../box/x"])
async def test_what_a_folder_is_said_to_hold_must_lie_in_it(tmp_path: Path, path: str) -> None:
    box = FileEntry("box", "folder", 0, 0.0, 0o755)
    found = await arrivals(tmp_path, "box", box, below=(file(path), file("box/in/good")))
    assert [one.path for one in found.files] == ["box/in/good"]


async def test_of_names_that_are_one_on_other_systems_the_first_is_taken(tmp_path: Path) -> None:
    found = await arrivals(tmp_path, "*", file("Name"), file("name"), file("caf\u00e9"), file("cafe\u0301"))
    assert [one.path for one in found.files] == ["Name", "caf\u00e9"]


async def test_a_file_that_two_patterns_name_lands_once(tmp_path: Path) -> None:
    with HostFolder(str(tmp_path)) as opened:
        found = await Sorter(LyingFiles(file("a")), opened, (), Patterns(HIDDEN)).sort(["a", "*", "./a"])
    assert [one.path for one in found.files] == ["a"]
    assert not found.left_out


async def test_what_a_link_of_this_machine_leads_to_is_not_written(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "way").symlink_to(outside)
    (inside / "end").symlink_to(outside / "end")
    (inside / "folder").mkdir()
    entries = [file("way/x"), file("way"), file("end"), file("folder")]
    for entry in entries:
        assert not (await arrivals(inside, entry.path, entry)).files
    (good,) = (await arrivals(inside, "good", file("good"))).files
    with HostFolder(str(inside)) as opened:
        # It becomes a link while the person thinks.
        (inside / "good").symlink_to(outside / "good")
        with pytest.raises(CommandError, match="meanwhile"):
            await _fetch(LyingFiles(content=b"x"), opened, good, Silent())  # type: ignore[arg-type]
    assert list(outside.iterdir()) == []
    assert not [path for path in inside.iterdir() if path.name.endswith(".part")]


async def test_a_file_that_is_larger_than_the_person_was_told_does_not_land(tmp_path: Path) -> None:
    (one,) = (await arrivals(tmp_path, "small", file("small", 3))).files
    with HostFolder(str(tmp_path)) as opened, pytest.raises(QuotaError):
        await _fetch(LyingFiles(content=b"x" * 100), opened, one, Silent())  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []  # noqa: PTH208


async def test_the_folder_may_be_moved_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (one,) = (await arrivals(tmp_path / "here", "x", file("x"))).files
    with HostFolder(str(tmp_path / "here")) as opened:
        (tmp_path / "here").rename(tmp_path / "moved")
        (tmp_path / "here").symlink_to("/etc")
        await _fetch(LyingFiles(content=b"x"), opened, one, Silent())  # type: ignore[arg-type]
    assert (tmp_path / "moved/x").read_text() == "x"


class Silent:
    """A progress bar that nobody sees."""

    def advance(self, size: int) -> None:
        pass


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.csv", "a.csv", True),
        ("*.csv", "d/a.csv", False),
        ("d/*", "d/a", True),
        ("**/*.csv", "a/b/c.csv", True),
        ("**", "a/b", True),
        ("**", ".a/b", False),
        ("./a", "a", True),
        ("a[1]", "a[1]", True),
        ("/tmp/*", "/tmp/x", True),
        ("/tmp/*", "tmp/x", False),
        ("tmp/*", "/tmp/x", False),
        ("~/x*", "/home/user/x1", True),
        ("~/x*", "/home/user/y1", False),
        ("~/**/y", "/home/user/a/y", True),
        ("x", "y", False),
    ],
)
def test_patterns_are_checked_on_this_side_too(pattern: str, path: str, expected: bool) -> None:
    assert matches_pattern(path, pattern) is expected


def test_harmless_names_are_those_that_look_like_what_they_are() -> None:
    assert all(map(is_harmless, ["a", "a b", "ä€", "2024-01-01T10:00.csv", ".env", "x" * 255]))
    assert not any(map(is_harmless, ["", ".", "..", "a/b", "a\\b", "a\n", "\u200b", "a ", "x" * 256, "ä" * 128]))


@pytest.mark.parametrize("text", ["..", "/x", "a/..", "a/../b", "a\nb", "~/../x/.."])
def test_downloads_have_no_target_elsewhere(text: str) -> None:
    with pytest.raises(CommandError, match="downloads land nowhere else"):
        _inside(text)


# ---- uploads


async def chosen(folder: Path, *patterns: str) -> dict[str, str]:
    """Return targets, and why each has to be asked for."""
    return {file.target: file.asked for file in (await Chooser(folder, "", Patterns(HIDDEN)).choose(patterns)).files}


async def test_a_folder_that_holds_the_home_folder_asks_for_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home/me/work").mkdir(parents=True)
    (tmp_path / "home/me/work/a").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home/me"))
    for folder, pattern in ((tmp_path / "home", "me/work/a"), (tmp_path / "home/me", "work/a")):
        assert await chosen(folder, pattern) == {pattern: "in the home folder, or around it"}
    assert await chosen(tmp_path / "home/me/work", "a") == {"a": ""}
    assert await chosen(tmp_path / "home/me/work", "~/work/a") == {"a": ""}


async def test_files_from_elsewhere_lose_their_folders(tmp_path: Path) -> None:
    (tmp_path / "far/deep/er").mkdir(parents=True)
    (tmp_path / "far/deep/er/x").touch()
    (tmp_path / "here").mkdir()
    outside = "outside the notebook's folder"
    assert await chosen(tmp_path / "here", str(tmp_path / "far/deep")) == {"deep/er/x": outside}
    assert await chosen(tmp_path / "here", "../far/deep/er/*") == {"x": outside}


async def test_the_notebooks_folder_itself_keeps_the_paths_in_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a").touch()
    for pattern in (".", "./", str(tmp_path), "deep/.."):
        assert await chosen(tmp_path, pattern) == {"deep/a": ""}


async def test_what_matches_nothing_is_told_with_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for pattern, place in (("a", "in the notebook's folder"), ("~/a", "on this machine"), ("/no/a", "on this machine")):
        with pytest.raises(CommandError, match=f"Nothing matches .* {place}"):
            await chosen(tmp_path, pattern)


async def test_a_file_is_taken_once(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert await chosen(tmp_path, "a", "*", "./a") == {"a": ""}


def test_a_file_that_became_a_link_after_it_was_chosen_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/x").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "l").symlink_to("d")
    with HostFolder(str(tmp_path)) as folder:
        for parts in (("d", "x"), ("l", "x")):
            with pytest.raises(OSError):
                folder.open(parts)
        with pytest.raises(CommandError, match="no regular file"):
            folder.open(("fifo",))


@pytest.mark.parametrize("name", [".env", ".ENV", ".env.local", "Server.PEM", "id_rsa", ".git", "a/.ssh/config"])
def test_names_of_secrets_are_known_in_any_case(name: str) -> None:
    assert Patterns(HIDDEN).cover(name)


@pytest.mark.parametrize("name", ["environment.yml", "keys.csv", "data/train.csv"])
def test_other_names_are_not_taken_for_secrets(name: str) -> None:
    assert not Patterns(HIDDEN).cover(name)


def test_sizes_are_told_as_people_say_them() -> None:
    sizes = [0, 999, 1000, 12345, 10**6, 1.5 * 10**9, 8 * 10**12, 10**30]
    assert [size_text(size) for size in sizes][:7] == [
        "0 bytes",
        "999 bytes",
        "1 kB",
        "12 kB",
        "1 MB",
        "1.5 GB",
        "8 TB",
    ]
    assert [count_text(1), count_text(1234)] == ["1 file", "1,234 files"]
