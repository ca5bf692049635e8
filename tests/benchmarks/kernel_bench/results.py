"""Results: a row is what was measured for each contender, and the bound it is held against."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from kernel_bench.plan import UNANSWERED, Samples

Statistic = Callable[[Sequence[float]], float]
RESAMPLES = 400
RESAMPLED_AT_LEAST = 3


class Quantity(Enum):
    """What a bound speaks of: the subject beside the reference, or the subject alone."""

    RATIO = "ratio"
    EXCESS = "excess"
    VALUE = "value"

    def of(self, subject: float, reference: float) -> float:
        """Return the quantity of two figures."""
        match self:
            case Quantity.RATIO:
                return subject / reference
            case Quantity.EXCESS:
                return subject - reference
            case Quantity.VALUE:
                return subject


@dataclass(frozen=True)
class Bound:
    """A limit on one quantity; `floor` says that the quantity must not be below it."""

    quantity: Quantity
    limit: float
    floor: bool = False

    def holds(self, figure: float) -> bool:
        """Return whether the figure keeps to the limit."""
        return figure >= self.limit if self.floor else figure <= self.limit

    def text(self, unit: str) -> str:
        """Render the bound for the table."""
        sign = "≥" if self.floor else "≤"
        match self.quantity:
            case Quantity.RATIO:
                return f"{sign} {self.limit:g} x"
            case Quantity.EXCESS:
                return f"{sign} +{self.limit:g} {unit}"
            case Quantity.VALUE:
                return f"{sign} {self.limit:g} {unit}"


def ratio_at_most(limit: float) -> Bound:
    """Bound the ratio from above."""
    return Bound(Quantity.RATIO, limit)


def ratio_at_least(limit: float) -> Bound:
    """Bound the ratio from below."""
    return Bound(Quantity.RATIO, limit, floor=True)


def excess_at_most(limit: float) -> Bound:
    """Bound what the subject takes more than the reference."""
    return Bound(Quantity.EXCESS, limit)


def at_most(limit: float) -> Bound:
    """Bound the subject's own figure."""
    return Bound(Quantity.VALUE, limit)


def at_least(limit: float) -> Bound:
    """Bound the subject's own figure from below."""
    return Bound(Quantity.VALUE, limit, floor=True)


def percentile(share: float) -> Statistic:
    """A statistic: the value below which `share` of the samples lie (0 to 1, interpolated)."""

    def of(samples: Sequence[float]) -> float:
        ordered = sorted(samples)
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

    return of


@dataclass(frozen=True)
class Row:
    """One line of the table; the first contender is the subject, the last the reference."""

    name: str
    unit: str
    samples: Samples
    bound: Bound | None = None
    statistic: Statistic = statistics.median

    def figures(self) -> list[float]:
        """One figure per contender; UNANSWERED where it could not do the thing."""
        return [self._figure(one) for one in self.samples]

    def _figure(self, samples: Sequence[float]) -> float:
        figure = self.statistic(samples) if samples else UNANSWERED
        # Interpolating between two unanswered ones gives no number.
        return UNANSWERED if math.isnan(figure) else figure

    def quantity(self, quantity: Quantity) -> float | None:
        """The quantity of the medians (or what the statistic is); None if the reference has no figure."""
        return _combine(quantity, self.figures())

    def interval(self, quantity: Quantity) -> tuple[float, float] | None:
        """The range in which the quantity lies with 95 % confidence, by resampling (None for too few samples)."""
        needed = self.samples[:1] if quantity is Quantity.VALUE else (self.samples[0], self.samples[-1])
        if min(map(len, needed)) < RESAMPLED_AT_LEAST or self.quantity(quantity) is None:
            return None
        source = random.Random(0)  # seeded: the same table from the same samples
        draws = (_combine(quantity, self._resampled(source)) for _ in range(RESAMPLES))
        ordered = sorted(draw for draw in draws if draw is not None)
        return percentile(0.025)(ordered), percentile(0.975)(ordered)

    def _resampled(self, source: random.Random) -> list[float]:
        return [self._figure(source.choices(one, k=len(one)) if one else ()) for one in self.samples]

    def verdict(self) -> str:
        """yes, no, or `unsure` with what the figure says where the noise reaches over the bound; '' without bound."""
        if self.bound is None:
            return ""
        figure = self.quantity(self.bound.quantity)
        if figure is None:
            return "?"
        answer = "yes" if self.bound.holds(figure) else "no"
        interval = self.interval(self.bound.quantity)
        sure = interval is None or len({self.bound.holds(end) for end in interval}) == 1
        return answer if sure else f"unsure ({answer})"


def _combine(quantity: Quantity, figures: Sequence[float]) -> float | None:
    if quantity is Quantity.VALUE:
        return figures[0]
    # With a single contender, or one that cannot do the thing, there is nothing to compare with.
    return quantity.of(figures[0], figures[-1]) if len(figures) > 1 and math.isfinite(figures[-1]) else None
