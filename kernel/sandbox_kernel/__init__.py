"""A Jupyter kernel for Python whose cells run in a sandbox; for programs the same sandboxes, `Sandbox`, and agents."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Not imported, nor is the module typing: every kernel process begins by importing this file.
    from .agents import AgentClient as AgentClient
    from .agents import BlockingAgentClient as BlockingAgentClient
    from .library import BlockingSandbox as BlockingSandbox
    from .library import Sandbox as Sandbox
    from .library import blocking_map as blocking_map
    from .library import map as map  # noqa: A004 - the name that its users look for

__version__ = "0.1.0"

_AGENTS = ("AgentClient", "BlockingAgentClient")
_LIBRARY = ("BlockingSandbox", "Sandbox", "blocking_map", "map")


def __getattr__(name: str) -> object:
    if name in _LIBRARY:
        from . import library

        return getattr(library, name)
    if name in _AGENTS:
        from . import agents

        return getattr(agents, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
