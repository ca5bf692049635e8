"""What cells changed: the layer of an overlay, compared with the folder on the host.

In the layer a deleted entry is a character device 0:0, and a folder that took the place of another one, instead of
being merged with it, has an extended attribute. Everything else is what a cell wrote, and a cell may write anything:
names with control characters, links to anywhere, devices, terabytes of nothing. So nothing is followed, nothing is
opened that could make us wait, and only folders, files and links inside the folder are ever offered to be applied.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from sandbox_kernel.errors import CommandError

from .bases import Bases
from .beneath import MAX_DEPTH, open_anyway, opened_folder, opened_root, status_of
from .contents import digest
from .layers import Layer
from .secrets import Secrets

MAX_CHANGES = 300_000
"""Changes beyond which a layer is refused: that many take a minute."""
_OPAQUE = "user.overlay.opaque"

Signature = list[int]
"""What tells one state of an entry from all others."""


class Action(str, Enum):
    """What applying a change does to the host."""

    ADD = "added"
    CHANGE = "changed"
    REMOVE = "removed"


class Kind(str, Enum):
    """What the entry is; of a removed one, what it is on the host."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True)
class Change:
    """One entry that differs between layer and host."""

    path: str
    action: Action
    kind: Kind
    size: int = 0
    mode: int = 0
    digest: str = ""
    """Of a file's content in the layer: what is applied has this one."""
    target: str = ""
    """Where a link leads."""
    disk: int = 0
    """Bytes on disk."""
    layer: tuple[int, ...] | None = None
    """The entry's state in the layer; None if there is none of its own."""
    host: tuple[int, ...] | None = None
    """Its state on the host when it was compared; None if it is not there."""
    opaque: bool = False
    refused: str = ""
    """Why it is never applied, as a clause."""
    conflict: bool = False
    """It was changed on the host, too, since the sandbox got it, or has begun to show it."""


def signature(status: os.stat_result | None) -> tuple[int, ...] | None:
    """Return what changes whenever an entry does."""
    if status is None:
        return None
    if stat.S_ISDIR(status.st_mode):
        # What happens in a folder is told of its entries.
        return (status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode))
    return (status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether an entry of a layer says that there is none."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(folder: int) -> bool:
    """Whether an open folder of a layer hides the one beneath it."""
    try:
        return os.getxattr(folder, _OPAQUE) == b"y"
    except OSError:
        return False


class ChangeReader:
    """Compares one layer with the host's folder. Blocking: to be called in a thread, while no cell writes."""

    def __init__(self, layer: Layer, secrets: Secrets, largest_file: int, bases: Bases | None = None) -> None:
        """``bases`` say what is a conflict; without them nothing is."""
        self._layer, self._secrets, self._largest_file = layer, secrets, largest_file
        self._applied = layer.applied()
        self._bases = bases
        self._count = 0

    def read(self) -> list[Change]:
        """Return the changes in an order in which they can be applied.

        Raises CommandError where there are too many, or folders too deep; OSError.
        """
        changes: list[Change] = []
        with opened_root(self._layer.upper) as upper, opened_root(self._secrets.root) as host:
            waiting = deque([""])
            while waiting:
                path = waiting.popleft()
                with opened_folder(upper, path, anyway=True) as folder, _maybe(host, path) as beside:
                    changes += self._read_folder(folder, beside, path, waiting)
        return sorted(changes, key=_order)

    def _read_folder(self, folder: int, host: int | None, path: str, waiting: deque[str]) -> Iterator[Change]:
        beginning = f"{path}/" if path else ""
        if beginning.count("/") > MAX_DEPTH:
            raise CommandError(f"A cell nested folders more than {MAX_DEPTH} deep; remove them in a cell first.")
        names = os.listdir(folder)
        if path and host is not None and is_opaque(folder) and self._applied.get(path) != _own(os.fstat(folder)):
            for name in set(os.listdir(host)).difference(names):
                yield from self._removed(host, name, beginning + name, around=True)
        for name in names:
            status = status_of(folder, name)
            if status is None:
                continue
            entry = beginning + name
            if self._applied.get(entry) == _own(status) and not stat.S_ISDIR(status.st_mode):
                continue
            before = status_of(host, name) if host is not None else None
            try:
                compared = list(self._compare(folder, host, name, entry, status, before))
            except OSError as exc:
                # One entry that cannot be read does not stand in the way of all others.
                compared = [self._unreadable(entry, status, before, exc)]
            for change in compared:
                self._counted()
                yield change
            if stat.S_ISDIR(status.st_mode):
                waiting.append(entry)

    def _unreadable(self, path: str, status: os.stat_result, before: os.stat_result | None, error: OSError) -> Change:
        action = Action.REMOVE if is_whiteout(status) else Action.ADD if before is None else Action.CHANGE
        kind = _kind(before) if is_whiteout(status) and before is not None else _kind(status)
        return Change(path, action, kind, host=signature(before), refused=_cannot_be_read(error))

    def _is_newer(self, path: str, status: os.stat_result) -> bool:
        return self._bases is not None and self._bases.is_newer(path, status)

    def _counted(self) -> None:
        self._count += 1
        if self._count > MAX_CHANGES:
            raise CommandError(
                f"Cells changed more than {MAX_CHANGES} files, more than can be compared; remove some in a cell first."
            )

    def _compare(
        self, folder: int, host: int | None, name: str, path: str, status: os.stat_result, before: os.stat_result | None
    ) -> Iterator[Change]:
        if is_whiteout(status):
            if before is not None and host is not None:
                yield from self._removed(host, name, path, whiteout=True)
            return
        if self._secrets.holds(path, before):
            # For cells there is nothing on the host, so what they made is new, and taking it back removes it.
            before = None
        if before is not None and host is not None and _kind(before) is not _kind(status):
            change = self._change(folder, name, path, status, None)
            if change is not None and not change.refused:
                yield from self._removed(host, name, path)
        else:
            change = self._change(folder, name, path, status, before)
        if change is not None and not _is_equal(change, host, name, before):
            yield change

    def _change(
        self, folder: int, name: str, path: str, status: os.stat_result, before: os.stat_result | None
    ) -> Change | None:
        kind = _kind(status)
        if kind is Kind.FOLDER and before is not None:
            return None
        content, target, refused = "", "", ""
        if kind is Kind.LINK:
            target = os.readlink(name, dir_fd=folder)
            refused = leads_out(path, target)
        elif kind is Kind.OTHER:
            refused = "it is a device, a pipe or a socket"
        elif kind is Kind.FILE and status.st_size > self._largest_file:
            refused = "it is larger than Workspace.largest_file"
        elif kind is Kind.FILE:
            descriptor = open_anyway(folder, name)
            try:
                status = os.fstat(descriptor)
                content = digest(descriptor, status.st_size) if stat.S_ISREG(status.st_mode) else ""
            finally:
                os.close(descriptor)
        if self._secrets.holds(path, None):
            refused = "its name is hidden by Workspace.hidden"
        return Change(
            path,
            Action.ADD if before is None else Action.CHANGE,
            kind,
            size=status.st_size if kind is Kind.FILE else 0,
            mode=stat.S_IMODE(status.st_mode),
            digest=content,
            target=target,
            disk=status.st_blocks * 512,
            layer=tuple(_own(status)),
            host=signature(before),
            opaque=kind is Kind.FOLDER and before is None,
            refused=refused,
            conflict=before is not None and self._is_newer(path, before),
        )

    def _removed(
        self, host: int, name: str, path: str, *, whiteout: bool = False, around: bool = False
    ) -> Iterator[Change]:
        """Give what a cell removed: of a folder, all that was shown of it. What is hidden stays, and its folder.

        ``around`` says that a folder around it was removed: then it stays, too, if it was changed here since.
        """
        status = status_of(host, name)
        if status is None or self._secrets.holds(path, status):
            return
        if path.count("/") > MAX_DEPTH:
            raise CommandError(f"Folders in {path[:40]}… are nested too deep to be removed by this command.")
        own = (0,) if whiteout else None
        kind = _kind(status)
        refused = "it is a device, a pipe or a socket" if kind is Kind.OTHER else ""
        if kind is Kind.FOLDER:
            try:
                with opened_folder(host, name) as folder:
                    for inner in os.listdir(folder):
                        yield from self._removed(folder, inner, f"{path}/{inner}", around=True)
            except OSError as exc:
                refused = _cannot_be_read(exc)
        conflict = kind is not Kind.FOLDER and self._is_newer(path, status)
        if conflict and around and not refused:
            refused = "it was changed on this machine after the sandbox's start, and cells removed only its folder"
        self._counted()
        size = status.st_size if kind is Kind.FILE else 0
        host_state = signature(status)
        yield Change(
            path, Action.REMOVE, kind, size=size, layer=own, host=host_state, refused=refused, conflict=conflict
        )


def _own(status: os.stat_result) -> list[int]:
    """Return the state of an entry in the layer, as it is remembered when it was applied."""
    if is_whiteout(status):
        return [0]
    if stat.S_ISDIR(status.st_mode):
        return [status.st_ino]
    return [status.st_ino, status.st_size, status.st_mode, status.st_mtime_ns, status.st_ctime_ns]


own_state = _own


def _kind(status: os.stat_result) -> Kind:
    if stat.S_ISREG(status.st_mode):
        return Kind.FILE
    if stat.S_ISDIR(status.st_mode):
        return Kind.FOLDER
    return Kind.LINK if stat.S_ISLNK(status.st_mode) else Kind.OTHER


def _cannot_be_read(error: OSError) -> str:
    return f"it cannot be read on this machine ({error.strerror or error})"


def _is_equal(change: Change, host: int | None, name: str, before: os.stat_result | None) -> bool:
    """Whether a file or link in the layer says what the host's does. Times do not count."""
    if before is None or host is None or change.refused or _kind(before) is not change.kind:
        return False
    if change.kind is Kind.LINK:
        return os.readlink(name, dir_fd=host) == change.target
    if change.kind is not Kind.FILE or before.st_size != change.size or (before.st_mode ^ change.mode) & 0o100:
        return False
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=host)
    except OSError:
        return False
    try:
        return digest(descriptor, before.st_size) == change.digest
    finally:
        os.close(descriptor)


def leads_out(path: str, target: str) -> str:
    """Return why a link is not applied; "" if it leads to a place in the folder, whatever the links on its way do."""
    names = [name for name in target.split("/") if name not in ("", ".")]
    ups = len([name for name in names if name == ".."])
    if target.startswith("/"):
        return "it is a link with an absolute path"
    # Upwards only at the beginning: behind a name that is a link itself it could lead anywhere.
    if ups > path.count("/") or names[:ups].count("..") != ups:
        return "it is a link that leads out of the folder"
    return ""


def _order(change: Change) -> tuple[int, int, str]:
    """Removals first, the deepest first; then folders, the uppermost first; then the rest."""
    depth = change.path.count("/")
    if change.action is Action.REMOVE:
        return (0, -depth, change.path)
    return (1 if change.kind is Kind.FOLDER else 2, depth, change.path)


class _maybe:  # noqa: N801 - used like a function
    """A folder of the host that may not be there, or be something else: then None."""

    def __init__(self, root: int, path: str) -> None:
        self._opening = opened_folder(root, path)
        self._is_open = False

    def __enter__(self) -> int | None:
        try:
            descriptor = self._opening.__enter__()
        except OSError:
            return None
        self._is_open = True
        return descriptor

    def __exit__(self, *exc: object) -> None:
        if self._is_open:
            self._opening.__exit__(None, None, None)
