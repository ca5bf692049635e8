"""Which requests are under way in the inner kernel, for who has to know whether outputs may still come."""

from __future__ import annotations

import re

_ID = re.compile(rb'"msg_id": ?"([^"]{1,200})"')
_REQUEST = re.compile(rb'"msg_type": ?"\w+_request"')
MAX_KEPT = 10_000
"""Requests that are remembered; of those beyond it is not waited for the oldest."""


class Work:
    """A request is done by its reply and its idle status, a message without a reply by that status."""

    def __init__(self) -> None:
        self._missing: dict[bytes, set[str]] = {}
        self._shown = False

    @property
    def silent(self) -> bool:
        """Whether something is not done, and nobody has anything to see of it yet."""
        return bool(self._missing) and not self._shown

    @property
    def under_way(self) -> bool:
        """Whether something is not done."""
        return bool(self._missing)

    def began(self, header: bytes) -> None:
        """A message goes to the kernel."""
        found = _ID.search(header)
        if found is not None:
            self._shown = self._shown and bool(self._missing)
            self._missing[found[1]] = {"reply", "idle"} if _REQUEST.search(header) else {"idle"}
            if len(self._missing) > MAX_KEPT:
                del self._missing[next(iter(self._missing))]

    def replied(self, parent: bytes) -> None:
        """A reply comes."""
        self._done(parent, "reply")

    def idle(self, parent: bytes) -> None:
        """An idle status comes."""
        self._done(parent, "idle")

    def shown(self) -> None:
        """Something comes that people see, or a program waits for."""
        self._shown = True

    def clear(self) -> None:
        """The kernel's life has ended."""
        self._missing.clear()
        self._shown = False

    def _done(self, parent: bytes, part: str) -> None:
        found = _ID.search(parent)
        missing = self._missing.get(found[1]) if found is not None else None
        if found is not None and missing is not None:
            missing.discard(part)
            if not missing:
                del self._missing[found[1]]
            self._shown = self._shown and bool(self._missing)
