"""One long cell that prints while the network is away, or while its kernel process is killed and started anew."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.executor_process import serving
from tests.functional.client import FrontEnd, KernelProcess, spawn, spawn_with

from .proxy import ChaosProxy

PATIENCE = 60.0
"""Seconds beyond those of a cell itself."""


@dataclass(frozen=True)
class Figures:
    """How long a cell prints a line every tenth of a second, and for how long of that nobody hears it; in seconds."""

    printing: float
    away: float

    @property
    def code(self) -> str:
        """The cell."""
        return f"import time\nfor n in range({self.lines}):\n    print(n, flush=True); time.sleep(0.1)"

    @property
    def lines(self) -> int:
        """How many lines the cell prints."""
        return round(self.printing * 10)

    @property
    def patience(self) -> float:
        """Seconds in which the cell must have ended."""
        return self.printing + self.away + PATIENCE


TRUE = Figures(printing=60, away=20)
SHORT = Figures(printing=8, away=3)


@dataclass
class Distant:
    """A kernel process whose executor is behind a proxy."""

    proxy: ChaosProxy
    kernel: KernelProcess
    front_end: FrontEnd
    arguments: list[str]

    def kill(self) -> None:
        """Kill the kernel process."""
        self.kernel.process.send_signal(signal.SIGKILL)
        self.kernel.process.wait()

    def start(self) -> None:
        """Start it again as a front end does."""
        front_ends = self.kernel.front_ends
        self.kernel = spawn_with(self.kernel.connection_file, *self.arguments)
        self.kernel.front_ends = front_ends
        self.front_end.ready()


@contextmanager
def distant(folder: Path) -> Iterator[Distant]:
    """Give one for a block, whose options are the defaults."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        folder.chmod(0o755)
    with serving(folder / "executor") as executor:
        proxy = ChaosProxy(lambda: ("127.0.0.1", executor.port))
        arguments = executor.arguments(address=f"localhost:{proxy.port}")
        kernel = spawn(folder / "kernel", *arguments)
        made = Distant(proxy, kernel, kernel.front_end(), arguments)
        try:
            yield made
        finally:
            made.kernel.end()
            proxy.close()


def numbers(text: str) -> list[int]:
    """Return the numbers that a cell printed, in their order."""
    return [int(line) for line in text.split() if line.isdigit()]


def network_away(folder: Path, figures: Figures) -> str:
    """Cut the network off during the cell; return what was seen. Raises AssertionError where that is not right."""
    with distant(folder) as world:
        front_end = world.front_end
        front_end.run("kept = 1")
        cell = front_end.cell(figures.code)
        front_end.until(lambda: len(numbers(cell.stream())) > figures.lines // 8)
        world.proxy.cut_off()
        time.sleep(figures.away)
        heard = len(numbers(cell.stream()))
        world.proxy.go_on()
        front_end.finish(cell, timeout=figures.patience)
        assert heard < figures.lines, "the cell had ended before the network came back"
        assert numbers(cell.stream()) == list(range(figures.lines))
        assert (cell.status, cell.stream("stderr")) == ("ok", "")
        cell.assert_ended_once()
        assert front_end.run("kept").result == "1"
    return (
        f"a cell of {figures.printing:g} s, the network away for {figures.away:g} s after {heard} lines: "
        f"all {figures.lines} lines, in order, in their cell"
    )


def kernel_killed(folder: Path, figures: Figures) -> str:
    """Kill the kernel process during the cell, start it later, attach; return what was seen. Raises AssertionError."""
    with distant(folder) as world:
        front_end = world.front_end
        cell = front_end.cell(f"kept = 1\n{figures.code}")
        front_end.until(lambda: len(numbers(cell.stream())) > figures.lines // 8)
        world.kill()
        heard = len(numbers(cell.stream()))
        time.sleep(figures.away)
        world.start()
        host = front_end.cell("%sandbox attach")
        front_end.until(lambda: bool(numbers(host.stream())))
        # All that had been missed is here when this has been there and back; what comes then is live.
        front_end.drain()
        shown = len(numbers(host.stream()))
        assert heard < shown < figures.lines
        front_end.until(lambda: len(numbers(host.stream())) > shown)
        assert not host.done
        front_end.finish(host, timeout=figures.patience)
        assert host.status == "ok"
        assert numbers(host.stream()) == list(range(figures.lines))
        assert front_end.run("kept").result == "1"
    return (
        f"a cell of {figures.printing:g} s, its kernel process killed and started {figures.away:g} s later: "
        f"attach showed all {figures.lines} lines in order, those after the first {shown} live"
    )
