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


def main() -> None:
    """Measure in turns, so that both have the same machine."""
    os.environ["SANDBOX_KERNEL_GATEWAY_TOKEN"] = TOKEN
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with (
            serving(folder / "gateway") as gateway,
            running(folder / "local") as local,
            running(
                folder / "kernel", *gateway.arguments(), environment={"SANDBOX_KERNEL_GATEWAY_TOKEN": TOKEN}
            ) as far,
        ):
            here, there = local.front_end(), far.front_end()
            for front_end in (here, there):
                for _ in range(20):
                    front_end.run("1")
            local_times, far_times = [], []
            for _ in range(ROUNDS):
                local_times += cells(here)
                far_times += cells(there)
            stock = asyncio.run(stock_client(gateway))
            late = statistics.median(one for _ in range(3) for one in lag(there))
    ours, base = statistics.median(far_times), statistics.median(local_times)
    print(
        f"trivial cell p50: local {base:.1f} ms, gateway {ours:.1f} ms ({ours - base:+.1f} ms), stock client "
        f"{statistics.median(stock):.1f} ms; gateway p90 {statistics.quantiles(far_times, n=10)[-1]:.1f} ms; "
        f"stream lag p50 {late:.1f} ms",
        flush=True,
    )


def cells(front_end: FrontEnd) -> list[float]:
    """Return the times of some cells, in milliseconds."""
    return [1000 * seconds(front_end) for _ in range(CELLS)]


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
