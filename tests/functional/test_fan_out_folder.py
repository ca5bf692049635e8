"""The notebook's folder in the sandboxes of `%%sandbox --replicas` and `%%sandbox map`: seen, and never changed."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from sandbox_kernel.providers.local import bubblewrap
from tests.ports import write_connection
from tests.waiting import until

from .client import FrontEnd, kernel_environment, spawn_with
from .test_fan_out_cells import texts

if sys.platform != "linux":
    pytest.skip("the local provider needs bubblewrap, which only Linux has", allow_module_level=True)
if not any(binary.overlays for binary in bubblewrap.find()):
    pytest.skip("needs a bubblewrap that can mount overlays", allow_module_level=True)

LOOK = """
import os
def look(number):
    found = sorted(os.listdir())
    open("mark", "w").write("from elsewhere")
    try:
        return found, open("connection.json").read()
    except FileNotFoundError as exc:
        return found, type(exc).__name__
"""
REPLICAS = f"%%sandbox --replicas 2\n{LOOK}\nlook(replica)"
MAP = f"%%sandbox map look over numbers --sandboxes 2\n{LOOK}"
NAMES = "import os; sorted(os.listdir())"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A notebook's folder, in which its kernel's connection file lies."""
    made = tmp_path / "project"
    made.mkdir()
    (made / "one.ipynb").write_text("{}")
    (made / "data.csv").write_text("a,b\n")
    write_connection(made / "connection.json")
    return made


@contextmanager
def kernel_of(folder: Path) -> Iterator[tuple[int, FrontEnd]]:
    environment = {**kernel_environment(folder.parent), "JPY_SESSION_NAME": str(folder / "one.ipynb")}
    process = spawn_with(folder / "connection.json", environment=environment, folder=folder)
    try:
        yield process.pid, process.front_end()
    finally:
        process.end()


def layers(folder: Path) -> list[str]:
    """Return what is left of layers that are not kept."""
    return [path.name for path in (folder.parent / "data/sandbox/layers/passing").iterdir()]


def test_what_replicas_and_workers_write_is_nobodys(folder: Path) -> None:
    with kernel_of(folder) as (pid, front_end):
        names = re.findall(r"'([^']*)'", front_end.run(NAMES).result)
        assert "data.csv" in names
        assert "connection.json" not in names
        assert front_end.run("numbers = [1, 2, 3, 4]; open('precious', 'w').write('mine')").status == "ok"
        seen = f"({names}, 'FileNotFoundError')"
        # Each of them sees the folder as it is on this machine: neither the notebook's changes nor one another's.
        assert texts(front_end.run(REPLICAS)) == f"replicas 1, 2:\n{seen}\n"
        assert front_end.run(MAP).status == "ok"
        results = front_end.run("first = [one for one in look_results if 'mark' not in one[0]]; first[0]").result
        assert results == seen
        assert texts(front_end.run(REPLICAS)) == f"replicas 1, 2:\n{seen}\n"
        # When the notebook's own layer is free it is not taken either, whatever they end by.
        assert front_end.run("%sandbox stop").status == "ok"
        ran = front_end.cell(f"{REPLICAS}\nimport time; time.sleep(600)")
        front_end.until(lambda: len(layers(folder)) == 2 or ran.done)
        assert not ran.done
        psutil.Process(pid).kill()
    asyncio.run(until(lambda: not layers(folder)))
    with kernel_of(folder) as (_, front_end):
        ran = front_end.run(NAMES)
        assert "Changes of this notebook that were not applied are here again" in texts(ran)
        assert re.findall(r"'([^']*)'", ran.result) == sorted([*names, "precious"])
        assert "No other changes are kept here." in front_end.run("%sandbox kept").stream()
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "connection.json"])
