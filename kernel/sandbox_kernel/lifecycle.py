"""A session's states and the moves between them, as one table (architecture.md, section 5)."""

from __future__ import annotations

from enum import Enum

from .errors import StateError


class State(str, Enum):
    """Where a session stands."""

    INACTIVE = "inactive"
    STARTING = "starting"
    ACTIVE = "active"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"
    STOPPING = "stopping"
    ERROR = "error"
    CLOSED = "closed"


_NEXT: dict[State, frozenset[State]] = {
    State.INACTIVE: frozenset({State.STARTING, State.STOPPING, State.CLOSED}),
    State.STARTING: frozenset({State.ACTIVE, State.ERROR, State.STOPPING, State.CLOSED}),
    State.ACTIVE: frozenset({State.PAUSING, State.STOPPING, State.ERROR, State.CLOSED}),
    State.PAUSING: frozenset({State.PAUSED, State.ACTIVE, State.STOPPING, State.ERROR, State.CLOSED}),
    State.PAUSED: frozenset({State.RESUMING, State.STOPPING, State.ERROR, State.CLOSED}),
    State.RESUMING: frozenset({State.ACTIVE, State.PAUSED, State.STOPPING, State.ERROR, State.CLOSED}),
    State.STOPPING: frozenset({State.INACTIVE, State.ERROR, State.CLOSED}),
    State.ERROR: frozenset({State.STARTING, State.STOPPING, State.CLOSED}),
    State.CLOSED: frozenset(),
}


def move(old: State, new: State) -> State:
    """Return ``new``. Raises StateError, which names both states, where the table has no such move."""
    if new not in _NEXT[old]:
        raise StateError(f"a session that is {old.value} cannot become {new.value}")
    return new
