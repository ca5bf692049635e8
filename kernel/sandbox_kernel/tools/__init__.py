"""Tools: functions that live outside a sandbox and are called from its cells, and those that are written in notebooks.

``ToolRegistry`` is what programs use; see docs/tools.md. What is imported here is small: the kernel process loads the
rest when a cell uses a tool.
"""

from .context import RuntimeContext, current_context, report_progress
from .registry import ToolRegistry
from .tool import Policy, Tool

__all__ = ["Policy", "RuntimeContext", "Tool", "ToolRegistry", "current_context", "report_progress"]
