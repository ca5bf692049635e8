"""`jupyter sandbox mcp`: official MCP clients and plain HTTP clients list and call what was registered."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sandbox_kernel.tools.workshop import Workshop, WorkshopSettings
from tests.processes import below

mcp = pytest.importorskip("mcp")
if sys.platform != "linux":
    pytest.skip("the local provider needs bubblewrap, which only Linux has", allow_module_level=True)

ADD = 'def add(a: int, b: int | None = None) -> int:\n    """Add two numbers."""\n    return a + (b or 0)\n'
FAIL = 'def fail() -> int:\n    """Fail."""\n    return 1 // 0\n'
SLOW = (
    'def slow(a: int = 0) -> int:\n    """Wait."""\n    import time\n    print("waits", flush=True)\n'
    "    time.sleep(1000)\n    return a\n"
)
KEY = "a-key-for-tests"
COMMAND = [sys.executable, "-m", "sandbox_kernel.cli", "mcp"]


@pytest.fixture
async def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a user who has registered two tools."""
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))
    workshop = Workshop(WorkshopSettings())
    await workshop.register("add", ADD)
    await workshop.register("fail", FAIL)
    await workshop.register("slow", SLOW)
    await workshop.close()
    return {**os.environ, "SANDBOX_KERNEL_MCP_KEY": KEY}


@pytest.fixture
def served(environment: dict[str, str]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a server over HTTP, and its process."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    process = subprocess.Popen(
        [*COMMAND, "--http", "--port", str(port)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as sock:
            if not sock.connect_ex(("127.0.0.1", port)):
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}", process
    process.terminate()
    said = b"".join(process.communicate(timeout=20))
    assert KEY.encode() not in said


@pytest.fixture
def address(served: tuple[str, subprocess.Popen[bytes]]) -> str:
    return served[0]


async def assert_serves(client: Any) -> None:
    listed = {one.name: one for one in (await client.list_tools()).tools}
    assert sorted(listed) == ["add", "fail", "run_code", "slow"]
    assert listed["add"].description == "Add two numbers."
    assert listed["add"].input_schema["required"] == ["a"]
    assert (await client.call_tool("add", {"a": 2, "b": 3})).structured_content == {"result": 5}
    failed = await client.call_tool("fail", {})
    assert failed.is_error
    assert "ZeroDivisionError" in failed.content[0].text
    wrong = await client.call_tool("add", {"a": "x"})
    assert wrong.is_error
    assert "a: 'x' is not of type 'integer'" in wrong.content[0].text
    unknown = await client.call_tool("none", {})
    assert unknown.is_error
    code = "import socket\nprint('inside')\n[name for _, name in socket.if_nameindex()]"
    ran = (await client.call_tool("run_code", {"code": code})).structured_content["result"]
    assert ran == {"stdout": "inside\n", "stderr": "", "result": "['lo']", "error": None}
    large = (await client.call_tool("run_code", {"code": "print('x' * 3_000_000)"})).structured_content["result"]
    assert len(large["stdout"]) == 3_000_001


async def test_an_mcp_client_over_stdio(environment: dict[str, str]) -> None:
    parameters = mcp.StdioServerParameters(command=COMMAND[0], args=COMMAND[1:], env=environment)
    async with mcp.Client(parameters) as client:
        await assert_serves(client)


async def test_an_mcp_client_over_http_needs_the_key(address: str) -> None:
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client

    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        create_mcp_http_client(headers=headers) as http,
        mcp.Client(streamable_http_client(f"{address}/mcp", http_client=http)) as client,
    ):
        await assert_serves(client)
    for path in ("/mcp", "/openapi.json", "/tools/add/execute", "/none"):
        for key in ("", "Bearer ", f"Bearer {KEY}x"):
            assert request(address + path, {}, key)[0] == 401


def request(url: str, body: object = None, key: str = f"Bearer {KEY}") -> tuple[int, Any]:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"Authorization": key, "Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310 - the server is ours
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)


def test_a_client_that_reads_only_the_openapi_document_calls_a_tool(address: str) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    status, document = request(f"{address}/openapi.json")
    assert status == 200
    validator.validate(document)
    (path,) = (path for path, item in document["paths"].items() if item["post"]["operationId"] == "execute_add")
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["b"] == {"type": "integer", "nullable": True, "default": None}
    assert request(document["servers"][0]["url"] + path, {"a": 40, "b": 2}) == (200, {"value": 42})


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("add", {"a": "x"}, 422, "ToolArgumentsError"),
        ("none", {}, 404, "UnknownToolError"),
        ("fail", {}, 500, "ToolExecutionError"),
        ("add", [], 422, "ToolArgumentsError"),
        ("add", b"{", 400, "ToolArgumentsError"),
        ("add", b"[" * 200_000, 400, "ToolArgumentsError"),
        ("add", b" " * 5_000_000, 422, "ToolArgumentsError"),
    ],
)
def test_what_goes_wrong_over_http_is_told(address: str, path: str, body: object, status: int, error: str) -> None:
    code, said = request(f"{address}/tools/{path}/execute", body)
    assert (code, said["error"]) == (status, error)
    assert "Traceback" not in said["message"]


def test_the_scheme_of_the_key_may_be_written_in_any_way(address: str) -> None:
    assert request(f"{address}/tools/add/execute", {"a": 1}, f"bearer {KEY}") == (200, {"value": 1})
    assert request(f"{address}/tools/add/execute", {"a": 1}, f"BEARER  {KEY}") == (200, {"value": 1})
    for wrong in ("bearer", f"basic {KEY}", KEY, f"bearer{KEY}", f"bearer {KEY} {KEY}"):
        assert request(f"{address}/openapi.json", None, wrong)[0] == 401


def runs_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """What runs the slow tool in a server's sandboxes."""
    return below(process.pid, "harness")


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def begin_slow(address: str, process: subprocess.Popen[bytes]) -> socket.socket:
    """Begin a call that does not end; return its connection."""
    host, _, port = address.removeprefix("http://").partition(":")
    client = socket.create_connection((host, int(port)))
    head = f"POST /tools/slow/execute HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {KEY}\r\n"
    client.sendall(f"{head}Content-Length: 2\r\n\r\n{{}}".encode())
    wait_until(lambda: runs_of(process))
    return client


def test_a_call_ends_when_its_client_leaves(served: tuple[str, subprocess.Popen[bytes]]) -> None:
    begin_slow(*served).close()
    wait_until(lambda: not runs_of(served[1]))


def test_the_server_ends_by_a_signal_while_a_call_runs(served: tuple[str, subprocess.Popen[bytes]]) -> None:
    address, process = served
    with begin_slow(address, process) as client:
        running = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(20)
        assert b"The server was ended." in client.recv(4096)
    assert process.returncode == 0
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    assert not psutil.wait_procs(running, timeout=10)[1]
