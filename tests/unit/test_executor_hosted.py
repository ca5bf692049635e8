"""One sandbox on an executor, of which there are only the streams: its links, its pauses, and what is asked of it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("an executor's sandboxes need bubblewrap, which only Linux has", allow_module_level=True)
pytest.importorskip("grpc")

from sandbox_kernel.errors import InvocationError
from sandbox_kernel.executor.errands import Errands
from sandbox_kernel.executor.hosted import HostedSandbox
from sandbox_kernel.executor.links import Relay
from sandbox_kernel.executor.metrics import Metrics
from sandbox_kernel.executor.service import batches
from sandbox_kernel.executor_api import executor_pb2 as pb
from sandbox_kernel.executor_api.protocol import LARGEST_MESSAGE
from sandbox_kernel.link import envelope
from sandbox_kernel.link.channel import LinkChannel
from sandbox_kernel.link.protocol import WINDOW, Buffer, Link
from sandbox_kernel.link.stream import SocketTransport


class Streams:
    """What there is of the sandbox."""

    sandbox_id = "local-1"
    alive = True

    def __init__(self) -> None:
        self.inside: list[socket.socket] = []
        """The sandbox's ends of its streams."""
        self.frozen = False
        self.freezing = asyncio.Event()
        """Set when it may take its time to freeze no longer."""

    def open_stream(self) -> socket.socket:
        """Return the executor's end of a new stream."""
        ours, theirs = socket.socketpair()
        self.inside.append(theirs)
        return ours

    open_errands = open_stream

    async def pause(self) -> None:
        """Freeze."""
        await self.freezing.wait()
        self.frozen = True

    async def resume(self) -> None:
        """Thaw."""
        self.frozen = False

    def close(self) -> None:
        """End all streams."""
        for stream in self.inside:
            stream.close()


@pytest.fixture
def streams() -> Any:
    """A sandbox's streams, which are closed at the end."""
    with closing(Streams()) as made:
        yield made


def hosted_in(streams: Any) -> HostedSandbox:
    """Return a sandbox with these streams."""
    return HostedSandbox(streams, "ann", "")


# ---- links


class Stalled:
    """A client that takes nothing."""

    async def read(self) -> None:
        """Wait for ever."""
        await asyncio.Event().wait()

    async def write(self, chunk: object) -> None:
        """Wait for ever."""
        await asyncio.Event().wait()


async def no_reason() -> str:
    """Return why the sandbox ended, which it has not."""
    return ""


async def test_a_link_that_ends_before_it_is_open_is_not_counted(streams: Streams) -> None:
    hosted, metrics = hosted_in(streams), Metrics()
    relay = Relay(hosted, Stalled(), pb.LinkOpen(heartbeat=1, patience=1), metrics)
    linking = asyncio.ensure_future(relay.run(no_reason))
    await asyncio.sleep(0)
    assert hosted.linked
    linking.cancel()
    await asyncio.wait([linking])
    assert not hosted.linked
    assert metrics.registry.get_sample_value("sandbox_executor_links") == 0
    assert streams.inside[0].recv(1) == b""


# ---- pauses


@pytest.mark.parametrize("asked", [False, True])
async def test_what_is_used_while_it_freezes_goes_on_unless_a_client_has_paused_it(streams: Any, asked: bool) -> None:
    hosted = hosted_in(streams)
    pausing = asyncio.ensure_future(hosted.pause(asked=asked))
    await asyncio.sleep(0)
    hosted.touch()
    await hosted.wake()
    streams.freezing.set()
    await pausing
    assert (hosted.paused, streams.frozen) == (asked, asked)


async def test_what_nobody_uses_while_it_freezes_stays_frozen_until_it_is_woken(streams: Any) -> None:
    hosted = hosted_in(streams)
    streams.freezing.set()
    await hosted.pause(asked=False)
    assert (hosted.paused, streams.frozen) == (True, True)
    await hosted.wake()
    assert (hosted.paused, streams.frozen) == (False, False)


# ---- commands


class Process:
    """The process in the sandbox that runs commands, as far as it is asked for something and says something."""

    def __init__(self, stream: socket.socket) -> None:
        self.asked: list[dict[str, Any]] = []
        self._channel = LinkChannel(Link(os.urandom(16)), self._on_message, lambda *_: None, lambda *_: None)
        self._channel.attach(SocketTransport(stream))

    def _on_message(self, parts: list[Buffer]) -> None:
        self.asked.append(json.loads(bytes(parts[1])))

    def say(self, event: dict[str, Any], data: bytes) -> None:
        """Say something of what was asked for last."""
        self._channel.send([envelope.EVENT, json.dumps({**event, "id": self.asked[-1]["id"]}).encode(), data])

    async def write(self, size: int) -> None:
        """Have the command that was asked for last write so many bytes."""
        await eventually(lambda: self.asked)
        for _ in range(size // CHUNK):
            self.say({"event": "output"}, bytes(CHUNK))

    async def left(self) -> int:
        """Return how many bytes of what was written do not get out, when no more do."""
        before = -1
        while before != (before := self._channel.backlog):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.1)
        return before


CHUNK = 64 * 1024


async def eventually(condition: Callable[[], Any]) -> Any:
    """Wait until something holds; return what it says."""
    while not (found := condition()):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    return found


async def test_the_end_of_a_command_makes_no_room_for_another_that_nobody_reads(streams: Any) -> None:
    with closing(Errands(streams)) as errands:
        with errands.command("yes") as unread:
            process = Process(streams.inside[0])
            await process.write(4 * WINDOW)
            waiting = await process.left()
            assert waiting > WINDOW
            for _ in range(2):
                with errands.command("true"):
                    assert await process.left() == waiting
            assert await process.left() == waiting
            taken = 0
            async for data in unread:
                errands.taken(unread, len(data))
                taken += len(data)
                if taken == 4 * WINDOW:
                    break
        assert await process.left() == 0


async def test_output_that_was_lost_with_its_process_makes_no_room(streams: Any) -> None:
    with closing(Errands(streams)) as errands, errands.command("yes") as lost:
        first = Process(streams.inside[0])
        await first.write(4 * WINDOW)
        await first.left()
        errands.close()
        with errands.command("yes"):
            second = Process(streams.inside[1])
            await second.write(4 * WINDOW)
            waiting = await second.left()
            errands.taken(lost, 2 * WINDOW)
            assert await second.left() == waiting > WINDOW


# ---- files


async def listed(streams: Any, path: str, count: int) -> list[pb.FileList]:
    """Return the messages that say of so many files that they have this path."""
    entry = json.dumps([path, "file", 1, 1.0, 0o644], ensure_ascii=False)
    with closing(Errands(streams)) as errands, errands.files() as files:
        process = Process(streams.inside[0])

        async def answer() -> None:
            await eventually(lambda: process.asked)
            for _ in range(count):
                process.say({"event": "operation"}, f"[{entry}]".encode())
            process.say({"event": "operation", "end": True}, b"")

        answering = asyncio.ensure_future(answer())
        request = pb.ListFilesRequest(pattern=b"*")
        lists = [pb.FileList(entries=entries) async for entries in batches(files, request)]
        await answering
        return lists


async def test_a_list_of_long_paths_is_no_message_that_is_too_large(streams: Any) -> None:
    lists = await listed(streams, "\N{SNAKE}" * 4096, 1000)
    assert sum(len(one.entries) for one in lists) == 1000
    assert max(one.ByteSize() for one in lists) < LARGEST_MESSAGE / 2


async def test_a_path_that_no_file_can_have_is_refused(streams: Any) -> None:
    with pytest.raises(InvocationError, match="no list of files"):
        await listed(streams, "x" * 4097, 1)
