"""How often a watchdog looks, which a sandbox that takes all processors must not change."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

if sys.platform != "linux":
    pytest.skip("the watchdog reads Linux's /proc", allow_module_level=True)

from sandbox_kernel.providers.local.limits import Limits
from sandbox_kernel.providers.local.processes import RemovedFiles
from sandbox_kernel.providers.local.watchdog import Watchdog

MEGABYTE = 1 << 20


class Processes:
    """A sandbox whose processes have descriptors in flight, and worked or did not."""

    in_flight = True

    def __init__(self) -> None:
        self.worked = 0.0

    def cpu_time(self) -> float:
        return self.worked

    def removed_files(self, *_: object) -> RemovedFiles:
        return RemovedFiles(0, in_flight=self.in_flight)


class SlowProcesses(Processes):
    in_flight = False

    def removed_files(self, *_: object) -> RemovedFiles:
        # Stands for a look that waits for a processor: the time passes, and the thread uses none of it.
        time.sleep(0.2)
        return super().removed_files()


def watchdog_of(processes: Processes, folder: Path) -> Watchdog:
    limits = Limits(memory=0, work_size=40 * MEGABYTE)
    return Watchdog(limits, cast("Any", processes), cast("Any", nullcontext()), [str(folder)], [])


async def test_a_look_that_only_waited_for_a_processor_is_made_as_often(tmp_path: Path) -> None:
    watchdog = watchdog_of(SlowProcesses(), tmp_path)
    await watchdog._measure()
    watchdog.close()
    assert watchdog._next_measurement <= time.monotonic()


async def test_what_others_gave_back_while_it_was_idle_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 1000
    monkeypatch.setattr(Watchdog, "_free_space", lambda _: free * MEGABYTE)
    processes = Processes()
    watchdog = watchdog_of(processes, tmp_path)
    free = 1300
    assert await watchdog._check_work() == ""
    processes.worked, free = 1.0, 1240
    watchdog._next_measurement = 0.0
    reason = await watchdog._check_work()
    watchdog.close()
    assert "work folder" in reason
