"""Attacks from inside a cell: each works outside the sandbox, so the check can fail, and none works inside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .arena.door import Arena
from .attacks import ATTACKS, Attack, program, verdict_of
from .control import possible_for, run_outside

CELL_TIMEOUT = 60.0
LIMITS = "limits"
TRIED_HERE = [one for one in ATTACKS.values() if not one.harmless and not one.module.endswith(f".{LIMITS}")]


@pytest.fixture(scope="module")
def kernel(arena: Arena) -> Iterator[str]:
    arena.ask("start_kernel", name="shared", options=[])
    yield "shared"
    arena.ask("stop_kernel", kernel="shared")


@pytest.mark.parametrize("attack", TRIED_HERE, ids=lambda attack: attack.name)
def test_no_cell(arena: Arena, kernel: str, attack: Attack) -> None:
    possible_for(arena, attack)
    control = run_outside(arena, attack)

    code = program(attack, arena.ask("facts"))
    outcome = arena.ask("run_cell_and_observe", kernel=kernel, code=code, timeout=CELL_TIMEOUT)
    verdict = verdict_of(outcome["printed"])

    assert verdict is not None, f"the attack came to no verdict: {outcome}"
    print("refused:", verdict["detail"])
    assert not verdict["succeeded"], verdict["detail"]
    assert outcome["traces"] == [], "something changed outside"
    assert arena.secret not in str(outcome)
    if control["succeeded"] is None:
        pytest.skip(f"it failed in the cell, without a control: {control['detail']}")


def test_a_harmless_program_succeeds_in_a_cell(arena: Arena, kernel: str) -> None:
    """So a failure of the others is the sandbox's doing, not the test's."""
    attack = ATTACKS["uses_what_a_cell_may_use"]
    verdict = run_outside(arena, attack)
    assert verdict["succeeded"]

    outcome = arena.ask("run_cell", kernel=kernel, code=program(attack, arena.ask("facts")), timeout=CELL_TIMEOUT)

    assert verdict_of(outcome["printed"]) == {
        "succeeded": True,
        "detail": "files, processes, threads and loopback work",
    }
