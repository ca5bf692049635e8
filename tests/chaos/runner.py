"""Runs cells while faults strike, and counts what the cells themselves wrote.

Each cell appends its number to a file in the sandbox, prints lines that are its own, and has a value. So what ran how
often is read from that file, past the proxy; and what a front end got is compared with what the cell must have said.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sandbox_kernel.errors import NotFoundError, SandboxLostError
from sandbox_kernel.providers.executor.provider import ExecutorProvider
from tests.executor_process import ExecutorProcess
from tests.functional.client import Exchange, FrontEnd, KernelProcess, spawn, spawn_with
from tests.processes import below

from .faults import KILLS, NETWORK, Fault, make_plan
from .proxy import ChaosProxy

PATIENCE = 120.0
"""Seconds for one cell; faults take a few."""
ENDING = ("kill-bridge", "kill-executor")
"""Faults that end the sandbox, with the file that cells wrote: that is compared right before."""
CELL = """\
import os
_ran = os.open("ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
os.write(_ran, b"{number}\\n")
os.close(_ran)
for _line in range({lines}):
    print("{number}:", _line)
{number}
"""
IN_FLIGHT = 0.3
"""Seconds in which a reply arrives that had left before its sender was killed."""
LONG = """
import time
time.sleep({seconds})
"""


@dataclass
class Report:
    """What a run has shown."""

    seed: int
    cells: int
    struck: Counter[str] = field(default_factory=Counter)
    """Faults, by kind."""
    answered: int = 0
    """Cells with their reply and all of their output."""
    told_lost: int = 0
    """Cells that said why they were lost, as those do during which something is killed."""
    unanswered: int = 0
    """Cells whose kernel process was killed: no reply can come any more."""
    twice: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    """Cells that were answered and have not run."""
    wrong: list[str] = field(default_factory=list)
    """Cells whose output or reply is not what it must be."""
    shown_later: int = 0
    """Of those, cells whose output the next kernel process showed."""
    shown_again: int = 0
    """Cells that had been answered, and were shown once more by the kernel process after one that was killed."""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether nothing ran twice, nothing was lost and nothing is wrong."""
        return not self.twice and not self.lost and not self.wrong

    def __str__(self) -> str:
        faults = ", ".join(f"{kind} {count}" for kind, count in sorted(self.struck.items()))
        return (
            f"seed {self.seed}: {self.cells} cells in {self.seconds:.0f} s; {self.answered} answered in full, "
            f"{self.told_lost} told that they were lost, {self.unanswered} with their kernel process killed "
            f"({self.shown_later} of them shown by the next one, which showed "
            f"{self.shown_again} others again); "
            f"run twice {self.twice}, lost {self.lost}, wrong {self.wrong}; faults: {faults}"
        )


class Chaos:
    """An executor, a proxy before it, a kernel process, a front end, and the ledger of what ran."""

    def __init__(self, folder: Path, report: Report) -> None:
        self.report = report
        self._chance = random.Random(report.seed + 1)
        self.executor = ExecutorProcess(folder / "executor", Executor={"max_sandboxes": 50})
        self.proxy = ChaosProxy(lambda: ("127.0.0.1", self.executor.port))
        options = {
            "address": f"localhost:{self.proxy.port}",
            "keepalive": 1.0,
            "keepalive_timeout": 0.5,
            "request_timeout": 3.0,
        }
        # Faults come a thousand times as often as elsewhere, and nobody is to be spared.
        # What ran is read in the work folder, which begins empty.
        own = (
            "--Workspace.mode=private",
            "--SandboxSession.reconnect_longest_delay=0.2",
            "--SandboxSession.retry_delay=0.1",
        )
        self._arguments = [*own, *self.executor.arguments(**options)]
        self.kernel: KernelProcess = spawn(folder / "kernel", *self._arguments)
        self.front_end: FrontEnd = self.kernel.front_end()
        self._expected: dict[int, str] = {}
        """What has become of the cells of this sandbox, by number: "run", or "perhaps"."""
        self._left: tuple[int, str, str] | None = None
        """The cell whose kernel process was killed: its number, what it prints, and what of that had come."""
        self._unseen: set[int] = set()
        """Such cells of which nothing was ever shown; they must not have run."""
        self._lines: dict[int, int] = {}

    def close(self) -> None:
        """End all of it."""
        self.kernel.end()
        self.proxy.close()
        self.executor.end()

    # ---- cells

    def cell(self, number: int, lines: int, fault: Fault | None) -> None:
        """Run a cell, with a fault during it."""
        self._lines[number] = lines
        code = CELL.format(number=number, lines=lines)
        kill = fault is not None and fault.kind in KILLS
        if fault is not None and not kill:
            self.proxy.arm(fault)
        if fault is not None and kill:
            # What is killed is killed while it runs; the cell of a kernel process that is killed runs on.
            code += LONG.format(seconds=0.2 if fault.kind == "kill-kernel" else 2)
        cell = self.front_end.cell(code, stop_on_error=False)
        if fault is not None and kill:
            self._expected[number] = "perhaps"
            time.sleep(self._chance.uniform(0, 0.2))
            self._kill(fault.kind)
            self.report.struck[fault.kind] += 1
            if fault.kind == "kill-kernel":
                self.report.unanswered += 1
                self._left = (number, _printed(number, lines), cell.stream())
                return
        ended_before = fault is not None and fault.kind in ENDING and self._has_ended(cell)
        self.front_end.finish(cell, timeout=PATIENCE)
        self._judge(number, lines, cell, kill=kill)
        if fault is not None and fault.kind in ENDING:
            # Its sandbox has gone, and what was written there with it: also by the cell before, shown only now. A cell
            # that has run nevertheless was still waiting for its sandbox, and ran in the one after.
            ran = cell.status == "ok" and not ended_before
            self._expected = {number: "run"} if ran else {}
            self._unseen = set()
            self._left = None

    def _has_ended(self, cell: Exchange) -> bool:
        """Whether a cell has ended that cannot have run since something was killed: it would take longer."""
        time.sleep(IN_FLIGHT)
        self.front_end.drain()
        return cell.done

    def _judge(self, number: int, lines: int, cell: Exchange, *, kill: bool) -> None:
        problem = self._problem(number, lines, cell, kill=kill)
        if problem:
            self.report.wrong.append(f"{number}: {problem}")
        elif cell.status == "ok":
            self.report.answered += 1
            self._expected[number] = "run"
        else:
            self.report.told_lost += 1

    def _problem(self, number: int, lines: int, cell: Exchange, *, kill: bool) -> str:
        """Return what is wrong with a cell's output or reply; "" if nothing is."""
        try:
            cell.assert_ended_once()
        except AssertionError as exc:
            return f"its messages: {str(exc)[:200]}"
        printed = self._without_the_past(number, cell.stream())
        if cell.status != "ok":
            lost = kill and cell.reply["ename"] == SandboxLostError.__name__
            return "" if lost else f"it failed: {cell.reply['evalue']}"
        if printed != _printed(number, lines):
            return f"it printed {printed[:200]!r}"
        values = [content["data"]["text/plain"] for content in cell.contents("execute_result")]
        # The value of a cell that is shown again comes first.
        if not kill and values[-1:] != [str(number)]:
            return f"its values are {values}"
        return ""

    def _without_the_past(self, number: int, printed: str) -> str:
        """Return what a cell printed without what it shows of earlier ones, where its kernel process is a new one.

        The one that was killed may have passed outputs on without a word to the sandbox that it had them, so they are
        shown again: a second time, but whole, and as past ones.
        """
        if self._left is None:
            return printed
        (left, whole, had_come), self._left = self._left, None
        past: dict[int, str] = {}
        own = ""
        for line in printed.splitlines(keepends=True):
            cell = int(line.partition(":")[0])
            if cell < number:
                past[cell] = past.get(cell, "") + line
            else:
                own += line
        shown = past.pop(left, "")
        if whole in (shown, had_come + shown):
            self._expected[left] = "run"
            self.report.shown_later += bool(shown)
        elif shown or had_come:
            self.report.wrong.append(f"{left}: {had_come[-100:]!r} had come, and {shown[:100]!r} was shown later")
        else:
            self._unseen.add(left)
        for cell, text in past.items():
            self.report.shown_again += 1
            if text != _printed(cell, self._lines[cell]):
                self.report.wrong.append(f"{cell}: {text[:100]!r} was shown again")
        return own

    # ---- the ledger

    def settle(self) -> None:
        """Compare what ran in the sandbox of the moment with what must have."""
        ran = Counter(asyncio.run(self._read_ledger()))
        for number, count in sorted(ran.items()):
            if count > 1:
                self.report.twice.append(number)
            if number not in self._expected:
                self.report.wrong.append(f"{number}: it ran in a sandbox that it was not sent to")
        self.report.wrong += [
            f"{number}: it ran, and nothing of it was shown" for number in self._unseen if ran[number]
        ]
        self.report.lost += [number for number, fate in self._expected.items() if fate == "run" and not ran[number]]

    async def _read_ledger(self) -> list[int]:
        """Read the file that cells wrote, straight from the executor."""
        provider = ExecutorProvider(config=self.executor.config())
        records = sorted(await provider.list(), key=lambda record: record.created)
        if not records:
            return []
        sandbox = await provider.connect(records[-1].sandbox_id)
        assert sandbox.files is not None
        try:
            content = b"".join([chunk async for chunk in sandbox.files.read("ran")])
        except NotFoundError:
            return []
        return [int(line) for line in content.split()]

    # ---- killing

    def _kill(self, kind: str) -> None:
        if kind == "kill-kernel":
            self._kill_kernel()
        elif kind == "kill-executor":
            self.settle()
            self._expected = {}
            self.executor.kill()
            self.executor.start()
        elif kind == "kill-bridge":
            self.settle()
            self._expected = {}
            self._signal("/opt/sandbox-bridge/__main__.py", "--control-fd")
        else:
            self._signal("-c", "sandbox_kernel.bridge.launcher")

    def _signal(self, *words: str) -> None:
        """Kill the newest process of the sandbox whose command line has these words."""
        assert self.executor.process is not None
        found = set(below(self.executor.process.pid, *words))
        for other in ("bwrap", "sandbox-janitor"):
            found -= set(below(self.executor.process.pid, other))
        if found:
            max(found, key=lambda one: one.pid).kill()

    def _kill_kernel(self) -> None:
        """Kill the kernel process, and start it again as a front end does."""
        self.kernel.process.send_signal(signal.SIGKILL)
        self.kernel.process.wait()
        front_ends = self.kernel.front_ends
        self.kernel = spawn_with(self.kernel.connection_file, *self._arguments)
        self.kernel.front_ends = front_ends
        self.front_end.ready()


def _printed(number: int, lines: int) -> str:
    """Return what a cell prints."""
    return "".join(f"{number}: {line}\n" for line in range(lines))


@contextmanager
def chaos(folder: Path, report: Report) -> Iterator[Chaos]:
    """Give everything that a run needs."""
    made = Chaos(folder, report)
    try:
        yield made
    finally:
        made.close()


def run(
    cells: int,
    seed: int,
    each: int,
    kinds: tuple[str, ...] = (*NETWORK, *KILLS),
    tell: Callable[[str], None] = lambda text: None,
) -> Report:
    """Run so many cells, with EACH faults of each kind; return what it has shown. ``tell`` gets reports meanwhile."""
    report = Report(seed, cells)
    plan = make_plan(cells, seed, kinds, each)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, chaos(Path(folder), report) as world:
        if os.geteuid() == 0:
            Path(folder).chmod(0o755)
        for number in range(cells):
            world.cell(number, plan.lengths[number], plan.faults.get(number))
            if number % 250 == 249:
                report.seconds = time.monotonic() - began
                tell(f"{number + 1} of {report} (the network: {sum(world.proxy.counts.values())})")
        world.settle()
        report.struck += world.proxy.counts
    report.seconds = time.monotonic() - began
    return report
