"""The history: kept in the record file beside the sandboxes, by folder, bounded, and readable by its owner only."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox_kernel.errors import ConfigurationError
from sandbox_kernel.generation import history as module
from sandbox_kernel.generation.chain import Answered
from sandbox_kernel.generation.history import Entry, History, entry
from sandbox_kernel.records import RecordFile, SessionRecord

FOLDER = Path("/home/me/work")
ENTRY = Entry(str(FOLDER), 100.0, "generate", "plot", "x = 1\n", "bedrock:first", 1.5, 10, 20)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sandbox/sessions.sqlite"


def test_entries_come_back_and_learn_what_became_of_their_code(file: Path) -> None:
    history = History(FOLDER, file)
    assert history.last(5) == []
    number = history.add(ENTRY)
    history.note_run(number, "ok", 0.25)
    assert History(FOLDER, file).last(5) == [(number, replace(ENTRY, result="ok", run_seconds=0.25))]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_each_folder_has_its_own(file: Path) -> None:
    other = History(Path("/elsewhere"), file)
    History(FOLDER, file).add(ENTRY)
    assert other.last(5) == []
    assert other.forget() == 0
    assert History(FOLDER, file).forget() == 1
    assert History(FOLDER, file).last(5) == []


def test_what_is_forgotten_is_not_left_in_the_file(file: Path) -> None:
    history = History(FOLDER, file)
    history.add(replace(ENTRY, prompt="a prompt that is to be forgotten"))
    assert b"to be forgotten" in b"".join(part.read_bytes() for part in file.parent.iterdir())
    history.forget()
    assert b"to be forgotten" not in b"".join(part.read_bytes() for part in file.parent.iterdir())


def test_oldest_entries_go_first(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 3)
    history = History(FOLDER, file)
    for number in range(5):
        history.add(replace(ENTRY, prompt=str(number)))
    assert [one.prompt for _, one in history.last(10)] == ["2", "3", "4"]
    assert [one.prompt for _, one in history.last(1)] == ["4"]


@pytest.mark.parametrize("history_first", [True, False])
def test_records_of_sandboxes_share_the_file(file: Path, *, history_first: bool) -> None:
    history, records = History(FOLDER, file), RecordFile(file)
    record = SessionRecord("local", "box-1")
    for write in (lambda: history.add(ENTRY), lambda: records.add(record))[:: 1 if history_first else -1]:
        write()
    assert len(history.last(5)) == 1
    assert records.all() == [record]


def test_long_texts_are_cut() -> None:
    made = entry(FOLDER, "generate", "x" * 100_000, "y" * 100_000, Answered("m", 1.0, 0.5, 1, 2))
    assert (len(made.prompt), len(made.code)) == (50_000, 50_000)


def test_file_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no database, but longer than its header would be" * 10)
    with pytest.raises(ConfigurationError, match="The record file"):
        History(FOLDER, tmp_path / "file").add(ENTRY)
