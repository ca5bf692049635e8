"""What a sandbox has cost, as far as the configuration knows a rate."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """A price as the configuration has it."""

    hourly: float = 0.0
    """US dollars."""
    dated: str = ""
    """When somebody looked it up: "2026-11-01"."""
    at_most: bool = False
    """It is what is paid where a sandbox uses all that it may; the bill is lower."""

    def describe(self, seconds: float) -> str:
        """Return what so many seconds cost, for people; "" where no rate is known."""
        if not self.hourly:
            return ""
        most = " at most" if self.at_most else ""
        of = f", rates of {self.dated}" if self.dated else ""
        return f"${seconds / 3600 * self.hourly:.4f} (${self.hourly:g} an hour{most}{of})"
