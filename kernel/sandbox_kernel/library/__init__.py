"""Sandboxes for programs: `Sandbox` where there is an event loop, `BlockingSandbox` everywhere else.

It stands beside the kernel, on the same sessions and providers; see docs/library.md.
"""

from .blocking import BlockingSandbox
from .fan_out import Failure, FanOut, Outcome, Results, blocking_map, map  # noqa: A004 - its users' word
from .outputs import Clear, Display, Error, ExecuteResult, InputRequest, Notice, Other, Output, Result, Status, Stream
from .sandbox import Sandbox

__all__ = [
    "BlockingSandbox",
    "Clear",
    "Display",
    "Error",
    "ExecuteResult",
    "Failure",
    "FanOut",
    "InputRequest",
    "Notice",
    "Other",
    "Outcome",
    "Output",
    "Result",
    "Results",
    "Sandbox",
    "Status",
    "Stream",
    "blocking_map",
    "map",
]
