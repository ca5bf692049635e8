"""Notices that somebody else has restarted a kernel: an ipykernel tells itself by another session after each start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .greeting import KernelInfo
from .own import OwnRequests
from .sent import Lane

ASK_AGAIN = 0.5
"""Seconds after which a kernel that has not answered is asked again; one that ends answers late, or not at all."""
QUESTIONS = 40
BESIDE = Lane("control")


class Renewal:
    """Looks for the restart of one kernel, where something hints at it."""

    def __init__(
        self, own: OwnRequests, known: Callable[[], KernelInfo | None], on_other: Callable[[str], None]
    ) -> None:
        """``on_other`` takes the session of the kernel that is there now."""
        self._own, self._known, self._on_other = own, known, on_other
        self._looking: asyncio.Task[None] | None = None

    def is_other(self, header: bytes) -> bool:
        """Whether a message was not made by the kernel that is known; a gateway makes some, too."""
        known = self._known()
        return known is not None and known.is_ipython and known.session.encode() not in header

    def look(self) -> None:
        """Ask the kernel who it is, until another one says so."""
        known = self._known()
        if known is not None and known.is_ipython and (self._looking is None or self._looking.done()):
            self._looking = asyncio.ensure_future(self._look(known.session))

    def stop(self) -> None:
        """Look no more."""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()

    async def _look(self, known: str) -> None:
        for _ in range(QUESTIONS):
            question = self._own.ask(BESIDE, "kernel_info_request")
            try:
                done, _ = await asyncio.wait([question.replied], timeout=ASK_AGAIN)
                answer = question.replied.result() if done and not question.replied.cancelled() else None
            finally:
                self._own.done(question)
            session = answer.header.get("session") if answer is not None else known
            now = self._known()
            if now is None or now.session != known:
                return
            if isinstance(session, str) and session != known:
                self._on_other(session)
                return
            if answer is not None:
                await asyncio.sleep(ASK_AGAIN)
