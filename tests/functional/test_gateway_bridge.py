"""Notebooks over gateways in bridge mode: connections and kernel processes come and go, and no cell loses anything."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the servers are started and ended as on Linux", allow_module_level=True)
pytest.importorskip("jupyter_server")

from tests.chaos.faults import Fault
from tests.chaos.proxy import ChaosProxy
from tests.gateways import ALL_OR_ONE, KINDS, TOKEN, GatewayProcess, serving

from .client import FrontEnd, running, spawn_with

LET_IN = {"SANDBOX_KERNEL_GATEWAY_TOKEN": TOKEN}
LINES = 4000
SLOW = f"import time\nfor n in range({LINES}):\n    print(n, 'x' * 500); time.sleep(0.001)"


@pytest.fixture(scope="module", params=ALL_OR_ONE)
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with serving(tmp_path_factory.mktemp("gateway"), KINDS[request.param]) as made:
        yield made


@contextmanager
def opened(folder: Path, gateway: GatewayProcess, **options: object) -> Iterator[FrontEnd]:
    """A front end of a kernel process, which is shut down: one that is ended by a signal waits for its successor."""
    with running(folder, *gateway.arguments(**{"mode": "auto", **options}), environment=LET_IN) as kernel:
        front_end = kernel.front_end()
        yield front_end
        front_end.ask("shutdown_request", {"restart": False}, channel="control")


def status(front_end: FrontEnd) -> str:
    (shown,) = front_end.run("%sandbox status").contents("display_data")
    return str(shown["data"]["text/plain"])


def numbers(text: str) -> list[int]:
    return [int(line.split()[0]) for line in text.splitlines()]


def test_a_connection_that_is_cut_in_mid_cell_loses_no_line_and_runs_nothing_twice(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    proxy = ChaosProxy(lambda: ("127.0.0.1", gateway.port))
    try:
        times = {"keepalive": 1.0, "keepalive_timeout": 0.5, "watch_interval": 1.0, "request_timeout": 5.0}
        with opened(tmp_path, gateway, url=f"http://127.0.0.1:{proxy.port}", **times) as front_end:
            front_end.run("x = 0")
            cell = front_end.cell(f"x += 1\n{SLOW}")
            for line in (200, 1000, 2000):
                front_end.until(lambda line=line: f"\n{line} " in cell.stream())  # type: ignore[misc]
                proxy.break_off(refuse=True)
                time.sleep(0.3)
                proxy.go_on()
            # From now on nothing comes back over the connection that there is, and nobody is told.
            front_end.until(lambda: "\n3000 " in cell.stream())
            proxy.arm(Fault("half-open", upstream=False, after=0, seconds=0.0, fraction=0.0))
            front_end.finish(cell)
            cell.assert_ended_once()
            assert numbers(cell.stream()) == list(range(LINES))
            assert cell.stream("stderr") == ""
            proxy.break_off(refuse=True)
            cells = [front_end.cell("x += 1\nx") for _ in range(5)]
            time.sleep(0.5)
            proxy.go_on()
            front_end.finish(*cells)
            assert [cell.result for cell in cells] == ["2", "3", "4", "5", "6"]
    finally:
        proxy.close()


def test_what_a_cell_printed_while_no_kernel_process_was_there_is_shown_by_the_next(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    options = gateway.arguments(mode="auto")
    with running(tmp_path / "k", *options, environment=LET_IN) as kernel:
        front_end = kernel.front_end()
        front_end.run("1")
        cell = front_end.cell(f"{SLOW}\nleft = 'done'")
        front_end.until(lambda: "\n100 " in cell.stream())
        kernel.process.send_signal(signal.SIGKILL)
        kernel.process.wait()
        time.sleep(1)
        other = spawn_with(kernel.connection_file, *options, environment=LET_IN)
        try:
            # The front end is the same, as an editor's is.
            front_end.ready()
            after = front_end.run("left")
            assert after.result == "'done'"
            assert "relay mode" not in after.stream("stderr")
            replayed = front_end.run("%sandbox replay 2")
            assert numbers(replayed.stream()) == list(range(LINES))
            assert "bridge" in status(front_end)
            front_end.ask("shutdown_request", {"restart": False}, channel="control")
            other.process.wait(10)
        finally:
            other.end()
    assert gateway.kernel_ids() == set()


def test_status_files_commands_and_restarts_are_those_of_a_bridge(gateway: GatewayProcess, tmp_path: Path) -> None:
    with opened(tmp_path, gateway) as front_end:
        assert front_end.run("x = 1; 40 + 2").result == "42"
        told = status(front_end)
        assert "bridge" in told
        assert "the gateway's own" in told
        assert "relay" not in told
        assert "hello" in front_end.run("%sandbox shell echo hello").stream()
        assert front_end.run("%sandbox pause").error["evalue"].endswith("comes back to it.")
        busy = front_end.cell("print('begun', flush=True)\nimport time\ntime.sleep(1000)")
        front_end.until(lambda: "begun" in busy.stream())
        assert front_end.ask("complete_request", {"code": "prin", "cursor_pos": 4})["matches"] == ["print"]
        front_end.interrupt()
        assert front_end.finish(busy).error["ename"] == "KeyboardInterrupt"
        assert front_end.run("x").result == "1"
        front_end.run("%sandbox restart")
        assert front_end.run("'x' in dir()").result == "False"


@pytest.mark.parametrize("protocol", ["v1.kernel.websocket.jupyter.org", "JSON"])
def test_large_messages_pass_in_either_protocol(gateway: GatewayProcess, tmp_path: Path, protocol: str) -> None:
    options = {"subprotocols": []} if protocol == "JSON" else {}
    with opened(tmp_path, gateway, **options) as front_end:
        # Larger than what a gateway takes in one message.
        assert front_end.run(f"len({'x' * 12_000_000!r})").result == "12000000"
        assert protocol in status(front_end)
        cell = front_end.run("for _ in range(3000): print('x' * 5000)")
        assert len(cell.stream()) == 3000 * 5001


def test_a_kernel_that_was_made_in_relay_mode_stays_in_it(gateway: GatewayProcess, tmp_path: Path) -> None:
    body = {"env": dict(gateway.kind.environment)} if gateway.kind.environment else {}
    foreign = gateway.ask("POST", "/api/kernels", body)["id"]
    with opened(tmp_path, gateway, start_with_kernel=False) as front_end:
        assert front_end.run(f"%sandbox attach {foreign}").status == "ok"
        assert front_end.run("y = 2; y").result == "2"
        assert "relay" in status(front_end)
    assert foreign in gateway.kernel_ids()
    gateway.ask("DELETE", f"/api/kernels/{foreign}")


def test_attaching_to_a_kernel_answers_none_of_its_questions(gateway: GatewayProcess, tmp_path: Path) -> None:
    body = {"env": dict(gateway.kind.environment)} if gateway.kind.environment else {}
    foreign = gateway.ask("POST", "/api/kernels", body)["id"]
    with (
        opened(tmp_path / "one", gateway, start_with_kernel=False) as one,
        opened(tmp_path / "two", gateway, start_with_kernel=False) as two,
    ):
        assert one.run(f"%sandbox attach {foreign}").status == "ok"
        asking = one.cell("input('name? ')")
        one.until(lambda: bool(asking.questions))
        assert two.run(f"%sandbox attach {foreign}").status == "ok"
        one.answer("Ada")
        assert one.finish(asking).result == "'Ada'"
    gateway.ask("DELETE", f"/api/kernels/{foreign}")


def test_a_kernel_is_not_culled_while_a_cell_runs_that_says_nothing(tmp_path: Path) -> None:
    cull = [f"--MappingKernelManager.cull_{name}" for name in ("idle_timeout=3", "interval=1", "connected=True")]
    with (
        serving(tmp_path / "gw", KINDS["jupyter_server"], *cull) as gateway,
        opened(tmp_path / "k", gateway, watch_interval=0.5) as front_end,
    ):
        assert front_end.run("import time\ntime.sleep(7)\n'there'").result == "'there'"
        deadline = time.monotonic() + 30
        while "error" not in status(front_end):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert "culled" in status(front_end)


def test_auto_says_once_why_it_is_relay_mode(gateway: GatewayProcess, tmp_path: Path) -> None:
    # A kernel whose Python has none of what the bridge needs, as far as it can find out.
    spec = gateway.folder / "data" / "kernels" / "bare"
    spec.mkdir(parents=True, exist_ok=True)
    hide = (
        "import sys, importlib.util as u; f = u.find_spec; "
        "u.find_spec = lambda n, *a: None if n == 'tornado' else f(n, *a); "
        "from ipykernel import kernelapp; kernelapp.launch_new_instance()"
    )
    argv = [gateway.kind.python, "-c", hide, "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "bare", "language": "python"}))
    with opened(tmp_path, gateway, kernel_name="bare") as front_end:
        first = front_end.run("1")
        assert first.result == "1"
        assert "has no tornado" in first.stream("stderr")
        assert "relay mode" in first.stream("stderr")
        assert front_end.run("2").stream("stderr") == ""
        assert "relay" in status(front_end)
    words = [*gateway.arguments(mode="bridge", kernel_name="bare"), "--SandboxSession.start_attempts=1"]
    with running(tmp_path / "b", *words, environment=LET_IN) as kernel:
        assert "has no tornado" in kernel.front_end().run("1").error["evalue"]
    assert gateway.kernel_ids() == set()
