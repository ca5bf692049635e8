"""What a hostile sandbox answers is taken up to a size: the kernel process holds no more. Over real sockets."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Union

import pytest

from sandbox_kernel.agents import AgentClient
from sandbox_kernel.agents.session import AgentSession
from sandbox_kernel.errors import (
    InvocationError,
    SandboxConnectionError,
    SandboxCreationError,
    SandboxTimeoutError,
)
from sandbox_kernel.link import websocket
from sandbox_kernel.providers.basic.runner import Text
from sandbox_kernel.providers.costs import Rate
from sandbox_kernel.providers.e2b import bridging
from sandbox_kernel.providers.e2b.access import Access, Place
from sandbox_kernel.providers.e2b.brands import E2B
from sandbox_kernel.providers.e2b.client import ControlClient, Creation
from sandbox_kernel.providers.e2b.envd import Envd
from sandbox_kernel.providers.e2b.interpreter import Interpreter
from sandbox_kernel.providers.e2b.life import Life
from sandbox_kernel.providers.e2b.sandbox import E2BSandbox
from sandbox_kernel.providers.e2b.transport import HIGH_WATER, UpgradeRefusedError, WebSocketTransport, open_websocket
from tests.hostile import Ear
from tests.waiting import until

MIB = 1024 * 1024
LONG = 96 * MIB
"""Bytes after which an answer "without an end" breaks off: a test that fails has not filled this machine's memory."""
Pieces = Iterator[Union[bytes, None]]
"""Of a body; None: it stalls until the client goes."""
Body = Callable[[str], Pieces]


class Sandbox:
    """Answers each path as it is told, and counts what it could send."""

    def __init__(self, body: Body, status: int, fields: str) -> None:
        self._body, self._status, self._fields = body, status, fields
        self.paths: list[str] = []
        self.sent = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.paths.append(path := head.split(" ")[1])
        writer.write(f"HTTP/1.1 {self._status} x\r\nconnection: close\r\n{self._fields}\r\n".encode())
        for piece in self._body(path):
            if piece is None:
                await reader.read()
                return
            writer.write(piece)
            await writer.drain()
            self.sent += len(piece)
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """Serve connections; give the address. At the end all of them are waited for: by then the other side is gone."""
    tasks = []

    async def whole(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.ensure_future(whole(reader, writer)))

    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    running = await asyncio.start_server(accept, sock=listener)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        running.close()
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
        await running.wait_closed()


@asynccontextmanager
async def sandbox(
    body: Body, *, status: int = 200, fields: str = ""
) -> AsyncIterator[tuple[Sandbox, ControlClient, Access]]:
    served = Sandbox(body, status, fields)
    async with listening(served.serve) as url:
        place = Place(E2B, "e2b_secret_key", api_url=url, sandbox_url=url)
        async with ControlClient(place) as client:
            yield served, client, Access(place, "abc")


def endless(piece: bytes = b"x" * 65536, first: bytes = b"") -> Pieces:
    yield first
    for _ in range(LONG // len(piece)):
        yield piece


def envelope(message: object, flag: int = 0) -> bytes:
    data = json.dumps(message).encode()
    return struct.pack(">BI", flag, len(data)) + data


def printed(data: bytes) -> bytes:
    return envelope({"event": {"data": {"stdout": base64.b64encode(data).decode()}}})


def ended(status: int) -> bytes:
    return envelope({"event": {"end": {"exited": True, "exitCode": status}}}) + envelope({}, 2)


# ---- the bridge's files, which belong to the cells' user


async def test_a_token_without_an_end_is_refused_after_its_beginning() -> None:
    async with sandbox(lambda _: endless()) as (served, client, access):
        with pytest.raises(InvocationError, match="cannot be read"):
            await bridging.read_token(Envd(client.rest, access))
    assert served.sent < LONG / 2


async def test_a_token_arrives_whole() -> None:
    token = b"t" * 43
    async with sandbox(lambda _: iter([token[:20], token[20:]])) as (_, client, access):
        assert await bridging.read_token(Envd(client.rest, access)) == token.decode()


async def test_a_token_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridging, "READ_TIMEOUT", 0.2)
    async with sandbox(lambda _: iter([b"t", None])) as (_, client, access):
        with pytest.raises(SandboxTimeoutError, match="did not come in time"):
            await bridging.read_token(Envd(client.rest, access))


async def test_of_a_log_the_end_alone_is_asked_for() -> None:
    def body(path: str) -> Pieces:
        if path.startswith("/files"):
            return endless()
        return iter([printed(b"one\nTraceback: \x1b[31mthe end\n") + ended(0)])

    async with sandbox(body) as (served, client, access):
        assert await bridging.last_words(Envd(client.rest, access)) == "Traceback: \N{REPLACEMENT CHARACTER}[31mthe end"
    assert served.paths == ["/process.Process/Start"]


async def test_a_log_that_is_not_there_says_nothing() -> None:
    async with sandbox(lambda _: iter([ended(1)])) as (_, client, access):
        assert await bridging.last_words(Envd(client.rest, access)) == ""


async def test_a_command_that_prints_without_an_end_is_given_up() -> None:
    """A cell may write the user's `.bash_profile`, which is run before each command."""
    async with sandbox(lambda _: endless(printed(b"y\n" * 32768))) as (served, client, access):
        with pytest.raises(InvocationError, match="printed more than"):
            await Envd(client.rest, access).run("true")
    assert served.sent < LONG / 2


# ---- answers


async def test_an_answer_of_a_sandbox_without_an_end_is_given_up() -> None:
    async with sandbox(lambda _: endless()) as (served, client, access):
        with pytest.raises(InvocationError, match=r"filesystem.Filesystem/ListDir has more than \d+ bytes"):
            await Envd(client.rest, access).list_folder(".")
    assert served.sent < LONG


async def test_an_answer_of_the_api_without_an_end_is_given_up() -> None:
    async with sandbox(lambda _: endless()) as (served, client, _):
        with pytest.raises(InvocationError, match="has more than"):
            await client.get("abc")
    assert served.sent < LONG


async def test_of_a_refusal_without_an_end_the_beginning_is_told() -> None:
    async with sandbox(lambda _: endless(b"no " * 20000), status=400) as (served, client, access):
        with pytest.raises(InvocationError, match="no no no"):
            await Envd(client.rest, access).list_folder(".")
        with pytest.raises(InvocationError, match="no no no"):
            await client.get("abc")
    assert served.sent < LONG / 2


@pytest.mark.parametrize("packed", ["br", "gzip, gzip"])
async def test_answers_that_unfold_without_bound_are_not_unpacked(packed: str) -> None:
    async with sandbox(lambda _: iter([b"x"]), fields=f"content-encoding: {packed}\r\n") as (_, client, access):
        with pytest.raises(InvocationError, match="packs"):
            await Envd(client.rest, access).list_folder(".")


async def test_packed_answers_are_read() -> None:
    said = gzip.compress(b'{"entries": [{"path": "/x"}]}')
    async with sandbox(lambda _: iter([said]), fields="content-encoding: gzip\r\n") as (_, client, access):
        assert await Envd(client.rest, access).list_folder(".") == [{"path": "/x"}]


def interpreter(client: ControlClient, access: Access) -> Interpreter:
    return Interpreter(lambda: client.rest, lambda: access, "python", "work")


async def test_a_line_of_the_interpreter_without_an_end_is_given_up() -> None:
    async with sandbox(lambda _: endless()) as (served, client, access):
        with pytest.raises(InvocationError, match="A line of an answer of POST /execute has more than"):
            _ = [one async for one in interpreter(client, access).run("x")]
    assert served.sent < LONG


async def test_nesting_without_an_end_ends_a_call_and_not_who_runs_the_cells() -> None:
    deep = b"[" * 200_000
    async with sandbox(lambda _: iter([deep])) as (_, client, access):
        with pytest.raises(InvocationError, match="cannot be read"):
            _ = [one async for one in interpreter(client, access).run("x")]
        with pytest.raises(InvocationError, match="cannot be read"):
            await Envd(client.rest, access).list_folder(".")
    async with sandbox(lambda _: iter([struct.pack(">BI", 0, len(deep)) + deep])) as (_, client, access):
        with pytest.raises(InvocationError, match="no stream"):
            await Envd(client.rest, access).run("true")


@pytest.mark.parametrize("said", [b"[" * 65536, b"no JSON"])
async def test_what_the_interpreter_answers_is_read_or_told_to_be_unreadable(said: bytes) -> None:
    async with sandbox(lambda _: iter([said])) as (_, client, access):
        with pytest.raises(InvocationError, match="answers cannot be read"):
            await interpreter(client, access).restart()


async def test_a_refusal_that_nests_without_an_end_is_told_by_its_beginning() -> None:
    async with sandbox(lambda _: iter([b"[" * 65536]), status=400) as (_, client, access):
        with pytest.raises(InvocationError, match=r"400: \[{300}\)"):
            await interpreter(client, access).restart()
        with pytest.raises(InvocationError, match=r"400: \[{300}\)"):
            await client.get("abc")


async def test_a_door_that_refuses_by_nesting_without_an_end_is_one_that_refuses() -> None:
    fields = "content-length: 65536\r\n"
    async with sandbox(lambda _: iter([b"[" * 65536]), status=502, fields=fields) as (_, _, access):
        with pytest.raises(UpgradeRefusedError, match=r"502 \[{1000}"):
            await bridging.Knocker(timeout=5, keepalive=1, patience=1).open(access, "token")


@pytest.mark.parametrize("said", [b"[" * 65536, b'"\xff"'])
async def test_an_answer_of_the_api_that_is_no_json_is_told_to_be_unreadable(said: bytes) -> None:
    async with sandbox(lambda _: iter([said])) as (_, client, _):
        with pytest.raises(InvocationError, match="cannot be read"):
            await client.get("abc")
        with pytest.raises(SandboxCreationError, match="no answer that can be read"):
            await client.create(Creation("t"))


async def test_lines_arrive_whole_however_they_are_cut() -> None:
    text = "".join(json.dumps({"type": "stdout", "text": f"{n} \u2028 ä"}, ensure_ascii=False) + "\n" for n in range(3))
    data = text.encode() + b'{"type": "end_of_execution"}'
    async with sandbox(lambda _: (data[at : at + 7] for at in range(0, len(data), 7))) as (_, client, access):
        said = [one async for one in interpreter(client, access).run("x")]
    assert said == [Text("stdout", f"{n} \u2028 ä") for n in range(3)]


async def test_a_cell_whose_output_is_not_fetched_is_held_up() -> None:
    line = json.dumps({"type": "stdout", "text": "x" * 65536}).encode() + b"\n"
    async with (
        sandbox(lambda _: endless(line)) as (served, client, access),
        aclosing(interpreter(client, access).run("x")) as events,
    ):
        assert isinstance(await anext(events), Text)
        # That no more is fetched can only be seen by waiting.
        await asyncio.sleep(0.5)
        assert served.sent < LONG / 4


async def test_what_a_single_cell_prints_without_an_end_is_given_up() -> None:
    line = json.dumps({"type": "stdout", "text": "x" * 65536}).encode() + b"\n"

    def body(path: str) -> Pieces:
        return endless(line) if path.startswith("/execute") else iter([b"[]"])

    async with sandbox(body) as (served, client, access):
        life = Life(60, 0, auto_pause=False)
        knocker = bridging.Knocker(timeout=1, keepalive=1, patience=1)
        there = E2BSandbox(lambda: client, access, "", knocker, life, Rate())
        there._interpreters["r"] = interpreter(client, access)
        with pytest.raises(InvocationError, match="printed more than"):
            await there.run_code("x", "r")
    assert served.sent < LONG


EVENT = b"data: " + b"x" * 65536 + b"\n\n"


@asynccontextmanager
async def agent_at(access: Access) -> AsyncIterator[AgentSession]:
    """An agent's session in a sandbox that is there."""
    url = access.place.api_url
    async with AgentClient("e2b", api_key="e2b_secret_key", api_url=url, sandbox_url=url) as agents:
        yield agents._made(access, "template", "name")


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_an_agents_answer_without_an_end_is_given_up(kind: str) -> None:
    fields = f"content-type: {kind}\r\n"
    async with sandbox(lambda _: endless(EVENT), fields=fields) as (served, _, access), agent_at(access) as session:
        with pytest.raises(InvocationError, match="has more than"):
            await session.invoke("hello", timeout=10)
        with pytest.raises(SandboxConnectionError, match="has more than"):
            await session.ping()
    assert served.sent < 2 * LONG


async def test_an_agents_answers_that_nest_without_an_end_are_told() -> None:
    async with sandbox(lambda _: iter([b"[" * 65536])) as (_, _, access), agent_at(access) as session:
        with pytest.raises(InvocationError, match="no JSON"):
            await session.invoke("hello", timeout=10)
        with pytest.raises(SandboxConnectionError, match="does not answer"):
            await session.ping()


# ---- the door, whose place a cell may take


@asynccontextmanager
async def door(pieces: Pieces) -> AsyncIterator[tuple[WebSocketTransport, asyncio.Event, asyncio.Event]]:
    """A door that reads nothing, and sends this when the first event is set; the second one: all of it was taken."""
    begin, taken, end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        writer.transport.pause_reading()  # type: ignore[attr-defined] # typeshed: a WriteTransport
        key = next(line.split(": ")[1] for line in head.split("\r\n") if line.startswith("Sec-WebSocket-Key"))
        accept = websocket.accept_of(key)
        writer.write(f"HTTP/1.1 101 x\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode())
        await begin.wait()
        for piece in pieces:
            writer.write(piece or b"")
            await writer.drain()
        taken.set()
        await end.wait()

    async with listening(serve) as url:
        transport = await open_websocket(f"{url}/link", {}, None, timeout=5, silence=(60, 60))
        try:
            yield transport, begin, taken
        finally:
            transport.abandon()
            begin.set()
            end.set()


async def test_a_door_that_asks_without_end_and_reads_nothing_fills_no_memory() -> None:
    pings = websocket.encode(websocket.PING, b"x" * 125, masked=False) * 500
    async with door(pings for _ in range(200)) as (transport, begin, taken):
        transport.start(Ear())
        begin.set()
        await asyncio.wait_for(taken.wait(), 30)
        assert transport._transport is not None
        assert transport._transport.get_write_buffer_size() < 2 * HIGH_WATER


async def test_a_question_that_is_no_control_frame_ends_the_connection() -> None:
    async with door(iter([websocket.encode(websocket.PING, b"x" * 126, masked=False)])) as (transport, begin, _):
        ear = Ear()
        transport.start(ear)
        begin.set()
        await until(lambda: ear.reasons, 5)
        assert "control frame" in ear.reasons[0]


async def test_a_door_that_speaks_before_it_is_spoken_to_fills_no_memory() -> None:
    async with door(endless()) as (transport, begin, taken):
        begin.set()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(taken.wait(), 2)
        assert not taken.is_set()
        ear = Ear()
        transport.start(ear)
        await until(lambda: ear.reasons, 5)
        assert "greeting" in ear.reasons[0]
