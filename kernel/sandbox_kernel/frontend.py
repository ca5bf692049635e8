"""The front end's side: connection file, five ZeroMQ sockets, signatures, and the making of messages.

Nothing here knows a sandbox. Messages go on as the byte strings that they came as; only what is answered here is read.
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq

from .errors import ConfigurationError
from .link.protocol import SMALL, Buffer

DELIMITER = b"<IDS|MSG>"
PROTOCOL_VERSION = "5.4"
"""Of the messages made here; ipykernel 7 says the same. Relayed messages keep their own."""
LARGE_FRAME = 64 * 1024
"""Bytes from which ZeroMQ sends from our memory instead of from a copy."""
OUTPUT_QUEUE = 200
"""Messages that ZeroMQ keeps for a front end that is slower than the sandbox; then the sandbox is slowed down."""
MAX_LEAVING = 32 * 1024 * 1024
"""Bytes of large frames that may wait for front ends; ZeroMQ itself counts messages only."""
ROOM_POLL = 0.005
"""Seconds between looks whether they have left."""
STALLED_AFTER = 10.0
"""Seconds after which a front end that takes nothing is given up: it loses output, the others go on."""
UNREACHED_AFTER = 10.0
"""Seconds in which a front end that is asked something must have connected the socket for that."""
REACH_INTERVAL = 0.02
"""Seconds between looks whether it has."""
REMEMBERED_SIGNATURES = 4096
BATCH = 32

PORTS = ("shell_port", "control_port", "stdin_port", "iopub_port", "hb_port")

if TYPE_CHECKING:
    # Imported where it is used: the sandbox's start comes first.
    import asyncio

Json = dict[str, Any]
OnMessage = Callable[[str, list[bytes], list[bytes]], None]
"""Called with channel, identities, and [header, parent header, metadata, content, buffers …]."""


class Connection:
    """What a connection file says. Without a file, or with ports of 0, it is written when the ports are known."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.created = not path.exists()
        try:
            self.info: Json = {} if self.created else json.loads(path.read_text())
        except (OSError, ValueError) as exc:
            raise ConfigurationError(f"the connection file {path} cannot be read: {exc}") from exc
        self.info.setdefault("transport", "tcp")
        self.info.setdefault("ip", "127.0.0.1")
        self.info.setdefault("signature_scheme", "hmac-sha256")
        if self.created:
            self.info["key"] = os.urandom(32).hex()

    @property
    def key(self) -> bytes:
        """The signing key; empty for unsigned messages."""
        return str(self.info.get("key") or "").encode()

    @property
    def digest(self) -> str:
        """The hash function's name, as hashlib has it."""
        import hashlib

        scheme = str(self.info["signature_scheme"])
        name = scheme.removeprefix("hmac-")
        if name == scheme or name not in hashlib.algorithms_available:
            raise ConfigurationError(f"the connection file asks for the signature scheme {scheme!r}; use hmac-sha256")
        return name

    def curve_keys(self) -> tuple[bytes, bytes] | None:
        """CurveZMQ public and secret key, where transport encryption is asked for."""
        public, secret = self.info.get("curve_publickey"), self.info.get("curve_secretkey")
        if not secret:
            return None
        secret = secret.encode() if isinstance(secret, str) else secret
        public = public.encode() if isinstance(public, str) else public
        return public or zmq.curve_public(secret), secret

    def bind(self, sock: zmq.Socket[bytes], name: str) -> None:
        """Bind to the port of that name, or to a free one, which is noted."""
        info = self.info
        port = int(info.get(name) or 0)
        try:
            if info["transport"] == "ipc":
                info[name] = port = port or PORTS.index(name) + 1
                sock.bind(f"ipc://{info['ip']}-{port}")
            elif port:
                sock.bind(f"tcp://{info['ip']}:{port}")
            else:
                info[name] = sock.bind_to_random_port(f"tcp://{info['ip']}")
        except zmq.ZMQError as exc:
            raise ConfigurationError(f"{name} {port or ''} at {info['ip']} cannot be bound: {exc}") from exc

    def save(self) -> None:
        """Write the file if it was absent or had no ports."""
        text = json.dumps(self.info, indent=2)
        if self.created or json.loads(self.path.read_text()) != self.info:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)

    def remove(self) -> None:
        """Remove what this kernel made: the file if it wrote it first, and the sockets of the ipc transport."""
        if self.created:
            self.path.unlink(missing_ok=True)
        if self.info["transport"] == "ipc":
            for name in PORTS:
                Path(f"{self.info['ip']}-{self.info.get(name)}").unlink(missing_ok=True)


class Signer:
    """Signs and checks messages, and refuses a signature that was there before."""

    def __init__(self, key: bytes, digest: str) -> None:
        import hmac

        self._equal = hmac.compare_digest
        self._auth = hmac.new(key, digestmod=digest) if key else None
        self._seen: set[bytes] = set()
        self._order: deque[bytes] = deque()

    def sign(self, frames: Sequence[Buffer]) -> bytes:
        """Return the signature of header, parent header, metadata and content."""
        if self._auth is None:
            return b""
        auth = self._auth.copy()
        for frame in frames[:4]:
            auth.update(frame)
        return auth.hexdigest().encode()

    def accepts(self, signature: bytes, frames: Sequence[bytes]) -> bool:
        """Whether the signature is right and new."""
        if self._auth is None:
            return True
        if signature in self._seen or not self._equal(signature, self.sign(frames)):
            return False
        self._seen.add(signature)
        self._order.append(signature)
        if len(self._order) > REMEMBERED_SIGNATURES:
            self._seen.discard(self._order.popleft())
        return True


class Frontend:
    """The sockets. `bind` early; `start` when the loop runs; everything on the loop's thread but the heartbeat."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.session_id = os.urandom(16).hex()
        self._session_mark = f'"session":"{self.session_id}"'.encode()
        self.ident = os.urandom(16).hex()
        self.dropped = 0
        """Messages whose signature or form was wrong."""
        self._signer = Signer(connection.key, connection.digest)
        self._context = zmq.Context()
        self._curve = connection.curve_keys()
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._polling = False
        self._closed = False
        self._blocked: deque[list[Buffer]] = deque()
        self._leaving: deque[tuple[zmq.MessageTracker, int]] = deque()
        self._leaving_bytes = 0
        """Of large frames that ZeroMQ has not sent to every front end."""
        self._stalled: asyncio.TimerHandle | None = None
        self._messages = 0
        self.on_blocked: Callable[[bool], None] = lambda blocked: None
        """Told when the front ends stop taking output, and when they go on."""

    # ---- sockets

    def bind(self) -> None:
        """Bind all ports, answer heartbeats, and write the connection file if it has to be."""
        for channel in ("shell", "control", "stdin"):
            sock = self._socket(zmq.ROUTER)
            # A client that comes back under its name replaces its lost connection.
            sock.router_handover = 1
            sock.sndhwm = 0
            self._sockets[channel] = sock
        # Else a question to a front end that is only just connecting would be dropped without a word.
        self._sockets["stdin"].router_mandatory = 1
        iopub = self._sockets["iopub"] = self._socket(zmq.XPUB)
        iopub.sndhwm = OUTPUT_QUEUE
        iopub.setsockopt(zmq.XPUB_NODROP, 1)
        for channel, sock in self._sockets.items():
            self.connection.bind(sock, f"{channel}_port")
        self._start_heartbeat()
        self.connection.save()

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        sock = self._context.socket(kind)
        sock.linger = 1000
        self._secure(sock)
        return sock

    def _secure(self, sock: zmq.Socket[bytes]) -> None:
        if self._curve is not None:
            sock.curve_publickey, sock.curve_secretkey = self._curve
            sock.curve_server = True

    def _start_heartbeat(self) -> None:
        # A context and a thread of its own: it answers whatever the loop does.
        self._heartbeat_context = zmq.Context()
        sock = self._heartbeat_context.socket(zmq.ROUTER)
        sock.linger = 0
        self._secure(sock)
        self.connection.bind(sock, "hb_port")
        thread = threading.Thread(target=_echo, args=(sock,), name="heartbeat", daemon=True)
        thread.start()
        self._heartbeat = thread

    def start(self, on_message: OnMessage) -> None:
        """Deliver messages to ``on_message`` from the running loop."""
        self._on_message = on_message
        import asyncio

        self._loop = asyncio.get_running_loop()
        for sock in self._sockets.values():
            self._loop.add_reader(_descriptor(sock), self._poll)
        self._poll()

    def close(self) -> None:
        """Send what waits, for a second at most, and free the ports. What comes to be sent afterwards is dropped.

        Idempotent.
        """
        if self._closed:
            return
        self._closed = True
        for sock in self._sockets.values():
            if hasattr(self, "_loop"):
                self._loop.remove_reader(_descriptor(sock))
        for frames in self._blocked:
            self._send_lossy(frames)
        for sock in self._sockets.values():
            sock.close()
        self._context.term()
        self._heartbeat_context.term()
        self._heartbeat.join(1)
        self.connection.remove()

    # ---- receiving

    def _poll(self) -> None:
        """Take what is there. ZeroMQ's descriptor tells only that something changed, so all sockets are looked at."""
        self._polling = False
        if self._closed:
            return
        again = False
        for channel, sock in self._sockets.items():
            events = _events(sock)
            if channel == "iopub" and self._blocked and events & zmq.POLLOUT:
                self._unblock()
                events = _events(sock)
            if events & zmq.POLLIN:
                self._receive(channel, sock)
                again = again or bool(_events(sock) & zmq.POLLIN)
        if again:
            self._poll_soon()

    def _poll_soon(self) -> None:
        if not self._polling:
            self._polling = True
            self._loop.call_soon(self._poll)

    def _receive(self, channel: str, sock: zmq.Socket[bytes]) -> None:
        for _ in range(BATCH):
            try:
                frames = sock.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if channel == "iopub":
                self._on_subscription(frames[0])
            else:
                self._deliver(channel, frames)

    def _deliver(self, channel: str, frames: list[bytes]) -> None:
        try:
            index = frames.index(DELIMITER)
        except ValueError:
            self.dropped += 1
            return
        message = frames[index + 2 :]
        if len(message) < 4 or not self._signer.accepts(frames[index + 1], message):
            self.dropped += 1
            return
        self._on_message(channel, frames[:index], message)

    def _on_subscription(self, frame: bytes) -> None:
        if frame[:1] == b"\x01":
            topic = frame[1:]
            content = {"subscription": topic.decode(errors="replace")}
            self.publish("iopub_welcome", content, {}, topic=topic)

    # ---- sending

    def send(self, channel: str, idents: Sequence[bytes], message: Sequence[Buffer]) -> None:
        """Sign and send [header, parent header, metadata, content, buffers …] to one client."""
        if self._closed:
            return
        frames = [*idents, *self._signed(message)]
        self._send_to(self._sockets[channel], frames, self._now() + UNREACHED_AFTER if channel == "stdin" else 0.0)

    def _signed(self, message: Sequence[Buffer]) -> list[Buffer]:
        """Return a message as it goes over the wire, in the one session of this kernel.

        A kernel in a sandbox has another. JupyterLab drops what waits for its turn when a message of another session
        arrives: it takes that for a restart.
        """
        header = bytes(message[0])
        if self._session_mark not in header:
            header = _dump({**json.loads(header), "session": self.session_id})
        named = [header, *message[1:]]
        return [DELIMITER, self._signer.sign(named), *named]

    def _send_to(self, sock: zmq.Socket[bytes], frames: list[Buffer], deadline: float) -> None:
        """Send, or try again until the DEADLINE of a socket that says who cannot be reached."""
        if self._closed:
            return
        try:
            _send(sock, frames)
        except zmq.ZMQError as exc:
            if exc.errno != zmq.EHOSTUNREACH:
                raise
            # Its sockets connect one after the other, and again so when the kernel process is a new one.
            if self._now() < deadline:
                self._loop.call_later(REACH_INTERVAL, self._send_to, sock, frames, deadline)
        if _events(sock) & zmq.POLLIN:
            self._poll_soon()

    def _now(self) -> float:
        return self._loop.time()

    def broadcast(self, topic: Buffer, message: Sequence[Buffer]) -> None:
        """Sign and send an output to every front end; keep it while they take nothing."""
        if self._closed:
            return
        frames = [topic, *self._signed(message)]
        if self._blocked or not self._try_broadcast(frames):
            self._block(frames)

    def _try_broadcast(self, frames: list[Buffer]) -> bool:
        sock = self._sockets["iopub"]
        if self._leaving and not self._has_room():
            self._loop.call_later(ROOM_POLL, self._poll_soon)
            return False
        try:
            trackers = _send(sock, frames)
        except zmq.Again:
            return False
        for tracker, size in trackers:
            self._leaving.append((tracker, size))
            self._leaving_bytes += size
        if _events(sock) & zmq.POLLIN:
            self._poll_soon()
        return True

    def _has_room(self) -> bool:
        while self._leaving and self._leaving[0][0].done:
            self._leaving_bytes -= self._leaving.popleft()[1]
        return self._leaving_bytes < MAX_LEAVING

    def _block(self, frames: list[Buffer]) -> None:
        self._blocked.append(frames)
        if len(self._blocked) == 1:
            self.on_blocked(True)
            self._stalled = self._loop.call_later(STALLED_AFTER, self._give_up)
        # The change may have come before anybody waited for it.
        if _events(self._sockets["iopub"]) & zmq.POLLOUT:
            self._poll_soon()

    def _unblock(self) -> None:
        progress = False
        while self._blocked and self._try_broadcast(self._blocked[0]):
            self._blocked.popleft()
            progress = True
        if self._stalled is not None and (progress or not self._blocked):
            self._stalled.cancel()
            self._stalled = self._loop.call_later(STALLED_AFTER, self._give_up) if self._blocked else None
        if not self._blocked:
            self.on_blocked(False)

    def _give_up(self) -> None:
        """Some front end has taken nothing for long: let it lose output rather than stop the others.

        ZeroMQ leaves out a front end that had no room for a message until it takes something again; the others
        emptied their queues meanwhile. So one message that may be lost is enough, and only the stalled one loses it.
        """
        self._stalled = None
        if self._closed or not self._blocked:
            return
        # What the stalled one keeps is no longer waited for; its queue bounds it.
        self._leaving.clear()
        self._leaving_bytes = 0
        self._send_lossy(self._blocked.popleft())
        self._unblock()
        if self._blocked and self._stalled is None:
            self._stalled = self._loop.call_later(STALLED_AFTER, self._give_up)

    def _send_lossy(self, frames: list[Buffer]) -> None:
        iopub = self._sockets["iopub"]
        iopub.setsockopt(zmq.XPUB_NODROP, 0)
        _send(iopub, frames)
        iopub.setsockopt(zmq.XPUB_NODROP, 1)

    # ---- messages made here

    def reply(
        self,
        channel: str,
        idents: Sequence[bytes],
        msg_type: str,
        content: Json,
        parent: Buffer,
        metadata: Json | None = None,
    ) -> bytes:
        """Send one client a message made here, and return its header; ``parent`` is its request's header as it came."""
        header = self._header(msg_type)
        self.send(channel, idents, [header, parent, _dump(metadata or {}), _dump(content)])
        return header

    def publish(
        self,
        msg_type: str,
        content: Json,
        parent: Buffer | Json,
        *,
        metadata: Json | None = None,
        topic: bytes | None = None,
    ) -> None:
        """Send every front end a message made here."""
        if topic is None:
            topic = f"kernel.{self.ident}.{msg_type}".encode()
        raw = _dump(parent) if isinstance(parent, dict) else parent
        self.broadcast(topic, [self._header(msg_type), raw, _dump(metadata or {}), _dump(content)])

    def _header(self, msg_type: str) -> bytes:
        self._messages += 1
        return _dump(
            {
                "msg_id": f"{self.session_id}_{os.getpid()}_{self._messages}",
                "msg_type": msg_type,
                "username": "kernel",
                "session": self.session_id,
                "date": datetime.now(timezone.utc).isoformat().replace("+00:00", "Z"),
                "version": PROTOCOL_VERSION,
            }
        )


def _descriptor(sock: zmq.Socket[bytes]) -> int:
    return int(sock.getsockopt(zmq.FD))


def _events(sock: zmq.Socket[bytes]) -> int:
    return int(sock.getsockopt(zmq.EVENTS))


def _dump(content: Json) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _send(sock: zmq.Socket[bytes], frames: list[Buffer]) -> list[tuple[zmq.MessageTracker, int]]:
    """Send all parts or, where the queue is full, none (zmq.Again); return what tells when the large ones have left."""
    if all(len(frame) <= SMALL for frame in frames):
        sock.send_multipart(frames, zmq.NOBLOCK)
        return []
    trackers = []
    last = len(frames) - 1
    for index, frame in enumerate(frames):
        flags = zmq.NOBLOCK | (zmq.SNDMORE if index < last else 0)
        if len(frame) < LARGE_FRAME:
            sock.send(frame, flags)
        else:
            trackers.append((sock.send(frame, flags, copy=False, track=True), len(frame)))
    return trackers


def _echo(sock: zmq.Socket[bytes]) -> None:
    try:
        zmq.proxy(sock, sock)
    except zmq.ContextTerminated:
        pass
    finally:
        sock.close()
