"""What differs between the notebook's folder, its copy in a sandbox, and what both were when they were last alike.

Nothing here reads or writes: entries in, plans out.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from sandbox_kernel.workspace.changes import Action, Change, Kind
from sandbox_kernel.workspace.entries import FILE, FOLDER, SPECIAL, Entries, Entry, is_same
from sandbox_kernel.workspace.staging import REMOVED

from .claims import CLOSED
from .transfers import ABSENT

GONE = Entry(REMOVED)


@dataclass
class Plan:
    """What a layer has to have, so that it says what cells changed."""

    wanted: dict[str, Entry] = field(default_factory=dict)
    """Each folder before what is in it."""
    alike: set[str] = field(default_factory=set)
    """Entries that changed on both ends, to the same."""
    odd: list[Change] = field(default_factory=list)
    """What cells made that no layer has."""

    def refuse(self, path: str, why: str, base: Entries) -> None:
        """Take note that what is wanted cannot be had."""
        self.odd.append(_odd(path, self.wanted.pop(path), why, base))


def upwards(path: str) -> Iterator[str]:
    """Give the folders around a path, the innermost first."""
    while path := path.rpartition("/")[0]:
        yield path


def to_send(host: Entries, left_out: Container[str], base: Entries, refused: Entries) -> dict[str, tuple[Entry, str]]:
    """Return what a sandbox has to be sent, by path: the entry, and what it replaces. Removals come first.

    ``refused`` is what was sent before and not taken.
    """
    found: dict[str, tuple[Entry, str]] = {}
    for path in sorted(base, key=lambda path: path.count("/"), reverse=True):
        kept = path in host or path in left_out or any(around in left_out for around in upwards(path))
        if not kept and not _is_refused(refused, path, GONE):
            found[path] = (GONE, base[path].expected)
    for path, entry in host.items():
        before = base.get(path)
        if not is_same(entry, before) and not _is_refused(refused, path, entry):
            found[path] = (entry, before.expected if before else ABSENT)
    return found


def _is_refused(refused: Entries, path: str, entry: Entry) -> bool:
    before = refused.get(path)
    return before is not None and (is_same(entry, before) or entry.kind == before.kind == REMOVED)


def compared(claims: Entries, base: Entries, host: Entries, largest: int, room: int) -> Plan:
    """Return what cells changed. ``largest`` and ``room`` are bytes that a file, and all files, may have."""
    plan = Plan()
    for path, claim in claims.items():
        if claim.said == CLOSED and claim.kind == FOLDER:
            plan.odd.append(_odd(path, claim, "cells may not look into it either", base))
        if is_same(claim, base.get(path)):
            continue
        why = _why_odd(claim, largest, room)
        if is_same(claim, host.get(path)):
            plan.alike.add(path)
        elif why:
            plan.odd.append(_odd(path, claim, why, base))
        else:
            plan.wanted[path] = claim
            room -= claim.size
    for path in base:
        if path not in claims and path not in host:
            plan.alike.add(path)
        elif path not in claims and _is_seen(path.rpartition("/")[0], claims):
            plan.wanted[path] = GONE
    return plan


def _why_odd(claim: Entry, largest: int, room: int) -> str:
    """Return why an entry is not fetched, as a clause; "" if it is."""
    if claim.kind == SPECIAL:
        return "it is a device, a pipe or a socket"
    if claim.size > largest:
        return "it is larger than Workspace.sync_file_size"
    if claim.kind == FILE and not claim.said:
        return "it cannot be read"
    return "together the changes are larger than Workspace.sync_size" if claim.size > room else ""


def _is_seen(folder: str, claims: Entries) -> bool:
    """Whether a folder is there, and can be looked into."""
    entry = claims.get(folder)
    return not folder or (entry is not None and entry.kind == FOLDER and entry.said != CLOSED)


def _odd(path: str, claim: Entry, why: str, base: Entries) -> Change:
    action = Action.ADD if path not in base else Action.CHANGE
    kind = {FILE: Kind.FILE, FOLDER: Kind.FOLDER}.get(claim.kind, Kind.OTHER)
    return Change(path, action, kind, size=claim.size, mode=claim.mode, refused=why)


def conflicts(path: str, host: Entries, base: Entries, *, is_there: bool) -> bool:
    """Whether an entry is not on this machine what it was when the sandbox got it; ``is_there``: now, at all."""
    now = host.get(path)
    if now is None and is_there:
        # It never went to the sandbox, or has become too large for that.
        return True
    return not is_same(now, base.get(path))
