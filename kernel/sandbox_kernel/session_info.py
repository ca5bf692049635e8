"""What a session tells: a snapshot for people, and what happens to whoever listens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from .errors import SandboxKernelError
from .lifecycle import State
from .link.protocol import Buffer


@dataclass(frozen=True)
class SessionInfo:
    """What `%sandbox status` shows. Times in seconds since the epoch."""

    state: State
    provider: str
    mode: str = "bridge"
    isolation: str = ""
    sandbox_id: str = ""
    created: float | None = None
    correlation_id: str = ""
    python: str = ""
    guard: str = ""
    notebook: str = ""
    error: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


class SessionListener(Protocol):
    """Who is told what happens to the sandbox. Called on the event loop's thread."""

    def on_message(self, parts: list[Buffer]) -> None:
        """A message of the inner kernel's (see link/envelope.py)."""

    def on_excess(self, parts: list[Buffer], size: int) -> None:
        """The first parts of a message of ``size`` bytes, which was dropped since it is too large."""

    def on_ready(self) -> None:
        """An inner kernel takes requests: a fresh one, or the one of a sandbox that was `attached`."""

    def on_past(self, parts: list[Buffer]) -> None:
        """A message that was sent before, asked for by `replay`."""

    def on_skipped(self, messages: int) -> None:
        """So many outputs that should stand here were dropped in the sandbox."""

    def on_ended(self, error: SandboxKernelError) -> None:
        """What was sent to the sandbox gets no answer any more, for the reason given; its variables are gone."""
