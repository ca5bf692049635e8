"""Which sandbox that is left from an earlier kernel process belongs to this one, and which belong to nobody."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import SessionError
from .records import DETACHED, DISCARDED, RESTARTED, SessionRecord

if TYPE_CHECKING:
    from .providers.base import Provider


@dataclass(frozen=True)
class Identity:
    """What tells one notebook's kernel from others."""

    provider: str
    place: str
    connection_file: str
    notebook: str


@dataclass(frozen=True)
class Leftover:
    """A sandbox to go on with."""

    sandbox_id: str
    fresh: bool
    """Its variables are to go: its kernel was restarted. Else it crashed, and they stay."""


def find_leftover(records: Iterable[SessionRecord], identity: Identity) -> Leftover | None:
    """Return the sandbox that this notebook's last kernel process left when it was restarted, or crashed.

    A restart by a server keeps the connection file; else the notebook's path must be the same. The folder alone says
    too little: two notebooks in it would get each other's variables.
    """
    orphans = [record for record in _of(records, identity) if record.is_orphan and record.ending != DISCARDED]
    found = [record for record in orphans if _is_same(record.connection_file, identity.connection_file)]
    found = found or [record for record in orphans if _is_same(record.notebook, identity.notebook)]
    if not found:
        return None
    latest = max(found, key=lambda record: record.last_seen)
    return Leftover(latest.sandbox_id, latest.ending == RESTARTED)


def find_detached(records: Iterable[SessionRecord], identity: Identity) -> list[SessionRecord]:
    """Return this notebook's sandboxes that somebody detached on purpose, the one that was used last at the end."""
    found = [
        record
        for record in _of(records, identity)
        if record.ending == DETACHED and not record.has_owner and _is_same(record.notebook, identity.notebook)
    ]
    return sorted(found, key=lambda record: record.last_seen)


def find_orphans(records: Iterable[SessionRecord], grace: float) -> Sequence[SessionRecord]:
    """Return the sandboxes that nobody has used, or come back to, for ``grace`` seconds, and that nobody detached.

    Nobody comes back to one that was to be stopped.
    """
    before = time.time() - grace
    orphans = [record for record in records if record.is_orphan]
    return [record for record in orphans if record.ending == DISCARDED or record.last_seen < before]


async def check_owner(record: SessionRecord, provider: Provider) -> None:
    """Raise SessionError where the provider does not find a sandbox because it is another's there: it may run on.

    Raises SandboxKernelError where the provider cannot say whose sandboxes it finds.
    """
    owner = await provider.owner()
    if owner != record.owner:
        raise SessionError(
            f"The sandbox {record.sandbox_id} is {record.owner or 'somebody'}'s at {record.place or record.provider}, "
            f"and you are {owner or 'somebody else'} there; its owner's key finds it.",
            provider=record.provider,
            sandbox_id=record.sandbox_id,
        )


def _of(records: Iterable[SessionRecord], identity: Identity) -> list[SessionRecord]:
    return [one for one in records if (one.provider, one.place) == (identity.provider, identity.place)]


def _is_same(one: str, other: str) -> bool:
    return bool(one) and one == other
