"""Real kernel processes with sandboxes on the nodes of a Ray cluster: lives that end early, room, nodes that die."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest
from nbclient import NotebookClient

if sys.platform != "linux":
    pytest.skip("the sandboxes of a node need bubblewrap, which only Linux has", allow_module_level=True)
pytest.importorskip("ray", reason="ray is not installed: there is no wheel for this Python")

from tests.ray_cluster import RayCluster, clustered

from .client import Exchange, FrontEnd, KernelProcess, kernel_environment, running, spawn_with

CPUS = 2
"""Of each node, and of each sandbox: so there is one on each."""
PATIENCE = 90.0
NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "cluster.ipynb"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """One cluster for all tests; none leaves a sandbox in it."""
    with clustered(tmp_path_factory.mktemp("ray"), cpus=CPUS) as made:
        yield made


@contextmanager
def opened(folder: Path, cluster: RayCluster, **options: object) -> Iterator[tuple[KernelProcess, FrontEnd]]:
    """Give a kernel process, which stops its sandbox at the end."""
    arguments = cluster.arguments(cpus=CPUS, **options)
    with running(folder, "--Workspace.mode=private", *arguments) as kernel:
        front_end = kernel.front_end()
        yield kernel, front_end
        shown(front_end, "%sandbox stop")


def shown(front_end: FrontEnd, line: str) -> str:
    """Return everything that a command shows, as text."""
    cell = front_end.run(line, timeout=PATIENCE)
    assert cell.status == "ok", cell.error
    return cell.stream() + "".join(content["data"]["text/plain"] for content in cell.contents("display_data"))


def waits(cell: Exchange) -> list[str]:
    """Return what a cell has shown of a wait."""
    shows = [*cell.contents("display_data"), *cell.contents("update_display_data")]
    return [one["data"]["text/plain"] for one in shows if "Waiting" in one["data"]["text/plain"]]


def own_id(front_end: FrontEnd) -> str:
    """Return the id of the notebook's sandbox."""
    found = re.search(r"ray-[a-z0-9]+-[0-9a-f]{12}-[0-9a-f]{8}", shown(front_end, "%sandbox status"))
    assert found is not None
    return found[0]


def holders(front_end: FrontEnd) -> dict[str, str]:
    """Return what `%sandbox cluster` says of each node."""
    lines = shown(front_end, "%sandbox cluster").splitlines()[1:]
    return {line.split()[0]: line for line in lines}


def test_a_notebook_runs_on_a_node_and_the_kernel_process_stays_small(cluster: RayCluster, tmp_path: Path) -> None:
    with opened(tmp_path, cluster) as (kernel, front_end):
        cell = front_end.run("print('out')\n6 * 7", timeout=PATIENCE)
        cell.assert_ended_once()
        assert (cell.stream(), cell.result) == ("out\n", "42")
        cell = front_end.cell("name = input('who? ')\nname")
        front_end.until(lambda: bool(cell.questions))
        front_end.answer("you")
        assert front_end.finish(cell).result == "'you'"
        cell = front_end.cell("print('begun', flush=True)\nimport time\ntime.sleep(1000)")
        front_end.until(lambda: "begun" in cell.stream())
        front_end.interrupt()
        assert front_end.finish(cell).error["ename"] == "KeyboardInterrupt"
        assert front_end.run("%sandbox pause").status == "ok"
        assert front_end.run("name").result == "'you'"
        assert "isolated process" in shown(front_end, "%sandbox status")
        (holder,) = [line for line in holders(front_end).values() if own_id(front_end) in line]
        assert "(this notebook's)" in holder
        assert f"0 of {CPUS}" in holder
        assert "_raylet" not in Path(f"/proc/{kernel.pid}/maps").read_text()


def test_a_notebook_goes_on_after_its_kernel_process_was_killed(cluster: RayCluster, tmp_path: Path) -> None:
    with running(tmp_path, "--Workspace.mode=private", *cluster.arguments(cpus=CPUS)) as kernel:
        front_end = kernel.front_end()
        assert front_end.run("x = 'kept'", timeout=PATIENCE).status == "ok"
        sandbox_id = own_id(front_end)
        cell = front_end.cell("import time\nfor n in range(30):\n    print(n, flush=True); time.sleep(0.1)\nlast = n")
        front_end.until(lambda: "2\n" in cell.stream())
        left = kernel.descendants()
        kernel.process.kill()
        # Its companion ends with it, and the sandbox is not its child.
        _, alive = psutil.wait_procs(left, timeout=30)
        assert alive == []
    path = tmp_path / "second.json"
    path.write_text(kernel.connection_file.read_text())
    second = spawn_with(path, "--Workspace.mode=private", *cluster.arguments(cpus=CPUS))
    try:
        front_end = second.front_end()
        attached = front_end.run(f"%sandbox attach {sandbox_id} --force", timeout=PATIENCE)
        assert attached.status == "ok"
        assert front_end.run("x, last", timeout=PATIENCE).result == "('kept', 29)"
        assert "sandbox-" not in shown(front_end, "%sandbox stop")
    finally:
        second.end()


def test_more_than_there_is_is_waited_for_until_somebody_interrupts(cluster: RayCluster, tmp_path: Path) -> None:
    with opened(tmp_path, cluster) as (_, front_end):
        cell = front_end.cell("%sandbox start --cpus 64 --memory 1GB")
        front_end.until(lambda: bool(waits(cell)), PATIENCE)
        (first, *_) = waits(cell)
        assert "asked for 64 CPUs, 1 GiB of memory" in first
        assert f"of {2 * CPUS} CPUs free" in first
        assert "first in the queue. No node has that much at all" in first
        front_end.until(lambda: len(waits(cell)) > 1, PATIENCE)
        front_end.interrupt()
        assert front_end.finish(cell).error["ename"] == "KeyboardInterrupt"
        # The same by a cell, which is the one that people wait in.
        cell = front_end.cell("1")
        front_end.until(lambda: bool(waits(cell)), PATIENCE)
        front_end.interrupt()
        assert front_end.finish(cell).error["ename"] == "KeyboardInterrupt"
        assert "waiting for room" not in shown(front_end, "%sandbox cluster")
        refused = front_end.run("%sandbox start --gpus many")
        assert "--gpus takes a number" in refused.error["evalue"]
        # Without options it is what the configuration says.
        assert "is running" in shown(front_end, "%sandbox start")
        assert f"{CPUS} CPUs\n" in shown(front_end, "%sandbox status")
        assert front_end.run("1").result == "1"
        assert "is stopped" in shown(front_end, "%sandbox stop")
        assert "is running" in shown(front_end, "%sandbox start --cpus 1 --memory 1GB")
        # One that is lost is replaced by one like it.
        cell = front_end.cell(SLEEPS)
        front_end.until(lambda: "begun" in cell.stream())
        (host,) = cluster.hosts()
        host.kill()
        assert front_end.finish(cell, timeout=PATIENCE).error["evalue"] == KILLED
        assert front_end.run("1", timeout=PATIENCE).result == "1"
        assert "1 CPUs, 1 GiB of memory\n" in shown(front_end, "%sandbox status")
        # After a stop nothing of it counts.
        assert "is stopped" in shown(front_end, "%sandbox stop")
        assert front_end.run("1", timeout=PATIENCE).result == "1"
        assert f"{CPUS} CPUs\n" in shown(front_end, "%sandbox status")


def test_a_kernel_process_that_is_killed_while_it_waits_leaves_nothing_behind(
    cluster: RayCluster, tmp_path: Path
) -> None:
    with opened(tmp_path / "a", cluster) as (_, front_end):
        with running(tmp_path / "b", *cluster.arguments(cpus=64)) as kernel:
            waiting = kernel.front_end()
            cell = waiting.cell("1")
            waiting.until(lambda: bool(waits(cell)), PATIENCE)
            assert "waiting for room: ray-" in shown(front_end, "%sandbox cluster")
            kernel.process.kill()
            kernel.process.wait()
        deadline = time.monotonic() + PATIENCE
        while "waiting for room" in shown(front_end, "%sandbox cluster"):
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_replicas_for_which_there_is_no_room_wait_for_those_that_end(cluster: RayCluster, tmp_path: Path) -> None:
    with opened(tmp_path, cluster) as (_, front_end):
        # There is room for two at once, so the third runs only if one of these is given back.
        cell = front_end.cell("%%sandbox --replicas 3\nimport time\ntime.sleep(4)\nprint('done')")
        front_end.finish(cell, timeout=PATIENCE)
        assert cell.status == "ok"
        assert cell.stream() == "replicas 1–3:\ndone\n"  # noqa: RUF001 - that dash is meant
        assert any("1 not started: Waiting for room in the Ray cluster" in text for text in waits(cell))
        bar = cell.contents("update_display_data")[-1]["data"]["text/plain"]
        assert bar.endswith("3 of 3 done")


def test_interrupted_replicas_leave_nothing_in_the_cluster(cluster: RayCluster, tmp_path: Path) -> None:
    with opened(tmp_path, cluster) as (_, front_end):
        cell = front_end.cell("%%sandbox --replicas 3\nimport time\ntime.sleep(600)")
        front_end.until(lambda: bool(waits(cell)), PATIENCE)
        front_end.interrupt()
        front_end.finish(cell, timeout=PATIENCE)
        assert cell.contents("error")[-1]["ename"] == "KeyboardInterrupt"
        left = shown(front_end, "%sandbox cluster")
        assert "waiting for room" not in left
        assert "ray-" not in left


def test_what_the_configuration_forbids_is_refused(cluster: RayCluster, tmp_path: Path) -> None:
    with opened(tmp_path, cluster, most_cpus=4) as (_, front_end):
        refused = front_end.run("%sandbox start --cpus 5")
        assert refused.error["evalue"] == "--cpus may be 4 at most (RayProvider.most_cpus)."


def test_a_dead_node_ends_its_sandbox_with_one_sentence_and_no_other(cluster: RayCluster, tmp_path: Path) -> None:
    with opened(tmp_path / "a", cluster) as (_, first), opened(tmp_path / "b", cluster) as (_, second):
        for front_end in (first, second):
            assert front_end.run("x = 'kept'", timeout=PATIENCE).status == "ok"
        nodes = holders(first)
        doomed, other = (first, second) if own_id(first) in nodes["node2"] else (second, first)
        assert own_id(other) in nodes["head"]
        going_on = other.cell("import time\nfor n in range(10_000):\n    print(n, flush=True); time.sleep(0.05)")
        cell = doomed.cell(SLEEPS)
        doomed.until(lambda: "begun" in cell.stream())
        cluster.second.kill()
        began = time.monotonic()
        doomed.finish(cell, timeout=PATIENCE)
        cell.assert_ended_once()
        assert cell.error["ename"] == "SandboxLostError"
        assert cell.error["evalue"] == SENTENCE
        seen = len(going_on.messages)
        other.until(lambda: len(going_on.messages) > seen + 20)
        other.interrupt()
        assert other.finish(going_on).error["ename"] == "KeyboardInterrupt"
        assert other.run("x").result == "'kept'"
        # The only other node is full; when it has room, the next cell starts there.
        cell = doomed.cell("'x' in dir()")
        doomed.until(lambda: bool(waits(cell)), PATIENCE)
        shown(other, "%sandbox stop")
        assert doomed.finish(cell, timeout=PATIENCE).result == "False"
        assert own_id(doomed) in holders(doomed)["head"]
        print(f"the end was told after {time.monotonic() - began:.1f} s")


def test_nobody_at_the_address_is_told(tmp_path: Path) -> None:
    with running(tmp_path, "--provider=ray", "--RayProvider.address=ray://127.0.0.1:9") as kernel:
        cell = kernel.front_end().run("1", timeout=PATIENCE)
        assert cell.error["ename"] == "SandboxConnectionError"
        assert "No Ray cluster answers at ray://127.0.0.1:9" in cell.error["evalue"]


SLEEPS = "print('begun', flush=True)\nimport time\ntime.sleep(1000)"
SENTENCE = (
    "The sandbox ended: the node that it ran on left the Ray cluster. Its variables are gone; the next cell starts a "
    "fresh one."
)
KILLED = (
    "The sandbox ended: its process on the node was ended, and Ray does not know by what. Its variables are gone; the "
    "next cell starts a fresh one."
)


def test_the_notebook_about_many_sandboxes_runs_on_both_nodes(cluster: RayCluster, tmp_path: Path) -> None:
    given = cluster.options(cpus=0.5)
    settings = [f"c.RayProvider.{name} = {value!r}" for name, value in given.items()]
    environment = {**kernel_environment(tmp_path), "JUPYTER_PATH": f"{sys.prefix}/share/jupyter"}
    (tmp_path / "config").mkdir()
    (tmp_path / "config/jupyter_sandbox_config.py").write_text(
        "\n".join(['c.SandboxSession.provider = "ray"', 'c.Workspace.mode = "private"', *settings])
    )
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    shows = nbformat.v4.new_code_cell("%sandbox cluster")  # type: ignore[no-untyped-call]
    stops = nbformat.v4.new_code_cell("%sandbox stop")  # type: ignore[no-untyped-call]
    notebook.cells += [shows, stops]
    NotebookClient(notebook, timeout=PATIENCE, kernel_name="sandbox", resources={}).execute(env=environment)
    said = {cell.source.partition("\n")[0]: str(cell.get("outputs", "")) for cell in notebook.cells}
    assert "replicas 1, 3:" in said["%%sandbox --replicas 4"]
    assert "2,000 of 2,000 done" in said["%%sandbox map collatz over numbers --sandboxes 4 --to steps"]
    assert "(this notebook's)" in said["%sandbox cluster"]
