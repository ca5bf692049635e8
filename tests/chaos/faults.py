"""Which fault strikes when: a plan that a seed decides, the same each time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

NETWORK = ("delay", "drop", "cut", "half-open", "stall", "reorder")
"""What the proxy does to a connection. TCP does not deliver bytes twice, so no proxy can duplicate them.

    delay       bytes of one direction come late
    drop        the connection is reset
    cut         a part of what is under way arrives, in the middle of a frame; then the connection is reset
    half-open   one direction carries nothing any more, and nobody is told
    stall       both directions carry nothing for a while, then go on
    reorder     the client is reset, and what it had sent arrives after its next connection's first bytes
"""
KILLS = ("kill-python", "kill-kernel", "kill-bridge", "kill-executor")
"""What the runner kills: the ipykernel, the kernel process, the bridge (and so the sandbox), the executor."""


@dataclass(frozen=True)
class Fault:
    """One fault, and the moment of it."""

    kind: str
    upstream: bool
    """Whether it strikes what goes to the executor, or what comes from it."""
    after: int
    """Bytes of that direction that pass before."""
    seconds: float
    fraction: float
    """Share of the bytes under way that a cut lets pass."""


@dataclass(frozen=True)
class Plan:
    """Faults by the number of the cell at whose beginning they are set up."""

    faults: dict[int, Fault]
    lengths: Sequence[int]
    """How many lines each cell prints."""

    @property
    def counts(self) -> Counter[str]:
        """How often each kind is planned."""
        return Counter(fault.kind for fault in self.faults.values())


def make_plan(cells: int, seed: int, kinds: Sequence[str], each: int) -> Plan:
    """Return a plan with EACH faults of every kind, at random among so many cells, one at a time."""
    chance = random.Random(seed)
    deck = [kind for kind in kinds for _ in range(each)]
    if 2 * len(deck) > cells:
        raise ValueError(f"{cells} cells have no room for {len(deck)} faults")
    chance.shuffle(deck)
    # The first cell finds a whole world, and so does the last.
    places = sorted(chance.sample(range(1, cells - 1), len(deck)))
    faults = {place: _fault(kind, chance) for place, kind in zip(places, deck, strict=True)}
    return Plan(faults, [chance.choice((1, 1, 2, 5, 40)) for _ in range(cells)])


def _fault(kind: str, chance: random.Random) -> Fault:
    longest = 2.5 if kind == "stall" else 0.3
    return Fault(kind, chance.random() < 0.5, chance.randrange(1500), chance.uniform(0.01, longest), chance.random())
