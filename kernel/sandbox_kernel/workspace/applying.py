"""Writing changes to the host, and taking them back in the sandbox.

What is written is what was shown: a file's content has the digest that it had then, and what it replaces on the host is
in the state in which it was compared. Each file takes its place at once, by being renamed to it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from sandbox_kernel.errors import CommandError

from .bases import Bases
from .beneath import open_anyway, open_one, opened_folder, opened_root, split, status_of
from .changes import Action, Change, Kind, is_opaque, own_state, signature
from .contents import copy
from .exchange import exchange
from .layers import Layer
from .secrets import Secrets

_RESERVE = 64 * 1024 * 1024
"""Bytes that are left free on the host's disk."""
_MEANWHILE = "it was changed on this machine since it was shown"
_WITH_TIMES = 6
"""Length of the signature of an entry that is no folder."""
_SET = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX


class _RefusedError(Exception):
    """One change cannot be made; the message is a clause."""


@dataclass
class Outcome:
    """What became of changes."""

    done: list[Change] = field(default_factory=list)
    refused: list[tuple[Change, str]] = field(default_factory=list)


def apply_changes(layer: Layer, secrets: Secrets, changes: Iterable[Change]) -> Outcome:
    """Make changes on the host, in their order. Blocking. Raises CommandError where the disk has no room for them."""
    wanted = list(changes)
    with opened_root(layer.upper) as upper, opened_root(secrets.root) as host:
        _require_room(host, wanted)
        outcome = Outcome()
        applied = layer.applied()
        try:
            for change in wanted:
                _try(outcome, change, partial(_apply, upper, host, secrets, change))
        finally:
            for change in outcome.done:
                _remember(applied, upper, change.path)
            layer.set_applied(applied)
            Bases(layer).renew([change.path for change in outcome.done])
    return outcome


def discard_changes(layer: Layer, secrets: Secrets, view: int, changes: Iterable[Change]) -> Outcome:
    """Take changes back in the running sandbox, whose folder ``view`` is an open descriptor of. Blocking.

    It is done through the overlay, which would not notice it in its layer. What is restored becomes a copy of the
    host's file in the layer, which the next sandbox is made without.
    """
    added = [change for change in changes if change.action is Action.ADD]
    others = [change for change in changes if change.action is not Action.ADD]
    outcome = Outcome()
    applied = layer.applied()
    with opened_root(layer.upper) as upper, opened_root(secrets.root) as host:
        try:
            for change in reversed(added):
                _try(outcome, change, partial(_take_away, view, change))
            for change in sorted(others, key=lambda change: (change.kind is not Kind.FOLDER, change.path.count("/"))):
                _try(outcome, change, partial(_restore, view, host, change))
        finally:
            for change in outcome.done:
                if change.action is not Action.ADD:
                    _remember(applied, upper, change.path)
            layer.set_applied(applied)
            Bases(layer).renew([change.path for change in outcome.done])
    return outcome


def settle(layer: Layer) -> None:
    """Remove from a layer that no sandbox uses what is no change any more.

    That is what was applied and not touched since, because the host has it now; and folders of the host's with nothing
    in them, which are left where a change was taken back.
    """
    applied = layer.applied()
    with opened_root(layer.upper) as upper:
        for path in sorted(applied, key=lambda path: path.count("/"), reverse=True):
            parent, name = split(path)
            with suppress(OSError), opened_folder(upper, parent, anyway=True) as folder:
                status = status_of(folder, name)
                if status is None or own_state(status) != applied[path]:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    _unwrap(folder, name)
                else:
                    os.unlink(name, dir_fd=folder)
        with suppress(OSError), opened_root(layer.owner.folder) as host:
            _remove_hollow(upper, host)
    if applied:
        layer.set_applied({})


def _remove_hollow(upper: int, host: int) -> bool:
    """Remove the folders of the host's that a layer has nothing in; return whether nothing is left.

    It ends at the first change, so it takes long only where there are many such folders. Raises OSError.
    """
    for name in os.listdir(upper):
        status, beneath = status_of(upper, name), status_of(host, name)
        if status is None or beneath is None or not stat.S_ISDIR(status.st_mode) or not stat.S_ISDIR(beneath.st_mode):
            return False
        with opened_folder(upper, name, anyway=True) as folder, opened_folder(host, name) as beside:
            if is_opaque(folder) or not _remove_hollow(folder, beside):
                return False
        os.rmdir(name, dir_fd=upper)
    return True


def _unwrap(folder: int, name: str) -> None:
    """Remove an applied folder from a layer; one in which something is left is merged with the host's from now on."""
    try:
        os.rmdir(name, dir_fd=folder)
    except OSError:
        descriptor = open_anyway(folder, name, os.O_DIRECTORY)
        try:
            os.removexattr(descriptor, "user.overlay.opaque")
        finally:
            os.close(descriptor)


def _try(outcome: Outcome, change: Change, make: Callable[[], None]) -> None:
    try:
        make()
    except _RefusedError as exc:
        outcome.refused.append((change, str(exc)))
    except OSError as exc:
        outcome.refused.append((change, exc.strerror or str(exc)))
    else:
        outcome.done.append(change)


def _require_room(host: int, changes: list[Change]) -> None:
    status = os.fstatvfs(host)
    free = status.f_bavail * status.f_frsize
    needed = sum(change.disk for change in changes if not change.refused and change.action is not Action.REMOVE)
    if needed + _RESERVE > free:
        raise CommandError(
            f"The changes take {needed // 1024**2} MiB, and the disk has {free // 1024**2} MiB left; "
            "apply fewer of them, or make room."
        )


def _remember(applied: dict[str, list[int]], upper: int, path: str) -> None:
    parent, name = split(path)
    with suppress(OSError), opened_folder(upper, parent, anyway=True) as folder:
        status = status_of(folder, name)
        if status is not None:
            applied[path] = own_state(status)


def _apply(upper: int, host: int, secrets: Secrets, change: Change) -> None:
    if change.refused:
        raise _RefusedError(change.refused)
    parent, name = split(change.path)
    with opened_folder(host, parent) as folder:
        before = status_of(folder, name)
        if secrets.holds(change.path, before):
            raise _RefusedError("it is hidden by Workspace.hidden")
        _require_unchanged(change, before)
        if change.action is Action.REMOVE:
            _remove(folder, name, change)
        elif change.kind is Kind.FOLDER:
            os.mkdir(name, change.mode & 0o755 | 0o700, dir_fd=folder)
            _give_to_owner(folder, name)
        elif change.kind is Kind.LINK:
            _place_link(folder, name, change)
        else:
            with opened_folder(upper, split(change.path)[0], anyway=True) as layer:
                _place_file(layer, folder, name, change, before)


def _require_unchanged(change: Change, before: os.stat_result | None) -> None:
    if signature(before) != change.host:
        raise _RefusedError(_MEANWHILE)


def _remove(folder: int, name: str, change: Change) -> None:
    if change.kind is not Kind.FOLDER:
        _remove_shown(folder, name, change)
        return
    try:
        os.rmdir(name, dir_fd=folder)
    except OSError as exc:
        raise _RefusedError("it is not empty: what is hidden or new in it stays") from exc


def _remove_shown(folder: int, name: str, change: Change) -> None:
    """Remove an entry, also where somebody edits it at this moment: it is looked at where nobody finds it."""
    aside = _temporary_name()
    os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
    if _renamed(signature(status_of(folder, aside))) == _renamed(change.host):
        os.unlink(aside, dir_fd=folder)
        return
    try:
        # Unlike a rename it takes nobody's place: who saved it once more has written over it anyway.
        os.link(aside, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        os.unlink(aside, dir_fd=folder)
    except OSError:
        # This file system has no links.
        os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
    else:
        os.unlink(aside, dir_fd=folder)
    raise _RefusedError(_MEANWHILE)


def _place_link(folder: int, name: str, change: Change) -> None:
    if change.host is None:
        os.symlink(change.target, name, dir_fd=folder)
        return
    temporary = _temporary_name()
    os.symlink(change.target, temporary, dir_fd=folder)
    _rename(folder, temporary, name, change)


def _place_file(layer: int, folder: int, name: str, change: Change, before: os.stat_result | None) -> None:
    temporary = _temporary_name()
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    source = open_anyway(layer, name)
    try:
        status = os.fstat(source)
        if not stat.S_ISREG(status.st_mode) or status.st_size != change.size:
            raise _RefusedError("a cell changed it since it was shown")
        target = os.open(temporary, flags, 0o600, dir_fd=folder)
        try:
            if copy(source, target, change.size) != change.digest:
                raise _RefusedError("a cell changed it since it was shown")
            _dress(target, folder, change.mode, before, status)
            _rename(folder, temporary, name, change)
        finally:
            os.close(target)
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
    finally:
        os.close(source)


def _rename(folder: int, temporary: str, name: str, change: Change) -> None:
    """Let a new entry take its place, where nothing, or what was shown, is still there."""
    try:
        _require_unchanged(change, status_of(folder, name))
        if change.host is None:
            # Unlike a rename it takes nobody's place.
            os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        else:
            _replace(folder, temporary, name, change)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)


def _replace(folder: int, temporary: str, name: str, change: Change) -> None:
    """Let a new entry take the place of the one that was shown, also where somebody edits that at this moment.

    They change places, and what came out is looked at before it is removed. Where names cannot be exchanged, an edit
    between the last look and the rename is lost.
    """
    mine = status_of(folder, temporary)
    if not exchange(folder, temporary, name):
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        return
    if _renamed(signature(status_of(folder, temporary))) == _renamed(change.host):
        return
    # Put back. What comes out then, if it is not ours, was saved even later, and has to go back in its turn; what
    # it comes out for was overwritten by who saved it.
    while True:
        placed = status_of(folder, temporary)
        exchange(folder, temporary, name)
        if _renamed(signature(status_of(folder, temporary))) == _renamed(signature(mine)):
            raise _RefusedError(_MEANWHILE)
        mine = placed


def _renamed(state: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Return what of an entry's signature stays when it is renamed: all but the time of that, which comes last."""
    return state if state is None or len(state) < _WITH_TIMES else state[:-1]


def _dress(target: int, folder: int, mode: int, before: os.stat_result | None, status: os.stat_result) -> None:
    """Give a new file owner, mode and times: those of the one before it, but whether it can be run is the cell's."""
    if os.geteuid() == 0:
        owner = before or os.fstat(folder)
        os.fchown(target, owner.st_uid, owner.st_gid)
    if before is None:
        os.fchmod(target, mode & 0o755 | 0o600)
    else:
        readable = before.st_mode & 0o444
        os.fchmod(target, before.st_mode & 0o666 | (readable >> 2 if mode & 0o100 else 0))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _give_to_owner(folder: int, name: str) -> None:
    if os.geteuid() == 0:
        owner = os.fstat(folder)
        os.chown(name, owner.st_uid, owner.st_gid, dir_fd=folder, follow_symlinks=False)


def _temporary_name() -> str:
    return f".sandbox-{os.urandom(8).hex()}"


# ---- taking back


def _take_away(view: int, change: Change) -> None:
    parent, name = split(change.path)
    with opened_folder(view, parent, anyway=True) as folder:
        status = status_of(folder, name)
        if status is None:
            return
        if stat.S_ISDIR(status.st_mode):
            os.rmdir(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)


def _restore(view: int, host: int, change: Change) -> None:
    """Make an entry in the sandbox what it is on the host."""
    parent, name = split(change.path)
    with opened_folder(view, parent, anyway=True) as folder, opened_folder(host, parent) as beside:
        before = status_of(beside, name)
        _require_unchanged(change, before)
        assert before is not None
        if change.kind is Kind.FOLDER:
            # What cannot be looked into here cannot be shown there.
            os.close(open_one(beside, name, os.O_DIRECTORY))
            os.mkdir(name, stat.S_IMODE(before.st_mode) & ~_SET, dir_fd=folder)
            os.chown(name, *_owner(folder), dir_fd=folder, follow_symlinks=False)
        elif change.kind is Kind.LINK:
            temporary = _temporary_name()
            os.symlink(os.readlink(name, dir_fd=beside), temporary, dir_fd=folder)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            _restore_file(folder, beside, name, before)


def _restore_file(folder: int, beside: int, name: str, before: os.stat_result) -> None:
    temporary = _temporary_name()
    source = open_one(beside, name)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        target = os.open(temporary, flags, 0o600, dir_fd=folder)
        try:
            copy(source, target, before.st_size)
            os.fchown(target, *_owner(folder))
            os.fchmod(target, stat.S_IMODE(before.st_mode) & ~_SET)
            os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            os.close(target)
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
    finally:
        os.close(source)


def _owner(folder: int) -> tuple[int, int]:
    """Return to whom an entry in a sandbox's folder is to belong: to whom the folder does."""
    status = os.fstat(folder)
    return status.st_uid, status.st_gid
