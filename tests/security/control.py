"""The control of each check: the attack, run outside the sandbox by the same user in the same arena."""

from __future__ import annotations

import os
from typing import Any

import pytest

from .arena.door import Arena
from .attacks import Attack, program, verdict_of


def possible_for(arena: Arena, attack: Attack) -> None:
    """Skip what this kind of user cannot do outside either."""
    if attack.root and arena.person.user != 0:
        pytest.skip(
            "only root can do this outside the sandbox, and root's kernel is tried too where the tests run as root"
        )
    if attack.real_root and os.getuid() != 0:
        pytest.skip("outside, this needs namespaces that were made by root")


def run_outside(arena: Arena, attack: Attack, **more: Any) -> dict[str, Any]:
    """Assert that the attack works outside the sandbox, and return its verdict."""
    world = arena.ask("facts") | {"outside": True} | more
    outcome = arena.ask("run_outside", program=program(attack, world), expected_trace=attack.trace)
    verdict = verdict_of(outcome["stdout"])
    assert verdict is not None, f"the attack is broken: {outcome['stderr']}"
    if verdict["succeeded"] is not None:
        assert verdict["succeeded"], f"the control fails, so the check could not: {verdict['detail']}"
        assert not attack.trace or attack.trace in outcome["traces"], f"seen from outside: {outcome['traces']}"
    return verdict
