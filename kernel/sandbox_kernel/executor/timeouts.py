"""When a sandbox that nobody uses is paused, and when it is closed: a decision from times, without a clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sandbox_kernel.durations import age


class Verdict(Enum):
    """What is to be done with a sandbox."""

    KEEP = "keep"
    PAUSE = "pause"
    CLOSE = "close"


@dataclass(frozen=True)
class Timeouts:
    """Seconds; 0 means never. See settings.py."""

    idle: float
    quiet: float
    paused: float
    lifetime: float


@dataclass(frozen=True)
class Times:
    """Where a sandbox stands, in seconds of one clock."""

    created: float
    used: float
    """When a client last said or heard something, or something last computed."""
    paused: float | None
    """Since when it is paused; None if it runs."""
    linked: bool


def judge(times: Times, timeouts: Timeouts, now: float) -> tuple[Verdict, str]:
    """Return what is to be done, and why, as a clause."""
    if timeouts.lifetime and now - times.created >= timeouts.lifetime:
        return Verdict.CLOSE, f"its lifetime of {age(timeouts.lifetime)} was over"
    if times.paused is not None:
        if timeouts.paused and now - times.paused >= timeouts.paused:
            return Verdict.CLOSE, f"it had been paused for {age(timeouts.paused)}"
        return Verdict.KEEP, ""
    patience = timeouts.quiet if times.linked else timeouts.idle
    if patience and now - times.used >= patience:
        return Verdict.PAUSE, f"nobody had used it for {age(patience)}"
    return Verdict.KEEP, ""
