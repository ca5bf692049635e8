"""The session's state table."""

from __future__ import annotations

from itertools import pairwise

import pytest

from sandbox_kernel.errors import StateError
from sandbox_kernel.lifecycle import _NEXT, State, move


def test_the_usual_life_is_possible() -> None:
    states = [State.INACTIVE, State.STARTING, State.ACTIVE, State.PAUSING, State.PAUSED, State.RESUMING, State.ACTIVE]
    states += [State.STOPPING, State.INACTIVE, State.CLOSED]
    for old, new in pairwise(states):
        assert move(old, new) is new


@pytest.mark.parametrize("old", State)
@pytest.mark.parametrize("new", State)
def test_an_impossible_move_names_both_states(old: State, new: State) -> None:
    if new in _NEXT[old]:
        assert move(old, new) is new
        return
    with pytest.raises(StateError, match=f"{old.value}.*{new.value}"):
        move(old, new)


def test_nothing_leaves_closed_and_everything_reaches_it() -> None:
    for state in State:
        with pytest.raises(StateError):
            move(State.CLOSED, state)
        if state is not State.CLOSED:
            assert move(state, State.CLOSED) is State.CLOSED


def test_a_lost_or_failed_sandbox_can_be_started_again() -> None:
    for state in (State.STARTING, State.ACTIVE, State.PAUSED, State.PAUSING, State.RESUMING):
        assert move(state, State.ERROR) is State.ERROR
    assert move(State.ERROR, State.STARTING) is State.STARTING
