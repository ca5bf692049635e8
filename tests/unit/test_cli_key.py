"""`jupyter sandbox key` and what `serve` refuses before it serves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("an executor's sandboxes need bubblewrap, which only Linux has", allow_module_level=True)

from sandbox_kernel.cli.main import main


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A configuration whose keys lie in the test's folder."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"Executor": {"keys_file": str(tmp_path / "keys")}}))
    return f"--config={file}"


def test_keys_are_made_listed_and_removed(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "list", config]) == 0
    assert capsys.readouterr().out == "There are no keys.\n"
    for owner in ("bob", "ann", "ann"):
        assert main(["key", "add", config, owner]) == 0
        assert capsys.readouterr().out.startswith("sbx_")
    assert main(["key", "list", config]) == 0
    assert capsys.readouterr().out == "ann  2 keys\nbob  1 key\n"
    assert main(["key", "remove", config, "ann"]) == 0
    assert capsys.readouterr().out == "Removed 2 keys of ann.\n"
    assert main(["key", "remove", config, "ann"]) == 2
    assert "'ann' has no key" in capsys.readouterr().err


def test_a_bad_owner_and_a_bad_option_are_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"Executor": {"keys_file": str(tmp_path / "keys"), "idle": 1}}))
    assert main(["key", "add", f"--config={file}", "ann"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Executor has no option idle" in line
    assert "idle_timeout" in line
    assert not (tmp_path / "keys").exists()


def test_an_owner_whose_name_says_too_much_is_refused(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "add", config, "ann\nroot"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
