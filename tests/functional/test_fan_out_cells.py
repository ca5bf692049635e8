"""`%%sandbox --replicas` and `%%sandbox map` in both kinds of notebooks."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from tests.gateways import TOKEN, serving
from tests.processes import sandboxes_of

from .client import FrontEnd, KernelProcess, kernel_environment, running

if sys.platform != "linux":
    pytest.skip("the local provider needs bubblewrap, which only Linux has", allow_module_level=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FrontEnd, KernelManager]]:
    """An ordinary kernel with the extension."""
    folder = tmp_path_factory.mktemp("plain")
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(folder), env=kernel_environment(folder))
    front_end = FrontEnd(manager.get_connection_info())
    front_end.ready()
    assert front_end.run("%load_ext sandbox_magics").status == "ok"
    yield front_end, manager
    manager.shutdown_kernel()
    front_end.close()


def texts(ran: Any) -> str:
    """Return everything that a cell showed as text, in order, without the bars that count."""
    shown = []
    for message in ran.messages:
        content = message["content"]
        if message["msg_type"] == "stream":
            shown.append(content["text"])
        elif message["msg_type"] == "display_data" and not content["transient"].get("display_id"):
            shown.append(content["data"]["text/plain"] + "\n")
    return "".join(shown)


def bar(ran: Any) -> str:
    """Return the last picture of the bar, as text."""
    return str(ran.contents("update_display_data")[-1]["data"]["text/plain"])


DIFFERENT = """%%sandbox --replicas 4
print("same" if replica != 2 else "different", replicas)
replica % 2"""


WAITING = """%%sandbox --replicas 3
import time
try:
    time.sleep(600)
except KeyboardInterrupt:
    print("ended")
"""


def test_replicas_show_equal_outputs_once(notebook: FrontEnd) -> None:
    ran = notebook.run("%%sandbox --replicas 4\nprint('same')\n'value'")
    assert texts(ran) == "replicas 1–4:\nsame\n'value'\n"  # noqa: RUF001 - that dash is meant
    assert bar(ran).endswith("4 of 4 done")
    ran = notebook.run(DIFFERENT)
    assert texts(ran) == "replicas 1, 3:\nsame 4\n1\n\nreplica 2:\ndifferent 4\n0\n\nreplica 4:\nsame 4\n0\n"


def test_replicas_show_the_error_of_each(notebook: FrontEnd) -> None:
    ran = notebook.run("%%sandbox --replicas 3\nif replica > 1:\n    raise ValueError(f'number {replica}')")
    assert ran.status == "error"
    (error,) = ran.contents("error")
    assert (error["ename"], error["evalue"]) == ("ReplicasFailedError", "The cell failed in 2 of 3 replicas.")
    assert "number 2" in texts(ran)
    assert "number 3" in texts(ran)
    assert texts(ran).startswith("replica 1:\n\nreplica 2:\n")


def test_replicas_are_the_configurations_to_limit(notebook: FrontEnd) -> None:
    for count in (0, 17):
        ran = notebook.run(f"%%sandbox --replicas {count}\n1")
        assert "SandboxSession.max_fan_out" in ran.contents("error")[0]["evalue"]


def test_output_of_replicas_is_guarded(notebook: FrontEnd) -> None:
    code = "from IPython.display import HTML, display\ndisplay(HTML('<b onclick=\"alert(1)\">bold</b>'))"
    ran = notebook.run(f"%%sandbox --replicas 2\n{code}")
    (shown,) = [one for one in ran.contents("display_data") if not one["transient"].get("display_id")]
    assert '<iframe sandbox="allow-scripts"' in shown["data"]["text/html"]


def test_interrupt_reaches_all_replicas_and_leaves_none(notebook: FrontEnd, kernel: KernelProcess) -> None:
    before = len(sandboxes_of(kernel.pid))
    code = (
        "%%sandbox --replicas 3\nimport time\ntry:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    print('ended')"
    )
    cell = notebook.cell(code)
    deadline = time.monotonic() + 60
    while len(sandboxes_of(kernel.pid)) < before + 3 and time.monotonic() < deadline:
        notebook._take(0.1)
    for _ in range(20):
        notebook._take(0.1)
    notebook.interrupt()
    while not cell.done and time.monotonic() < deadline:
        notebook._take(0.5)
    assert cell.contents("error")[0]["ename"] == "KeyboardInterrupt"
    assert texts(cell) == "replicas 1–3:\nended\n"  # noqa: RUF001 - that dash is meant
    while len(sandboxes_of(kernel.pid)) > before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(sandboxes_of(kernel.pid)) == before


def test_replicas_in_an_ordinary_notebook(plain: tuple[FrontEnd, KernelManager]) -> None:
    ran = plain[0].run("%%sandbox --replicas 2\nprint(replica // 3)")
    assert texts(ran) == "replicas 1, 2:\n0\n"


@pytest.mark.skipif("SANDBOX_FAN_OUT_WHOLE" not in os.environ, reason="takes long: SANDBOX_FAN_OUT_WHOLE=1")
def test_replicas_at_a_gateway_in_relay_mode(tmp_path: Path) -> None:
    environment = {"SANDBOX_KERNEL_GATEWAY_TOKEN": TOKEN}
    with (
        serving(tmp_path / "gateway") as server,
        running(tmp_path / "kernel", *server.arguments(), environment=environment) as process,
    ):
        ran = process.front_end().run("%%sandbox --replicas 2\nprint(replicas)")
    assert texts(ran) == "replicas 1, 2:\n2\n"


MAP = """%%sandbox map area over sizes --sandboxes 2
import math

def area(size):
    if size == 3:
        raise ValueError("three")
    return round(math.pi * size ** 2, 2)
"""


def test_map_cell_stores_results_and_tells_of_failures(plain: tuple[FrontEnd, KernelManager]) -> None:
    front_end = plain[0]
    assert front_end.run("sizes = range(100)").status == "ok"
    ran = front_end.run(MAP)
    assert ran.status == "ok"
    assert "100 of 100 inputs were done, 1 of them with a failure. The results are in area_results." in texts(ran)
    assert 'raise ValueError("three")' in texts(ran)
    assert bar(ran).endswith("100 of 100 done, 1 failed")
    assert (
        front_end.run("area_results[2], area_results[3].name, len(area_results)").result == "(12.57, 'ValueError', 100)"
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("area of sizes", "write %%sandbox|invalid choice"),
        ("area over nothing", "no variable nothing"),
        ("area over [1]", "no name"),
        ("area over sizes --to class", "no name"),
        ("area over sizes --to __builtins__", "a name of Python's own"),
        ("area over sizes --sandboxes 99", "max_fan_out"),
        ("other over sizes", "defines no function other"),
    ],
)
def test_map_cell_that_is_wrong_is_told(plain: tuple[FrontEnd, KernelManager], line: str, reason: str) -> None:
    plain[0].run("sizes = range(3)")
    ran = plain[0].run(f"%%sandbox map {line}\ndef area(size):\n    return size")
    assert any(part in ran.contents("error")[0]["evalue"] for part in reason.split("|"))


UNENDING = """%%sandbox map work over numbers --sandboxes 2
import time

def work(number):
    time.sleep(600 if number == 4 else 0)
    return number
"""


def test_interrupted_map_cell_keeps_what_was_done(plain: tuple[FrontEnd, KernelManager]) -> None:
    front_end, manager = plain
    front_end.run("numbers = range(5)")
    cell = front_end.cell(UNENDING)
    deadline = time.monotonic() + 60
    while not (cell.contents("update_display_data") and "4 of 5" in bar(cell)) and time.monotonic() < deadline:
        front_end._take(0.1)
    manager.interrupt_kernel()
    while not cell.done and time.monotonic() < deadline:
        front_end._take(0.5)
    assert cell.contents("error")[0]["ename"] == "KeyboardInterrupt"
    assert "4 of 5 inputs were done" in texts(cell)
    assert front_end.run("work_results").result == "{0: 0, 1: 1, 2: 2, 3: 3}"


ONCE = """%%sandbox map once over range_of_3 --sandboxes 1
import os

if os.path.exists("left"):
    raise RuntimeError("not again")

def once(number):
    if number == 1:
        open("left", "w").close()
        os._exit(3)
    return -number
"""


def test_map_cell_that_cannot_go_on_keeps_what_was_done(plain: tuple[FrontEnd, KernelManager]) -> None:
    front_end = plain[0]
    front_end.run("range_of_3 = range(3)")
    ran = front_end.run(ONCE)
    assert "not again" in ran.contents("error")[0]["evalue"]
    assert "2 of 3 inputs were done, 1 of them with a failure" in texts(ran)
    assert front_end.run("once_results[0], once_results[1].kind, len(once_results)").result == "(0, 'may have run', 2)"
    # An error before anything was done leaves them as they are.
    assert front_end.run(ONCE.replace("def once", "def other")).status == "error"
    assert front_end.run("len(once_results)").result == "2"


def test_map_cell_works_with_the_variables_of_the_notebooks_sandbox(notebook: FrontEnd) -> None:
    assert notebook.run("sizes = range(100)").status == "ok"
    ran = notebook.run(MAP)
    assert ran.status == "ok"
    assert "100 of 100 inputs were done, 1 of them with a failure. The results are in area_results." in texts(ran)
    ran = notebook.run("area_results[2], area_results[3]['name'], len(area_results), __import__('os').listdir('.')")
    assert ran.result.startswith("(12.57, 'ValueError', 100, ")
    assert ".sandbox-kernel-" not in ran.result
    notebook.run("import numpy\narrays = [numpy.arange(3), numpy.arange(4)]")
    assert notebook.run("%%sandbox map f over arrays --to sums\ndef f(a):\n    return a * 2").status == "ok"
    assert notebook.run("sums").result == "[array([0, 2, 4]), array([0, 2, 4, 6])]"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("f over nowhere", "no variable nowhere"),
        ("f over generator", "make a list of it"),
        ("f over things", "item 0 of things does not travel"),
    ],
)
def test_inputs_that_cannot_be_had_from_the_sandbox_are_told(notebook: FrontEnd, line: str, reason: str) -> None:
    notebook.run("generator = (n for n in range(3)); things = [object()]")
    ran = notebook.run(f"%%sandbox map {line}\ndef f(a):\n    return a")
    assert reason in ran.contents("error")[0]["evalue"]


FAILING = """%%sandbox map f over sizes --sandboxes 2 --stop-on-failure
def f(size):
    import time
    time.sleep(0.5 if size == 9 else 0)
    if size == 9:
        raise ValueError("nine")
    return size
"""


def test_what_it_says_was_done_is_what_the_variable_has(notebook: FrontEnd) -> None:
    notebook.run("sizes = range(1000)")
    ran = notebook.run(FAILING)
    assert ran.contents("error")[0]["ename"] == "ValueError"
    (done,) = re.findall(r"([0-9,]+) of 1,000 inputs were done, 1 of them with a failure\.", texts(ran))
    results = notebook.run("len(f_results), f_results[9]['name'], list(f_results) == sorted(f_results)").result
    assert results == f"({int(done.replace(',', ''))}, 'ValueError', True)"


def test_inputs_of_a_paused_sandbox_can_be_had(notebook: FrontEnd) -> None:
    notebook.run("few = [1, 2, 3]")
    assert notebook.run("%sandbox pause").status == "ok"
    assert notebook.run("%%sandbox map f over few --sandboxes 1\ndef f(size):\n    return -size").status == "ok"
    assert notebook.run("f_results").result == "[-1, -2, -3]"


LEISURELY = """%%sandbox map f over few --sandboxes 1
import time

def f(size):
    time.sleep(1)
    return -size
"""


def test_results_outlive_the_notebooks_sandbox(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        front_end = process.front_end()
        front_end.run("few = [1, 2, 3]")
        own = sandboxes_of(process.pid)
        cell = front_end.cell(LEISURELY)
        front_end.until(lambda: len(sandboxes_of(process.pid)) > len(own))
        for one in own:
            one.kill()
        ran = front_end.finish(cell)
        assert ran.status == "ok"
        assert "sandbox was lost meanwhile, with its variables: f_results is in a fresh one." in texts(ran)
        assert front_end.run("f_results, 'few' in globals()").result == "([-1, -2, -3], False)"


def test_interrupt_while_results_are_stored_loses_none(notebook: FrontEnd) -> None:
    notebook.run("many = range(30_000)")
    cell = notebook.cell("%%sandbox map f over many --sandboxes 2\ndef f(size):\n    return -size")
    notebook.until(lambda: cell.contents("update_display_data") and "30,000 of 30,000" in bar(cell))
    notebook.interrupt()
    ran = notebook.finish(cell)
    # It may have come too late.
    assert ran.status == "ok" or "are in f_results" in texts(ran)
    assert notebook.run("len(f_results), f_results[29_999]").result == "(30000, -29999)"
