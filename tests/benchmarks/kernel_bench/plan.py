"""How measurements are laid out: how many, and in which order the contenders take turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

Samples = tuple[tuple[float, ...], ...]
"""The figures of one measurement, one tuple for each contender."""

UNANSWERED = math.inf
"""The figure of what a contender did not do, or not in any time worth waiting for."""


@dataclass(frozen=True)
class Effort:
    """Full or quick: a measurement names both its counts."""

    quick: bool

    def count(self, full: int, quick: int) -> int:
        """Return the count that applies."""
        return quick if self.quick else full


def turns(rounds: int, contenders: Sequence[T]) -> Iterator[tuple[int, T]]:
    """A B, B A, A B, ...: what drifts on the machine falls on both alike."""
    for number in range(rounds):
        pairs = list(enumerate(contenders))
        yield from reversed(pairs) if number % 2 else pairs


def interleaved(rounds: int, contenders: Sequence[T], measure: Callable[[T], float]) -> Samples:
    """One figure per turn."""
    return interleaved_blocks(rounds, contenders, lambda contender: (measure(contender),))


def interleaved_blocks(rounds: int, contenders: Sequence[T], measure: Callable[[T], Iterable[float]]) -> Samples:
    """Several figures per turn, for what is too short to change sides each time.

    A contender that could not do it the first time is not asked again: each time costs seconds.
    """
    samples: list[list[float]] = [[] for _ in contenders]
    for place, contender in turns(rounds, contenders):
        if samples[place][:1] != [UNANSWERED]:
            samples[place].extend(measure(contender))
    return tuple(map(tuple, samples))


def joined(parts: Iterable[Samples]) -> Samples:
    """The samples of several sessions, per contender."""
    return tuple(tuple(figure for one in per for figure in one) for per in zip(*parts, strict=True))
