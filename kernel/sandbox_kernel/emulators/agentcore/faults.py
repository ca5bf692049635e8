"""What an emulator does wrong when it is told to: faults for the next calls, and how it behaves in general."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

KINDS = {
    "throttle": "refuse with ThrottlingException (429)",
    "error": "refuse with InternalServerException (500)",
    "error-after": "do it, then answer with InternalServerException (500)",
    "quota": "refuse with ServiceQuotaExceededException (402)",
    "deny": "refuse with AccessDeniedException (403)",
    "drop-before": "close the connection before anything is done",
    "drop": "do it, then close the connection without an answer",
    "truncate": "do it, then send half of the last frame and end the answer",
    "empty": "do it, then end the answer without an event",
    "exception": "do it, then send a throttlingException in the middle of the stream",
    "expire": "end the session, as its time would",
    "slow": "do it, and let the first byte come `seconds` later",
}


@dataclass
class Fault:
    """One thing that goes wrong: with the next ``count`` calls that match, after ``skip`` others that match."""

    kind: str
    operation: str = ""
    """Of the API, such as "InvokeCodeInterpreter"; "" is any."""
    tool: str = ""
    """Of InvokeCodeInterpreter, such as "executeCode"; "" is any."""
    count: int = 1
    skip: int = 0
    seconds: float = 0.0

    def matches(self, operation: str, tool: str) -> bool:
        """Whether it is about such a call."""
        return self.operation in ("", operation) and self.tool in ("", tool)


@dataclass(frozen=True)
class Behaviour:
    """How the service behaves. The defaults are the ugly ones of the service itself."""

    latency: float = 0.0
    """Seconds that a call is under way, half of them before it is done and half behind."""
    several_events: bool = False
    """Results come as they are produced; by default in one event at the end."""
    code_children: str = "live"
    """What becomes of processes that executeCode leaves behind: "live" or "die"."""
    command_children: str = "die"
    """The same for executeCommand."""
    parallel: int = 10
    """Operations of a session at one time."""
    longest_command: int = 128 * 1024
    """Bytes of a command line from which on executeCommand never answers."""
    stops_when_left: bool = False
    """Whether code is interrupted when its caller closes the stream."""
    lacks: tuple[str, ...] = ()
    """Modules that a new session's Python does not have."""
    commands: bool = True
    """Whether executeCommand and startCommandExecution work at all."""

    def changed(self, changes: Mapping[str, Any]) -> Behaviour:
        """Return it with changes. Raises ValueError for names that there are not."""
        unknown = set(changes) - {one.name for one in fields(self)}
        if unknown:
            raise ValueError(f"there is no {', '.join(sorted(unknown))}")
        said: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()
        }
        return replace(self, **said)


@dataclass
class Faults:
    """The faults that wait for their calls."""

    waiting: list[Fault] = field(default_factory=list)

    def plan(self, content: Mapping[str, Any]) -> None:
        """Add one. Raises ValueError or TypeError for what is none."""
        fault = Fault(**content)
        if fault.kind not in KINDS:
            raise ValueError(f"there is no fault {fault.kind!r}; there are: {', '.join(KINDS)}")
        self.waiting.append(fault)

    def take(self, operation: str, tool: str) -> Fault | None:
        """Return what goes wrong with this call."""
        for fault in self.waiting:
            if not fault.matches(operation, tool):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            fault.count -= 1
            if fault.count <= 0:
                self.waiting.remove(fault)
            return fault
        return None
