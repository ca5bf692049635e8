"""How long something took or is old, for people."""

from __future__ import annotations


def age(seconds: float) -> str:
    """Return a duration in its two largest units: "2 min 5 s"."""
    rest = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
