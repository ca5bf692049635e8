"""A kernel in this process whose bridge is the test: what it sends is chosen byte by byte, or message by message."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sandbox_kernel.events import EventLog
from sandbox_kernel.frontend import Connection, Frontend
from sandbox_kernel.kernel import Kernel
from sandbox_kernel.link import envelope
from sandbox_kernel.link.protocol import Buffer, Link, Message
from sandbox_kernel.link.transport import Receiver, Transport
from sandbox_kernel.ownership import Leftover
from sandbox_kernel.providers.base import Capabilities, IsolationLevel, Provider, Sandbox, SandboxSpec
from sandbox_kernel.session import SandboxSession

READY = {"event": "ready", "pid": 1, "life": 1, "python": "3.12.1"}

Json = dict[str, Any]


class Wire(Transport):
    """A stream whose other end is in the test's hands."""

    def __init__(self) -> None:
        self.receiver: Receiver
        self.is_open = False
        self.sent = bytearray()
        """What the kernel process wrote and the bridge has not read."""

    def start(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.is_open = True

    def write(self, buffers: Sequence[Buffer]) -> bool:
        for buffer in buffers:
            self.sent += buffer
        return True

    def close(self) -> None:
        self.is_open = False


class Ear(Receiver):
    """Hears why a stream ended."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def data_received(self, data: memoryview) -> None:
        """Not of interest."""

    def writable(self) -> None:
        """Not of interest."""

    def connection_lost(self, reason: str) -> None:
        self.reasons.append(reason)


class WiredSandbox(Sandbox):
    """A sandbox of which there is only the wire."""

    provider_name = "wired"
    isolation = IsolationLevel.NONE
    sandbox_id = "wired"

    def __init__(self) -> None:
        self.wire = Wire()

    async def open_link(self) -> Transport:
        return self.wire

    async def pause(self) -> None:
        raise NotImplementedError

    async def resume(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        self.wire.close()

    def kill(self) -> None:
        self.wire.close()

    async def loss_reason(self) -> str:
        return ""


class WiredProvider(Provider):
    """Makes WiredSandboxes."""

    name = "wired"

    def __init__(self) -> None:
        super().__init__()
        self.capabilities = Capabilities(pause=False, billed=False)
        self.created: list[WiredSandbox] = []

    async def create(self, spec: SandboxSpec) -> Sandbox:
        self.created.append(WiredSandbox())
        return self.created[-1]

    async def connect(self, sandbox_id: str) -> Sandbox:
        return await self.create(SandboxSpec("connected"))

    async def list(self) -> Sequence[Any]:
        return []

    def diagnose(self) -> Sequence[Any]:
        return []


class RecordingFrontend(Frontend):
    """The real sockets; what is sent to them is noted, too."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.replies: list[tuple[str, list[bytes]]] = []
        self.outputs: list[list[bytes]] = []

    def send(self, channel: str, idents: Sequence[bytes], message: Sequence[Buffer]) -> None:
        self.replies.append((channel, [bytes(part) for part in message]))
        super().send(channel, idents, message)

    def broadcast(self, topic: Buffer, message: Sequence[Buffer]) -> None:
        self.outputs.append([bytes(part) for part in message])
        super().broadcast(topic, message)


class HostileBridge:
    """A kernel, and the bridge's end of its link."""

    def __init__(self, folder: Path, *, attached: bool = False) -> None:
        """``attached``: the kernel process has come to a sandbox that outlived an earlier one."""
        self.folder = folder
        self.provider = WiredProvider()
        if attached:
            self.provider.capabilities = Capabilities(outlives_kernel=True)
        self.frontend = RecordingFrontend(Connection(folder / "connection.json"))
        self.frontend.bind()
        self.kernel = Kernel(self.frontend)
        self.log = EventLog(path=str(folder / "log"), level="debug")
        self.session = SandboxSession(self.kernel, provider=self.provider, log=self.log, directory=folder)
        if attached:
            self.session._sandboxes().wanted = Leftover("wired", fresh=False)
        self.faults: list[Json] = []
        """What reached the event loop: nothing may."""
        self.received: list[list[bytes]] = []
        """Messages of the kernel process to the bridge."""
        self._requests = 0
        self._link: Link | None = None
        self._linked: Wire | None = None

    async def start(self) -> None:
        """Start the kernel; its sandbox has been created and greets."""
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.faults.append(context))
        self.kernel.start(self.session)
        await self.linked()

    async def linked(self) -> None:
        """Wait until there is a sandbox whose stream is open."""
        for _ in range(1000):
            if self.provider.created and self.wire.is_open:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"no sandbox was started: {self.session!r} {self.session.info.error}")

    async def turn(self, times: int = 20) -> None:
        """Let the event loop go round."""
        for _ in range(times):
            await asyncio.sleep(0)

    @property
    def wire(self) -> Wire:
        """The newest sandbox's stream."""
        return self.provider.created[-1].wire

    def feed(self, data: bytes) -> None:
        """Let bytes arrive, as far as anybody still listens."""
        if self.wire.is_open:
            self.wire.receiver.data_received(memoryview(data))

    def link(self) -> Link:
        """The bridge's honest end of the link, greeted; a new one for each sandbox."""
        if self._linked is not self.wire:
            self._link, self._linked = Link(b"hostile bridge.."), self.wire
            self._link.connect()
            self.exchange()
        assert self._link is not None
        return self._link

    def exchange(self) -> None:
        """Carry what is to be sent, both ways; `received` has the messages that the bridge got."""
        assert self._link is not None
        while True:
            data = b"".join(bytes(buffer) for buffer in self._link.data_to_send())
            came, self.wire.sent = bytes(self.wire.sent), bytearray()
            if not data and not came:
                return
            self.feed(data)
            events = self._link.receive(memoryview(came)) if came else []
            messages = [event.parts for event in events if isinstance(event, Message)]
            self.received += [[bytes(part) for part in parts] for parts in messages]

    def say(self, *parts: bytes, urgent: bool = False) -> None:
        """Send a well-framed message."""
        self.link().send(parts, urgent=urgent)
        self.exchange()

    def event(self, content: object, data: bytes = b"") -> None:
        """Send an event."""
        self.say(envelope.EVENT, json.dumps(content).encode(), data)

    def ask(self, msg_type: str = "execute_request", channel: str = "shell", **content: object) -> str:
        """Let a front end send a request, by default a cell; return its id."""
        self._requests += 1
        msg_id = f"request-{self._requests}"
        header = {"msg_id": msg_id, "msg_type": msg_type, "session": "s", "username": "u", "version": "5.4", "date": ""}
        body = {"code": "1", "silent": False, "store_history": True, "allow_stdin": True, **content}
        frames = [json.dumps(header).encode(), b"{}", b"{}", json.dumps(body).encode()]
        self.kernel.on_request(channel, [b"client"], frames)
        return msg_id

    def replies_to(self, msg_id: str) -> list[Json]:
        """The contents of what was replied to a request."""
        found = []
        for _, message in self.frontend.replies:
            if json.loads(message[1]).get("msg_id") == msg_id:
                found.append(json.loads(message[3]))
        return found

    async def is_alive(self) -> bool:
        """Whether the kernel still answers, and runs a cell for a bridge that behaves, in this sandbox or the next."""
        info = self.ask("kernel_info_request", "control")
        cell = self.ask()
        await self.linked()
        if not self.session.ready:
            self.event(READY)
            await self.turn()
        self.link()
        self.exchange()
        for parts in self.received:
            if parts[0][:1] == envelope.SHELL and json.loads(parts[1])["msg_id"] == cell:
                self.answer(parts)
        await self.turn()
        return len(self.replies_to(info)) == 1 and len(self.replies_to(cell)) == 1

    def answer(self, request: list[bytes]) -> None:
        """Answer a cell as an inner kernel does."""
        parent = request[1]
        header = {**json.loads(parent), "msg_id": "reply"}
        for state in ("busy", "idle"):
            status = json.dumps({**header, "msg_type": "status"}).encode()
            content = json.dumps({"execution_state": state}).encode()
            self.say(envelope.IOPUB, b"kernel.status", status, parent, b"{}", content)
        reply = json.dumps({**header, "msg_type": "execute_reply"}).encode()
        content = json.dumps({"status": "ok", "execution_count": 1, "payload": [], "user_expressions": {}}).encode()
        self.say(request[0], reply, parent, b"{}", content)


@asynccontextmanager
async def hostile_bridge(*, attached: bool = False) -> AsyncIterator[HostileBridge]:
    """A started kernel in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        bridge = HostileBridge(Path(folder), attached=attached)
        await bridge.start()
        try:
            yield bridge
        finally:
            await bridge.session.close()
            bridge.frontend.close()
            bridge.log.close()
