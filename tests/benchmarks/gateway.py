"""`python tests/benchmarks/gateway.py`: cells through a real Jupyter server, beside the local provider in one run.

A stock client of the server is measured, too: tornado's WebSocket client, which sets nothing of its connection.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.cell_times import lag, seconds
from tests.functional.client import FrontEnd, running
from tests.gateways import TOKEN, GatewayProcess, serving

ROUNDS, CELLS = 5, 40
NAMES = ("local", "relay", "bridge")
PRINTED = 30_000_000
"""Bytes."""


def main() -> None:
    """Measure in turns, so that all have the same machine."""
    let_in = {"SANDBOX_KERNEL_GATEWAY_TOKEN": TOKEN}
    os.environ.update(let_in)
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as root:
        folder = Path(root)
        folder.chmod(0o755)
        with (
            serving(folder / "gateway") as gateway,
            running(folder / "local") as local,
            running(folder / "relay", *gateway.arguments(mode="relay"), environment=let_in) as relay,
            running(folder / "bridge", *gateway.arguments(mode="bridge"), environment=let_in) as bridge,
        ):
            front_ends = {name: one.front_end() for name, one in zip(NAMES, (local, relay, bridge), strict=True)}
            times: dict[str, list[float]] = {name: [] for name in NAMES}
            for front_end in front_ends.values():
                for _ in range(20):
                    front_end.run("1")
            for _ in range(ROUNDS):
                for name, front_end in front_ends.items():
                    times[name] += cells(front_end)
            stock = asyncio.run(stock_client(gateway))
            late = {name: statistics.median(t for _ in range(3) for t in lag(one)) for name, one in front_ends.items()}
            speeds = {name: stdout_speed(one) for name, one in front_ends.items()}
    base = statistics.median(times["local"])
    print(f"trivial cell p50: stock client {statistics.median(stock):.1f} ms")
    for name, taken in times.items():
        ours, slow = statistics.median(taken), statistics.quantiles(taken, n=10)[-1]
        print(
            f"{name:8} cell p50 {ours:5.1f} ms ({ours - base:+.1f} ms), p90 {slow:5.1f} ms; "
            f"stream lag p50 {late[name]:5.1f} ms; stdout {speeds[name]:5.1f} MB/s",
            flush=True,
        )


def cells(front_end: FrontEnd) -> list[float]:
    """Return the times of some cells, in milliseconds."""
    return [1000 * seconds(front_end) for _ in range(CELLS)]


def stdout_speed(front_end: FrontEnd) -> float:
    """Return how much of a flood of output comes, in MB/s."""
    began = time.perf_counter()
    cell = front_end.run(f"for _ in range({PRINTED // 1000}): print('x' * 999)")
    assert len(cell.stream()) == PRINTED
    return PRINTED / (time.perf_counter() - began) / 1e6


async def stock_client(gateway: GatewayProcess) -> list[float]:
    """Return the times of cells that a client sends which sets nothing of its connection, in milliseconds."""
    from tornado.httpclient import HTTPRequest
    from tornado.websocket import websocket_connect

    kernel = (await asyncio.to_thread(gateway.ask, "POST", "/api/kernels", {}))["id"]
    url = f"ws://127.0.0.1:{gateway.port}/api/kernels/{kernel}/channels?session_id={uuid.uuid4().hex}"
    connection = await websocket_connect(HTTPRequest(url, headers={"Authorization": f"token {TOKEN}"}))
    times = []
    for _ in range(5 + CELLS):
        header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": "stock", "username": ""}
        content = {"code": "1", "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        message = {"header": {**header, "version": "5.3", "date": ""}, "parent_header": {}, "metadata": {}}
        began = time.perf_counter()
        await connection.write_message(json.dumps({**message, "content": content, "channel": "shell", "buffers": []}))
        wanted = {"execute_reply", "idle"}
        while wanted:
            said = json.loads(str(await connection.read_message()))
            if said["parent_header"].get("msg_id") == header["msg_id"]:
                wanted -= {said["msg_type"], said["content"].get("execution_state")}
        times.append(1000 * (time.perf_counter() - began))
    connection.close()
    await asyncio.to_thread(gateway.ask, "DELETE", f"/api/kernels/{kernel}")
    return times[5:]


if __name__ == "__main__":
    main()
