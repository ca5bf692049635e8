"""The event log: form, levels, secrets, the file and its limits."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from traitlets import TraitError
from traitlets.config import Config

from sandbox_kernel.events import KEPT_FILES, EventLog


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Jupyter's runtime directory, for this test alone."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    return tmp_path / "runtime"


def records(log: EventLog) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.tail(1000)]


def test_event_is_one_json_line_with_time_level_name_and_correlation_id() -> None:
    log = EventLog()
    log.write("started", correlation_id="sk-1", provider="local", seconds=0.25)
    (record,) = records(log)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(record.pop("time")))
    assert record == {
        "level": "info",
        "event": "started",
        "correlation_id": "sk-1",
        "provider": "local",
        "seconds": 0.25,
    }


def test_text_form_quotes_what_could_forge_a_line() -> None:
    log = EventLog(json=False)
    log.write("failed", level="error", correlation_id="sk-1", error="no\nroom \x1b[31m", path="/tmp/x", attempt=2)
    (line,) = log.tail(10)
    assert line.partition(" ")[2] == (
        'ERROR failed correlation_id=sk-1 error="no\\nroom \\u001b[31m" path=/tmp/x attempt=2'
    )


def test_file_is_the_users_alone_and_made_by_the_first_event(runtime: Path) -> None:
    log = EventLog()
    assert log.tail(5) == []
    assert not runtime.exists()
    log.write("started")
    assert log.file == runtime / f"sandbox-kernel-{os.getpid()}.log"
    assert stat.S_IMODE(log.file.stat().st_mode) == 0o600


def test_events_below_the_level_are_not_written() -> None:
    log = EventLog(level="warning")
    for level in ("debug", "info", "warning", "error"):
        log.write(f"a {level}", level=level)
    assert [record["event"] for record in records(log)] == ["a warning", "a error"]


def test_configuration_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_KERNEL_LOG_LEVEL", "error")
    monkeypatch.setenv("SANDBOX_KERNEL_LOG_JSON", "0")
    log = EventLog()
    assert (log.level, log.json) == ("error", False)
    log = EventLog(config=Config({"EventLog": {"level": "debug", "json": True}}))
    assert (log.level, log.json) == ("debug", True)


def test_wrong_level_in_the_environment_is_found_when_the_log_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_KERNEL_LOG_LEVEL", "loud")
    with pytest.raises(TraitError, match="loud"):
        EventLog()


def test_values_with_the_name_of_a_secret_are_hidden_however_deep() -> None:
    log = EventLog()
    log.write("call", api_key="sk-123", headers=[{"Authorization": "Bearer x"}], nested={"PASSWORD": {"a": 1}}, size=3)
    (record,) = records(log)
    assert record["api_key"] == "***"
    assert record["headers"] == [{"Authorization": "***"}]
    assert record["nested"] == {"PASSWORD": "***"}
    assert record["size"] == 3


def test_a_field_cannot_take_the_place_of_the_events_own() -> None:
    log = EventLog()
    log.write("started", event="forged", time="never")
    (record,) = records(log)
    assert record["event"] == "started"
    assert record["time"] != "never"


def test_nothing_is_raised_when_the_log_cannot_be_written(tmp_path: Path) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    (tmp_path / "file").write_text("")
    EventLog(path=str(tmp_path / "file" / "log")).write("started")
    log = EventLog()
    log.write("odd", value=Unprintable())
    log.write("even", value=Path("/x"))
    assert [record["event"] for record in records(log)] == ["even"]


def test_the_oldest_files_are_dropped_and_the_own_one_never(runtime: Path) -> None:
    runtime.mkdir()
    for number in range(30):
        path = runtime / f"sandbox-kernel-{10_000_000 + number}.log"
        path.write_text("")
        os.utime(path, (number, number))
    (runtime / "kernel-1.json").write_text("")
    log = EventLog()
    log.write("started")
    names = {path.name for path in runtime.glob("*.log")}
    newest = {f"sandbox-kernel-{10_000_000 + number}.log" for number in range(30 - KEPT_FILES + 1, 30)}
    assert names == newest | {log.file.name}
    assert (runtime / "kernel-1.json").exists()


def test_a_log_that_was_removed_is_begun_again() -> None:
    log = EventLog()
    log.write("one")
    log.file.unlink()
    log.write("two")
    assert [record["event"] for record in records(log)] == ["two"]


def test_processes_that_share_a_file_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "shared.log"
    program = (
        "import sys; from sandbox_kernel.events import EventLog\n"
        "log = EventLog(path=sys.argv[1])\n"
        "for number in range(200): log.write('tick', number=number, filler='x' * 500)"
    )
    children = [subprocess.Popen([sys.executable, "-c", program, str(path)]) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert sum(json.loads(line)["event"] == "tick" for line in path.read_text().splitlines()) == 600


def test_tail_gives_the_last_lines() -> None:
    log = EventLog()
    for number in range(10):
        log.write("tick", number=number)
    assert [json.loads(line)["number"] for line in log.tail(3)] == [7, 8, 9]
    assert log.tail(0) == []


def test_a_closed_log_opens_again() -> None:
    log = EventLog()
    log.write("one")
    log.close()
    log.close()
    log.write("two")
    assert [record["event"] for record in records(log)] == ["one", "two"]
