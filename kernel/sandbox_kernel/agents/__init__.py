"""Agents that are deployed in sandboxes of PPIO, E2B or Novita, for programs: `AgentClient`, `BlockingAgentClient`."""

from __future__ import annotations

from .blocking import BlockingAgentClient
from .client import AgentClient
from .session import AgentSession, Health

__all__ = ["AgentClient", "AgentSession", "BlockingAgentClient", "Health"]
