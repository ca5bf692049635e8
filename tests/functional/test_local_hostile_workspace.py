"""Cells that want `diff`, `apply` or `discard` to read or write elsewhere, to hang, or to fill the disk."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sandbox_kernel.errors import CommandError
from sandbox_kernel.providers.local import bubblewrap
from sandbox_kernel.workspace import applying
from sandbox_kernel.workspace.applying import apply_changes, discard_changes
from sandbox_kernel.workspace.changes import Action, ChangeReader
from sandbox_kernel.workspace.exchange import exchange as exchange_names
from sandbox_kernel.workspace.layers import Layer, LayerStore, remove_tree
from sandbox_kernel.workspace.owners import Owner
from sandbox_kernel.workspace.patterns import Patterns
from sandbox_kernel.workspace.secrets import Secrets
from sandbox_kernel.workspace.texts import read_both

from .workspace_stub import apply, read, shown

if sys.platform != "linux":
    pytest.skip("the local provider is for Linux", allow_module_level=True)
if not any(binary.overlays for binary in bubblewrap.find()):
    pytest.skip("needs a bubblewrap that can mount overlays", allow_module_level=True)

GIB = 1024**3
Start = Callable[..., Any]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder for a notebook's folder, for layers, and for what nobody may touch."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("outside")
    yield tmp_path
    remove_tree(str(tmp_path / "layers"))


@pytest.fixture
def folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = place / "project"
    (path / "sub").mkdir(parents=True)
    (path / "data.csv").write_text("a,b\n")
    (path / "sub/file").write_text("mine\n")
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def started(place: Path) -> Start:
    return partial(shown, place / "layers", limits={"file_size": 0, "work_size": 0})


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


async def test_entries_that_are_no_files_are_shown_and_not_applied(place: Path, folder: Path, started: Start) -> None:
    code = f"""
import os, socket
os.mkfifo("pipe")
os.rename("data.csv", "kept"); os.mkfifo("data.csv")
socket.socket(socket.AF_UNIX).bind("socket")
os.symlink({str(place / "outside/file")!r}, "absolute")
os.symlink("../outside/file", "up")
os.symlink("sub/../../outside/file", "up-from-below")
os.mkdir("n"); os.symlink("..", "n/back"); os.symlink("n/back/../outside", "round-about")
os.symlink("sub/file", "inside")
"""
    async with started() as (sandbox, inside):
        await inside.run(code)
        refused = await apply(sandbox)
    assert set(refused) == {"pipe", "socket", "absolute", "up", "up-from-below", "round-about", "data.csv"}
    assert names(folder) == ["data.csv", "inside", "kept", "n", "n/back", "sub", "sub/file"]
    assert (folder / "data.csv").read_text() == "a,b\n"
    assert (folder / "inside").read_text() == "mine\n"


async def test_a_terabyte_of_nothing_takes_neither_time_nor_room(folder: Path, started: Start) -> None:
    sparse = "f = open('{}', 'wb'); f.truncate({}); f.seek({} - 1); f.write(b'x'); f.close()".format
    async with started(largest_file=2 * GIB) as (sandbox, inside):
        await inside.run(sparse("large", 1024 * GIB, 1024 * GIB))
        await inside.run(sparse("small", GIB, GIB))
        assert set(await apply(sandbox)) == {"large"}
    status = (folder / "small").stat()
    assert status.st_size == GIB
    assert status.st_blocks * 512 < 1024**2
    async with started(largest_file=2048 * GIB) as (sandbox, _):
        assert await apply(sandbox) == {}
    assert (folder / "large").stat().st_size == 1024 * GIB
    assert (folder / "large").stat().st_blocks * 512 < 1024**2


async def test_what_has_no_room_on_the_disk_is_refused_before_anything_is_written(
    folder: Path, started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started() as (sandbox, inside):
        await inside.run("open('file', 'wb').write(bytes(1 << 20)); open('z', 'w').write('z' * 10_000)")
        changes = list((await read(sandbox)).values())
        big = [type(change)(**{**change.__dict__, "disk": 1 << 60}) for change in changes]
        assert sandbox.changes is not None
        with pytest.raises(CommandError, match="make room"):
            await sandbox.changes.apply(big)
    assert names(folder) == ["data.csv", "sub", "sub/file"]


async def test_odd_names_are_applied_as_they_are(folder: Path, started: Start) -> None:
    odd = ["line\nbreak", "\x1b[31mred", "..x", "...", " ", "-rf", "ü\u202eexe.txt", "a" * 255, "back\\slash", "*"]
    async with started() as (sandbox, inside):
        await inside.run(f"for name in {odd!r}: open(name, 'w').write(name)\nopen(b'\\xff\\xfe', 'w')")
        assert await apply(sandbox) == {}
    assert {name: (folder / name).read_text() for name in odd} == {name: name for name in odd}
    assert os.fsdecode(b"\xff\xfe") in names(folder)


async def test_hard_links_and_modes_bring_nothing_along(folder: Path, started: Start) -> None:
    code = """
import os
os.link("data.csv", "second")
open("data.csv", "a").write("c\\n")
open("root", "w").write("#!/bin/sh")
os.chmod("root", 0o6777)
os.mkdir("locked"); open("locked/file", "w").write("x"); os.chmod("locked/file", 0); os.chmod("locked", 0)
"""
    async with started() as (sandbox, inside):
        await inside.run(code)
        assert await apply(sandbox) == {}
    assert (folder / "data.csv").stat().st_nlink == 1
    assert (folder / "root").stat().st_mode & 0o7777 == 0o755
    assert (folder / "locked/file").read_text() == "x"


async def test_many_files_are_compared_applied_and_discarded(folder: Path, started: Start) -> None:
    code = """
import os
for n in range(20):
    os.mkdir(f"d{n}")
    for m in range(250): open(f"d{n}/{m}", "w").write(str(m))
"""
    async with started() as (sandbox, inside):
        await inside.run(code)
        changes = await read(sandbox)
        assert len(changes) == 20 * 251
        assert await apply(sandbox, *(path for path in changes if path.split("/")[0] in ("d0", "d1"))) == {}
        assert sandbox.changes is not None
        outcome = await sandbox.changes.discard(list((await read(sandbox)).values()))
        assert outcome.refused == []
        assert await read(sandbox) == {}
    assert len(names(folder)) == 3 + 2 * 251


async def test_folders_without_end_are_refused(folder: Path, started: Start) -> None:
    async with started() as (sandbox, inside):
        await inside.run("import os\nfor n in range(300): os.mkdir('x'); os.chdir('x')\nos.chdir('/work')")
        with pytest.raises(CommandError, match="deep"):
            await read(sandbox)
    shutil.rmtree(folder / "x", ignore_errors=True)


RACE = """
import os, threading, itertools
def race():
    for n in itertools.count():
        try:
            match n % 6:
                case 0: os.rename("sub", "away"); os.symlink("../outside", "sub")
                case 1: os.unlink("sub"); os.rename("away", "sub")
                case 2: open("victim", "w").write("harmless" if n % 4 else "harmful!")
                case 3: os.unlink("victim"); os.symlink("../outside/file", "victim")
                case 4: os.unlink("victim"); os.mkfifo("victim")
                case 5: os.unlink("victim"); os.mkdir("victim"); os.rmdir("victim")
        except OSError:
            pass
"""


async def test_a_racing_cell_reaches_nothing_outside(place: Path, folder: Path, started: Start) -> None:
    async with started() as (sandbox, inside):
        await inside.run(RACE + "\nfor _ in range(3): threading.Thread(target=race, daemon=True).start()")
        for _ in range(25):
            changes = list((await read(sandbox)).values())
            assert sandbox.changes is not None
            for change in changes:
                with suppress(OSError):
                    assert b"outside" not in b"".join(await sandbox.changes.texts(change))
            await sandbox.changes.apply(changes)
        await sandbox.changes.discard(list((await read(sandbox)).values()))
    assert names(place / "outside") == ["file"]
    assert (place / "outside/file").read_text() == "outside"


class Racer:
    """A layer without a sandbox, in which something is exchanged at every step of ours."""

    def __init__(self, place: Path, folder: Path) -> None:
        self.layer: Layer = LayerStore(str(place / "layers"), lambda _: True).open(Owner(str(folder)))
        self.upper = Path(self.layer.upper)
        self.secrets = Secrets(str(folder), Patterns([".env"]))
        self.secrets.search()

    def changes(self) -> list[Any]:
        return ChangeReader(self.layer, self.secrets, GIB).read()


@pytest.mark.parametrize("what", ["link", "folder link", "fifo", "socket", "folder", "gone", "other", "longer"])
@pytest.mark.parametrize("where", ["layer", "host"])
def test_what_takes_the_place_of_a_file_after_it_was_shown_is_left_alone(
    place: Path, folder: Path, what: str, where: str
) -> None:
    racer = Racer(place, folder)
    (racer.upper / "new").mkdir()
    (folder / "new").mkdir()
    (racer.upper / "new/file").write_text("shown")
    (folder / "new/file").write_text("mine")
    changes = racer.changes()
    assert [change.path for change in changes] == ["new/file"]
    exchange({"layer": racer.upper, "host": folder}[where] / "new/file", what, place / "outside")
    before = (folder / "new/file").lstat() if (folder / "new/file").is_symlink() else None
    read_quietly(racer, changes[0])
    outcome = apply_changes(racer.layer, racer.secrets, changes)
    assert [change.path for change, _ in outcome.refused] == ["new/file"], outcome
    if where == "layer":
        assert (folder / "new/file").read_text() == "mine"
    if before is not None:
        assert (folder / "new/file").lstat() == before
    assert not [name for name in names(folder) if ".sandbox-" in name]
    view = os.open(folder, os.O_RDONLY)
    discard_changes(racer.layer, racer.secrets, view, changes)
    os.close(view)
    assert names(place / "outside") == ["file"]
    assert (place / "outside/file").read_text() == "outside"


@pytest.mark.parametrize("how", ["in place", "replaced", "folder", "removed"])
def test_an_edit_at_the_moment_of_apply_is_not_lost(
    place: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    racer = Racer(place, folder)
    (racer.upper / "data.csv").write_text("the cell's")
    (change,) = racer.changes()

    def edit_and_exchange(directory: int, one: str, other: str) -> bool:
        # Behind the last look, and before the exchange.
        monkeypatch.setattr(applying, "exchange", exchange_names)
        if how != "in place":
            (folder / "data.csv").unlink()
        if how == "folder":
            (folder / "data.csv").mkdir()
        elif how != "removed":
            (folder / "data.csv").write_text("the user's")
        return exchange_names(directory, one, other)

    monkeypatch.setattr(applying, "exchange", edit_and_exchange)
    outcome = apply_changes(racer.layer, racer.secrets, [change])
    assert [one for one, _ in outcome.refused] == [change]
    if how in ("in place", "replaced"):
        assert (folder / "data.csv").read_text() == "the user's"
    assert names(folder) == [*(["data.csv"] if how != "removed" else []), "sub", "sub/file"]


@pytest.mark.parametrize("how", ["in place", "replaced", "folder"])
def test_an_edit_at_the_moment_of_a_removal_is_not_lost(
    place: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    racer = Racer(place, folder)
    os.mknod(racer.upper / "data.csv", stat.S_IFCHR, os.makedev(0, 0))
    (change,) = racer.changes()
    assert change.action is Action.REMOVE

    def name_and_edit() -> str:
        # Behind the last look, and before the file is moved aside.
        if how != "in place":
            (folder / "data.csv").unlink()
        if how == "folder":
            (folder / "data.csv").mkdir()
        else:
            (folder / "data.csv").write_text("the user's")
        return ".sandbox-aside"

    monkeypatch.setattr(applying, "_temporary_name", name_and_edit)
    outcome = apply_changes(racer.layer, racer.secrets, [change])
    assert [one for one, _ in outcome.refused] == [change]
    if how != "folder":
        assert (folder / "data.csv").read_text() == "the user's"
    assert names(folder) == ["data.csv", "sub", "sub/file"]


def test_edits_that_race_with_apply_are_never_lost(place: Path, folder: Path) -> None:
    racer = Racer(place, folder)
    editor = Editor(place, folder / "data.csv")
    replaced: dict[str, int] = {}
    editor.start()
    try:
        for number in range(100):
            text = f"cell {number}"
            (racer.upper / "data.csv").write_text(text)
            for change in racer.changes():
                outcome = apply_changes(racer.layer, racer.secrets, [change])
                assert [one for one, _ in outcome.refused] in ([], [change])
                if not outcome.refused:
                    assert change.host is not None
                    replaced[text] = change.host[1]
            # Until it was saved again, so that no cell's file replaces another's.
            edits = len(editor.kept)
            while len(editor.kept) < edits + 2:
                time.sleep(0.0001)
    finally:
        editor.stop()
    # What apply replaced was what it had shown, and that was what was last saved before.
    taken = [(text, saved) for text, saved in editor.taken if text in replaced]
    assert taken
    assert taken == [(text, replaced[text]) for text, _ in taken]


class Editor(threading.Thread):
    """Saves a file over and over, and notes what was there instead of what it had saved before."""

    def __init__(self, place: Path, path: Path) -> None:
        super().__init__()
        self._place, self._path = place, path
        self._stopped = threading.Event()
        self._first = path.stat().st_ino
        self.kept: list[int] = []
        """Descriptors, so that no number of an inode comes twice."""
        self.taken: list[tuple[str, int]] = []
        """What a cell wrote, and the inode of what had been saved before it."""

    def run(self) -> None:
        here = os.open(self._place, os.O_RDONLY)
        saved = self._first
        while not self._stopped.is_set():
            new = self._place / "saved"
            new.write_text(f"edit {len(self.kept)}")
            inode = new.stat().st_ino
            assert exchange_names(here, "saved", str(self._path.relative_to(self._place)))
            out = new.read_text()
            if out.startswith("cell"):
                self.taken.append((out, saved))
            saved = inode
            self.kept.append(os.open(new, os.O_RDONLY))
            new.unlink()
            time.sleep(0.001 * (len(self.kept) % 5))
        os.close(here)

    def stop(self) -> None:
        self._stopped.set()
        self.join()
        for descriptor in self.kept:
            os.close(descriptor)


def read_quietly(racer: Racer, change: Any) -> None:
    try:
        before, after = read_both(racer.layer, racer.secrets, change)
    except OSError:
        return
    assert b"outside" not in before + after


def exchange(path: Path, what: str, outside: Path) -> None:
    """Put something else in a file's place; for a folder link, in that of its folder."""
    path.unlink()
    match what:
        case "link":
            path.symlink_to(outside / "file")
        case "folder link":
            path.parent.rmdir()
            path.parent.symlink_to(outside)
        case "fifo":
            os.mkfifo(path)
        case "socket":
            here = Path.cwd()
            os.chdir(path.parent)
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
            os.chdir(here)
        case "folder":
            path.mkdir()
        case "other":
            path.write_text("other")
        case "longer":
            path.write_text("shown and more")
