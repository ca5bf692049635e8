"""Finds out that a kernel answers, and what it is: at its start, after it was renewed, and when one is attached."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sandbox_kernel.patience import in_time

from .own import Answer, OwnRequest, OwnRequests
from .sent import Lane

ASK_AGAIN = 0.5
"""Seconds after which a kernel that has not answered is asked again."""
SHELL_QUESTIONS = 5
"""How often it is asked in its queue, where a busy one answers later."""
HEARD_IN = 2.0
"""Seconds after its answer in which an output must have been heard; some kernels send none for such questions."""
_VERSION = re.compile(r"\d{1,3}\.\d{1,3}[\w.+]{0,20}", re.ASCII)


@dataclass(frozen=True)
class KernelInfo:
    """What a kernel says of itself."""

    version: str
    """Of its language."""
    ipython: str
    """Of IPython; "" where it is another kernel."""
    session: str
    """Is another one after each start of an ipykernel."""
    count: int = 0
    """The number of the last cell that it has run, where it was there before and is not busy."""
    busy: bool = False
    """It was there before, and does something for somebody else."""

    @property
    def is_ipython(self) -> bool:
        """Whether it is an ipykernel."""
        return bool(self.ipython)


class Greeting:
    """Asks until there is an answer."""

    def __init__(self, own: OwnRequests) -> None:
        self._own = own

    async def run(self, *, counts: bool) -> KernelInfo:
        """Return what the kernel says; with ``counts`` also how far it has counted."""
        in_queue: list[OwnRequest] = []
        beside: list[OwnRequest] = []
        try:
            answer = await self._ask(in_queue, beside)
            for _ in range(int(HEARD_IN / ASK_AGAIN)):
                if await happens_within(self._own.heard, ASK_AGAIN):
                    break
                beside.append(self._own.ask(Lane("control"), "kernel_info_request"))
            info = _read(answer)
            if not counts:
                return info
            return await self._with_count(info, in_queue)
        finally:
            self._own.done(*in_queue, *beside)

    async def _ask(self, in_queue: list[OwnRequest], beside: list[OwnRequest]) -> Answer:
        # A kernel that is busy answers on the control channel, if at all; an old one on the other alone.
        while True:
            if len(in_queue) < SHELL_QUESTIONS:
                in_queue.append(self._own.ask(Lane("shell"), "kernel_info_request"))
            beside.append(self._own.ask(Lane("control"), "kernel_info_request"))
            answer = await _first([*in_queue, *beside], ASK_AGAIN)
            if answer is not None:
                return answer

    async def _with_count(self, info: KernelInfo, in_queue: Sequence[OwnRequest]) -> KernelInfo:
        """Have a kernel that is not busy run nothing, whose reply tells the number."""
        if await _first(in_queue, ASK_AGAIN) is None:
            return KernelInfo(info.version, info.ipython, info.session, busy=True)
        content = {"code": "", "silent": True, "store_history": False, "user_expressions": {}, "allow_stdin": False}
        question = self._own.ask(Lane("shell"), "execute_request", content)
        answer = await _first([question], HEARD_IN)
        self._own.done(question)
        count = answer.content.get("execution_count") if answer is not None else 0
        number = count if isinstance(count, int) and 0 < count < 1 << 31 else 0
        return KernelInfo(info.version, info.ipython, info.session, number)


async def happens_within(event: asyncio.Event, seconds: float) -> bool:
    """Whether it happens in time."""
    try:
        await in_time(event.wait(), seconds)
    except asyncio.TimeoutError:
        return False
    return True


async def _first(asked: Sequence[OwnRequest], seconds: float) -> Answer | None:
    """Return the first answer that comes in time."""
    done, _ = await asyncio.wait([one.replied for one in asked], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    return next(iter(done)).result() if done else None


def _read(answer: Answer) -> KernelInfo:
    header, content = answer
    about = content.get("language_info")
    said: dict[str, Any] = about if isinstance(about, dict) else {}
    ipython = _version(content.get("implementation_version")) if content.get("implementation") == "ipython" else ""
    return KernelInfo(_version(said.get("version")), ipython, str(header.get("session", "")))


def _version(text: object) -> str:
    """Return the number in what should be a version; "0.0" where there is none."""
    found = _VERSION.search(str(text))
    return found[0] if found else "0.0"
