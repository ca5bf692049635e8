"""What each owner may use: sandboxes at one time, and bytes of files uploaded in a day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sandbox_kernel.errors import ConfigurationError, QuotaError
from sandbox_kernel.providers.local.limits import format_size, parse_size

PERIOD = 86400.0
"""Seconds in which uploads are counted together."""


@dataclass(frozen=True)
class Quota:
    """One owner's. 0 means no limit."""

    max_sandboxes: int
    upload_size: int
    """Bytes."""


@dataclass
class _Uploads:
    since: float
    size: int = 0


class Quotas:
    """Counts what owners use; the clock, in seconds, is given for tests."""

    def __init__(self, usual: Quota, by_owner: Mapping[str, Mapping[str, Any]], clock: Callable[[], float]) -> None:
        """Raises ConfigurationError for a quota that there is not."""
        self._usual, self._clock = usual, clock
        self._own = {owner: _changed(usual, owner, values) for owner, values in by_owner.items()}
        self._uploads: dict[str, _Uploads] = defaultdict(lambda: _Uploads(clock()))

    def of(self, owner: str) -> Quota:
        """Return the owner's quota."""
        return self._own.get(owner, self._usual)

    def check_sandboxes(self, owner: str, existing: int) -> None:
        """Raise QuotaError where the owner may have no further sandbox."""
        most = self.of(owner).max_sandboxes
        if most and existing >= most:
            raise QuotaError(
                f"You have {existing} sandboxes on this executor, and no more are allowed; "
                "`jupyter sandbox list` shows them, `jupyter sandbox stop ID` ends one."
            )

    def upload_left(self, owner: str) -> int | None:
        """Return how many bytes the owner may upload now; None for any number."""
        most = self.of(owner).upload_size
        return max(0, most - self._current(owner).size) if most else None

    def count_upload(self, owner: str, size: int) -> None:
        """Take note of bytes that were uploaded, or, negative, that are not kept. Raises QuotaError for too many."""
        uploads = self._current(owner)
        most = self.of(owner).upload_size
        if size > 0 and most and uploads.size + size > most:
            raise QuotaError(
                f"The executor takes {format_size(most)} of files from you in 24 hours, and this is more; "
                f"{format_size(max(0, most - uploads.size))} are left."
            )
        uploads.size = max(0, uploads.size + size)

    def _current(self, owner: str) -> _Uploads:
        uploads = self._uploads[owner]
        if self._clock() - uploads.since >= PERIOD:
            uploads = self._uploads[owner] = _Uploads(self._clock())
        return uploads


def _changed(usual: Quota, owner: str, values: Mapping[str, Any]) -> Quota:
    unknown = set(values) - set(Quota.__dataclass_fields__)
    if unknown:
        known = ", ".join(Quota.__dataclass_fields__)
        raise ConfigurationError(f"Executor.owners[{owner!r}]: there is no quota {min(unknown)}; there are: {known}.")
    try:
        sizes = {name: parse_size(str(value)) for name, value in values.items()}
    except ValueError as exc:
        raise ConfigurationError(f"Executor.owners[{owner!r}]: {exc}.") from exc
    return replace(usual, **sizes)
