"""One function over many inputs in many sandboxes: `map`, `blocking_map`; see docs/fan-out.md."""

from .mapping import FanOut, blocking_map, map  # noqa: A004 - the name that its users look for
from .outcomes import Failure, Outcome, Results

__all__ = ["Failure", "FanOut", "Outcome", "Results", "blocking_map", "map"]
