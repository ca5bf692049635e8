"""The record file: rows, versions, several processes, and whether an owner still lives."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox_kernel.errors import ConfigurationError, SessionError
from sandbox_kernel.ownership import Identity, Leftover, find_leftover, find_orphans
from sandbox_kernel.processes import is_same_process, start_mark
from sandbox_kernel.records import DETACHED, RESTARTED, RecordFile, SessionRecord

RECORD = SessionRecord(
    provider="local",
    sandbox_id="box-1",
    notebook="/home/me/a.ipynb",
    directory="/home/me",
    state="active",
    created=100.0,
    last_seen=101.0,
    kernel_pid=os.getpid(),
    kernel_start_time=start_mark(os.getpid()),
    connection_file="/run/kernel-1.json",
    correlation_id="sk-1",
)


@pytest.fixture
def file(tmp_path: Path) -> RecordFile:
    """A record file that does not exist yet."""
    return RecordFile(tmp_path / "sandbox" / "sessions.sqlite")


def test_records_come_back_as_they_were_oldest_first(file: RecordFile) -> None:
    younger = replace(RECORD, sandbox_id="box-0", created=200.0, outlives_kernel=True)
    file.add(younger)
    file.add(RECORD)
    assert file.all() == [RECORD, younger]


def test_reading_creates_no_file(file: RecordFile) -> None:
    assert file.all() == []
    assert not file.path.exists()


def test_file_and_its_side_files_are_the_users_alone(file: RecordFile) -> None:
    file.add(RECORD)
    reader = sqlite3.connect(file.path)
    reader.execute("SELECT * FROM sandboxes").fetchall()
    file.add(replace(RECORD, sandbox_id="box-2"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.path.parent.iterdir()}
    reader.close()
    assert modes.keys() >= {"sessions.sqlite", "sessions.sqlite-wal"}
    assert set(modes.values()) == {0o600}


def test_default_file_lies_in_jupyters_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    assert RecordFile().path == tmp_path / "sandbox" / "sessions.sqlite"


def test_new_state_is_noted_with_the_time(file: RecordFile) -> None:
    file.add(RECORD)
    before = time.time()
    file.update_state("local", "box-1", "paused")
    (record,) = file.all()
    assert record.state == "paused"
    assert before <= record.last_seen <= time.time()
    file.touch("local", "box-1")
    assert file.all()[0].last_seen >= record.last_seen


def test_removed_record_is_gone_and_removing_again_is_no_error(file: RecordFile) -> None:
    file.add(RECORD)
    file.remove("local", "box-1")
    file.remove("local", "box-1")
    assert file.all() == []


def test_find_takes_the_whole_id_before_the_beginning_of_one(file: RecordFile) -> None:
    longer = replace(RECORD, sandbox_id="box-12", created=200.0)
    file.add(RECORD)
    file.add(longer)
    assert file.find("box-1") == [RECORD]
    assert file.find("box") == [RECORD, longer]
    assert file.find("other") == []


def test_newer_file_is_refused_with_what_to_do(file: RecordFile) -> None:
    file.add(RECORD)
    connection = sqlite3.connect(file.path)
    connection.execute("PRAGMA user_version = 1000")
    connection.close()
    with pytest.raises(ConfigurationError, match="newer sandbox-kernel"):
        file.all()


def test_damaged_file_gives_one_error_with_its_name(file: RecordFile) -> None:
    file.path.parent.mkdir()
    file.path.write_text("this is no database, and long enough to be looked at as one" * 100)
    with pytest.raises(ConfigurationError, match=r"sessions\.sqlite cannot be used"):
        file.add(RECORD)


def test_processes_that_create_and_fill_the_file_at_once_lose_nothing(file: RecordFile) -> None:
    program = (
        "import sys; from pathlib import Path; from sandbox_kernel.records import RecordFile, SessionRecord\n"
        "file = RecordFile(Path(sys.argv[1]))\n"
        "for number in range(20):\n"
        "    file.add(SessionRecord('local', f'{sys.argv[2]}-{number}'))\n"
        "    file.update_state('local', f'{sys.argv[2]}-{number}', 'active')"
    )
    names = ("a", "b", "c", "d")
    children = [subprocess.Popen([sys.executable, "-c", program, str(file.path), name]) for name in names]
    assert [child.wait(120) for child in children] == [0, 0, 0, 0]
    assert {record.sandbox_id for record in file.all()} == {f"{name}-{n}" for name in names for n in range(20)}
    assert {record.state for record in file.all()} == {"active"}


def test_record_is_stale_when_its_kernel_has_gone_and_the_sandbox_with_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mark = start_mark(child.pid)
    record = replace(RECORD, kernel_pid=child.pid, kernel_start_time=mark)
    assert record.has_owner
    assert not record.is_stale
    child.communicate(b"\n")
    assert not record.has_owner
    assert record.is_stale
    assert not replace(record, outlives_kernel=True).is_stale


def test_reused_process_id_is_told_by_the_start_time() -> None:
    assert is_same_process(os.getpid(), start_mark(os.getpid()))
    assert not is_same_process(os.getpid(), "another start")
    assert not is_same_process(os.getpid(), "")
    assert start_mark(0) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_process_that_has_ended_and_was_not_waited_for_counts_as_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert start_mark(child.pid) == ""
    child.wait()


FAR = replace(RECORD, provider="far", sandbox_id="far-1", outlives_kernel=True)
DEAD = {"kernel_pid": 1 << 21, "kernel_start_time": "before"}


def test_sandbox_that_a_living_process_uses_is_claimed_by_force_only(file: RecordFile) -> None:
    file.add(FAR)
    other = replace(FAR, **DEAD, created=500.0, correlation_id="sk-2")
    with pytest.raises(SessionError, match=rf"kernel process {os.getpid()} uses the sandbox far-1 .*--force"):
        file.claim(other)
    assert file.all() == [FAR]
    assert file.claim(other, force=True) == FAR
    assert file.all() == [replace(other, created=FAR.created)]
    assert file.claim(FAR) == replace(other, created=FAR.created)


def test_what_another_process_owns_is_neither_released_nor_beaten(file: RecordFile) -> None:
    file.add(FAR)
    other = replace(FAR, **DEAD)
    file.release(other, DETACHED)
    assert not file.beat(other, idle_since=1.0)
    assert file.all() == [FAR]
    assert file.beat(replace(FAR, notebook="/b.ipynb"), idle_since=7.0)
    (beaten,) = file.all()
    assert (beaten.idle_since, beaten.notebook) == (7.0, "/b.ipynb")
    assert beaten.lease_until > time.time()
    file.release(FAR, DETACHED)
    (left,) = file.all()
    assert (left.has_owner, left.is_orphan, left.ending) == (False, False, DETACHED)


def test_orphan_is_what_outlives_a_dead_process_and_nobody_detached() -> None:
    dead = replace(FAR, **DEAD)
    assert dead.is_orphan
    assert not FAR.is_orphan
    assert not replace(dead, ending=DETACHED).is_orphan
    assert replace(dead, ending=RESTARTED).is_orphan
    assert not replace(dead, outlives_kernel=False).is_orphan


def test_process_on_another_machine_lives_as_long_as_its_lease() -> None:
    there = replace(FAR, kernel_host="elsewhere", lease_until=time.time() + 10)
    assert there.has_owner
    assert not replace(there, lease_until=time.time() - 10).has_owner


def test_file_of_the_first_version_is_carried_over(file: RecordFile) -> None:
    file.add(RECORD)
    old = sqlite3.connect(file.path)
    added = ("kernel_host", "lease_until", "idle_since", "hourly_cost", "ending", "place", "owner")
    for column in added:
        old.execute(f"ALTER TABLE sandboxes DROP COLUMN {column}")
    old.execute("PRAGMA user_version = 1")
    old.commit()
    old.close()
    assert file.all() == [RECORD]
    file.add(replace(FAR, ending=DETACHED, place="there"))
    assert file.find("far")[0].place == "there"


IDENTITY = Identity("far", "", "/run/kernel-1.json", "/home/me/a.ipynb")


def test_notebook_finds_what_its_own_kernel_left() -> None:
    dead = replace(FAR, **DEAD, connection_file="/run/other.json")
    assert find_leftover([dead], IDENTITY) == Leftover("far-1", fresh=False)
    assert find_leftover([replace(dead, ending=RESTARTED)], IDENTITY) == Leftover("far-1", fresh=True)
    assert find_leftover([replace(dead, notebook="/b.ipynb")], IDENTITY) is None
    same_file = replace(dead, notebook="", connection_file="/run/kernel-1.json")
    assert find_leftover([same_file], IDENTITY) == Leftover("far-1", fresh=False)
    assert find_leftover([replace(dead, notebook="")], replace(IDENTITY, notebook="")) is None
    assert find_leftover([replace(dead, ending=DETACHED)], IDENTITY) is None
    assert find_leftover([replace(dead, place="there")], IDENTITY) is None
    assert find_leftover([FAR], IDENTITY) is None


def test_orphans_have_time_to_be_found_again() -> None:
    dead = replace(FAR, **DEAD, last_seen=time.time() - 100)
    assert list(find_orphans([dead, FAR], grace=50)) == [dead]
    assert list(find_orphans([dead], grace=200)) == []
