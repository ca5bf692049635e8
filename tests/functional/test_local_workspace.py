"""The notebook's folder in a local sandbox: what cells see of it, and what becomes of what they write."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sandbox_kernel.errors import SandboxLostError
from sandbox_kernel.providers.local import bubblewrap
from sandbox_kernel.providers.local.syscalls import NUMBERS
from sandbox_kernel.workspace.changes import Action, Kind
from sandbox_kernel.workspace.layers import remove_tree

from .local_stub import CodeError
from .workspace_stub import apply, read, shown

if sys.platform != "linux":
    pytest.skip("the local provider is for Linux", allow_module_level=True)
if not any(binary.overlays for binary in bubblewrap.find()):
    pytest.skip("needs a bubblewrap that can mount overlays", allow_module_level=True)

SECRET = "do not tell"  # noqa: S105 - what no test may find


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder for a notebook's folder and for layers."""
    yield tmp_path
    remove_tree(str(tmp_path / "layers"))


@pytest.fixture
def folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A notebook's folder, in which the tests are."""
    path = place / "project"
    path.mkdir()
    (path / "data.csv").write_text("a,b\n1,2\n")
    (path / "private.txt").write_text("mine\n")
    (path / "private.txt").chmod(0o600)
    (path / "sub").mkdir()
    (path / "sub/deep.txt").write_text("deep\n")
    monkeypatch.chdir(path)
    return path


Start = Callable[..., Any]


@pytest.fixture
def started(place: Path) -> Start:
    return partial(shown, place / "layers")


def state(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything about a folder that writing to it would change."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path)] = (status.st_mode, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, content)
    return found


def owners(folder: Path) -> set[int]:
    return {path.lstat().st_uid for path in folder.rglob("*")}


CHANGES = """
import os
os.umask(0o022)
open("data.csv", "a").write("3,4\\n")
open("private.txt", "a").write("theirs\\n")
os.rename("sub/deep.txt", "sub/renamed.txt")
os.makedirs("new/folder")
open("new/folder/file", "w").write("new")
os.symlink("file", "new/folder/link")
open("tool.sh", "w").write("#!/bin/sh")
os.chmod("tool.sh", 0o7777)
"""


async def test_cells_read_the_folder_and_their_writing_leaves_it_untouched(folder: Path, started: Start) -> None:
    before = state(folder)
    async with started() as (sandbox, inside):
        assert await inside.run("import os; result = os.getcwd(), sorted(os.listdir())") == [
            "/work",
            ["data.csv", "private.txt", "sub"],
        ]
        assert await inside.run("result = open('private.txt').read()") == "mine\n"
        await inside.run(CHANGES)
        await inside.run("import shutil; shutil.rmtree('sub')")
        assert await inside.run("import os; result = sorted(os.listdir())") == [
            "data.csv",
            "new",
            "private.txt",
            "tool.sh",
        ]
        assert "overlay" in sandbox.describe()["workspace"]
    assert state(folder) == before


async def test_apply_makes_exactly_the_changes_that_were_shown(folder: Path, started: Start) -> None:
    async with started() as (sandbox, inside):
        await inside.run(CHANGES)
        changes = await read(sandbox)
        assert {(change.path, change.action, change.kind) for change in changes.values()} == {
            ("data.csv", Action.CHANGE, Kind.FILE),
            ("private.txt", Action.CHANGE, Kind.FILE),
            ("sub/deep.txt", Action.REMOVE, Kind.FILE),
            ("sub/renamed.txt", Action.ADD, Kind.FILE),
            ("new", Action.ADD, Kind.FOLDER),
            ("new/folder", Action.ADD, Kind.FOLDER),
            ("new/folder/file", Action.ADD, Kind.FILE),
            ("new/folder/link", Action.ADD, Kind.LINK),
            ("tool.sh", Action.ADD, Kind.FILE),
        }
        assert await apply(sandbox) == {}
        assert await read(sandbox) == {}
        assert await inside.run("result = open('data.csv').read()") == "a,b\n1,2\n3,4\n"
    assert (folder / "data.csv").read_text() == "a,b\n1,2\n3,4\n"
    assert (folder / "private.txt").read_text() == "mine\ntheirs\n"
    assert stat.S_IMODE((folder / "private.txt").stat().st_mode) == 0o600
    assert sorted(path.name for path in (folder / "sub").iterdir()) == ["renamed.txt"]
    assert (folder / "new/folder/link").read_text() == "new"
    assert stat.S_IMODE((folder / "tool.sh").stat().st_mode) == 0o755
    assert owners(folder) == {os.getuid()}
    assert not [path for path in state(folder) if ".sandbox-" in path]


async def test_a_file_that_changed_on_the_host_since_it_was_shown_is_not_overwritten(
    folder: Path, started: Start
) -> None:
    async with started() as (sandbox, inside):
        await inside.run(CHANGES)
        changes = list((await read(sandbox)).values())
        (folder / "data.csv").write_text("mine\n")
        (folder / "tool.sh").write_text("mine\n")
        (folder / "sub/deep.txt").write_text("mine\n")
        assert sandbox.changes is not None
        outcome = await sandbox.changes.apply(changes)
    refused = {change.path: why for change, why in outcome.refused}
    assert set(refused) == {"data.csv", "tool.sh", "sub/deep.txt"}
    assert set(refused.values()) == {"it was changed on this machine since it was shown"}
    assert {(folder / name).read_text() for name in refused} == {"mine\n"}
    assert (folder / "private.txt").read_text() == "mine\ntheirs\n"


async def test_what_was_also_changed_on_the_host_since_the_start_is_marked(folder: Path, started: Start) -> None:
    for name in ("replaced.txt", "gone.txt"):
        (folder / name).write_text("mine\n")
    async with started() as (sandbox, inside):
        await inside.run("result = open('replaced.txt').read()")
        # As an editor saves it: the overlay goes on showing the file that it has looked at.
        (folder / "saving").write_text("edited\n")
        (folder / "saving").rename(folder / "replaced.txt")
        await inside.run("import os, shutil; shutil.rmtree('sub'); os.remove('gone.txt')")
        await inside.run("for name in ('data.csv', 'replaced.txt', 'both', 'new'): open(name, 'a').write('cell\\n')")
        (folder / "gone.txt").write_text("edited\n")
        (folder / "both").write_text("edited\n")
        (folder / "sub/new-here").write_text("new\n")
        changes = await read(sandbox)
        edited = {"replaced.txt", "gone.txt", "both", "sub/new-here"}
        assert {path for path, change in changes.items() if change.conflict} == edited
        assert {path for path, change in changes.items() if change.refused} == {"sub/new-here"}
        assert set(await apply(sandbox, "sub/deep.txt", "sub/new-here", "sub", "both")) == {"sub/new-here", "sub"}
        assert (folder / "sub/new-here").read_text() == "new\n"
        assert (folder / "both").read_text() == "cell\n"
        # What was applied is the same on both sides, until somebody changes it again.
        await inside.run("open('both', 'a').write('again\\n')")
        assert not (await read(sandbox))["both"].conflict
        (folder / "both").write_text("edited again\n")
        assert (await read(sandbox))["both"].conflict
    # What cells changed in an earlier sandbox was changed before the next one's start.
    async with started() as (sandbox, inside):
        changes = await read(sandbox)
        assert {path for path, change in changes.items() if change.conflict} == edited
        assert sandbox.changes is not None
        outcome = await sandbox.changes.discard([changes[path] for path in ("replaced.txt", "gone.txt")])
        assert outcome.refused == []
        assert await inside.run("result = open('replaced.txt').read() + open('gone.txt').read()") == "edited\n" * 2


async def test_a_file_that_a_cell_changes_after_it_was_shown_is_not_applied(folder: Path, started: Start) -> None:
    async with started() as (sandbox, inside):
        await inside.run("open('data.csv', 'w').write('harmless')")
        changes = list((await read(sandbox)).values())
        await inside.run("open('data.csv', 'w').write('harmful!')")
        assert sandbox.changes is not None
        outcome = await sandbox.changes.apply(changes)
    assert [why for _, why in outcome.refused] == ["a cell changed it since it was shown"]
    assert (folder / "data.csv").read_text() == "a,b\n1,2\n"


async def test_discarded_changes_are_gone_in_the_sandbox(folder: Path, started: Start) -> None:
    look = """
import os
paths = [os.path.join(base, name) for base, _, names in os.walk(".") for name in names]
result = sorted((path, open(path).read()) for path in paths)
"""
    before = state(folder)
    async with started() as (sandbox, inside):
        at_first = await inside.run(look)
        await inside.run(CHANGES + "import shutil\nshutil.rmtree('sub')\nos.mkfifo('pipe')\nopen('.env', 'w')")
        assert sandbox.changes is not None
        outcome = await sandbox.changes.discard(list((await read(sandbox)).values()))
        assert outcome.refused == []
        assert await inside.run(look) == at_first
        assert await read(sandbox) == {}
        # The layer is as good as before.
        await inside.run("open('sub/deep.txt', 'a').write('er')")
        assert list(await read(sandbox)) == ["sub/deep.txt"]
    assert state(folder) == before


async def test_changes_outlive_the_sandbox_and_applied_ones_do_not_hide_the_hosts(folder: Path, started: Start) -> None:
    async with started() as (sandbox, inside):
        assert sandbox.greeting() == ""
        await inside.run(CHANGES)
        await apply(sandbox, "data.csv", "sub/deep.txt", "sub/renamed.txt")
        left = await read(sandbox)
    (folder / "data.csv").write_text("edited here\n")
    (folder / "sub/deep.txt").write_text("back again\n")
    async with started() as (sandbox, inside):
        assert "were not applied" in sandbox.greeting()
        assert sandbox.greeting() == ""
        assert set(await read(sandbox)) == set(left)
        assert await inside.run("result = open('data.csv').read()") == "edited here\n"
        assert await inside.run("result = open('sub/deep.txt').read()") == "back again\n"
        assert await inside.run("open('private.txt', 'a').write('!'); result = open('private.txt').read()") == (
            "mine\ntheirs\n!"
        )


async def test_a_sandbox_that_was_begun_before_its_notebook_was_told_shows_what_was_kept(
    folder: Path, started: Start
) -> None:
    async with started(told="/one.ipynb") as (sandbox, inside):
        await inside.run("open('one', 'w')")
    async with started(told="/one.ipynb") as (sandbox, inside):
        assert "were not applied" in sandbox.greeting()
        assert await inside.run("import os; result = os.path.exists('one')") is True


async def test_two_sandboxes_of_one_folder_have_a_layer_each(folder: Path, started: Start) -> None:
    async with started() as (first, inside), started() as (second, other):
        await inside.run("open('one', 'w')")
        await other.run("open('two', 'w')")
        assert list(await read(first)) == ["one"]
        assert list(await read(second)) == ["two"]


SECRETS = [".env", ".ENV.local", "sub/.Env", "key.PEM", "sub/id_rsa.old", ".git/config", ".aws/credentials"]


@pytest.fixture
def secrets(folder: Path) -> Path:
    for name in SECRETS:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(SECRET)
    os.link(folder / ".env", folder / "other-name.txt")
    os.link(folder / ".git/config", folder / "sub/config-too")
    (folder / "symbolic").symlink_to(".env")
    (folder / "in-disguise.cfg").write_text(SECRET)
    (folder / ".env.d").symlink_to("in-disguise.cfg")
    return folder


SEARCH = f"""
import os
result = []
for base, folders, names in os.walk("."):
    for name in names:
        path = os.path.join(base, name)
        try:
            if {SECRET!r} in open(path).read(): result.append(path)
        except OSError: pass
"""


@pytest.mark.parametrize("mode", ["overlay", "readonly", "readwrite"])
async def test_secrets_are_not_shown_under_any_name(secrets: Path, started: Start, mode: str) -> None:
    async with started(mode) as (sandbox, inside):
        assert await inside.run(SEARCH) == []
        if mode == "readwrite":
            return
        assert ".env" not in await inside.run("import os; result = os.listdir()")
        with pytest.raises(CodeError, match="FileNotFoundError"):
            await inside.run("open('symbolic')")
        assert sandbox.describe()["hidden"].startswith("11 ")


async def test_a_folder_that_a_hidden_link_leads_to_is_hidden_from_cells(folder: Path, started: Start) -> None:
    (folder / "real/in").mkdir(parents=True)
    (folder / "real/in/key").write_text(SECRET)
    (folder / ".aws").symlink_to("real")
    async with started() as (sandbox, inside):
        assert await inside.run(SEARCH) == []
        assert await inside.run("import os; result = sorted(os.listdir())") == ["data.csv", "private.txt", "sub"]
        # Cells have seen this one, and an overlay does not take it away from them.
        (folder / ".ssh").symlink_to("sub")
        with pytest.raises(SandboxLostError, match="sub appeared"):
            sandbox.before_cell()
    async with started() as (sandbox, inside):
        assert await inside.run("import os; result = sorted(os.listdir())") == ["data.csv", "private.txt"]


async def test_a_file_with_the_number_of_a_secret_that_is_gone_is_applied(folder: Path, started: Start) -> None:
    (folder / ".env").write_text(SECRET)
    async with started() as (sandbox, inside):
        (folder / "saving").write_text(SECRET)
        (folder / "saving").rename(folder / ".env")
        (folder / "data0.csv").write_text("ordinary")
        assert sandbox.before_cell() == ""
        assert await inside.run("result = open('data0.csv').read()") == "ordinary"
        await inside.run("open('data0.csv', 'a').write('!')")
        assert await apply(sandbox) == {}
    assert (folder / "data0.csv").read_text() == "ordinary!"


TRY_LOCKED = """
import os
for path in ("locked", "locked/in"):
    try: os.chmod(path, 0o777)
    except OSError: pass
result = []
for path in ("locked/.env", "locked/plain", "locked/in/id_rsa"):
    try: result.append(open(path).read())
    except OSError: pass
for base, folders, names in os.walk("locked"):
    result += [*names, *folders]
"""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder, and looks through it")
@pytest.mark.parametrize("locked", [0, 0o100, 0o300, 0o600], ids=oct)
@pytest.mark.parametrize("mode", ["overlay", "readonly", "readwrite"])
async def test_a_folder_that_the_user_may_not_read_is_hidden_from_cells(
    folder: Path, started: Start, mode: str, locked: int
) -> None:
    (folder / "locked/in").mkdir(parents=True)
    for name in (".env", "plain", "in/id_rsa"):
        (folder / "locked" / name).write_text(SECRET)
    (folder / "locked").chmod(locked)
    try:
        async with started(mode) as (sandbox, inside):
            assert await inside.run(TRY_LOCKED) == []
            assert sandbox.describe()["workspace"].count(mode.replace("read", "read-")) == 1
            assert "may not read yourself: locked" in sandbox.describe()["hidden"]
            if mode == "overlay":
                await inside.run("open('other', 'w').write('1')")
                assert await apply(sandbox) == {}
    finally:
        (folder / "locked").chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
async def test_a_folder_that_nobody_may_read_any_more_is_in_nobodys_way(folder: Path, started: Start) -> None:
    async with started() as (sandbox, inside):
        await inside.run("import shutil; shutil.rmtree('sub'); open('other', 'w'); open('data.csv', 'a').write('x')")
        (folder / "sub").chmod(0)
        try:
            changes = await read(sandbox)
            assert set(changes) == {"sub", "other", "data.csv"}
            assert "cannot be read on this machine" in changes["sub"].refused
            assert await apply(sandbox, "other") == {}
            assert sandbox.changes is not None
            outcome = await sandbox.changes.discard(list((await read(sandbox)).values()))
            assert [change.path for change, _ in outcome.refused] == ["sub"]
            assert await inside.run("result = open('data.csv').read()") == "a,b\n1,2\n"
        finally:
            (folder / "sub").chmod(0o700)
    assert (folder / "sub/deep.txt").read_text() == "deep\n"


async def test_nothing_that_a_cell_does_in_the_layer_reveals_a_secret(secrets: Path, started: Start) -> None:
    tricks = """
import os, shutil
def attempt(work, *arguments):
    try: work(*arguments)
    except OSError: pass
attempt(os.rename, ".env", "visible")
attempt(os.rename, "sub", "moved")
attempt(shutil.move, "sub", "copied")
attempt(shutil.copytree, ".git", "gitcopy")
attempt(os.link, ".env", "linked")
attempt(os.mkdir, "sub")
attempt(os.removexattr, "sub", "user.overlay.opaque")
attempt(os.setxattr, "sub", "user.overlay.opaque", b"n")
attempt(os.setxattr, "sub", "user.overlay.redirect", b"/sub")
attempt(os.mkdir, ".git")
attempt(os.removexattr, ".git", "user.overlay.opaque")
attempt(open, ".env", "a")
attempt(os.unlink, ".env")
"""
    async with started() as (sandbox, inside):
        await inside.run(tricks)
        assert await inside.run(SEARCH) == []
        changes = await read(sandbox)
        # Removing the folder does not remove, or name, what cells do not see of it.
        assert not [path for path in changes if "rsa" in path or path.endswith(".Env")]
        refused = await apply(sandbox)
    assert "hidden" in refused[".git"]
    assert not (secrets / "sub/deep.txt").exists()
    assert {(secrets / name).read_text() for name in SECRETS} == {SECRET}


async def test_removing_a_folder_leaves_what_is_hidden_in_it(secrets: Path, started: Start) -> None:
    async with started() as (sandbox, inside):
        await inside.run("import shutil; shutil.rmtree('sub')")
        assert set(await read(sandbox)) == {"sub", "sub/deep.txt"}
        assert "not empty" in (await apply(sandbox))["sub"]
    assert sorted(path.name for path in (secrets / "sub").iterdir()) == [".Env", "config-too", "id_rsa.old"]


@pytest.mark.parametrize("name", ["id_rsa", "sub/.env", "fresh/folder/.env"])
async def test_a_secret_that_appears_later_is_hidden_before_the_next_cell(
    folder: Path, started: Start, name: str
) -> None:
    async with started() as (sandbox, inside):
        assert await inside.run(SEARCH) == []
        assert sandbox.before_cell() == ""
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(SECRET)
        assert name in sandbox.before_cell()
        assert await inside.run(SEARCH) == []
        assert sandbox.before_cell() == ""


async def test_a_sandbox_that_saw_a_secret_is_given_up(folder: Path, started: Start) -> None:
    async with started() as (sandbox, inside):
        (folder / "sub/.env").write_text(SECRET)
        assert await inside.run(SEARCH) == ["./sub/.env"]
        with pytest.raises(SandboxLostError, match=r"sub/\.env appeared"):
            sandbox.before_cell()


async def test_a_thousand_secrets_cost_no_mount_each(folder: Path, started: Start) -> None:
    (folder / "keys").mkdir()
    for number in range(1000):
        (folder / "keys" / f"{number}.pem").write_text(SECRET)
    async with started() as (sandbox, inside):
        assert await inside.run("result = len(open('/proc/self/mounts').readlines())") < 100
        assert await inside.run(SEARCH) == []
        assert sandbox.describe()["hidden"].startswith("1000 ")


async def test_readonly_shows_the_folder_and_has_another_one_to_write_to(folder: Path, started: Start) -> None:
    before = state(folder)
    async with started("readonly") as (sandbox, inside):
        assert await inside.run("result = open('data.csv').read()") == "a,b\n1,2\n"
        with pytest.raises(CodeError, match="Read-only"):
            await inside.run("open('data.csv', 'a')")
        await inside.run("open('/scratch/file', 'w').write('x' * 100)")
        assert sandbox.changes is None
        assert "read-only" in sandbox.describe()["workspace"]
    assert state(folder) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="in root mode cells run as a user who may not write there")
async def test_readwrite_writes(folder: Path, started: Start) -> None:
    async with started("readwrite") as (sandbox, inside):
        await inside.run("open('written', 'w').write('by a cell')")
        assert sandbox.changes is None
    assert (folder / "written").read_text() == "by a cell"


async def test_private_shows_nothing(folder: Path, started: Start) -> None:
    async with started("private") as (sandbox, inside):
        assert await inside.run("import os; result = os.listdir()") == []
        assert sandbox.describe()["workspace"].startswith("private")


@pytest.mark.parametrize("where", ["~", "/", "/usr", "/home", "/etc/ssl", "/var/tmp"])
async def test_folders_of_others_are_not_shown(
    started: Start, place: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.chdir(place if where == "~" else where)
    async with started() as (sandbox, inside):
        assert await inside.run("import os; result = os.listdir()") == []
        assert "empty folder" in sandbox.greeting()
        assert "the notebook lies" in sandbox.describe()["workspace"]


async def test_without_overlays_the_folder_is_read_only_and_the_status_says_why(
    secrets: Path, started: Start, place: Path
) -> None:
    real = next(binary.path for binary in bubblewrap.find() if binary.overlays)
    old = place / "bwrap"
    # A program of an older version: it has no such options.
    old.write_text(f'#!/bin/sh\n# bubblewrap 0.8.0\ncase "$*" in *--overlay*) exit 1 ;; esac\nexec {real} "$@"\n')
    old.chmod(0o755)
    async with started(bubblewrap=str(old)) as (sandbox, inside):
        assert await inside.run("result = open('data.csv').read()") == "a,b\n1,2\n"
        assert await inside.run(SEARCH) == []
        assert "overlays need 0.11" in sandbox.greeting()
        assert "overlays need 0.11" in sandbox.describe()["workspace"]
        (secrets / ".env.late").write_text(SECRET)
        with pytest.raises(SandboxLostError, match="appeared"):
            sandbox.before_cell()


async def test_where_no_overlay_can_be_mounted_the_start_is_tried_without(
    folder: Path, started: Start, place: Path
) -> None:
    real = next(binary.path for binary in bubblewrap.find() if binary.overlays)
    broken = place / "bwrap"
    # What bubblewrap says where the layers' file system cannot hold one; it says so until less is asked for.
    said = "bwrap: Can't make overlay mount on /newroot/work with options x: Invalid argument"
    broken.write_text(
        f'#!/bin/sh\n# bubblewrap 0.11.0\n[ -e {place}/told ] && exec {real} "$@"\n: > {place}/told\n'
        f'echo "{said}" >&2\nexit 1\n'
    )
    broken.chmod(0o755)
    async with started(bubblewrap=str(broken)) as (sandbox, inside):
        assert await inside.run("result = open('data.csv').read()") == "a,b\n1,2\n"
        assert "no overlay can be mounted here (Invalid argument)" in sandbox.greeting()
        assert sandbox.changes is None


async def test_where_no_layer_can_be_made_the_folder_is_read_only(folder: Path, started: Start) -> None:
    async with started(layers="/proc/self/layers") as (sandbox, inside):
        assert await inside.run("result = open('data.csv').read()") == "a,b\n1,2\n"
        assert "set Workspace.layers" in sandbox.describe()["workspace"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's sandboxes need such mounts")
async def test_without_id_mapped_mounts_cells_read_what_everybody_may(
    folder: Path, started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a kernel without mount_setattr(2) says.
    monkeypatch.setitem(NUMBERS, "mount_setattr", (100_000, 100_000))
    async with started() as (sandbox, inside):
        assert await inside.run("result = open('data.csv').read()") == "a,b\n1,2\n"
        with pytest.raises(CodeError, match="PermissionError"):
            await inside.run("open('private.txt')")
        await inside.run("open('new', 'w').write('new')")
        assert await apply(sandbox) == {}
    assert (folder / "new").read_text() == "new"


async def test_folders_with_odd_names_are_shown(place: Path, started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = place / "a:b,c\\d e\n'f'"
    odd.mkdir()
    (odd / "x:y,z").write_text("odd")
    monkeypatch.chdir(odd)
    async with started() as (sandbox, inside):
        assert await inside.run("result = open('x:y,z').read()") == "odd"
        await inside.run("open('new:,', 'w')")
        assert list(await read(sandbox)) == ["new:,"]


async def test_a_removed_file_that_is_open_counts_for_the_limit(folder: Path, started: Start) -> None:
    async with started() as (sandbox, inside):
        await inside.run(
            "import os; f = open('gone', 'wb'); f.write(bytes(1 << 24)); f.flush(); os.unlink('gone'); "
            "globals()['__builtins__']['kept'] = f"
        )
        processes, folders = sandbox._processes, ("/work",)
        assert processes is not None
        assert processes.removed_files(0, folders).size >= 1 << 24
