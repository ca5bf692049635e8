"""What a sandbox leaves behind, however it ends: no process, mount, control group or temporary folder."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from .arena.door import Arena

START_TIMEOUT = 30.0
CELL_TIMEOUT = 60.0
SOON = 5.0
"""Seconds after which nothing may be left of a killed kernel."""
AT_ONCE = 1.0
"""Seconds that a kernel has which is asked to end by a signal."""

BUSY = """
import os, subprocess, sys
program = [sys.executable, "-c", "import time; time.sleep(1000)"]
children = [subprocess.Popen(program, start_new_session=own) for own in (False, True)]
os.makedirs("folder/in/folder")
print("running", flush=True)
while True:
    open("folder/file", "w").write("text" * 1000)
"""
DAEMON = """
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.close(0), os.close(1), os.close(2)
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(1000)", "daemon-of-a-cell"])
    os._exit(0)
os.wait()
print("left", flush=True)
"""
STOPS_ITS_PARENT = """
import os, signal, time
print("running", flush=True)
time.sleep(1)
os.kill(os.getppid(), signal.SIGSTOP)
"""
HOSTILE_FOLDER = """
import os
os.symlink(PRECIOUS, "link-out")
os.makedirs("sealed/inner")
os.symlink(PRECIOUS, "sealed/inner/link-out")
open("name\\nwith a line\\tend \\udcff", "w").close()
os.mkfifo("fifo")
here = os.getcwd()
for _ in range(150):
    os.mkdir("d" * 200)
    os.chdir("d" * 200)
os.chdir(here)
os.chmod("sealed/inner", 0)
os.chmod("sealed", 0)
os.chmod(".", 0)
print("done")
"""


@dataclass
class Session:
    """A kernel that a test ends in its own way, and what was there before it."""

    arena: Arena
    processes: set[str] = field(default_factory=set)
    mounts: list[str] = field(default_factory=list)
    control_groups: set[str] = field(default_factory=set)
    kernel_pid: int = 0

    def start(self) -> None:
        self.processes, self.mounts = set(self.arena.ask("processes")), self.arena.ask("mounts")
        assert self._temporary_files() == [], "an earlier test left something"
        self.kernel_pid = self.arena.ask("start_kernel", name="mortal", options=[])["pid"]

    def run(self, code: str) -> dict[str, Any]:
        outcome: dict[str, Any] = self.arena.ask("run_cell", kernel="mortal", code=code, timeout=CELL_TIMEOUT)
        return outcome

    def take_greeting(self) -> None:
        """Let the first cell tell what notebooks of tests before left in this folder."""
        assert self.run("None")["status"] == "ok"

    def begin(self, code: str, until: str) -> None:
        """Run a cell that goes on, and see that there is something which could be left."""
        self.arena.ask("begin_cell", kernel="mortal", code=code, until=until, timeout=START_TIMEOUT)
        self.look()
        assert self._temporary_files()

    def look(self) -> list[int]:
        """Note the control groups in use; return the processes that came with the kernel."""
        known = self.arena.ask("processes")
        usual = {group for pid in self.processes & set(known) for _, group in known[pid]["cgroups"]}
        ours = {pid: process for pid, process in known.items() if pid not in self.processes}
        self.control_groups |= {group for process in ours.values() for _, group in process["cgroups"]} - usual
        assert len(ours) > 2
        return [int(pid) for pid in ours]

    def stopped(self) -> list[str]:
        return [pid for pid, process in self.arena.ask("processes").items() if process["state"] == "T"]

    def left(self) -> dict[str, object]:
        """Return what is there now and was not before."""
        processes = {
            pid: process["command"]
            for pid, process in self.arena.ask("processes").items()
            if pid not in self.processes and process["state"] not in "ZX"
        }
        found = {
            "processes": processes,
            "mounts": sorted(set(self.arena.ask("mounts")) - set(self.mounts)),
            "control groups": self.arena.ask("control_groups", paths=sorted(self.control_groups)),
            "files": self._temporary_files(),
        }
        return {name: value for name, value in found.items() if value}

    def _temporary_files(self) -> list[str]:
        facts = self.arena.ask("facts")
        files = self.arena.ask("files", folder=facts["temporary_folder"]) + self.arena.ask("files", folder="/dev/shm")
        return [path for path in files if path != facts["temporary_secret"]]

    def assert_nothing_left(self, within: float) -> None:
        print("control groups that were in use:", self.control_groups)
        deadline = time.monotonic() + within
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert left == {}

    def signal(self, number: signal.Signals, pids: list[int] | None = None) -> None:
        self.arena.ask("send_signal", pids=pids or [self.kernel_pid], number=number)


@pytest.fixture
def session(arena: Arena) -> Iterator[Session]:
    started = Session(arena)
    started.start()
    yield started
    arena.ask("forget_kernel", kernel="mortal")
    started.signal(signal.SIGKILL, [int(pid) for pid in set(arena.ask("processes")) - started.processes])


def test_a_kernel_process_killed_in_the_middle_of_a_cell_leaves_nothing(session: Session) -> None:
    session.begin(BUSY, "running")
    session.signal(signal.SIGKILL)
    session.assert_nothing_left(SOON)


def test_a_kernel_process_killed_in_the_middle_of_its_start_leaves_nothing(session: Session) -> None:
    """The sandbox starts in the background, so at this moment it may be at any stage."""
    session.signal(signal.SIGKILL)
    session.assert_nothing_left(SOON)


def test_a_kernel_asked_to_end_by_a_signal_leaves_nothing(session: Session) -> None:
    session.begin(BUSY, "running")
    session.signal(signal.SIGTERM)
    session.assert_nothing_left(AT_ONCE)


def test_asking_twice_to_end_does_no_harm(session: Session) -> None:
    session.begin(BUSY, "running")
    session.signal(signal.SIGTERM)
    session.signal(signal.SIGTERM)
    session.assert_nothing_left(AT_ONCE)


def test_a_signal_to_the_kernel_and_all_its_descendants_leaves_nothing(session: Session) -> None:
    """An editor ends a kernel like this."""
    session.begin(BUSY, "running")
    session.signal(signal.SIGTERM, session.look())
    session.assert_nothing_left(SOON)


def test_a_kernel_that_is_shut_down_leaves_nothing(session: Session) -> None:
    session.begin(BUSY, "running")
    session.arena.ask("stop_kernel", kernel="mortal")
    session.assert_nothing_left(SOON)


def test_a_daemon_of_a_cell_outlives_the_cell_and_not_the_sandbox(session: Session) -> None:
    """The control: outside, the same lines leave a daemon behind."""
    session.arena.ask("run_outside", program=DAEMON)
    (outside,) = _daemons(session, count=1)
    session.signal(signal.SIGKILL, [outside])
    _daemons(session, count=0)

    session.take_greeting()
    assert session.run(DAEMON)["printed"] == "left\n"
    _daemons(session, count=1)
    session.look()
    session.arena.ask("stop_kernel", kernel="mortal")
    session.assert_nothing_left(SOON)


def _daemons(session: Session, count: int) -> list[int]:
    """Wait until there are so many daemons, and return their process ids."""
    deadline = time.monotonic() + SOON
    while True:
        known = session.arena.ask("processes").items()
        found = [int(pid) for pid, process in known if "daemon-of-a-cell" in process["command"]]
        if len(found) == count:
            return found
        assert time.monotonic() < deadline, f"{len(found)} daemons, not {count}"
        time.sleep(0.01)


def test_a_hostile_work_folder_is_removed_and_nothing_that_it_points_to(session: Session) -> None:
    playground = session.arena.ask("facts")["playground"]
    session.arena.ask("write_file", path=f"{playground}/precious", text="kept")

    session.take_greeting()
    outcome = session.run(HOSTILE_FOLDER.replace("PRECIOUS", repr(playground)))
    assert outcome["printed"] == "done\n", outcome
    session.look()
    session.arena.ask("stop_kernel", kernel="mortal")

    session.assert_nothing_left(SOON)
    assert session.arena.ask("existing", paths=[f"{playground}/precious"])


def test_a_cell_that_kills_all_it_can_gets_one_error_and_leaves_nothing(session: Session) -> None:
    outcome = session.run("import os, signal, time\nos.kill(-1, signal.SIGKILL)\ntime.sleep(30)")
    assert outcome["status"] == "error"
    assert len(outcome["errors"]) == 1, outcome

    assert "42" in str(session.run("print(6 * 7)")["printed"])
    session.look()
    session.arena.ask("stop_kernel", kernel="mortal")
    session.assert_nothing_left(SOON)


def test_a_cell_that_stops_what_relays_its_messages_cannot_keep_the_kernel_from_ending(session: Session) -> None:
    session.begin(STOPS_ITS_PARENT, "running")
    # The parent of what runs cells; outside nothing tells when it has stopped but its state.
    deadline = time.monotonic() + SOON
    while not session.stopped():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    session.arena.ask("stop_kernel", kernel="mortal")
    session.assert_nothing_left(SOON)
