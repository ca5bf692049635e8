"""The other end of a session's link in relay mode: passes messages between it and a gateway's kernel, as they are.

There are two connections one behind the other. The link ends in this process, and loses nothing. The WebSocket to the
gateway can be lost, with what was on its way; then the link's transport is lost, too, so that the session makes both
again. Which requests have left and were not answered is remembered: behind a new WebSocket the kernel is asked
something in each lane, and what has no answer when that question has one gets none any more, and is told so. Nothing
is sent twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sandbox_kernel.errors import NotFoundError, SandboxConnectionError, SandboxKernelError
from sandbox_kernel.link import envelope
from sandbox_kernel.link.protocol import Buffer, Link, Message, greeting_of
from sandbox_kernel.providers.basic.backlog import MAX_BACKLOG

from . import words
from .channels import KernelSocket, MessageTooLargeError
from .endings import END_IN, TOPIC, Endings
from .ends import GatewayKernel, RelayTransport
from .greeting import Greeting, KernelInfo
from .messages import ChannelMessage
from .own import OwnRequests
from .renewal import Renewal
from .sent import ON_CONTROL, Lane, Sent, SentRequests

Json = dict[str, Any]

SHELL, BESIDE = Lane("shell"), Lane("control")


class RelayBridge:
    """Lives with its sandbox, on one event loop."""

    def __init__(self, kernel: GatewayKernel, *, attached: bool) -> None:
        """``attached`` says that the kernel was there before."""
        self._kernel, self._attached = kernel, attached
        self.on_news: Callable[[str], None] = lambda text: None
        self.death = ""
        """Why the kernel ended last, as one clause."""
        self._link = Link(os.urandom(16))
        self._transport: RelayTransport | None = None
        self._greeted = False
        """The session's link has greeted over this transport."""
        self._socket: KernelSocket | None = None
        self._connecting = asyncio.Lock()
        self._connections = self._asked_over = 0
        """How many WebSockets there were, and behind which of them it was last found out how the kernel is."""
        self._lost_at = 0.0
        self._sent = SentRequests()
        self._own = OwnRequests(self._put)
        self._endings = Endings(self._sent, self._own, self._send)
        self._renewal = Renewal(self._own, lambda: self._info, self._on_other)
        self.on_leaving: Callable[[], None] = lambda: None
        """Told when the kernel says that it was told to end."""
        self._owed = ""
        """What the next cell that begins says first."""
        self._leaves = False
        """The kernel has said that it was told to end."""
        self._info: KernelInfo | None = None
        """What the kernel said of itself; None while it does not answer."""
        self._greeting: asyncio.Task[None] | None = None
        self._aside: set[asyncio.Task[None]] = set()
        self._unsent: list[tuple[bytes, list[Buffer]]] = []
        self._life = 1
        self._restarting = self._renewed = False
        self.dropped = 0
        """Messages that were broken, or belong to nobody here."""

    @property
    def is_open(self) -> bool:
        """Whether a session holds it."""
        return self._transport is not None

    @property
    def protocol(self) -> str:
        """How messages travel at the moment; "" where they do not."""
        return "" if self._socket is None else self._socket.protocol or "JSON"

    async def connect(self) -> None:
        """Connect to the kernel unless that is done. Raises SandboxKernelError."""
        async with self._connecting:
            if self._socket is None:
                number = self._connections + 1
                opened = await self._kernel.open(self._take, lambda reason: self._on_lost(number, reason))
                if not opened.is_open:
                    raise SandboxConnectionError("The gateway closed the connection at once.")
                self._socket, self._connections = opened, number

    async def open(self) -> RelayTransport:
        """Return a transport to this bridge, in the place of the one before. Raises SandboxKernelError."""
        await self.connect()
        self._transport, self._greeted = RelayTransport(self._receive, self._on_closed), False
        if self._info is None:
            self._begin_greeting()
        elif self._connections > self._asked_over:
            self._go_on()
        return self._transport

    def end(self, reason: str) -> None:
        """Take note that there is no such kernel any more."""
        self._endings.end_failed(reason)
        # After what was sent just now.
        asyncio.get_running_loop().call_soon(self.lose, reason)

    def lose(self, reason: str) -> None:
        """End the link's transport; whoever makes another learns what became of the kernel."""
        self._drop_socket()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.lose(reason)

    def _on_closed(self, transport: RelayTransport) -> None:
        """The session leaves the kernel, for good or until it opens another link."""
        if transport is self._transport:
            self._transport = None
            self._stop_asking()
            self._drop_socket()

    def close(self) -> None:
        """End what is under way, and the connection."""
        self._stop_asking()
        for task in self._aside:
            task.cancel()
        self._drop_socket()

    def _drop_socket(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            self._lost_at = time.monotonic()
            socket.close()

    def _on_lost(self, number: int, reason: str) -> None:
        """Take note that a WebSocket has ended. While the kernel is renewed another one is made anyway."""
        if number == self._connections and self._socket is not None:
            self._drop_socket()
            if not self._restarting:
                self.lose(reason)

    # ---- the link

    def _receive(self, data: memoryview) -> None:
        if not self._greeted:
            self._greeted = True
            peer = greeting_of(bytes(data))
            if self._link.peer_id and peer != self._link.peer_id:
                self._link = Link(os.urandom(16))
                if self._info is not None:
                    self._say_ready(self._info)
            self._link.connect()
        for event in self._link.receive(data):
            if isinstance(event, Message):
                self._on_message(event.parts)
        self._flush()

    def _flush(self) -> None:
        while self._transport is not None and self._greeted and (buffers := self._link.data_to_send()):
            self._transport.send(b"".join(buffers))
        if self._socket is not None:
            # A slow reader slows the gateway down.
            self._socket.pause(self._link.bulk_backlog > MAX_BACKLOG)

    def _send(self, parts: Sequence[Buffer], *, urgent: bool = False) -> None:
        self._link.send(parts, urgent=urgent)
        self._flush()

    def _event(self, name: str, data: bytes = b"", **fields: object) -> None:
        self._send([envelope.EVENT, json.dumps({"event": name, **fields}).encode(), data])

    # ---- from the session

    def _on_message(self, parts: list[Buffer]) -> None:
        kind = bytes(parts[0])
        if kind[:1] == envelope.COMMAND:
            self._on_command(json.loads(bytes(parts[1])))
        elif self._socket is None:
            self._unsent.append((kind, parts[1:]))
        else:
            self._relay(kind, parts[1:])

    def _relay(self, kind: bytes, parts: list[Buffer]) -> None:
        assert self._socket is not None
        channel = self._channel_of(kind[:1])
        sent = self._sent.add(kind, channel, bytes(parts[0]), self._connections)
        try:
            self._socket.send(channel, parts)
        except MessageTooLargeError:
            if sent is not None:
                self._endings.give_up(sent, words.TOO_LARGE)
            else:
                self.on_news(f"{words.TOO_LARGE}\n")

    def _channel_of(self, letter: bytes) -> str:
        """Return a channel's name. What is asked aside goes to the control channel where ipykernel serves it."""
        match letter:
            case envelope.CONTROL:
                return "control"
            case envelope.STDIN:
                return "stdin"
            case envelope.ASIDE if self._info is not None and self._info.is_ipython:
                return "control"
        return "shell"

    def _on_command(self, command: Json) -> None:
        match command["op"]:
            case "interrupt":
                self._spawn(self._interrupt())
            case "restart":
                self._spawn(self._restart())
            case "count":
                self._set_count(command["execution_count"], command["inputs"])
            case "journal":
                # There is none, so nothing comes again.
                self._event("replayed", id=command["id"], cells=0, whole=True)
            case "run" | "packages":
                self._event("output", f"{words.REFUSED}\n".encode(), id=command["id"])
                self._event("finished", id=command["id"], exit=126)
            case "describe" | "installed":
                self._event("operation", json.dumps({"failed": words.REFUSED}).encode(), id=command["id"], end=True)
            case op if "id" in command and op not in ("kill", "file-cancel"):
                self._event("operation", id=command["id"], end=True, code="ERELAY", reason=words.REFUSED)

    def _set_count(self, count: int, inputs: list[str]) -> None:
        # A kernel that was there before has numbers of its own.
        if self._info is not None and self._info.is_ipython and not (self._attached and self._life == 1):
            content = {"code": words.set_count(count, inputs), "silent": True, "store_history": False}
            self._own.ask(SHELL, "execute_request", content)

    async def _interrupt(self) -> None:
        self._sent.interrupt()
        try:
            await self._kernel.interrupt()
        except SandboxKernelError as exc:
            self.on_news(f"The cell could not be interrupted: {exc}\n")

    # ---- from the kernel

    def _take(self, message: ChannelMessage) -> None:
        try:
            self._take_message(message.channel, message.parts)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            # Whatever a kernel sends, the next message counts.
            self.dropped += 1

    def _take_message(self, channel: str, parts: list[Buffer]) -> None:
        if self._own.takes(parts[1]):
            if channel == "iopub":
                self._own.take_output(parts)
            else:
                self._own.take_reply(parts)
            return
        if channel == "iopub":
            self._on_output(parts)
            return
        parent = json.loads(bytes(parts[1]))
        if channel == "shell" and b'"KeyboardInterrupt"' in bytes(parts[3]) and self._holds(parent, parts):
            return
        sent = self._sent.of(parent) if channel == "stdin" else self._sent.on_reply(parent)
        if sent is None:
            self.dropped += 1
        elif channel == "stdin":
            self._send([envelope.STDIN + sent.kind[1:], *parts])
        else:
            self._send([sent.kind, *parts], urgent=sent.kind[:1] in ON_CONTROL)
            self._endings.release(sent)
            if not sent.idle:
                asyncio.get_running_loop().call_later(END_IN, self._miss_end, sent)

    def _holds(self, parent: Json, reply: list[Buffer]) -> bool:
        """Hold the reply of a cell that was interrupted, and not from here."""
        sent = self._sent.of(parent)
        if sent is None or not sent.is_cell or sent.interrupted or sent.reply is not None:
            return False
        if json.loads(bytes(reply[3])).get("ename") != "KeyboardInterrupt":
            return False
        self._endings.hold_reply(sent, reply, lambda: self._leaves)
        return True

    def _miss_end(self, sent: Sent) -> None:
        """Look for the end of a request that was answered, if it has not come yet."""
        if self._sent.has(sent) and self._socket is not None and self._info is not None:
            self._endings.find_end(sent, sent.lane if not self._info.is_ipython else BESIDE)

    def _on_output(self, parts: list[Buffer]) -> None:
        if bytes(parts[1]) == b"{}" and b'"status"' in bytes(parts[0]):
            match json.loads(bytes(parts[3])).get("execution_state"):
                case "restarting":
                    self.on_death(words.DIED, renewed=True)
                case "dead":
                    self.on_death(words.DEAD, renewed=False)
            return
        sent = self._sent.on_output(parts)
        self._look_who_speaks(bytes(parts[0]), sent)
        if sent is not None and sent.lacks_reply and b'"status"' in bytes(parts[0]):
            self._endings.hold(sent, parts)
            return
        self._send([envelope.IOPUB, TOPIC, *parts])
        if self._owed and sent is not None and sent.is_cell:
            text, self._owed = self._owed, ""
            self._endings.publish("stream", {"name": "stderr", "text": text}, sent.header)

    def _look_who_speaks(self, header: bytes, sent: Sent | None) -> None:
        """Notice that a kernel ends, or is another one than before, by the header of one of its outputs."""
        if self._info is None:
            return
        if b'"shutdown_reply"' in header:
            self._leaves = True
            self.on_leaving()
            self._renewal.look()
        elif b'"status"' in header and self._renewal.is_other(header):
            if sent is not None and sent.is_cell:
                self._on_renewed(sent.session)
                if not sent.busy:
                    text = f"{words.BEGINNING_LOST}\n"
                    self._endings.publish("stream", {"name": "stderr", "text": text}, sent.header)
            else:
                # It may be of the gateway's own making.
                self._renewal.look()

    # ---- the kernel's life

    def on_death(self, reason: str, *, renewed: bool) -> None:
        """Take note that the kernel has ended; ``renewed``: the gateway has started another in its place."""
        if self._restarting or (self._info is None and (renewed or self._greeting is None)):
            return
        self._endings.end_failed(reason)
        self._stop_asking()
        self._sent.clear()
        self._info, self._renewed, self.death = None, renewed, reason
        self._event("died", exit=1, life=self._life, stderr="")

    def _on_other(self, session: str) -> None:
        """Take note that somebody else has restarted the kernel, and how the new one tells itself."""
        if any(sent.is_cell for sent in self._sent.not_begun()):
            self._on_renewed(session)
        else:
            self.on_death(words.RESTARTED, renewed=True)

    def _on_renewed(self, session: str) -> None:
        """Let the new kernel run the cells that were sent to it, and tell the first of them that it is another."""
        assert self._info is not None
        self._info = replace(self._info, session=session)
        self._endings.end_failed(words.RESTARTED)
        for sent in self._sent.begun_before(session):
            self._endings.give_up(sent, words.RESTARTED_IN_CELL)
        self._owed = words.FRESH
        # The cell that finds it has a number of the new kernel's.
        self._set_count(self._sent.count + 2, [])
        waiting = self._sent.not_begun()
        self._endings.settle({sent.lane for sent in waiting}, waiting, self._is_known, words.swallowed)

    async def _restart(self) -> None:
        if self._restarting:
            return
        self._stop_asking()
        self._sent.clear()
        self._info, self._restarting = None, True
        renewed, self._renewed = self._renewed, False
        self._life += 1
        try:
            if not renewed:
                await self._kernel.restart()
                # Over the old one outputs of the new kernel may be missing at first.
                self._drop_socket()
            await self.connect()
        except SandboxKernelError as exc:
            self._restarting = False
            if self._socket is None or isinstance(exc, NotFoundError):
                self.lose(str(exc))
            else:
                self.death = "it could not be restarted"
                self._event("died", exit=1, life=self._life, stderr=str(exc))
            return
        finally:
            self._restarting = False
        self._begin_greeting()

    def _begin_greeting(self) -> None:
        if self._greeting is None:
            self._greeting = asyncio.ensure_future(self._greet())

    async def _greet(self) -> None:
        """Say that the kernel is ready when it answers."""
        self._info = await Greeting(self._own).run(counts=self._attached and self._life == 1)
        self._greeting, self._asked_over, self._leaves = None, self._connections, False
        if self._info.busy:
            self.on_news(words.BUSY)
        self._say_ready(self._info)
        self._send_unsent()

    def _say_ready(self, info: KernelInfo) -> None:
        self._event("ready", life=self._life, python=info.version, ipython=info.ipython, count=info.count)

    def _stop_asking(self) -> None:
        if self._greeting is not None:
            self._greeting.cancel()
        self._greeting, self._owed = None, ""
        self._endings.stop()
        self._renewal.stop()
        self._own.forget()
        self._unsent.clear()

    # ---- after a lost connection

    def _go_on(self) -> None:
        """Find out what was lost, and say so."""
        self._asked_over = self._connections
        running = self._sent.running()
        if running is not None:
            text = words.cut(time.monotonic() - self._lost_at)
            self._endings.publish("stream", {"name": "stderr", "text": text}, running.header)
        doubtful = self._sent.doubtful(self._connections)
        self._endings.settle({SHELL, *(sent.lane for sent in doubtful)}, doubtful, self._is_known, words.lost)
        self._send_unsent()

    def _is_known(self, header: Json) -> bool:
        """Whether an answer is of the kernel of before; else it has ended."""
        if self._info is not None and header.get("session") != self._info.session:
            self.on_death(words.DIED, renewed=True)
            return False
        return True

    def _send_unsent(self) -> None:
        if self._socket is not None and self._info is not None:
            unsent, self._unsent = self._unsent, []
            for kind, parts in unsent:
                self._relay(kind, parts)

    def _put(self, channel: str, parts: list[Buffer]) -> None:
        """Send a request of the relay's own, where there is a connection: what asks asks again."""
        if self._socket is not None:
            self._socket.send(channel, parts)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)
