"""`jupyter sandbox list|status|stop|pause|resume`, with a kernel's control channel that is real but for the kernel."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from jupyter_client.connect import write_connection_file
from jupyter_client.session import Session

from sandbox_kernel.cli.main import main
from sandbox_kernel.processes import start_mark
from sandbox_kernel.records import RecordFile, SessionRecord


class FakeKernel:
    """Answers `sandbox_command_request` on a control socket, and keeps the lines."""

    def __init__(self, folder: Path) -> None:
        self.lines: list[str] = []
        self.answer: dict[str, Any] = {"status": "ok", "text": "The sandbox box-1 is paused.\n"}
        name, content = write_connection_file(str(folder / "kernel.json"), ip="127.0.0.1", key=b"secret")
        self.connection_file = name
        self._session = Session(key=b"secret")
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.bind(f"tcp://127.0.0.1:{content['control_port']}")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._ended.is_set():
            if not self._socket.poll(50):
                continue
            idents, frames = self._session.feed_identities(self._socket.recv_multipart())
            request = self._session.deserialize(frames)
            assert request["msg_type"] == "sandbox_command_request"
            self.lines.append(request["content"]["line"])
            if self.answer:
                self._session.send(self._socket, "sandbox_command_reply", self.answer, request, idents)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._context.destroy(linger=0)


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordFile:
    """The user's record file, for this test alone."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    return RecordFile()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    """A kernel that answers."""
    kernel = FakeKernel(tmp_path)
    yield kernel
    kernel.close()


def add(records: RecordFile, sandbox_id: str, **fields: Any) -> SessionRecord:
    """Record a sandbox of this very process."""
    mine = {"kernel_pid": os.getpid(), "kernel_start_time": start_mark(os.getpid())}
    common = {"state": "active", "created": time.time() - 65, "notebook": "/home/me/a.ipynb"}
    record = SessionRecord("local", sandbox_id, **{**mine, **common, **fields})
    records.add(record)
    return record


def gone(records: RecordFile, sandbox_id: str, **fields: Any) -> SessionRecord:
    """Record a sandbox whose kernel process has ended."""
    return add(records, sandbox_id, kernel_start_time="before", **fields)


def test_list_shows_each_sandbox_with_state_age_and_kernel(
    records: RecordFile, capsys: pytest.CaptureFixture[str]
) -> None:
    add(records, "box-1")
    gone(records, "far-1", outlives_kernel=True, state="paused")
    assert main(["list"]) == 0
    head, *lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert head[0] == "SANDBOX"
    rows = {line[0]: [part.strip() for part in line if part] for line in lines}
    assert rows["box-1"] == ["box-1", "local", "active", "1 min 5 s", "-", f"process {os.getpid()}", "/home/me/a.ipynb"]
    assert rows["far-1"][2:6] == ["paused", "1 min 5 s", "-", "gone"]


def test_list_shows_orphans_idleness_and_what_it_costs(records: RecordFile, capsys: pytest.CaptureFixture[str]) -> None:
    gone(records, "far-1", outlives_kernel=True, idle_since=time.time() - 61.5)
    gone(records, "far-2", outlives_kernel=True, state="detached", ending="detached", hourly_cost=36.0)
    assert main(["list"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "orphan    1 min 5 s  1 min 1 s" in rows["far-1"]
    assert "detached  1 min 5 s  -          $0.65" in rows["far-2"]


def test_list_as_json_says_whether_the_owner_lives(records: RecordFile, capsys: pytest.CaptureFixture[str]) -> None:
    add(records, "box-1")
    assert main(["list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["sandbox_id"], row["has_owner"]) == ("box-1", True)


def test_list_forgets_a_local_sandbox_whose_kernel_has_gone(
    records: RecordFile, capsys: pytest.CaptureFixture[str]
) -> None:
    gone(records, "box-1")
    assert main(["list"]) == 0
    assert capsys.readouterr().out == "There are no sandboxes.\n"
    assert records.all() == []


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["pause", "box-1"], "pause"),
        (["resume", "box"], "resume"),
        (["status", "box-1"], "status"),
        (["status", "box-1", "--log", "3"], "status --log 3"),
        (["stop", "box-1"], "stop"),
        (["stop", "--all"], "stop"),
    ],
)
def test_command_is_run_by_the_sandboxs_kernel(
    argv: list[str], line: str, records: RecordFile, kernel: FakeKernel, capsys: pytest.CaptureFixture[str]
) -> None:
    add(records, "box-1", connection_file=kernel.connection_file)
    assert main(argv) == 0
    assert kernel.lines == [line]
    assert capsys.readouterr() == ("The sandbox box-1 is paused.\n", "")


def test_error_of_the_command_is_shown_as_one_line(
    records: RecordFile, kernel: FakeKernel, capsys: pytest.CaptureFixture[str]
) -> None:
    add(records, "box-1", connection_file=kernel.connection_file)
    kernel.answer = {"status": "error", "ename": "CommandError", "evalue": "No sandbox is paused.", "traceback": []}
    assert main(["resume", "box-1"]) == 1
    assert capsys.readouterr() == ("", "error: No sandbox is paused.\n")


def test_kernel_that_does_not_answer_is_given_up_after_the_timeout(
    records: RecordFile, kernel: FakeKernel, capsys: pytest.CaptureFixture[str]
) -> None:
    add(records, "box-1", connection_file=kernel.connection_file)
    kernel.answer = {}
    assert main(["pause", "box-1", "--timeout", "0.2"]) == 1
    assert "did not answer within 0.2 s" in capsys.readouterr().err


def test_one_sandbox_that_cannot_be_stopped_keeps_no_other_from_it(
    records: RecordFile, kernel: FakeKernel, capsys: pytest.CaptureFixture[str]
) -> None:
    add(records, "box-0", connection_file="/no/such/file", created=1.0)
    add(records, "box-1", connection_file=kernel.connection_file)
    assert main(["stop", "--all"]) == 1
    out, err = capsys.readouterr()
    assert kernel.lines == ["stop"]
    assert "box-0: The connection file" in out
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["pause", "other"], "There is no sandbox 'other'"),
        (["pause", "box"], "several ids: box-1, box-2"),
        (["stop"], "either ID or --all or --orphans"),
        (["stop", "box-1", "--all"], "either ID or --all"),
        (["pause"], "ID"),
        (["paus", "box-1"], "invalid choice"),
        ([], "COMMAND"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    argv: list[str], part: str, records: RecordFile, capsys: pytest.CaptureFixture[str]
) -> None:
    add(records, "box-1")
    add(records, "box-2")
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert part in err
    assert err.count("\n") == 1


def test_remote_sandbox_whose_kernel_has_gone_is_kept_and_said_so(
    records: RecordFile, capsys: pytest.CaptureFixture[str]
) -> None:
    record = gone(records, "far-1", outlives_kernel=True)
    assert main(["pause", "far-1"]) == 1
    assert "has gone" in capsys.readouterr().err
    assert records.all() == [record]
