"""A control group of a sandbox's own, of either version, where this user may make one: found out by making it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from sandbox_kernel.providers.local.limits import Limits

_PERIOD = 100_000
"""Microseconds over which processor time is shared out."""


@dataclass(frozen=True)
class ControlGroup:
    """The folders of one group: one in version 2, one for each controller in version 1; memory's is the first."""

    folders: tuple[str, ...]
    version: int

    @property
    def members(self) -> list[str]:
        """The files that list the processes in the group."""
        return [f"{folder}/cgroup.procs" for folder in self.folders]

    def holds(self, pid: int) -> bool:
        """Whether a process is in the group, so that its limits count."""
        return all(str(pid) in _read(path).split() for path in self.members)

    def memory_used(self) -> int:
        """Return the bytes in use, without what the kernel would give back."""
        name, cache = (
            ("memory.current", "inactive_file")
            if self.version == 2
            else ("memory.usage_in_bytes", "total_inactive_file")
        )
        used = int(_read(f"{self.folders[0]}/{name}") or 0)
        return max(0, used - self._field("memory.stat", cache))

    def out_of_memory_kills(self) -> int:
        """Return how many of its processes the kernel killed for the memory limit."""
        return self._field("memory.events" if self.version == 2 else "memory.oom_control", "oom_kill")

    def remove(self) -> None:
        """Remove the group if no process is in it any more."""
        for folder in self.folders:
            with suppress(OSError):
                os.rmdir(folder)

    def _field(self, file: str, name: str) -> int:
        for line in _read(f"{self.folders[0]}/{file}").splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
        return 0


def create(name: str, limits: Limits, mountinfo: str = "", own: str = "") -> ControlGroup | None:
    """Make a group with these limits, or return None where that is not possible.

    ``mountinfo`` and ``own`` are the texts of /proc/self/mountinfo and /proc/self/cgroup, unless given.
    """
    if not limits.memory:
        return None
    paths = dict(_own_groups(own or _read("/proc/self/cgroup")))
    mounts = list(_mounts(mountinfo or _read("/proc/self/mountinfo")))
    for controllers, mount_point, root in mounts:
        if (
            "" in controllers
            and "" in paths
            and (group := _create_v2(mount_point, _below(paths[""], root), name, limits))
        ):
            return group
    return _create_v1(mounts, paths, name, limits)


def _own_groups(text: str) -> Iterator[tuple[str, str]]:
    """Yield controller ("" in version 2) and path of each group that this process is in."""
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _mounts(text: str) -> Iterator[tuple[frozenset[str], str, str]]:
    """Yield controllers ({""} in version 2), mount point and root of each mounted hierarchy."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        fields = before.split(" ")
        if kind == "cgroup2":
            yield frozenset([""]), fields[4], fields[3]
        elif kind == "cgroup":
            yield frozenset(options.split(",")), fields[4], fields[3]


def _below(path: str, root: str) -> str:
    """Return a group's path relative to the mounted part of its hierarchy."""
    return path.removeprefix(root.rstrip("/")).rstrip("/")


def _create_v2(mount_point: str, own: str, name: str, limits: Limits) -> ControlGroup | None:
    # Beside our own group, not in it: a group that holds processes cannot share out memory.
    parent = mount_point + os.path.dirname(own).rstrip("/")
    if "memory" not in _read(f"{parent}/cgroup.controllers").split():
        return None
    for controller in ("memory", "pids", "cpu"):
        if controller not in _read(f"{parent}/cgroup.subtree_control").split():
            _write(f"{parent}/cgroup.subtree_control", f"+{controller}")
    settings = {"memory.max": limits.memory, "memory.swap.max": 0, "pids.max": limits.processes}
    if limits.cpus:
        settings["cpu.max"] = int(limits.cpus * _PERIOD)
    folder = f"{parent}/{name}"
    return ControlGroup((folder,), 2) if _fill(folder, settings, "memory.max") else None


def _create_v1(
    mounts: list[tuple[frozenset[str], str, str]], paths: dict[str, str], name: str, limits: Limits
) -> ControlGroup | None:
    # Not pids: here that is root, whose sandboxes each have a user of their own, and RLIMIT_NPROC counts by user.
    # To enter a group takes the kernel ten milliseconds.
    wanted = {
        "memory": {"memory.limit_in_bytes": limits.memory, "memory.memsw.limit_in_bytes": limits.memory},
        "cpu": {"cpu.cfs_quota_us": int(limits.cpus * _PERIOD)},
    }
    folders: list[str] = []
    for controller, settings in wanted.items():
        for controllers, mount_point, root in mounts:
            if controller in controllers and controller in paths and any(settings.values()):
                folder = f"{mount_point}{_below(paths[controller], root)}/{name}"
                if _fill(folder, settings, next(iter(settings))):
                    folders.append(folder)
        if not folders:
            return None
    return ControlGroup(tuple(folders), 1)


def _fill(folder: str, settings: dict[str, int], needed: str) -> bool:
    """Make a group's folder and set its limits; return whether the one that is needed could be set."""
    try:
        os.mkdir(folder)
    except OSError:
        return False
    # Swap accounting may be off, and then there is no such limit to set.
    done = {name: _write(f"{folder}/{name}", str(value)) for name, value in settings.items() if value or "swap" in name}
    if done[needed]:
        return True
    with suppress(OSError):
        os.rmdir(folder)
    return False


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> bool:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return False
    return True
