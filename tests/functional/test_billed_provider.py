"""A provider whose sandboxes cost money is asked for one when a person runs a cell. Kernel and Frontend in process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio
from jupyter_client.session import Session

from sandbox_kernel.events import EventLog
from sandbox_kernel.frontend import Connection, Frontend
from sandbox_kernel.kernel import Kernel
from sandbox_kernel.session import SandboxSession
from tests.unsandboxed import ProcessProvider

from .client import PATIENCE

Json = dict[str, Any]


class Client:
    """A front end on the kernel's own event loop."""

    def __init__(self, info: Json) -> None:
        self.session = Session(key=info["key"].encode())
        self.context = zmq.asyncio.Context()
        self.sockets: dict[str, zmq.asyncio.Socket] = {}
        self.outputs: list[Json] = []
        for name, kind in (("shell", zmq.DEALER), ("control", zmq.DEALER), ("iopub", zmq.SUB)):
            sock = self.sockets[name] = self.context.socket(kind)
            sock.linger = 0
            if kind == zmq.SUB:
                sock.subscribe(b"")
            sock.connect(f"tcp://{info['ip']}:{info[f'{name}_port']}")

    async def receive(self, channel: str) -> Json:
        frames = await asyncio.wait_for(self.sockets[channel].recv_multipart(), PATIENCE)
        _, parts = self.session.feed_identities(frames)
        msg: Json = self.session.deserialize(parts)
        return msg

    def send(self, msg_type: str, content: Json, channel: str = "shell") -> str:
        msg = self.session.msg(msg_type, content)
        frames = [bytes(part) for part in self.session.serialize(msg)]
        self.sockets[channel].send_multipart(frames)
        return str(msg["header"]["msg_id"])

    async def ask(self, msg_type: str, content: Json | None = None, channel: str = "shell") -> Json:
        """Return the content of the reply, when the idle status is there too."""
        msg_id = self.send(msg_type, content or {}, channel)
        reply = await self.receive(channel)
        assert reply["parent_header"]["msg_id"] == msg_id
        await self.until_idle(msg_id)
        answer: Json = reply["content"]
        return answer

    async def until_idle(self, msg_id: str) -> None:
        while True:
            msg = await self.receive("iopub")
            self.outputs.append(msg)
            of_it = msg["parent_header"].get("msg_id") == msg_id
            if of_it and msg["content"].get("execution_state") == "idle":
                return

    async def run(self, code: str, **options: object) -> Json:
        return await self.ask("execute_request", {"code": code, "silent": False, "store_history": True, **options})

    def texts(self) -> str:
        return "".join(msg["content"]["text"] for msg in self.outputs if msg["msg_type"] == "stream")

    def of_type(self, msg_type: str) -> list[Json]:
        return [msg for msg in self.outputs if msg["msg_type"] == msg_type]


class Notebook:
    """A kernel in this process with a billed provider, and a client of it."""

    def __init__(self, folder: Path) -> None:
        self.provider = ProcessProvider(billed=True)
        self.frontend = Frontend(Connection(folder / "connection.json"))
        self.frontend.bind()
        self.kernel = Kernel(self.frontend)
        log = EventLog(path=str(folder / "log"))
        self.session = SandboxSession(self.kernel, provider=self.provider, log=log, directory=folder)
        self.kernel.start(self.session)
        self.client = Client(self.frontend.connection.info)

    async def heard(self) -> None:
        """Wait for the greeting, before which outputs are not heard."""
        while (await self.client.receive("iopub"))["msg_type"] != "iopub_welcome":
            pass

    async def close(self) -> None:
        self.client.context.destroy(0)
        await self.session.close()
        self.frontend.close()


@pytest.fixture
async def notebook(tmp_path: Path) -> AsyncIterator[Notebook]:
    made = Notebook(tmp_path)
    await made.heard()
    yield made
    await made.close()


HIDDEN = {"store_history": False}


async def test_what_a_front_end_sends_by_itself_starts_nothing_and_is_answered_at_once(notebook: Notebook) -> None:
    client = notebook.client
    assert (await client.ask("kernel_info_request"))["status"] == "ok"
    assert (await client.ask("kernel_info_request", channel="control"))["status"] == "ok"
    assert (await client.ask("complete_request", {"code": "pri", "cursor_pos": 3}))["matches"] == []
    assert (await client.ask("inspect_request", {"code": "len", "cursor_pos": 3, "detail_level": 0}))["found"] is False
    assert (await client.ask("is_complete_request", {"code": "for x in y:"}))["status"] == "incomplete"
    assert (await client.ask("history_request", {"hist_access_type": "tail", "n": 5}))["history"] == []
    assert (await client.ask("comm_info_request"))["comms"] == {}
    assert (await client.ask("usage_request", channel="control"))["kernel_memory"] == 0
    debug = {"type": "request", "seq": 1, "command": "debugInfo", "arguments": {}}
    assert (await client.ask("debug_request", debug, "control"))["body"]["isStarted"] is False
    for options in (HIDDEN, {"silent": True}):
        reply = await client.run("prepared = 1", **options)
        assert (reply["status"], reply["execution_count"]) == ("ok", 0)
    assert notebook.provider.calls == 0
    assert notebook.session.info.state.value == "inactive"


async def test_a_persons_cell_starts_it_and_finds_what_hidden_cells_prepared(notebook: Notebook) -> None:
    client = notebook.client
    await client.run("prepared = 1\nprint('not shown')", **HIDDEN)
    await client.run("prepared += 1", silent=True)
    await client.run("1/0", **HIDDEN)
    client.outputs.clear()
    reply = await client.run("print('prepared:', prepared)")
    assert (reply["status"], reply["execution_count"]) == ("ok", 1)
    assert notebook.provider.calls == 1
    assert client.texts() == "prepared: 2\n"
    # Nobody waits for the hidden cells' outputs any more.
    assert len({msg["parent_header"].get("msg_id") for msg in client.outputs} - {None}) == 1
    assert client.of_type("error") == []
    assert (await client.run("prepared"))["execution_count"] == 2
    assert notebook.provider.calls == 1


async def test_hidden_cells_run_as_they_come_once_there_is_a_sandbox(notebook: Notebook) -> None:
    client = notebook.client
    await client.run("1")
    client.outputs.clear()
    await client.run("print('shown')", **HIDDEN)
    assert client.texts() == "shown\n"


async def test_only_so_many_hidden_cells_are_remembered(notebook: Notebook) -> None:
    client = notebook.client
    await client.run("numbers = []", **HIDDEN)
    for number in range(30):
        await client.run(f"numbers = globals().get('numbers', []) + [{number}]", silent=True)
    client.outputs.clear()
    await client.run("print(numbers[-1], len(numbers) <= 30)")
    assert client.texts() == "29 True\n"


async def test_commands_start_nothing_unless_they_say_so(notebook: Notebook) -> None:
    client = notebook.client
    assert (await client.run("%sandbox status"))["status"] == "ok"
    assert (await client.run("%sandbox help"))["status"] == "ok"
    assert (await client.run("%sandbox stop"))["status"] == "ok"
    assert notebook.provider.calls == 0
    assert (await client.run("%sandbox start"))["execution_count"] == 4
    assert notebook.provider.calls == 1
    assert (await client.run("1"))["execution_count"] == 5


async def test_a_hidden_mixed_cell_starts_nothing(notebook: Notebook) -> None:
    reply = await notebook.client.run("%sandbox status\n1", **HIDDEN)
    assert reply["status"] == "ok"
    assert notebook.provider.calls == 0


async def test_a_hidden_cell_after_a_stop_does_not_start_another(notebook: Notebook) -> None:
    client = notebook.client
    await client.run("1")
    await client.run("%sandbox stop")
    await client.run("prepared = 1", **HIDDEN)
    await client.ask("complete_request", {"code": "pri", "cursor_pos": 3})
    assert notebook.provider.calls == 1
    client.outputs.clear()
    await client.run("print(prepared)")
    assert notebook.provider.calls == 2
    assert client.texts().endswith("1\n")


async def test_comm_messages_start_nothing(notebook: Notebook) -> None:
    client = notebook.client
    msg_id = client.send("comm_msg", {"comm_id": "stale", "data": {}})
    await client.until_idle(msg_id)
    assert notebook.provider.calls == 0
    assert (await client.run("1"))["status"] == "ok"


async def test_a_start_that_fails_is_told_and_hidden_cells_wait_for_the_next(notebook: Notebook) -> None:
    from sandbox_kernel.errors import AuthenticationError

    client = notebook.client
    await client.run("prepared = 1", **HIDDEN)
    notebook.provider.errors.append(AuthenticationError("refused"))
    reply = await client.run("1")
    assert (reply["status"], reply["ename"]) == ("error", "AuthenticationError")
    assert (await client.run("2", **HIDDEN))["status"] == "ok"
    assert notebook.provider.calls == 1
    client.outputs.clear()
    await client.run("print(prepared)")
    assert notebook.provider.calls == 2
    assert client.texts() == "1\n"
