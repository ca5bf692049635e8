"""A kernel process whose cells run in kernels of a real Jupyter server: all kinds of messages, whose each kernel is."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the servers are started and ended as on Linux", allow_module_level=True)
pytest.importorskip("jupyter_server")

from sandbox_kernel.providers.gateway.words import END_LOST
from tests.certificates import Authority
from tests.gateways import ENTERPRISE_GATEWAY, JUPYTER_SERVER, KINDS, TOKEN, GatewayProcess, answering, serving
from tests.ports import free_port

from .client import FrontEnd, running, spawn_with

LET_IN = {"SANDBOX_KERNEL_GATEWAY_TOKEN": TOKEN}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with serving(tmp_path_factory.mktemp("gateway")) as made:
        yield made


@contextmanager
def opened(folder: Path, gateway: GatewayProcess, **options: object) -> Iterator[FrontEnd]:
    """A front end of a kernel process, which is shut down: one that is ended by a signal waits for its successor."""
    with running(folder, *gateway.arguments(**options), environment=LET_IN) as kernel:
        front_end = kernel.front_end()
        yield front_end
        front_end.ask("shutdown_request", {"restart": False}, channel="control")


def status(front_end: FrontEnd) -> str:
    (shown,) = front_end.run("%sandbox status").contents("display_data")
    return str(shown["data"]["text/plain"])


@pytest.mark.parametrize("protocol", ["v1.kernel.websocket.jupyter.org", "JSON"])
def test_messages_of_all_kinds_pass(gateway: GatewayProcess, tmp_path: Path, protocol: str) -> None:
    options = {"subprotocols": []} if protocol == "JSON" else {}
    with opened(tmp_path, gateway, **options) as front_end:
        assert front_end.run("print('héé \\ud83d\\ude00'); 40 + 2").result == "42"
        assert protocol in status(front_end)
        asked = front_end.cell("input('name? ')")
        front_end.until(lambda: bool(asked.questions))
        front_end.answer("Ada")
        assert front_end.finish(asked).result == "'Ada'"
        front_end.run(
            "from comm import create_comm\n"
            "def opened(comm, message):\n"
            "    comm.on_msg(lambda m: comm.send({'size': len(m['buffers'][0])}, buffers=[bytes(m['buffers'][0])]))\n"
            "get_ipython().kernel.comm_manager.register_target('echo', opened)"
        )
        front_end.send("comm_open", {"comm_id": "c1", "target_name": "echo", "data": {}})
        sent = front_end.send("comm_msg", {"comm_id": "c1", "data": {}}, buffers=[b"\x00\xff" * 1000])
        front_end.until(lambda: bool(sent.of_type("comm_msg")))
        (echo,) = sent.of_type("comm_msg")
        assert echo["content"]["data"] == {"size": 2000}
        assert bytes(echo["buffers"][0]) == b"\x00\xff" * 1000
        busy = front_end.cell("import time\nprint('begun', flush=True)\ntime.sleep(1000)")
        front_end.until(lambda: "begun" in busy.stream())
        assert front_end.ask("complete_request", {"code": "prin", "cursor_pos": 4})["matches"] == ["print"]
        front_end.interrupt()
        assert front_end.finish(busy).error["ename"] == "KeyboardInterrupt"


def stops(front_end: FrontEnd) -> list[dict[str, object]]:
    """Return what was said of threads that were stopped."""
    messages = [message for one in front_end.exchanges.values() for message in one.messages]
    messages += [message for _, message in front_end.others]
    events = [message["content"] for message in messages if message["msg_type"] == "debug_event"]
    return [event["body"] for event in events if event["event"] == "stopped"]


def test_the_debugger_stops_a_cell_and_lets_it_go_on(gateway: GatewayProcess, tmp_path: Path) -> None:
    with opened(tmp_path, gateway) as front_end:
        front_end.run("1")

        def debug(number: int, command: str, **fields: object) -> dict[str, object]:
            request = {"type": "request", "seq": number, "command": command, "arguments": fields}
            return dict(front_end.ask("debug_request", request, channel="control"))

        assert debug(1, "initialize", clientID="test", adapterID="")["success"]
        assert debug(2, "attach")["success"]
        code = "y = 1\nz = y + 1\nz"
        source = debug(3, "dumpCell", code=code)["body"]["sourcePath"]  # type: ignore[index]
        debug(4, "setBreakpoints", source={"path": source}, breakpoints=[{"line": 2}], sourceModified=False)
        debug(5, "configurationDone")
        cell = front_end.cell(code)
        front_end.until(lambda: bool(stops(front_end)))
        thread = stops(front_end)[0]["threadId"]
        debug(6, "continue", threadId=thread)
        assert front_end.finish(cell).result == "2"


def test_status_says_what_relay_mode_lacks_and_commands_say_that_they_need_more(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    with opened(tmp_path, gateway) as front_end:
        front_end.run("1")
        told = status(front_end)
        assert "relay" in told
        assert "the gateway's own" in told
        assert "not exactly-once" in told
        for command in ("shell echo no", "snapshot", "restore some", "install six"):
            assert "in relay mode" in front_end.run(f"%sandbox {command}").error["evalue"]
        assert "no journal" in front_end.run("%sandbox replay").error["evalue"]
        assert front_end.run("%sandbox pause").error["evalue"].endswith("comes back to it.")
        assert front_end.run("1 + 1").result == "2"


def test_counts_go_on_over_commands_and_a_cell_that_is_too_large_is_told(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    with opened(tmp_path, gateway, largest_message=2_000_000) as front_end:
        assert [front_end.run("1").count, front_end.run("%sandbox status").count, front_end.run("1").count] == [1, 2, 3]
        assert "larger than the gateway takes" in front_end.run(f"len({'x' * 3_000_000!r})").error["evalue"]
        assert front_end.run("2").result == "2"


def test_a_kernel_is_detached_listed_and_attached_with_its_count(gateway: GatewayProcess, tmp_path: Path) -> None:
    with running(tmp_path / "k", *gateway.arguments(), environment=LET_IN) as kernel:
        front_end = kernel.front_end()
        front_end.run("x = 41")
        (sandbox_id,) = gateway.kernel_ids()
        front_end.run("%sandbox detach")
        assert sandbox_id in gateway.kernel_ids()
        assert sandbox_id[:8] in str(front_end.run("%sandbox list").messages)
        assert front_end.run(f"%sandbox attach {sandbox_id}").status == "ok"
        again = front_end.run("x + 1")
        assert again.result == "42"
        assert again.count > 1
        front_end.ask("shutdown_request", {"restart": False}, channel="control")
    assert gateway.kernel_ids() == set()


def test_a_busy_kernel_is_attached_and_its_cell_is_waited_for(gateway: GatewayProcess, tmp_path: Path) -> None:
    with running(tmp_path / "k", *gateway.arguments(), environment=LET_IN) as kernel:
        front_end = kernel.front_end()
        cell = front_end.cell("import time\nprint('begun', flush=True)\ntime.sleep(4)\nx = 'done'")
        front_end.until(lambda: "begun" in cell.stream())
        kernel.process.send_signal(signal.SIGKILL)
        kernel.process.wait()
        other = spawn_with(kernel.connection_file, *gateway.arguments(), environment=LET_IN)
        try:
            # The front end is the same, as an editor's is.
            front_end.ready()
            after = front_end.run("x")
            assert after.result == "'done'"
            assert "went on" in after.stream("stderr")
            front_end.ask("shutdown_request", {"restart": False}, channel="control")
            other.process.wait(10)
        finally:
            other.end()
    assert gateway.kernel_ids() == set()


def test_python_that_ends_and_notebooks_that_are_restarted_go_on_in_the_same_kernel(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    with running(tmp_path / "k", *gateway.arguments(), environment=LET_IN) as kernel:
        front_end = kernel.front_end()
        front_end.run("1")
        ids = gateway.kernel_ids()
        assert front_end.run("left = 1; quit()").status == "ok"
        fresh = front_end.run("'left' in dir()")
        assert fresh.result == "False"
        assert "a fresh one" in fresh.stream("stderr")
        died = front_end.run("import os\nos._exit(3)")
        assert died.error["ename"] == "SandboxLostError"
        assert "started it anew" in died.error["evalue"]
        front_end.run("left = 1")
        front_end.ask("shutdown_request", {"restart": True}, channel="control")
        kernel.process.wait(20)
        other = spawn_with(kernel.connection_file, *gateway.arguments(), environment=LET_IN)
        try:
            front_end.ready()
            restarted = front_end.run("'left' in dir()")
            assert (restarted.result, restarted.count) == ("False", 1)
            assert "restarted in its sandbox" in restarted.stream("stderr")
            assert gateway.kernel_ids() == ids
            front_end.ask("shutdown_request", {"restart": False}, channel="control")
            other.process.wait(20)
            assert other.complaints() == ""
        finally:
            other.end()
    assert gateway.kernel_ids() == set()


def test_what_a_gateway_drops_of_a_flood_it_says_in_the_cell(tmp_path: Path) -> None:
    limited = replace(JUPYTER_SERVER, limits="")
    with serving(tmp_path / "gw", limited) as gateway, opened(tmp_path / "k", gateway) as front_end:
        cell = front_end.run("for _ in range(3000): print('x' * 5000, flush=True)")
        assert cell.status == "ok"
        assert "IOPub data rate exceeded" in cell.stream("stderr")
        assert front_end.run("1").result == "1"


def test_a_cell_whose_end_a_slow_gateway_drops_ends_all_the_same(gateway: GatewayProcess, tmp_path: Path) -> None:
    done = gateway.work / "done"
    with opened(tmp_path, gateway) as front_end:
        cell = front_end.cell(
            "import threading\n"
            "input('go?')\n"
            "for _ in range(6000): print('x' * 5000, flush=True)\n"
            "threading.Timer(1, open, ('done', 'w')).start()"
        )
        front_end.until(lambda: bool(cell.questions))
        front_end.answer("")
        front_end.until(lambda: "x" in cell.stream())
        gateway.process.send_signal(signal.SIGSTOP)
        try:
            # ZeroMQ keeps two thousand messages for it, and drops the others, the idle status among them.
            front_end.until(done.exists)
        finally:
            gateway.process.send_signal(signal.SIGCONT)
        front_end.finish(cell)
        assert cell.status == "ok"
        assert END_LOST in cell.stream("stderr")
        assert 0 < cell.stream().count("x") < 6000 * 5000
        assert front_end.run("40 + 2").result == "42"


def test_reaping_ends_the_kernels_of_dead_kernel_processes_and_no_others(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    foreign = gateway.ask("POST", "/api/kernels", {})["id"]
    with running(tmp_path / "k", *gateway.arguments(), environment=LET_IN) as kernel:
        kernel.front_end().run("1")
        (orphan,) = gateway.kernel_ids() - {foreign}
        kernel.process.send_signal(signal.SIGKILL)
        kernel.process.wait()
    options = ["--SandboxSession.orphan_grace=0"]
    command = "%sandbox stop --orphans"
    environment = {**LET_IN, "JUPYTER_DATA_DIR": str(tmp_path / "k" / "data")}
    with running(
        tmp_path / "other", *gateway.arguments(start_with_kernel=False), *options, environment=environment
    ) as k:
        front_end = k.front_end()
        cell = front_end.cell(command)
        front_end.until(lambda: bool(cell.questions) or cell.done)
        if cell.questions:
            front_end.answer("y")
        front_end.finish(cell)
        front_end.ask("shutdown_request", {"restart": False}, channel="control")
    assert orphan not in gateway.kernel_ids()
    assert foreign in gateway.kernel_ids()
    gateway.ask("DELETE", f"/api/kernels/{foreign}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_culled_kernel_is_noticed_and_the_next_cell_starts_a_fresh_one(kind: str, tmp_path: Path) -> None:
    cull = [f"--MappingKernelManager.cull_{name}" for name in ("idle_timeout=2", "interval=1", "connected=True")]
    with (
        serving(tmp_path / "gw", KINDS[kind], *cull) as gateway,
        opened(tmp_path / "k", gateway, watch_interval=0.5) as front_end,
    ):
        front_end.run("x = 1")
        (before,) = gateway.kernel_ids()
        deadline = time.monotonic() + 30
        while "error" not in status(front_end):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert "culled" in status(front_end)
        fresh = front_end.run("'x' in dir()")
        assert fresh.result == "False"
        assert "a fresh one" in fresh.stream("stderr")
        assert before not in gateway.kernel_ids()


# ---- what is wrong is told once, with what to do


def refused(folder: Path, url: str, token: str = TOKEN, **options: str) -> dict[str, str]:
    """Return the error of the first cell."""
    given = {"url": url, **options}
    words = ["--provider=gateway", "--SandboxSession.start_attempts=1"]
    words += [f"--GatewayProvider.{name}={value}" for name, value in given.items()]
    with running(folder, *words, environment={"SANDBOX_KERNEL_GATEWAY_TOKEN": token}) as kernel:
        error = kernel.front_end().run("1").error
        log = "".join(file.read_text() for file in folder.rglob("*.log"))
        assert token not in str(error)
        assert token not in log
        return {"name": str(error["ename"]), "text": str(error["evalue"])}


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_token_and_an_unknown_kernelspec_are_told(kind: str, tmp_path: Path) -> None:
    with serving(tmp_path / "gw", KINDS[kind]) as gateway:
        said = refused(tmp_path / "a", gateway.url, "another-token-than-that")
        assert said["name"] == "AuthenticationError"
        assert "SANDBOX_KERNEL_GATEWAY_TOKEN" in said["text"]
        said = refused(tmp_path / "b", gateway.url, kernel_name="pyhton3")
        assert said["name"] == "ConfigurationError"
        assert "did you mean 'python3'" in said["text"]
        assert gateway.kernel_ids() == set()


def test_what_enterprise_gateway_forbids_is_told_in_its_own_words(tmp_path: Path) -> None:
    with serving(tmp_path / "gw", ENTERPRISE_GATEWAY, "--EnterpriseGatewayApp.unauthorized_users=ann") as gateway:
        said = refused(tmp_path, gateway.url, environment="KERNEL_USERNAME=ann")
        assert said["name"] == "SandboxCreationError"
        assert "KERNEL_USERNAME" in said["text"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_expired_certificate_is_told_and_a_good_one_taken(kind: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    with serving(tmp_path / "gw", KINDS[kind], certificate=authority.issue("localhost", expired=True)) as gateway:
        url = f"https://localhost:{gateway.port}"
        said = refused(tmp_path / "a", url, ca_file=str(authority.file))
        assert said["name"] == "ConfigurationError"
        assert "expired" in said["text"]
        assert "renew it" in said["text"]
    with serving(tmp_path / "gw2", KINDS[kind], certificate=authority.issue("localhost")) as gateway:
        url = f"https://localhost:{gateway.port}"
        assert "ca_file" in refused(tmp_path / "b", url)["text"]
        with opened(tmp_path / "c", gateway, url=url, ca_file=str(authority.file)) as front_end:
            assert front_end.run("6 * 7").result == "42"


def test_a_gateway_that_wants_a_certificate_gets_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    chain, key = authority.issue("client")
    wants = f"--ServerApp.client_ca={authority.file}"
    with serving(
        tmp_path / "gw", JUPYTER_SERVER, wants, certificate=authority.issue("localhost"), client=(chain, key)
    ) as gateway:
        options = {"url": f"https://localhost:{gateway.port}", "ca_file": str(authority.file)}
        said = refused(tmp_path / "a", **options)
        assert "certificate_file" in said["text"]
        with opened(tmp_path / "b", gateway, **options, certificate_file=chain, private_key_file=key) as front_end:
            assert front_end.run("6 * 7").result == "42"


def test_nothing_at_the_address_is_told(tmp_path: Path) -> None:
    said = refused(tmp_path, f"http://127.0.0.1:{free_port()}")
    assert said["name"] == "SandboxConnectionError"
    assert "GatewayProvider.url" in said["text"]


def test_what_is_no_jupyter_server_is_told(tmp_path: Path) -> None:
    for port in answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"):
        said = refused(tmp_path, f"http://127.0.0.1:{port}")
        assert said["name"] == "ConfigurationError"
        assert "no Jupyter server" in said["text"]


def test_the_token_and_headers_are_in_no_log_record_or_status(gateway: GatewayProcess, tmp_path: Path) -> None:
    words = [*gateway.arguments(), "--EventLog.level=debug", "--GatewayProvider.headers=X-Secret=a-secret-header"]
    with running(tmp_path, *words, environment=LET_IN) as kernel:
        front_end = kernel.front_end()
        front_end.run("1")
        told = str(front_end.run("%sandbox status").messages) + str(front_end.run("%sandbox list").messages)
        told += front_end.run("import os\nstr(dict(os.environ))").result
        front_end.ask("shutdown_request", {"restart": False}, channel="control")
        kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
        for secret in (TOKEN, "a-secret-header"):
            assert secret not in told
            assert secret.encode() not in kept
