"""What a user gets by `pip install`: both packages, the kernelspec, the entry points."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path

import pytest

import sandbox_kernel
from sandbox_kernel.commands import GROUP as COMMANDS
from sandbox_kernel.providers.registry import BUILT_IN
from sandbox_kernel.providers.registry import GROUP as PROVIDERS

REPOSITORY = Path(__file__).parents[2]
KERNELSPEC = REPOSITORY / "kernelspec/sandbox"
BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel, built from this repository."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(folder / done.stdout.splitlines()[-1]) as opened:
        yield opened


def test_wheel_holds_every_module_and_nothing_of_the_tests(wheel: zipfile.ZipFile) -> None:
    modules = {
        file.relative_to(REPOSITORY / root).as_posix()
        for root in ("kernel", "magics")
        for file in (REPOSITORY / root).rglob("*.py")
        if "build" not in file.parts
    }
    assert {name for name in wheel.namelist() if name.endswith(".py")} == modules
    assert {name.partition("/")[0].partition("-")[0] for name in wheel.namelist()} == {
        "sandbox_kernel",
        "sandbox_magics",
    }


def test_wheel_brings_the_kernelspec_to_where_jupyter_looks(wheel: zipfile.ZipFile) -> None:
    place = f"sandbox_kernel-{sandbox_kernel.__version__}.data/data/share/jupyter/kernels/sandbox"
    brought = {name: wheel.read(name) for name in wheel.namelist() if "/share/" in name}
    assert brought == {f"{place}/{file.name}": file.read_bytes() for file in KERNELSPEC.iterdir()}


def test_wheel_brings_the_entry_points(wheel: zipfile.ZipFile) -> None:
    parser = ConfigParser()
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    parser.read_string(wheel.read(name).decode())
    assert dict(parser[PROVIDERS]) == BUILT_IN
    assert dict(parser["console_scripts"]) == {"jupyter-sandbox": "sandbox_kernel.cli.main:main"}


def test_installed_kernelspec_is_the_one_of_the_repository() -> None:
    """An editable install copies it too, so it grows stale: then install again."""
    installed = Path(sysconfig.get_path("data")) / "share/jupyter/kernels/sandbox"
    for file in KERNELSPEC.iterdir():
        assert (installed / file.name).read_bytes() == file.read_bytes(), file.name


def test_kernelspec_names_the_interpreter_so_that_jupyter_puts_its_own_in() -> None:
    spec = json.loads((KERNELSPEC / "kernel.json").read_text(encoding="utf-8"))
    assert spec["argv"] == ["python", "-m", "sandbox_kernel", "-f", "{connection_file}"]
    assert (spec["language"], spec["interrupt_mode"]) == ("python", "message")


def installed(group: str) -> list[EntryPoint]:
    """Return the installed entry points of ours in a group."""
    ours = ("sandbox_kernel", "sandbox_magics")
    return [entry for entry in entry_points(group=group) if entry.value.startswith(ours)]


def test_built_in_providers_are_the_installed_entry_points() -> None:
    assert {entry.name: entry.value for entry in installed(PROVIDERS)} == BUILT_IN


def test_entry_points_lead_to_something() -> None:
    for group in (PROVIDERS, COMMANDS, "console_scripts"):
        assert installed(group)
        for entry in installed(group):
            assert callable(entry.load())


def test_version_stands_in_one_place() -> None:
    assert version("sandbox-kernel") == sandbox_kernel.__version__


def test_jupyter_finds_the_command() -> None:
    script = Path(sysconfig.get_path("scripts")) / "jupyter-sandbox"
    found = shutil.which(str(script))
    assert found
    done = subprocess.run([found, "--version"], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == f"sandbox-kernel {sandbox_kernel.__version__}\n"
