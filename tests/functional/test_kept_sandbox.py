"""A local sandbox that outlives its streams: what its bridge makes of peers that go, come back, or are others."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from sandbox_kernel.errors import SandboxLostError
from sandbox_kernel.link.protocol import LinkError, LinkRefusedError
from sandbox_kernel.providers.base import SandboxSpec
from sandbox_kernel.providers.local.provider import LocalProvider
from sandbox_kernel.providers.local.sandbox import LocalSandbox
from sandbox_kernel.workspace.settings import Workspace
from tests.peer import TIMEOUT, Peer
from tests.processes import below, sandboxes_of


@asynccontextmanager
async def kept() -> AsyncIterator[LocalSandbox]:
    """Give a sandbox that is kept, and close it at the end."""
    provider = LocalProvider()
    provider.workspace = Workspace(mode="private")
    sandbox = await provider.create(SandboxSpec("test", kept=True))
    assert isinstance(sandbox, LocalSandbox)
    try:
        yield sandbox
    finally:
        await sandbox.close()


@contextmanager
def ready_peer(sandbox: LocalSandbox) -> Iterator[Peer]:
    """Give a new peer whose kernel is ready."""
    peer = Peer(sandbox.open_stream())
    try:
        peer.event("ready")
        yield peer
    finally:
        peer.lose()


async def test_cell_goes_on_without_a_stream_and_nothing_is_lost() -> None:
    async with kept() as sandbox:
        with ready_peer(sandbox) as peer:
            cell = peer.execute("import time\nfor i in range(20):\n    print(i, flush=True)\n    time.sleep(0.05)")
            peer.until(lambda: "3" in peer.printed(cell))
            peer.lose()
            await asyncio.sleep(0.3)
            peer.attach(sandbox.open_stream())
            peer.idle(cell)
            assert peer.printed(cell).split() == [str(i) for i in range(20)]
            assert [kind for kind, _ in peer.outputs(cell)].count("execute_input") == 1


async def test_new_stream_displaces_one_that_hangs() -> None:
    async with kept() as sandbox:
        with ready_peer(sandbox) as peer:
            hanging = peer.stream
            peer.link.disconnect()
            peer.attach(sandbox.open_stream())
            assert peer.run("print(1)") == "1\n"
            hanging.close()


async def test_stream_that_does_not_greet_disturbs_nobody() -> None:
    async with kept() as sandbox:
        with ready_peer(sandbox) as peer:
            streams = [sandbox.open_stream() for _ in range(20)]
            streams[0].close()
            streams[-1].sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
            assert peer.run("print(1)") == "1\n"
            for stream in streams[1:]:
                stream.close()
            assert peer.run("print(2)") == "2\n"


async def test_new_peer_finds_the_variables_and_the_old_one_is_refused() -> None:
    async with kept() as sandbox:
        with ready_peer(sandbox) as first:
            first.run("x = 1")
            with ready_peer(sandbox) as second:
                assert second.run("print(x)") == "1\n"
                first.lose()
                first.attach(sandbox.open_stream())
                with pytest.raises(LinkRefusedError):
                    first.until(lambda: False)
                assert second.run("print(x + 1)") == "2\n"


async def test_peer_that_breaks_the_protocol_ends_its_own_link_only() -> None:
    async with kept() as sandbox:
        with ready_peer(sandbox) as first:
            first.stream.sendall(b"\0" * 100)
            with pytest.raises(AssertionError, match="the stream ended"):
                first.until(lambda: False)
            first.lose()
            first.attach(sandbox.open_stream())
            with pytest.raises(LinkError):
                first.until(lambda: False)
        with ready_peer(sandbox) as second:
            assert second.run("print(1)") == "1\n"


async def test_sandbox_without_a_stream_is_closed_and_takes_no_other() -> None:
    async with kept() as sandbox:
        with ready_peer(sandbox):
            pass
        assert sandbox.alive
        await sandbox.close()
        assert not sandbox.alive
        with pytest.raises(SandboxLostError):
            sandbox.open_stream()


async def test_death_of_the_bridge_is_seen() -> None:
    async with kept() as sandbox:
        with ready_peer(sandbox) as peer:
            # The bridge is the kernel's parent, and the first process inside is nobody's that could be signalled.
            peer.execute("import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
            with pytest.raises(AssertionError, match="the stream ended"):
                peer.until(lambda: False)
        deadline = time.monotonic() + TIMEOUT
        while sandbox.alive:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        with pytest.raises(SandboxLostError):
            sandbox.open_stream()


async def test_paused_sandbox_takes_a_stream_when_it_goes_on() -> None:
    async with kept() as sandbox:
        with ready_peer(sandbox) as peer:
            await sandbox.pause()
            peer.lose()
            peer.attach(sandbox.open_stream())
            await sandbox.resume()
            assert peer.run("print(1)") == "1\n"


async def test_no_descriptor_is_left_here() -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    async with kept() as sandbox:
        with ready_peer(sandbox):
            pass
    assert count() <= before


async def test_new_peer_is_told_of_what_was_missed_and_gets_it_in_order() -> None:
    async with kept() as sandbox:
        with ready_peer(sandbox) as first:
            first.run("print('had')")
            one = first.execute("print('one')\nimport time\ntime.sleep(0.5)\nprint('one again')")
            two = first.execute("print('two')\n1 / 0", stop_on_error=False)
            three = first.execute("input('name? ')")
            hidden = first.execute("print('hidden')", store_history=False)
            first.until(lambda: "one" in first.printed(one))
            first.lose()
        await asyncio.sleep(2)
        with ready_peer(sandbox) as second:
            ready = second.event("ready")
            assert ready["missed"] == 3
            assert [entry[1:] for entry in ready["open"]] == [[three, False], [hidden, True]]
            past = second.replayed(None)
            assert [msg_id for msg_id, kind, _ in past if kind == "execute_input"] == [one, two, three]
            assert "".join(c["text"] for m, kind, c in past if kind == "stream") == "one\none again\ntwo\n"
            assert [c["ename"] for _, kind, c in past if kind == "error"] == ["ZeroDivisionError"]
            questions = [parts for parts in second.received if parts[:1] == [b"j"] and parts[1][:1] == b"i"]
            assert [json.loads(parts[5])["prompt"] for parts in questions] == ["name? "]
            assert second.replayed(None) == []
            second.command("interrupt")
            second.tokens[three] = first.tokens[three]
            second.idle(three)
        with ready_peer(sandbox) as third:
            assert third.event("ready")["missed"] == 0
            assert [kind for _, kind, _ in third.replayed(0) if kind == "error"] == ["error"]
            past = third.replayed(2)
            assert "".join(c["text"] for _, kind, c in past if kind == "stream") == "one\none again\n"
            assert third.replayed(77) == []


async def written(file: Path) -> None:
    """Wait until a cell has written it."""
    deadline = time.monotonic() + TIMEOUT
    while not file.exists():  # noqa: ASYNC240 - it is as if it were in memory
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def journalled(size: int) -> None:
    """Wait until the bridge has put so many bytes into files. What a cell has printed may be on its way for long."""
    (bridge,) = set(below(None, "/opt/sandbox-bridge/__main__.py")) - set(sandboxes_of())
    deadline = time.monotonic() + TIMEOUT
    while bridge.io_counters().write_chars < size:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


CALLING = """\
import os, socket, struct, time
path = next(line.split()[-1] for line in open("/proc/net/unix") if line.rstrip().endswith("-tools"))
sock = socket.socket(socket.AF_UNIX)
sock.connect(path)
sock.settimeout(2)
print("begun", flush=True)
while not os.path.exists("alone"):
    time.sleep(0.05)  # nothing in a cell tells of a new file
sent, call = 0, struct.pack("!II", 2, 1_000_000) + b"{}" + b"x" * 1_000_000
try:
    while sent < 100:
        sock.sendall(call)
        sent += 1
except TimeoutError:
    pass
with open("counting", "w") as file:
    file.write(str(sent))
os.rename("counting", "sent")
"""


async def test_calls_of_tools_wait_in_the_cell_while_nobody_is_there() -> None:
    async with kept() as sandbox:
        with ready_peer(sandbox) as peer:
            cell = peer.execute(CALLING)
            peer.until(lambda: peer.printed(cell))
            peer.lose()
            work = Path(sandbox._folder.work)
            (work / "alone").touch()
            await written(work / "sent")
            assert int((work / "sent").read_text()) < 10


async def test_cell_is_not_held_up_while_nobody_is_there_and_what_was_dropped_is_told() -> None:
    async with kept() as sandbox:
        with ready_peer(sandbox) as peer:
            # Much more than the journal holds, and than what lies between the kernel and the bridge.
            code = "for i in range(300):\n    print(str(i % 10) * 1_000_000)\nopen('done', 'w').close()"
            cell = peer.execute(code)
            peer.until(lambda: peer.printed(cell))
            peer.lose()
            # The work folder, from outside.
            await written(Path(sandbox._folder.work, "done"))
            await journalled(300_000_000)
            peer.attach(sandbox.open_stream())
            peer.idle(cell)
            skipped = sum(event["messages"] for event in peer.events() if event["event"] == "skipped")
            lines = [line for line in peer.printed(cell).split("\n") if line]
            assert 0 < skipped < 600
            assert 50 < len(lines) < 300
            assert lines[-1] == "9" * 1_000_000
