"""What people are told while the cluster has no room for their sandbox: a decision from what was seen, without Ray."""

from __future__ import annotations

from collections.abc import Mapping

from sandbox_kernel.durations import age
from sandbox_kernel.providers.local.limits import format_size

from .survey import RUNNING, Node, Survey
from .words import parse_id

_NAMES = {"CPU": "CPUs", "GPU": "GPUs"}


def waiting_text(seen: Survey, sandbox_id: str, wanted: Mapping[str, float], seconds: float) -> str:
    """Return why a sandbox has not started: what it asks for, what the cluster has, its place in the queue.

    "" where nothing of that keeps it from starting.
    """
    needed = {name: amount for name, amount in wanted.items() if amount}
    before = place(seen, sandbox_id)
    if any(_fits(needed, node["free"]) for node in seen["nodes"]) and not before:
        return ""
    asked = ", ".join(_amount(name, amount) for name, amount in needed.items())
    has = "; ".join(_free(name, seen) for name in needed)
    queue = "first in the queue" if not before else f"{before} before it in the queue"
    lines = f"Waiting for room in the Ray cluster for {age(seconds)}: asked for {asked}; {has}; {queue}."
    if not any(_fits(needed, node["total"]) for node in seen["nodes"]):
        lines += " No node has that much at all: it starts only if the cluster grows."
    return lines


def place(seen: Survey, sandbox_id: str) -> int:
    """Return how many sandboxes that were asked for earlier wait as well."""
    own = parse_id(sandbox_id)
    waiting = [parse_id(actor["name"]) for actor in seen["actors"] if actor["state"] != RUNNING]
    return sum(one is not None and own is not None and one[1] < own[1] for one in waiting)


def _fits(needed: Mapping[str, float], there: Mapping[str, float]) -> bool:
    return all(there.get(name, 0.0) >= amount for name, amount in needed.items())


def _free(name: str, seen: Survey) -> str:
    free, total = (_sum(name, seen["nodes"], key) for key in ("free", "total"))
    if name == "memory":
        return f"{format_size(free)} of {format_size(total)} of memory free"
    return f"{free:g} of {total:g} {_NAMES.get(name, name)} free"


def _sum(name: str, nodes: list[Node], key: str) -> float:
    return sum((node["free"] if key == "free" else node["total"]).get(name, 0.0) for node in nodes)


def _amount(name: str, amount: float) -> str:
    if name == "memory":
        return f"{format_size(amount)} of memory"
    noun = _NAMES.get(name, name)
    return f"{amount:g} {noun.removesuffix('s') if amount == 1 and name in _NAMES else noun}"
