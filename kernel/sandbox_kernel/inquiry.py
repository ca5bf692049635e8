"""Asks providers which of the recorded sandboxes that no kernel process uses still exist, and how they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .errors import SandboxKernelError, SandboxTimeoutError
from .providers.registry import create_provider

if TYPE_CHECKING:
    from traitlets.config import Config

    from .providers.base import Provider
    from .records import SessionRecord

PATIENCE = 3.0
"""Seconds that a list waits for a provider."""
PAUSED = "paused"


@dataclass(frozen=True)
class Answer:
    """What became of some records."""

    records: Sequence[SessionRecord]
    """Those of sandboxes that may exist, with what their provider said of them."""
    gone: Sequence[SessionRecord] = ()
    """Those of sandboxes that do not exist any more."""
    silent: Sequence[str] = ()
    """Sentences about providers that could not be asked."""


async def ask_all(records: Sequence[SessionRecord], config: Config) -> Answer:
    """Ask every provider that the configuration knows, at the same time; never raises for one that cannot be asked."""
    places = {(one.provider, one.place) for one in records if _is_asked_about(one)}
    answers = await asyncio.gather(*(_ask_place(name, place, records, config) for name, place in sorted(places)))
    gone = [record for answer in answers for record in answer.gone]
    known = {_key(record): record for answer in answers for record in answer.records}
    missing = {_key(record) for record in gone}
    kept = [known.get(_key(record), record) for record in records if _key(record) not in missing]
    return Answer(kept, gone, [text for answer in answers for text in answer.silent])


async def _ask_place(name: str, place: str, records: Sequence[SessionRecord], config: Config) -> Answer:
    there = [record for record in records if (record.provider, record.place) == (name, place)]
    try:
        provider = create_provider(name, config)
        # Of a provider whose sandboxes end with their kernel the records know all.
        if provider.place != place or not provider.capabilities.outlives_kernel:
            return Answer(there)
        try:
            return await ask(provider, there)
        finally:
            await provider.disconnect()
    except SandboxKernelError as exc:
        return Answer(there, silent=[f"{exc} What is said of sandboxes there is what was known last."])


async def ask(provider: Provider, records: Iterable[SessionRecord]) -> Answer:
    """Ask one provider about the records of its place. Raises SandboxKernelError where it does not answer in time."""
    records = list(records)
    if not any(map(_is_asked_about, records)):
        return Answer(records)
    try:
        found, owner = await asyncio.wait_for(asyncio.gather(provider.list(), provider.owner()), PATIENCE)
    except asyncio.TimeoutError as exc:
        where = f"The provider {provider.name}{' at ' if provider.place else ''}{provider.place}"
        raise SandboxTimeoutError(f"{where} did not answer within {PATIENCE:g} s.", provider=provider.name) from exc
    existing = {one.sandbox_id: one for one in found}
    now = time.time()
    kept, gone = [], []
    for record in records:
        if not _is_asked_about(record) or record.owner != owner:
            kept.append(record)
        elif (one := existing.get(record.sandbox_id)) is None:
            gone.append(record)
        else:
            state = PAUSED if one.state == PAUSED else record.state
            idle_since = record.idle_since if one.idle is None else now - one.idle
            kept.append(replace(record, state=state, idle_since=idle_since))
    return Answer(kept, gone)


def _is_asked_about(record: SessionRecord) -> bool:
    """Whether nobody else knows: a kernel process that lives knows its sandbox itself."""
    return record.outlives_kernel and not record.has_owner


def _key(record: SessionRecord) -> tuple[str, str]:
    return record.provider, record.sandbox_id
