"""`jupyter sandbox kernelspec`: real kernelspecs in folders of the test's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox_kernel.cli.main import main

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's data folder; specs of this environment stay visible."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path / "data"


def spec(parent: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((parent / "kernels" / name / "kernel.json").read_text())
    return content


def foreign(data: Path, name: str, display_name: str = "Other") -> Path:
    """Write a kernelspec of some other kernel."""
    folder = data / "kernels" / name
    folder.mkdir(parents=True)
    content = {"argv": ["other", "{connection_file}"], "display_name": display_name, "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(content))
    return folder


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the one line with which a call is refused."""
    capsys.readouterr()
    assert main(["kernelspec", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_installed_kernelspec_starts_this_environments_kernel_with_the_options(data: Path) -> None:
    options = ["--option", "EventLog.level=debug", "--option", "SandboxSession.provider=local"]
    assert main(["kernelspec", "install", "--name", "big", "--display-name", "Python (big sandbox)", *options]) == 0
    content = spec(data, "big")
    assert content.pop("metadata")["debugger"] is True
    assert content == {
        "argv": [
            sys.executable,
            "-m",
            "sandbox_kernel",
            "-f",
            "{connection_file}",
            "--EventLog.level=debug",
            "--SandboxSession.provider=local",
        ],
        "display_name": "Python (big sandbox)",
        "language": "python",
        "interrupt_mode": "message",
    }
    assert Path(content["argv"][0]).is_absolute()


def test_further_kernelspec_says_the_same_as_the_packages_own() -> None:
    from sandbox_kernel.cli.kernelspec import specification

    own = json.loads((REPOSITORY / "kernelspec/sandbox/kernel.json").read_text())
    further = specification(own["display_name"], [])
    assert further == {
        **own,
        "argv": [sys.executable, *own["argv"][1:]],
        "metadata": {**own["metadata"], "sandbox_kernel": {"written_by": "jupyter sandbox kernelspec"}},
    }


def test_it_has_the_logos_and_a_display_name_by_default(data: Path) -> None:
    assert main(["kernelspec", "install", "--name", "big"]) == 0
    assert spec(data, "big")["display_name"] == "Python (sandbox big)"
    names = {path.name for path in (data / "kernels/big").iterdir()}
    assert names == {"kernel.json", "logo-32x32.png", "logo-64x64.png", "logo-svg.svg"}


def test_prefix_is_honoured_and_written_anew(tmp_path: Path, data: Path) -> None:
    arguments = ["kernelspec", "install", "--name", "big", "--prefix", str(tmp_path / "env")]
    assert main(arguments) == 0
    assert main([*arguments, "--option", "EventLog.level=error"]) == 0
    assert "--EventLog.level=error" in spec(tmp_path / "env/share/jupyter", "big")["argv"]
    assert not data.exists()


def test_list_shows_ours_only_with_what_each_sets(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign(data, "other")
    main(["kernelspec", "install", "--name", "big", "--option", "EventLog.level=debug"])
    capsys.readouterr()
    assert main(["kernelspec", "list"]) == 0
    out = capsys.readouterr().out
    assert f"big  (Python (sandbox big))  {data}/kernels/big  --EventLog.level=debug\n" in out
    assert "other" not in out
    assert "ipykernel" not in out


def test_removed_kernelspec_is_gone(data: Path) -> None:
    main(["kernelspec", "install", "--name", "big"])
    assert main(["kernelspec", "remove", "big"]) == 0
    assert not (data / "kernels/big").exists()


def test_foreign_kernelspec_is_neither_overwritten_nor_removed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = foreign(data, "other")
    before = (folder / "kernel.json").read_text()
    assert "belongs to another kernel" in refusal(capsys, "install", "--name", "other")
    assert "belongs to another kernel" in refusal(capsys, "remove", "other")
    assert (folder / "kernel.json").read_text() == before


def test_foreign_kernelspec_in_another_folder_is_not_hidden(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign(data, "other")
    refusal(capsys, "install", "--name", "other", "--prefix", str(tmp_path / "env"))
    assert not (tmp_path / "env").exists()


def test_kernelspec_that_cannot_be_read_is_left_alone(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (foreign(data, "broken") / "kernel.json").write_text("{")
    refusal(capsys, "install", "--name", "broken")


def test_packages_own_kernelspec_is_left_to_the_package(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data / "kernels/sandbox"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text((REPOSITORY / "kernelspec/sandbox/kernel.json").read_text())
    assert "came with the package" in refusal(capsys, "remove", "sandbox")
    assert "came with the package" in refusal(capsys, "install", "--name", "sandbox")


@pytest.mark.parametrize("name", ["python", "python3", "python-x", "a b", "../up", "", "Upper", "x" + "0" * 32])
def test_name_that_front_ends_mistake_is_refused(name: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{name!r}" in refusal(capsys, "install", "--name", name)
    assert not data.exists()


@pytest.mark.parametrize("display_name", ["Python 3", "python 3 (ipykernel)", "Python 3.11", " ", "two\nlines"])
def test_display_name_that_front_ends_hide_is_refused(
    display_name: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal(capsys, "install", "--name", "big", "--display-name", display_name)
    assert not data.exists()


def test_display_name_is_unique(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign(data, "other", "Mine")
    assert "'other' has the display name" in refusal(capsys, "install", "--name", "big", "--display-name", "Mine")


@pytest.mark.parametrize(
    ("option", "part"),
    [
        ("EventLog.levle=debug", "did you mean level?"),
        ("EventLogg.level=debug", "did you mean EventLog?"),
        ("EventLog.level=loud", "'loud'"),
        ("LocalProvider.memory=much", "much"),
        ("SandboxSession.provider=locl", "did you mean 'local'"),
        ("provider=local", "CLASS.TRAIT=VALUE"),
        ("EventLog.level", "CLASS.TRAIT=VALUE"),
    ],
)
def test_option_that_would_not_work_is_refused_before_anything_is_written(
    option: str, part: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert part in refusal(capsys, "install", "--name", "big", "--option", option)
    assert not data.exists()


def test_missing_arguments_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--name" in refusal(capsys, "install")
    assert "--help" in refusal(capsys)
    assert "'nothing'" in refusal(capsys, "remove", "nothing")


def test_program_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "sandbox_kernel.cli", "kernelspec", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
