"""Basic mode's end of the link: a reader that is slow slows the service down, and fills nobody's memory."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sandbox_kernel.link import envelope
from sandbox_kernel.link.channel import LinkChannel
from sandbox_kernel.link.protocol import WINDOW, Buffer, Link
from sandbox_kernel.providers.agentcore.api import Api, Settings
from sandbox_kernel.providers.agentcore.basic import BasicTransport
from sandbox_kernel.providers.agentcore.interpreter import Interpreter
from sandbox_kernel.providers.agentcore.results import ToolResult
from sandbox_kernel.providers.basic.backlog import MAX_BACKLOG
from sandbox_kernel.providers.basic.bridge import BasicBridge
from sandbox_kernel.providers.basic.runner import Event, Runner, Text
from tests.waiting import until

PIECE = 256 * 1024
FAR_TOO_MUCH = 4 * WINDOW
ROOM = WINDOW + MAX_BACKLOG + 4 * PIECE


class Printer(Runner):
    """Prints far too much, and counts what was fetched of it."""

    language, version = "python", "3.11.0"

    def __init__(self) -> None:
        self.fetched = 0
        self.ended = 0
        self.restarts = 0

    async def run(self, code: str) -> AsyncIterator[Event]:
        async for data in self._data():
            yield Text("stdout", data.decode())

    async def restart(self) -> None:
        self.restarts += 1

    async def shell(self, text: str) -> AsyncIterator[bytes | int]:
        async for data in self._data():
            yield data
        yield 0

    async def _data(self) -> AsyncIterator[bytes]:
        try:
            while self.fetched < FAR_TOO_MUCH:
                self.fetched += PIECE
                yield b"x" * PIECE
        finally:
            self.ended += 1


class Reader:
    """The session's end."""

    def __init__(self) -> None:
        self.read = 0
        self.names: list[str] = []
        self.contents: list[Any] = []
        self.channel = LinkChannel(Link(os.urandom(16)), self._take, lambda *_: None, lambda *_: None)

    def _take(self, parts: list[Buffer]) -> None:
        self.read += sum(map(len, parts))
        kind = bytes(parts[0])
        if kind == envelope.EVENT:
            self.names.append(json.loads(bytes(parts[1]))["event"])
        elif kind == envelope.IOPUB:
            self.names.append(bytes(parts[1]).decode())
        else:
            self.contents.append(json.loads(bytes(parts[4])))

    def execute(self) -> None:
        header = json.dumps({"msg_type": "execute_request"}).encode()
        self.channel.send([envelope.SHELL, header, b"{}", b"{}", json.dumps({"code": "x"}).encode()])

    def command(self, **command: Any) -> None:
        self.channel.send([envelope.COMMAND, json.dumps(command).encode()], urgent=True)


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[BasicBridge, Printer, Reader]]:
    printer, reader = Printer(), Reader()
    bridge = BasicBridge(printer)
    try:
        reader.channel.attach(bridge.open())
        yield bridge, printer, reader
    finally:
        bridge.close()
        await asyncio.sleep(0)


async def stuck(printer: Printer) -> None:
    """Wait until nothing more is fetched."""
    await until(lambda: printer.fetched > 0)
    seen = -1
    while seen != printer.fetched:
        seen = printer.fetched
        await asyncio.sleep(0.1)
    assert seen < ROOM


async def test_a_cell_waits_for_a_slow_reader_and_goes_on_with_it() -> None:
    async with opened() as (_, printer, reader):
        reader.channel.hold()
        reader.execute()
        await stuck(printer)
        reader.channel.release()
        await until(lambda: bool(reader.contents))
        assert reader.contents[0]["status"] == "ok"
        assert reader.read > FAR_TOO_MUCH


async def test_a_cell_that_waits_is_interrupted() -> None:
    async with opened() as (_, printer, reader):
        reader.channel.hold()
        reader.execute()
        await stuck(printer)
        reader.command(op="interrupt")
        await until(lambda: printer.ended == 1)
        reader.channel.release()
        await until(lambda: bool(reader.contents))
        assert reader.contents[0]["ename"] == "KeyboardInterrupt"


async def test_a_restart_does_not_wait_for_a_cell_that_waits() -> None:
    async with opened() as (_, printer, reader):
        reader.channel.hold()
        reader.execute()
        await stuck(printer)
        reader.command(op="restart")
        await until(lambda: (printer.ended, printer.restarts) == (1, 1))
        reader.channel.release()
        await until(lambda: reader.names.count("ready") == 2)


async def test_the_end_of_a_sandbox_ends_a_cell_that_waits() -> None:
    async with opened() as (bridge, printer, reader):
        reader.channel.hold()
        reader.execute()
        await stuck(printer)
        bridge.close()
        await until(lambda: printer.ended == 1)


async def test_a_cell_that_waits_goes_on_with_another_link() -> None:
    async with opened() as (bridge, printer, reader):
        reader.channel.hold()
        reader.execute()
        await stuck(printer)
        another = Reader()
        another.channel.attach(bridge.open())
        await until(lambda: bool(another.contents))
        assert another.contents[0]["status"] == "ok"


async def test_a_command_waits_for_a_slow_reader_and_can_be_ended() -> None:
    async with opened() as (_, printer, reader):
        reader.channel.hold()
        reader.command(op="run", id=1, text="yes")
        await stuck(printer)
        reader.command(op="kill", id=1)
        await until(lambda: printer.ended == 1)
        reader.channel.release()
        await until(lambda: "finished" in reader.names)


# ---- AgentCore's


class OneAnswer(Api):
    """Answers each call with the same output at once, and counts them."""

    def __init__(self) -> None:
        super().__init__(Settings("interpreter"))

    async def invoke(self, session_id: str, tool: str, arguments: Any, **options: Any) -> ToolResult:
        self.calls += 1
        said = ToolResult(text="x" * WINDOW)
        options["on_event"](said)
        return said


@asynccontextmanager
async def six_cells_at_a_slow_reader() -> AsyncIterator[tuple[OneAnswer, Reader]]:
    """Six cells that were sent while nothing is read, half a second later, in which the calls stand still."""
    api, reader = OneAnswer(), Reader()
    transport = BasicTransport(Interpreter(api, "session", "javascript", ""))
    reader.channel.attach(transport)
    reader.channel.hold()
    for _ in range(6):
        reader.execute()
    # That no further call follows can only be seen by waiting.
    await asyncio.sleep(0.5)
    try:
        yield api, reader
    finally:
        transport.close()


async def test_the_next_cell_waits_at_agentcore_until_the_last_ones_output_was_taken() -> None:
    async with six_cells_at_a_slow_reader() as (api, reader):
        assert api.calls == 2
        reader.channel.release()
        await until(lambda: len(reader.contents) == 6)
        assert {one["status"] for one in reader.contents} == {"ok"}


async def test_an_interrupt_at_agentcore_takes_back_what_waits_for_a_slow_reader() -> None:
    async with six_cells_at_a_slow_reader() as (api, reader):
        reader.command(op="interrupt")
        await asyncio.sleep(0.1)
        reader.channel.release()
        await until(lambda: len(reader.contents) == 6)
        assert [one["status"] for one in reader.contents] == ["ok"] * 2 + ["aborted"] * 4
        assert api.calls == 2


class Nested(Api):
    """Prints what a cell may have put in the place of a snapshot's outcome."""

    async def invoke(self, session_id: str, tool: str, arguments: Any, **options: Any) -> ToolResult:
        return ToolResult(text=f"<sbx-snapshot>{'[' * 200_000}")


async def test_a_snapshot_whose_outcome_nests_without_an_end_has_failed() -> None:
    reader = Reader()
    transport = BasicTransport(Interpreter(Nested(Settings("interpreter")), "session", "python", ""))
    reader.channel.attach(transport)
    reader.command(op="describe", id=1, request={"snapshot": "x"})
    await until(lambda: "operation" in reader.names)
    transport.close()
