"""Parts of the local provider: sizes and limits, control groups, sizes of folders, finding bubblewrap."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from traitlets import HasTraits, TraitError
from traitlets.config import Config

from sandbox_kernel.providers.local import cgroup, folder_size
from sandbox_kernel.providers.local.bubblewrap import find, read_version
from sandbox_kernel.providers.local.command import work_folder
from sandbox_kernel.providers.local.limits import Limits, Size, format_size, parse_size, processes_counted_outside
from sandbox_kernel.providers.local.provider import LocalProvider
from sandbox_kernel.providers.local.view import make_whiteouts

MIB = 1024**2


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000", 1000),
        ("512M", 512 * MIB),
        ("512 MiB", 512 * MIB),
        ("1.5g", 1536 * MIB),
        ("2T", 2 * 1024**4),
        ("1kb", 1024),
    ],
)
def test_size_is_read_as_people_write_it(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1", "1 X", "4 GiBs"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)

    class Holder(HasTraits):
        size = Size()

    with pytest.raises(TraitError):
        Holder(size=text)


@pytest.mark.parametrize(("size", "text"), [(0, "0 bytes"), (512 * MIB, "512 MiB"), (1536 * MIB, "1.5 GiB")])
def test_size_is_shown_as_people_read_it(size: int, text: str) -> None:
    assert format_size(size) == text


def test_options_come_from_the_configuration_as_numbers_or_text() -> None:
    provider = LocalProvider(config=Config({"LocalProvider": {"memory": "4 GiB", "processes": 7}}))
    assert (provider.memory, provider.processes) == (4 * 1024**3, 7)
    assert provider.memory_per_process == provider.memory
    with pytest.raises(TraitError):
        LocalProvider(memory="lots")
    for few in ({"memory": "10 MiB"}, {"memory_per_process": "100 MiB"}):
        with pytest.raises(TraitError, match="no Python starts; give at least"):
            LocalProvider(**few)
    small = LocalProvider(memory="64 MiB")
    assert small.memory_per_process == 256 * MIB
    assert LocalProvider(memory=0).memory_per_process == 0


def test_every_option_has_a_help_text() -> None:
    options = LocalProvider.class_traits(config=True)
    assert {"python", "memory", "work_size", "cpus"} <= set(options)
    assert [name for name, trait in options.items() if not trait.help] == []


def test_prologue_sets_the_limits_and_never_above_what_is_allowed() -> None:
    limits = Limits(memory=0, memory_per_process=512 * MIB, open_files=100, file_size=MIB)
    names = "DATA NOFILE FSIZE CORE CPU"
    report = f"\nprint(*[resource.getrlimit(getattr(resource, 'RLIMIT_' + name))[1] for name in '{names}'.split()])"

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    command = [sys.executable, "-c", limits.prologue() + report]
    done = subprocess.run(command, preexec_fn=lower, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(512 * MIB), "64", str(MIB), "1", "-1"]


def test_processes_outside_are_counted_only_where_the_kernel_counts_them() -> None:
    release = tuple(int(number) for number in os.uname().release.split(".")[:2])
    assert (processes_counted_outside() == 0) == (release >= (5, 14))


# ---- control groups


def version_2(root: Path, *, controllers: str = "cpu memory pids") -> tuple[str, str]:
    """Lay out a version 2 hierarchy, as far as files can; return the texts of mountinfo and our group's path."""
    parent = root / "user.slice/app.slice"
    (parent / "jupyter.scope").mkdir(parents=True)
    (parent / "cgroup.controllers").write_text(controllers)
    (parent / "cgroup.subtree_control").write_text("memory pids")
    return f"30 20 0:26 / {root} rw,nosuid - cgroup2 cgroup2 rw\n", "0::/user.slice/app.slice/jupyter.scope\n"


def test_group_of_version_2_is_made_beside_our_own(tmp_path: Path) -> None:
    mountinfo, own = version_2(tmp_path)
    group = cgroup.create("sandbox-1", Limits(memory=MIB, processes=9, cpus=1.5), mountinfo, own)
    assert group is not None
    folder = tmp_path / "user.slice/app.slice/sandbox-1"
    assert group.folders == (str(folder),)
    written = {name: (folder / name).read_text() for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max")}
    assert written == {"memory.max": str(MIB), "memory.swap.max": "0", "pids.max": "9", "cpu.max": "150000"}
    (folder / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    (folder / "memory.current").write_text("5000")
    (folder / "memory.stat").write_text("anon 3\ninactive_file 1000\n")
    (folder / "cgroup.procs").write_text("12\n34\n")
    assert group.out_of_memory_kills() == 2
    assert group.memory_used() == 4000
    assert group.holds(34)
    assert not group.holds(3)


def test_no_group_without_the_controller_or_without_a_limit(tmp_path: Path) -> None:
    mountinfo, own = version_2(tmp_path, controllers="cpu pids")
    assert cgroup.create("sandbox-1", Limits(memory=MIB), mountinfo, own) is None
    assert cgroup.create("sandbox-1", Limits(memory=0), mountinfo, own) is None


def test_groups_of_version_1_are_made_in_our_own_and_below_the_mounted_root(tmp_path: Path) -> None:
    (tmp_path / "memory/mine").mkdir(parents=True)
    mountinfo = f"31 20 0:27 /docker/abc {tmp_path}/memory rw - cgroup cgroup rw,memory\n"
    group = cgroup.create("sandbox-1", Limits(memory=MIB), mountinfo, "4:memory:/docker/abc/mine\n3:pids:/\n0::/\n")
    assert group is not None
    assert group.folders == (str(tmp_path / "memory/mine/sandbox-1"),)
    assert (tmp_path / "memory/mine/sandbox-1/memory.limit_in_bytes").read_text() == str(MIB)


def test_group_that_cannot_be_made_is_none(tmp_path: Path) -> None:
    mountinfo = f"31 20 0:27 / {tmp_path}/absent rw - cgroup cgroup rw,memory\n"
    assert cgroup.create("sandbox-1", Limits(memory=MIB), mountinfo, "4:memory:/\n") is None


# ---- sizes of folders


def measure(folder: Path) -> int:
    return sum(folder_size.sizes(os.open(folder, os.O_RDONLY | os.O_DIRECTORY)))


def test_folder_is_measured_with_hard_links_once_and_without_following_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(bytes(MIB))
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "file").write_bytes(os.urandom(MIB))
    (folder / "deep/same").hardlink_to(folder / "file")
    (folder / "link").symlink_to(outside)
    (folder / "up").symlink_to("..")
    (folder / "sparse").touch()
    os.truncate(folder / "sparse", 10 * MIB)
    assert MIB <= measure(folder) < MIB + 64 * 1024


def test_empty_files_are_not_free(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / str(number)).touch()
    assert measure(tmp_path) >= 100 * 512


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100])
def test_unreadable_folder_is_measured_and_keeps_its_mode(mode: int, tmp_path: Path) -> None:
    (tmp_path / "hidden/inner").mkdir(parents=True)
    (tmp_path / "hidden/inner/file").write_bytes(os.urandom(MIB))
    (tmp_path / "hidden").chmod(mode)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert measure(tmp_path) >= MIB
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert (tmp_path / "hidden").stat().st_mode & 0o777 == mode
    (tmp_path / "hidden").chmod(0o700)


def test_folder_that_is_nested_too_deep_is_told(tmp_path: Path) -> None:
    path = tmp_path
    for _ in range(folder_size.MAX_DEPTH + 1):
        path /= "d"
    path.mkdir(parents=True)
    with pytest.raises(folder_size.TooDeepError):
        measure(tmp_path)


# ---- bubblewrap, and where things are mounted


def test_bubblewrap_is_found_with_its_version() -> None:
    found = find()
    assert found
    assert all(binary.version >= (0, 8, 0) for binary in found)
    assert find(minimum=(99,)) == []


def test_what_is_not_bubblewrap_has_no_version(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert [read_version(path) for path in (str(tmp_path / "empty"), str(tmp_path), "/nowhere", "/bin/sh")] == [()] * 4
    assert find("/bin/sh") == []


@pytest.mark.parametrize(
    ("mounts", "folder"),
    [
        ([], "/work"),
        (["/opt/env", "/workers/env"], "/work"),
        (["/work/project/.venv"], "/workspace"),
        (["/work", "/workspace/x"], "/sandbox/work"),
    ],
)
def test_work_folder_gives_way_to_an_environment(mounts: list[str], folder: str) -> None:
    assert work_folder(mounts) == folder


def test_folders_that_were_removed_since_they_were_looked_at_are_no_fault(tmp_path: Path) -> None:
    source, layer = tmp_path / "source", tmp_path / "layer"
    (source / "there").mkdir(parents=True)
    try:
        make_whiteouts(str(layer), str(source), ["gone/.env", "there/.env"], None, ["there", "gone too"])
    except PermissionError:
        pytest.skip("this system lets nobody make whiteouts")
    # What was hidden stays hidden if it comes back.
    assert {path.name for path in layer.iterdir()} == {"gone", "there"}
    assert all((layer / name / ".env").is_char_device() for name in ("gone", "there"))
