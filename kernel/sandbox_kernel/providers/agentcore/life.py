"""How long a session of the service still lives, and what it has cost: it has a lifetime that nothing extends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sandbox_kernel.durations import age
from sandbox_kernel.providers.costs import Rate

WARN_BELOW = 0.1
"""Share of the lifetime that is left when people are warned."""


@dataclass
class Life:
    """Times in seconds, the service's clock since the epoch."""

    created: float
    lifetime: float
    now: Callable[[], float]
    hourly_rate: float = 0.0
    rates_of: str = ""
    warned: bool = False

    @property
    def remaining(self) -> float:
        """Seconds that are left."""
        return max(0.0, self.created + self.lifetime - self.now())

    @property
    def warn_in(self) -> float:
        """Seconds until people are to be warned; 0 from then on."""
        return max(0.0, self.remaining - WARN_BELOW * self.lifetime)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return self.remaining <= 0

    @property
    def cost(self) -> str:
        """What it has cost so far, for people: the time that it has lived, at the rate; "" without one."""
        lived = min(self.lifetime, max(0.0, self.now() - self.created))
        return Rate(self.hourly_rate, self.rates_of, at_most=True).describe(lived)

    def warning(self) -> str:
        """Return the warning when it is due, once; else ""."""
        if self.warned or self.warn_in > 0 or self.is_over:
            return ""
        self.warned = True
        return (
            f"This sandbox ends in {age(self.remaining)}, and AgentCore cannot extend that: "
            "`%sandbox snapshot` saves variables and files, `%sandbox restore` brings them to a new one.\n"
        )

    def describe(self) -> dict[str, str]:
        """Return rows for people."""
        left = f"{age(self.remaining)} of {age(self.lifetime)}; it cannot be extended"
        rows = {"lifetime left": left, "cost so far": self.cost}
        return {name: value for name, value in rows.items() if value}
