"""Attacks that take more than a sandbox is given: each works outside, none inside, and the next cell works again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .arena.door import Arena
from .attacks import ATTACKS, Attack, program, verdict_of
from .control import possible_for, run_outside

CELL_TIMEOUT = 60.0
OVERSHOOT = 1.0
"""Seconds for which a cell may go on taking once it has passed a limit that only a watchdog holds."""
MEGABYTE = 1 << 20
LIMITS = {
    "memory_limit": 320 * MEGABYTE,
    "process_limit": 60,
    "open_files_limit": 256,
    "file_size_limit": 64 * MEGABYTE,
    "work_folder_limit": 40 * MEGABYTE,
}
"""Low, so that an attack which passes them is cheap."""
OPTIONS = [
    f"--LocalProvider.memory={LIMITS['memory_limit']}",
    # A process may ask for more than all may have together, so that the limit of all is what is tried.
    f"--LocalProvider.memory_per_process={4 * LIMITS['memory_limit']}",
    f"--LocalProvider.processes={LIMITS['process_limit']}",
    f"--LocalProvider.open_files={LIMITS['open_files_limit']}",
    f"--LocalProvider.file_size={LIMITS['file_size_limit']}",
    f"--LocalProvider.work_size={LIMITS['work_folder_limit']}",
    # What one attack wrote would be kept for the next.
    "--Workspace.mode=private",
]
TRIED_HERE = [attack for attack in ATTACKS.values() if attack.module.endswith(".limits")]

# Each tells how long ago it passed its limit, takes so much at most, and goes on telling when it has that.
WRITE = """
import time
written, passed = 0, None
while written < MOST or time.monotonic() < passed + 4:
    if written < MOST:
        with open(f"file-{written}", "wb", buffering=0) as file:
            for _ in range(4):
                file.write(bytes(1 << 20))
        written += 4
    if written << 20 > LIMIT:
        passed = passed or time.monotonic()
        print("passed for", time.monotonic() - passed, flush=True)
    time.sleep(PAUSE)
"""
ALLOCATE = """
import os, time
taken, passed = [], None
while len(taken) * 4 < MOST or time.monotonic() < passed + 4:
    if len(taken) * 4 < MOST:
        taken.append(bytearray(os.urandom(1 << 12)) * 1024)
    if len(taken) * 4 << 20 > LIMIT:
        passed = passed or time.monotonic()
        print("passed for", time.monotonic() - passed, flush=True)
    time.sleep(PAUSE)
"""
MOST = 1500
"""Megabytes."""


@pytest.fixture(scope="module")
def kernel(arena: Arena) -> Iterator[str]:
    arena.ask("start_kernel", name="limited", options=OPTIONS)
    yield "limited"
    arena.ask("stop_kernel", kernel="limited")


def assert_next_cell_works(arena: Arena, kernel: str) -> None:
    outcome = arena.ask("run_cell", kernel=kernel, code="print(6 * 7)", timeout=CELL_TIMEOUT)
    assert outcome["errors"] == []
    assert outcome["printed"].endswith("42\n")


@pytest.mark.parametrize("attack", TRIED_HERE, ids=lambda attack: attack.name)
def test_no_cell(arena: Arena, kernel: str, attack: Attack) -> None:
    possible_for(arena, attack)
    run_outside(arena, attack, **LIMITS)

    code = program(attack, arena.ask("facts") | LIMITS)
    outcome = arena.ask("run_cell_and_observe", kernel=kernel, code=code, timeout=CELL_TIMEOUT)
    verdict = verdict_of(outcome["printed"])

    print("refused:", verdict or outcome["errors"])
    if verdict is None:
        assert attack.ends_sandbox, f"only this cell should have failed: {outcome}"
        assert_one_clear_error(outcome)
    else:
        assert not verdict["succeeded"], verdict["detail"]
    assert outcome["traces"] == []
    assert_next_cell_works(arena, kernel)


def assert_one_clear_error(outcome: dict[str, Any]) -> None:
    assert outcome["status"] == "error"
    assert len(outcome["errors"]) == 1, outcome["errors"]
    assert "next cell" in outcome["errors"][0]["value"], "it says how to go on"


@pytest.mark.parametrize(
    ("code", "limit"), [(WRITE, "work_folder_limit"), (ALLOCATE, "memory_limit")], ids=["disk", "memory"]
)
def test_what_passes_a_limit_of_the_watchdog_is_stopped_within_a_second(
    arena: Arena, kernel: str, code: str, limit: str
) -> None:
    assert_next_cell_works(arena, kernel)
    assert_stopped_soon(arena, kernel, code, limit, most=MOST, pause=0.001)


def test_what_is_written_is_noticed_although_others_give_room_back(arena: Arena, kernel: str) -> None:
    """The free space of the disk does not tell what one of its users takes."""
    assert_next_cell_works(arena, kernel)
    arena.ask("make_room_slowly", megabytes=500)
    assert_stopped_soon(arena, kernel, WRITE, "work_folder_limit", most=250, pause=0.05)


def assert_stopped_soon(arena: Arena, kernel: str, code: str, limit: str, *, most: int, pause: float) -> None:
    for name, value in (("LIMIT", LIMITS[limit]), ("MOST", most), ("PAUSE", pause)):
        code = code.replace(name, str(value))
    outcome = arena.ask("run_cell", kernel=kernel, code=code, timeout=CELL_TIMEOUT)

    passed = [float(line.split()[-1]) for line in outcome["printed"].splitlines() if line.startswith("passed for")]
    print("passed for", passed[-1:], outcome["errors"])
    assert max(passed, default=0.0) < OVERSHOOT
    assert_one_clear_error(outcome)
    assert_next_cell_works(arena, kernel)
