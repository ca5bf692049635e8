"""A notebook whose sandbox outlives connections and kernel processes. Real kernels and kills; a real executor, too."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .client import PATIENCE, FrontEnd, KernelProcess
from .worlds import WORLDS, ExecutorWorld, World


@pytest.fixture(params=["keeper", "executor"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "executor":
        if sys.platform != "linux":
            pytest.skip("an executor's sandboxes need bubblewrap, which only Linux has")
        pytest.importorskip("grpc")
    made = WORLDS[request.param](tmp_path)
    yield made
    made.close()


of_the_records = pytest.mark.parametrize("world", ["keeper"], indirect=True)
"""For tests of commands in a terminal, which know sandboxes by their records: whose these are makes no difference."""

of_an_executor = pytest.mark.parametrize("world", ["executor"], indirect=True)
"""For tests of what only an executor has: addresses, keys and owners."""


@contextmanager
def quiet(kernel: KernelProcess) -> Iterator[FrontEnd]:
    """A front end of a kernel that complains of nothing."""
    yield kernel.front_end()
    assert kernel.complaints() == ""


def kill(kernel: KernelProcess) -> None:
    """End a kernel process as an accident does, and what its front ends had."""
    kernel.process.kill()
    kernel.process.wait()
    for front_end in kernel.front_ends:
        front_end.close()
    kernel.front_ends.clear()


def numbers(text: str) -> list[int]:
    """The numbers that cells printed, without what is said of them."""
    return [int(line) for line in text.split() if line.isdigit()]


def notices(exchange: Any) -> str:
    return "\n".join(content["data"]["text/plain"] for content in exchange.contents("display_data"))


COUNT = "import time\nfor i in range({}):\n    print(i, flush=True)\n    time.sleep(0.1)"


def test_connection_that_is_cut_costs_nothing(world: World) -> None:
    with quiet(world.kernel()) as front_end:
        cell = front_end.cell(COUNT.format(30))
        for _ in range(3):
            front_end.until(lambda: bool(cell.stream()))
            world.cut()
            time.sleep(0.3)
        front_end.finish(cell)
        assert numbers(cell.stream()) == list(range(30))
        assert (cell.status, cell.outputs.count("error"), cell.stream("stderr")) == ("ok", 0, "")
        assert notices(cell) == ""
        cell.assert_ended_once()


def test_cells_wait_while_the_sandbox_cannot_be_reached_and_run_once(world: World) -> None:
    with quiet(world.kernel()) as front_end:
        front_end.run("n = 0")
        world.part()
        cells = [front_end.cell("n += 1\nprint(n)") for _ in range(5)]
        time.sleep(1)
        world.join()
        front_end.finish(*cells)
        assert [cell.stream() for cell in cells] == [f"{n}\n" for n in range(1, 6)]


def test_cell_that_has_not_left_is_interrupted_at_once_and_never_runs(world: World) -> None:
    with quiet(world.kernel("a", "--SandboxSession.reconnect_notice=0.5")) as front_end:
        front_end.run("n = 0")
        world.part()
        time.sleep(0.5)
        cells = [front_end.cell("n += 1\nprint(n)") for _ in range(2)]
        front_end.until(lambda: notices(cells[0]) != "" or bool(cells[0].replies), timeout=10)
        front_end.interrupt()
        front_end.finish(*cells)
        assert cells[0].error["ename"] == "KeyboardInterrupt"
        assert cells[1].status == "aborted"
        last = front_end.cell("print('n is', n)")
        time.sleep(0.5)
        world.join()
        assert front_end.finish(last).stream() == "n is 0\n"


def test_cell_that_waits_for_a_lost_connection_says_so(world: World) -> None:
    with quiet(world.kernel("a", "--SandboxSession.reconnect_notice=1")) as front_end:
        front_end.run("1")
        cell = front_end.cell("import time; time.sleep(2)")
        front_end.until(lambda: "busy" in cell.statuses)
        world.part()
        front_end.until(lambda: "the connection has been lost for 1 s or more" in notices(cell))
        world.join()
        assert front_end.finish(cell).status == "ok"


def test_sandbox_that_was_paused_and_stopped_is_not_said_to_go_on(world: World) -> None:
    with quiet(world.kernel()) as front_end:
        for command in ("x = 1", "%sandbox pause", "%sandbox stop"):
            front_end.run(command)
        after = front_end.run("'x' in globals()")
        assert (after.result, after.stream("stderr")) == ("False", "")


def test_sandbox_that_is_gone_for_good_is_told_once_in_each_cell(world: World) -> None:
    with quiet(world.kernel()) as front_end:
        front_end.run("x = 1")
        cells = [front_end.cell("import time; time.sleep(60)"), front_end.cell("print(1)")]
        front_end.until(lambda: "busy" in cells[0].statuses)
        (sandbox_id,) = world.sandboxes
        world.kill_sandbox(sandbox_id)
        front_end.finish(*cells)
        assert {cell.error["ename"] for cell in cells} == {"SandboxLostError"}
        after = front_end.run("print(2)")
        assert after.stream() == "2\n"
        assert after.stream("stderr").startswith("The sandbox is a fresh one")


def test_killed_kernel_process_gives_the_same_variables_and_all_output(world: World) -> None:
    first = world.kernel()
    front_end = first.front_end()
    front_end.run("x = 41")
    cell = front_end.cell(COUNT.format(60))
    front_end.until(lambda: len(numbers(cell.stream())) > 5)
    (sandbox_id,) = world.sandboxes
    kill(first)
    time.sleep(1)
    with quiet(world.kernel()) as again:
        host = again.run("print(x + 1)")
        assert host.stream().endswith("42\n")
        assert numbers(host.stream()) == [*range(60), 42]
        assert "In [2]: import time…" in notices(host)
        assert host.stream("stderr") == (
            f"The kernel process had ended and is a new one; the sandbox {sandbox_id} went on: variables, files and "
            "packages are kept.\n"
        )
        order = [msg["msg_type"] for msg in host.messages]
        assert order.index("stream") == 1
        assert (host.status, host.count, world.sandboxes) == ("ok", 3, [sandbox_id])
        host.assert_ended_once()
        assert again.run("x").result == "41"


def test_attach_at_once_waits_for_the_sandbox_that_is_taken_over(world: World) -> None:
    first = world.kernel()
    first.front_end().run("x = 1")
    sandboxes = world.sandboxes
    kill(first)
    with quiet(world.kernel()) as again:
        assert again.run("%sandbox attach").status == "ok"
        assert again.run("x").result == "1"
        assert world.sandboxes == sandboxes


def test_attach_to_another_sandbox_does_not_end_the_one_that_was_taken_over(world: World) -> None:
    first, second = world.kernel("a"), world.kernel("b")
    first.front_end().run("x = 1")
    other = second.front_end()
    other.run("x = 2")
    detached = world.sandbox_of(second)
    other.run("%sandbox detach")
    sandboxes = set(world.sandboxes)
    kill(first)
    with quiet(world.kernel("a")) as again:
        refused = again.run(f"%sandbox attach {detached}").error
        assert refused["ename"] == "SessionError"
        assert "`%sandbox detach` or `%sandbox stop` comes first" in refused["evalue"]
        assert again.run("x").result == "1"
        assert set(world.sandboxes) == sandboxes


def test_running_cell_streams_on_in_the_cell_that_attaches(world: World) -> None:
    first = world.kernel()
    front_end = first.front_end()
    cell = front_end.cell(COUNT.format(40) + "\nname = input('name? ')")
    front_end.until(lambda: bool(cell.stream()))
    (sandbox_id,) = world.sandboxes
    kill(first)
    with quiet(world.kernel("b")) as other:
        host = other.cell(f"%sandbox attach {sandbox_id}")
        # Questions and outputs come through sockets of their own, in no order.
        other.until(lambda: bool(host.questions) and len(numbers(host.stream())) >= 40)
        assert host.questions[0]["content"]["prompt"] == "name? "
        assert numbers(host.stream()) == list(range(40))
        other.answer("Ada")
        other.finish(host)
        assert host.status == "ok"
        assert other.run("name").result == "'Ada'"
        assert world.sandboxes == [sandbox_id]


def test_question_that_waits_is_asked_again(world: World) -> None:
    first = world.kernel()
    front_end = first.front_end()
    cell = front_end.cell("name = input('name? ')")
    front_end.until(lambda: bool(cell.questions))
    kill(first)
    with quiet(world.kernel()) as again:
        host = again.cell("print('hello', name)")
        again.until(lambda: bool(host.questions))
        again.answer("Ada")
        again.finish(host)
        assert host.stream().endswith("hello Ada\n")


def test_interrupt_reaches_a_cell_of_before(world: World) -> None:
    first = world.kernel()
    front_end = first.front_end()
    cell = front_end.cell("x = 1\nprint('begun')\nimport time\ntime.sleep(1000)")
    front_end.until(lambda: "begun" in cell.stream())
    (sandbox_id,) = world.sandboxes
    kill(first)
    with quiet(world.kernel("b")) as other:
        host = other.cell(f"%sandbox attach {sandbox_id}")
        other.until(lambda: "begun" in host.stream())
        other.interrupt()
        other.finish(host)
        assert [content["ename"] for content in host.contents("error")] == ["KeyboardInterrupt"]
        assert other.run("x").result == "1"


def test_detached_sandbox_goes_on_and_is_offered_and_comes_back(world: World) -> None:
    with quiet(world.kernel("a", notebook="/n/one.ipynb")) as front_end:
        front_end.run("x = 7")
        said = front_end.run("%sandbox detach").stream()
        (sandbox_id,) = world.sandboxes
        assert sandbox_id in said
        assert world.record(sandbox_id).ending == "detached"
        fresh = front_end.run("'x' in dir()")
        assert fresh.result == "False"
        assert f"`%sandbox attach {sandbox_id}` goes on with it" in fresh.stream("stderr")
        assert front_end.run(f"%sandbox attach {sandbox_id}").error["ename"] == "SessionError"
        front_end.run("%sandbox stop")
        front_end.run("%sandbox attach")
        assert front_end.run("x").result == "7"
        assert world.sandboxes == [sandbox_id]


def test_past_cell_is_shown_again(world: World) -> None:
    with quiet(world.kernel()) as front_end:
        front_end.run("print('one')")
        front_end.run("print('two')\n3")
        last = front_end.run("%sandbox replay")
        assert (last.stream(), last.result) == ("two\n", "3")
        assert front_end.run("%sandbox replay 1").stream() == "one\n"
        assert "no cell 9" in notices(front_end.run("%sandbox replay 9"))


def test_restart_gives_fresh_variables_in_the_same_sandbox(world: World) -> None:
    first = world.kernel()
    front_end = first.front_end()
    front_end.run("x = 1\nopen('kept', 'w').close()")
    (sandbox_id,) = world.sandboxes
    front_end.ask("shutdown_request", {"restart": True}, channel="control")
    first.process.wait(PATIENCE)
    first.end()
    with quiet(world.kernel()) as again:
        cell = again.run("import os\n('x' in dir(), os.path.exists('kept'))")
        assert cell.result == "(False, True)"
        assert cell.stream("stderr") == (
            f"The notebook was restarted in its sandbox {sandbox_id}: variables are gone, files and packages are "
            "kept.\n"
        )
        assert cell.count == 1
        assert world.sandboxes == [sandbox_id]


def test_signal_and_a_new_process_at_once_give_fresh_variables_in_the_same_sandbox(world: World) -> None:
    first = world.kernel("a", notebook="/n/one.ipynb")
    front_end = first.front_end()
    front_end.run("x = 1\nopen('kept', 'w').close()")
    sandboxes = world.sandboxes
    first.process.terminate()
    with quiet(world.kernel("b", notebook="/n/one.ipynb")) as again:
        assert again.run("import os\n('x' in dir(), os.path.exists('kept'))").result == "(False, True)"
        first.process.wait(PATIENCE)
        assert again.run("1").status == "ok"
        assert world.sandboxes == sandboxes


TOLD = "__vsc_ipynb_file__ = '/n/one.ipynb'"


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_notebook_that_tells_its_name_in_a_hidden_cell_finds_its_sandbox(world: World, end: str) -> None:
    first = world.kernel("a")
    front_end = first.front_end()
    front_end.run(TOLD, store_history=False)
    front_end.run("x = 1")
    sandboxes = world.sandboxes
    world.until(lambda: [record.notebook for record in world.records.all()] == ["/n/one.ipynb"])
    getattr(first.process, end)()
    with quiet(world.kernel("b")) as again:
        again.run(TOLD, store_history=False)
        assert again.run("'x' in dir()").result == str(end == "kill")
        first.process.wait(PATIENCE)
        # The one that was started before the name was known goes meanwhile.
        world.until(lambda: world.sandboxes == sandboxes)


def test_signal_without_a_new_process_closes_the_sandbox(world: World) -> None:
    kernel = world.kernel()
    kernel.front_end().run("x = 1")
    assert world.sandboxes
    kernel.process.terminate()
    kernel.process.wait(PATIENCE)
    assert (world.sandboxes, world.records.all()) == ([], [])


@pytest.mark.parametrize(("policy", "left"), [("close", 0), ("pause", 1), ("detach", 1)])
def test_shutdown_does_what_is_configured(world: World, policy: str, left: int) -> None:
    kernel = world.kernel("a", world.shutdown_policy(policy))
    front_end = kernel.front_end()
    front_end.run("x = 1")
    front_end.ask("shutdown_request", {"restart": False}, channel="control")
    kernel.process.wait(PATIENCE)
    assert len(world.sandboxes) == left
    assert [record.ending for record in world.records.all()] == ["detached"] * left
    if left:
        with quiet(world.kernel("b")) as other:
            other.run("%sandbox attach")
            assert other.run("x").result == "1"


def test_two_kernels_never_drive_one_sandbox_unknowingly(world: World) -> None:
    with quiet(world.kernel("a")) as one, quiet(world.kernel("b")) as two:
        one.run("x = 1")
        sandbox_id = world.sandbox_of(world.kernels[0])
        refused = two.run(f"%sandbox attach {sandbox_id}").error
        assert refused["ename"] == "SessionError"
        assert f"kernel process {world.kernels[0].pid} uses the sandbox" in refused["evalue"]
        two.run(f"%sandbox attach --force {sandbox_id}")
        assert two.run("x").result == "1"
        lost = one.run("x")
        if lost.error["ename"] == "NameError":
            assert lost.stream("stderr").startswith("Another kernel process has taken the sandbox")
        else:
            assert lost.error["ename"] == "SandboxTakenError"
        assert two.run("x").result == "1"


def test_reaper_stops_exactly_the_orphans(world: World) -> None:
    alive, killed, detached = (world.kernel(name) for name in "abc")
    ids = []
    for kernel in (alive, killed, detached):
        kernel.front_end().run("x = 1")
        ids.append(world.sandbox_of(kernel))
    detached.front_ends[0].run("%sandbox detach")
    kill(killed)
    reaper = world.kernel("d", "--SandboxSession.orphan_grace=0")
    reaper.front_end().run("1")
    world.until(lambda: ids[1] not in world.sandboxes)
    time.sleep(0.5)
    assert ids[0] in world.sandboxes
    assert ids[2] in world.sandboxes
    assert alive.front_ends[0].run("x").result == "1"
    assert {record.sandbox_id for record in world.records.all()} >= {ids[0], ids[2]}
    assert ids[1] not in {record.sandbox_id for record in world.records.all()}


@of_the_records
def test_terminal_shows_what_was_missed_and_leaves_the_sandbox(world: World) -> None:
    first = world.kernel()
    front_end = first.front_end()
    cell = front_end.cell("x = 5\n" + COUNT.format(40))
    front_end.until(lambda: bool(cell.stream()))
    (sandbox_id,) = world.sandboxes
    kill(first)
    said = world.cli("attach", sandbox_id[:-1])
    assert f"In [1]: x = 5\n{COUNT.format(40)}\n0\n1\n" in said.stdout
    assert "38\n39\n" in said.stdout
    assert said.stdout.endswith(f"`%sandbox attach {sandbox_id}` in a notebook comes back to it.\n")
    assert "detached" in world.cli("list").stdout
    assert world.cli("stop", sandbox_id).stdout == f"The sandbox {sandbox_id} is stopped.\n"
    assert world.sandboxes == []


@of_the_records
def test_orphans_are_stopped_from_a_terminal_and_from_a_cell(world: World) -> None:
    first, second = world.kernel("a"), world.kernel("b", '--SandboxSession.approvals={"stop": "allow"}')
    first.front_end().run("x = 1")
    front_end = second.front_end()
    front_end.run("x = 2")
    orphan, own = world.sandbox_of(first), world.sandbox_of(second)
    kill(first)
    listed = front_end.run("%sandbox list").stream()
    # All but what is older by then.
    assert re.sub(r"\d+ s", "", listed) == re.sub(r"\d+ s", "", world.cli("list").stdout)
    assert "orphan" in listed
    assert front_end.run("%sandbox stop --orphans").stream() == f"The sandbox {orphan} is stopped.\n"
    assert world.sandboxes == [own]
    assert world.cli("stop", "--orphans").stdout == "There are no orphans.\n"
    assert front_end.run("x").result == "2"


@of_the_records
def test_running_cell_is_detached_from_a_terminal(world: World) -> None:
    with quiet(world.kernel()) as front_end:
        cell = front_end.cell("x = 1\n" + COUNT.format(30))
        front_end.until(lambda: bool(cell.stream()))
        sandbox_id = world.sandbox_of(world.kernels[0])
        assert "goes on" in world.cli("detach", sandbox_id).stdout
        front_end.finish(cell)
        assert "was detached and goes on" in cell.error["evalue"]
        host = front_end.run("%sandbox attach")
        assert numbers(host.stream()) == list(range(30))
        assert front_end.run("x").result == "1"


def test_sandbox_that_cannot_be_reached_is_neither_lost_nor_left_to_the_reaper(world: World) -> None:
    with quiet(world.kernel("a", "--SandboxSession.reconnect_timeout=0.5")) as front_end:
        front_end.run("x = 1")
        sandbox_id = world.sandbox_of(world.kernels[0])
        cell = front_end.cell("import time\ntime.sleep(2)\nx += 1")
        front_end.until(lambda: "busy" in cell.statuses)
        world.part()
        front_end.finish(cell)
        assert cell.error["ename"] == "SandboxConnectionError"
        assert f"The sandbox {sandbox_id} cannot be reached" in cell.error["evalue"]
        assert front_end.run("x").error["ename"] == "SandboxConnectionError"
        assert not world.record(sandbox_id).is_orphan
        world.join()
        again = front_end.run("x")
        assert again.result == "2"
        assert world.sandboxes == [sandbox_id]


def test_attach_that_fails_leaves_the_sandbox_as_it_was(world: World) -> None:
    with quiet(world.kernel("a")) as one, quiet(world.kernel("b", "--SandboxSession.start_attempts=1")) as two:
        one.run("x = 1")
        two.run("1")
        sandbox_id = world.sandbox_of(world.kernels[0])
        one.run("%sandbox detach")
        two.run("%sandbox stop")
        world.part()
        assert two.run(f"%sandbox attach {sandbox_id}").error["ename"] == "SandboxConnectionError"
        world.until(lambda: world.record(sandbox_id).ending == "detached")
        assert not world.record(sandbox_id).has_owner
        world.join()
        assert two.run("%sandbox attach no-such-one").error["ename"] == "NotFoundError"
        two.run(f"%sandbox attach {sandbox_id}")
        assert two.run("x").result == "1"


STOPS = '--SandboxSession.approvals={"stop": "allow"}'


def test_stop_that_fails_leaves_an_orphan_that_can_be_stopped(world: World) -> None:
    with quiet(world.kernel("a", STOPS)) as front_end:
        front_end.run("x = 1")
        sandbox_id = world.sandbox_of(world.kernels[0])
        world.part()
        failed = front_end.run("%sandbox stop").error
        assert failed["ename"] in ("SandboxConnectionError", "SandboxTimeoutError")
        assert f"The sandbox {sandbox_id} may still run" in failed["evalue"]
        assert world.record(sandbox_id).is_orphan
        world.join()
        listed = front_end.run("%sandbox list").stream()
        assert (sandbox_id in listed, "orphan" in listed) == (True, True)
        # It is not gone on with: it was to end.
        assert front_end.run("'x' in dir()").result == "False"
        assert sandbox_id in world.sandboxes
        assert front_end.run(f"%sandbox stop {sandbox_id}").stream() == f"The sandbox {sandbox_id} is stopped.\n"
        assert sandbox_id not in world.sandboxes
        assert world.records.find(sandbox_id) == []


def test_shutdown_that_reaches_nobody_leaves_an_orphan(world: World) -> None:
    # With a copy of the folder it would be left on purpose, with the changes that nobody could fetch.
    kernel = world.kernel("a", "--Workspace.mode=private")
    front_end = kernel.front_end()
    front_end.run("x = 1")
    sandbox_id = world.sandbox_of(kernel)
    world.part()
    front_end.ask("shutdown_request", {"restart": False}, channel="control")
    kernel.process.wait(PATIENCE)
    assert world.record(sandbox_id).is_orphan
    world.join()
    with quiet(world.kernel("a")) as again:
        assert again.run("'x' in dir()").result == "False"
    assert world.cli("stop", "--orphans").stdout == f"The sandbox {sandbox_id} is stopped.\n"
    assert sandbox_id not in world.sandboxes


@of_an_executor
def test_record_outlives_who_looks_at_another_address_or_with_anothers_key(world: ExecutorWorld) -> None:
    front_end = world.kernel("a", notebook="/n/one.ipynb").front_end()
    front_end.run("x = 1")
    sandbox_id = world.sandbox_of(world.kernels[0])
    front_end.run("%sandbox detach")
    before = world.record(sandbox_id)
    assert before.owner == "ann"
    world.changed = {"address": f"127.0.0.1:{world.proxy.port}"}
    with quiet(world.kernel("b", STOPS)) as elsewhere:
        refused = elsewhere.run(f"%sandbox attach {sandbox_id}").error
        assert refused["ename"] == "NotFoundError"
        assert f"is at localhost:{world.proxy.port}; the configuration says 127.0.0.1" in refused["evalue"]
        assert world.record(sandbox_id) == before
    world.executor.add_key("bob")
    world.changed = {"key_file": world.executor.key_file("bob")}
    with quiet(world.kernel("c", STOPS)) as another:
        refused = another.run(f"%sandbox attach {sandbox_id}").error
        assert refused["ename"] == "SessionError"
        assert "is ann's at localhost" in refused["evalue"]
        assert "and you are bob there" in another.run(f"%sandbox stop {sandbox_id}").stream()
        world.until(lambda: world.record(sandbox_id) == before)
    world.changed = {}
    front_end.run("%sandbox attach")
    assert front_end.run("x").result == "1"


@of_an_executor
def test_notebook_whose_key_became_anothers_leaves_its_sandbox(world: ExecutorWorld) -> None:
    first = world.kernel("a")
    first.front_end().run("x = 1")
    sandbox_id = world.sandbox_of(first)
    kill(first)
    world.executor.add_key("bob")
    world.changed = {"key_file": world.executor.key_file("bob")}
    with quiet(world.kernel("a")) as again:
        fresh = again.run("'x' in dir()")
        assert fresh.result == "False"
        assert fresh.stream("stderr").startswith(f"The sandbox {sandbox_id} is ann's at localhost")
        assert world.record(sandbox_id).is_orphan
    assert sandbox_id in world.sandboxes


@of_an_executor
def test_record_goes_with_a_restarted_executor(world: ExecutorWorld) -> None:
    with quiet(world.kernel("a")) as front_end:
        front_end.run("x = 1")
        sandbox_id = world.sandbox_of(world.kernels[0])
        front_end.run("%sandbox detach")
        world.executor.kill()
        world.executor.start()
        assert front_end.run(f"%sandbox attach {sandbox_id}").error["ename"] == "NotFoundError"
        assert world.records.find(sandbox_id) == []


def test_interrupted_attach_leaves_the_sandbox_as_it_was(world: World) -> None:
    with quiet(world.kernel("a")) as front_end:
        front_end.run("x = 1")
        sandbox_id = world.sandbox_of(world.kernels[0])
        front_end.run("%sandbox detach")
        before = world.record(sandbox_id)
        world.part()
        attaching = front_end.cell("%sandbox attach")
        world.until(lambda: world.record(sandbox_id).has_owner)
        front_end.interrupt()
        front_end.finish(attaching)
        assert attaching.error["ename"] == "KeyboardInterrupt"
        world.join()
        assert world.record(sandbox_id) == before
        assert front_end.run("'x' in dir()").result == "False"
        assert world.record(sandbox_id) == before
        front_end.run("%sandbox stop")
        front_end.run("%sandbox attach")
        assert front_end.run("x").result == "1"


@of_an_executor
def test_list_asks_the_executor_which_sandboxes_exist_and_how_they_are(world: ExecutorWorld) -> None:
    with quiet(world.kernel("a")) as front_end:
        front_end.run("x = 1")
        sandbox_id = world.sandbox_of(world.kernels[0])
        front_end.run("%sandbox detach")
        # Its age and for how long it is idle.
        assert re.search(r"detached +\d+ s +\d+ s +gone", front_end.run("%sandbox list").stream())
        world.part()
        said = world.cli("list")
        assert sandbox_id in said.stdout
        assert "is what was known last" in said.stderr
        world.join()
        world.executor.kill()
        world.executor.start()
        assert world.cli("list").stdout == "There are no sandboxes.\n"
        assert world.records.all() == []


@of_an_executor
def test_attach_offers_no_sandbox_that_is_gone(world: ExecutorWorld) -> None:
    with quiet(world.kernel("a")) as front_end:
        for _ in range(2):
            front_end.run("x = 1")
            front_end.run("%sandbox detach")
        world.executor.kill()
        world.executor.start()
        assert "There is no sandbox to attach to" in front_end.run("%sandbox attach").error["evalue"]
        assert world.records.all() == []


@of_an_executor
def test_sandbox_that_the_executor_paused_is_listed_as_paused(world: ExecutorWorld) -> None:
    world.executor.terminate()
    world.executor.configure({"idle_timeout": 0.5})
    world.executor.start()
    with quiet(world.kernel("a")) as front_end:
        front_end.run("x = 1")
        front_end.run("%sandbox detach")
        world.until(lambda: " paused " in front_end.run("%sandbox list").stream())
        front_end.run("%sandbox attach")
        assert front_end.run("x").result == "1"


def test_refused_attach_changes_no_record_whatever_was_attached_before(world: World) -> None:
    with quiet(world.kernel("a")) as one, quiet(world.kernel("b")) as two:
        one.run("x = 1")
        sandbox_id = world.sandbox_of(world.kernels[0])
        two.run("x = 2")
        for line in ("detach", "attach", "stop"):
            assert two.run(f"%sandbox {line}").status == "ok"
        for _ in range(2):
            assert two.run(f"%sandbox attach {sandbox_id}").error["ename"] == "SessionError"
            assert [record.sandbox_id for record in world.records.all()] == [sandbox_id]
            assert world.record(sandbox_id).has_owner
        assert one.run("x").result == "1"
