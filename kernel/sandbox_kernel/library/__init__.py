"""Sandboxes for programs: `Sandbox` where there is an event loop, `BlockingSandbox` everywhere else.

It stands beside the kernel, on the same sessions and providers; see docs/library.md.
"""

from .blocking import BlockingSandbox
from .outputs import Clear, Display, Error, ExecuteResult, InputRequest, Notice, Other, Output, Result, Status, Stream
from .sandbox import Sandbox

__all__ = [
    "BlockingSandbox",
    "Clear",
    "Display",
    "Error",
    "ExecuteResult",
    "InputRequest",
    "Notice",
    "Other",
    "Output",
    "Result",
    "Sandbox",
    "Status",
    "Stream",
]
