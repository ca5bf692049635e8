"""Stops the sandboxes that no kernel process owns any more, so that nothing runs and costs without anybody knowing."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from .errors import NotFoundError, SandboxKernelError, SandboxLostError
from .ownership import check_owner, find_orphans
from .providers.registry import create_provider
from .records import check_place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from traitlets.config import Config

    from .events import EventLog
    from .providers.base import Provider
    from .recording import Recorder
    from .records import SessionRecord


async def reap(
    recorder: Recorder, own: Provider | None, config: Config, grace: float, log: EventLog
) -> Sequence[tuple[SessionRecord, SandboxKernelError | None]]:
    """Stop every sandbox whose kernel process has been gone for ``grace`` seconds, and which nobody detached.

    ``own`` is a provider that exists already. Returns the orphans, each with what kept it from being stopped.
    """
    try:
        records = await recorder.records()
    except SandboxKernelError as exc:
        log.write("reaping_failed", level="warning", error=str(exc))
        return []
    for record in records:
        if record.is_stale:
            await recorder.forget(record.provider, record.sandbox_id)
    outcomes = []
    for record in find_orphans(records, grace):
        if not await recorder.take_orphan(record):
            continue
        failure = await _stop(record, own, config)
        if failure is None:
            await recorder.forget(record.provider, record.sandbox_id)
        else:
            await recorder.give_back(record)
        fields = {"provider": record.provider, "sandbox_id": record.sandbox_id}
        log.write("reaped" if failure is None else "reaping_failed", error=str(failure or ""), **fields)
        outcomes.append((record, failure))
    return outcomes


async def _stop(record: SessionRecord, own: Provider | None, config: Config) -> SandboxKernelError | None:
    try:
        await stop_sandbox(record, own, config)
    except SandboxKernelError as exc:
        return exc
    return None


async def stop_sandbox(record: SessionRecord, own: Provider | None, config: Config) -> None:
    """Give back a recorded sandbox that no kernel process uses. Raises SandboxKernelError; not for one that is gone."""
    if own is not None and own.name == record.provider:
        await _stop_at(own, record)
        return
    provider = create_provider(record.provider, config)
    try:
        await _stop_at(provider, record)
    finally:
        await provider.disconnect()


async def _stop_at(provider: Provider, record: SessionRecord) -> None:
    check_place(record, provider.place)
    # One that has ended meanwhile needs nothing more.
    with suppress(SandboxLostError):
        try:
            sandbox = await provider.connect(record.sandbox_id)
        except NotFoundError:
            await check_owner(record, provider)
        else:
            await sandbox.close()
