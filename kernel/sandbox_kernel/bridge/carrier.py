"""In a Jupyter gateway's ipykernel: starts the bridge, and carries its streams over that kernel's stdin channel.

Cells run in the bridge's own ipykernel, another process, so nothing in this one asks for input, and its stdin channel
is free. It is the leanest way that there is through a gateway: the kernel's loop does not see its messages, which
would add a busy and an idle status to each; they go to one client, not to all; and gateways limit how much comes over
the channel of outputs, not over this one. A thread of its own serves it.

    from outside    stream     the stream's name
                    open       it is a new one;  close: it is over
                    at, have, asks   see link/pieces.py; the bytes are the message's buffer
    to there        stream, at, have, asks
                    ended, final     why the stream ended, and whether the bridge has ended with it

Gateways end kernels that have been idle for long. While a cell runs this kernel says that it is busy.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import zmq

from sandbox_kernel.bridge.wire import REPORT, RUNNING
from sandbox_kernel.link.envelope import LINK_STREAM
from sandbox_kernel.link.pieces import SIZE, GapError, Piece, Pieces

MSG_TYPE = "sandbox_link"
MAX_STREAMS = 8
GIVE_UP = 7
"""Questions in a row that nobody answers: then nobody is there, and the journal takes what cells print."""
BUSY_AFTER, BUSY_AGAIN = 1.0, 20.0
"""Seconds that a cell has run when it is said that the kernel is busy, and after which it is said again."""
JOIN_TIMEOUT = 1.0
ERRORS = "bridge.stderr"
_LAUNCH = """\
import shutil, sys
sys.path[0] = {folder!r}
from sandbox_kernel.bridge.main import main
try:
    main()
finally:
    shutil.rmtree({folder!r}, ignore_errors=True)
"""


class Stream:
    """One stream to the bridge."""

    def __init__(self, name: str, client: list[bytes], sock: socket.socket) -> None:
        self.name, self.client, self.sock = name, client, sock
        self.pieces = Pieces()
        self.unsent = bytearray()
        """What the bridge has not taken yet."""


class Carrier:
    """One thread: the kernel's stdin socket, the bridge's control socket, and the streams."""

    def __init__(self, kernel: Any, folder: str, arguments: list[str]) -> None:
        """``folder`` is private, and removed in the end; ``arguments`` are the inner ipykernel's."""
        self._folder = folder
        self._control, self._bridge = _start_bridge(folder, arguments)
        self._flags = 0
        self._words = ""
        """Why the bridge has ended."""
        self._kernel = kernel
        own = kernel.session
        # Of this thread alone.
        self._session = type(own)(key=own.key, signature_scheme=own.signature_scheme, session=own.session)
        # Whoever asks for input in this kernel would read what is not meant for it.
        self._sock, kernel.stdin_socket = kernel.stdin_socket, None
        self._streams: dict[str, Stream] = {}
        self._busy_due: float | None = None
        self._told_busy = False
        self._poller = zmq.Poller()
        self._wake, self._stop = socket.socketpair()
        for one in (self._sock, self._control.fileno(), self._wake.fileno()):
            self._poller.register(one, zmq.POLLIN)
        self._thread = threading.Thread(target=self._run, name="sandbox carrier", daemon=True)

    def begin(self) -> None:
        """Serve until the process ends."""
        # Before ipykernel closes its sockets, which a thread must not use then.
        atexit.register(self._end_thread)
        self._thread.start()

    def _end_thread(self) -> None:
        self._stop.close()
        self._thread.join(JOIN_TIMEOUT)

    def _run(self) -> None:
        while True:
            ready = dict(self._poller.poll(self._timeout()))
            if self._wake.fileno() in ready:
                return
            now = time.monotonic()
            if self._control.fileno() in ready:
                self._on_control(now)
            if self._sock in ready:
                self._on_messages(now)
            for stream in list(self._streams.values()):
                self._turn(stream, now)
            self._tell_busy(now)

    def _timeout(self) -> int | None:
        moments = [self._busy_due, *(stream.pieces.due for stream in self._streams.values())]
        due = [moment for moment in moments if moment is not None]
        return max(0, int((min(due) - time.monotonic()) * 1000) + 1) if due else None

    # ---- from outside

    def _on_messages(self, now: float) -> None:
        while True:
            try:
                frames = self._sock.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                client, parts = self._session.feed_identities(frames)
                message = self._session.deserialize(parts)
                content, buffers = message["content"], message["buffers"]
                if message["msg_type"] == MSG_TYPE:
                    self._on_message(client, content, bytes(buffers[0]) if buffers else b"", now)
            except (ValueError, KeyError, TypeError, AttributeError):
                # Whatever somebody sends, the next message counts.
                continue

    def _on_message(self, client: list[bytes], content: dict[str, Any], data: bytes, now: float) -> None:
        name = str(content["stream"])
        piece = Piece(int(content["at"]), int(content["have"]), bool(content["asks"]), data)
        stream = self._streams.get(name)
        if stream is None and content.get("open") and not self._words:
            stream = self._open(name, client, now)
        if stream is None:
            self._say(client, name, ended=self._words or "it is not known there any more", final=bool(self._words))
            return
        if content.get("close"):
            self._forget(stream)
            return
        stream.client = client
        try:
            stream.unsent += stream.pieces.receive(piece, now)
        except GapError as exc:
            self._end(stream, str(exc))

    def _open(self, name: str, client: list[bytes], now: float) -> Stream:
        if len(self._streams) >= MAX_STREAMS:
            self._end(next(iter(self._streams.values())), "there are too many")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        stream = self._streams[name] = Stream(name, client, ours)
        try:
            socket.send_fds(self._control, [LINK_STREAM], [theirs.fileno()])
        except OSError:
            # The bridge has ended; the stream's end tells it.
            pass
        finally:
            theirs.close()
        stream.pieces.greet()
        if self._told_busy:
            # Whoever comes may have had this kernel do something, after which it said that it was idle.
            self._busy_due = now
        return stream

    # ---- streams

    def _turn(self, stream: Stream, now: float) -> None:
        """Move what can be moved."""
        try:
            self._flush(stream)
            ended = self._read(stream)
        except OSError:
            ended = True
        for piece in stream.pieces.to_send(now):
            self._say(stream.client, stream.name, piece)
        if ended and not stream.pieces.backlog:
            self._end(stream, self._last_words() or "another connection took its place")
        elif stream.pieces.unanswered >= GIVE_UP:
            self._forget(stream)
        else:
            wanted = (zmq.POLLIN if stream.pieces.has_room else 0) | (zmq.POLLOUT if stream.unsent else 0)
            self._poller.register(stream.sock.fileno(), wanted)

    def _flush(self, stream: Stream) -> None:
        while stream.unsent:
            try:
                sent = stream.sock.send(stream.unsent)
            except BlockingIOError:
                return
            del stream.unsent[:sent]
            stream.pieces.take(sent)

    def _read(self, stream: Stream) -> bool:
        """Take what the bridge sent, as far as there is room; return whether it has ended the stream."""
        while stream.pieces.has_room:
            try:
                data = stream.sock.recv(SIZE)
            except BlockingIOError:
                return False
            if not data:
                return True
            stream.pieces.write(data)
            if len(data) < SIZE:
                return False
        return False

    def _end(self, stream: Stream, reason: str) -> None:
        self._forget(stream)
        self._say(stream.client, stream.name, ended=reason, final=bool(self._words))

    def _forget(self, stream: Stream) -> None:
        del self._streams[stream.name]
        self._poller.register(stream.sock.fileno(), 0)
        stream.sock.close()

    def _say(self, client: list[bytes], name: str, piece: Piece | None = None, **fields: object) -> None:
        content: dict[str, object] = {"stream": name, **fields}
        buffers = None
        if piece is not None:
            content |= {"at": piece.at, "have": piece.have, "asks": piece.asks}
            buffers = [piece.data] if piece.data else None
        self._session.send(self._sock, MSG_TYPE, content, ident=client, buffers=buffers)

    # ---- the bridge

    def _on_control(self, now: float) -> None:
        while True:
            try:
                said = self._control.recv(REPORT.size)
            except BlockingIOError:
                break
            except OSError:
                said = b""
            if len(said) < REPORT.size:
                self._poller.register(self._control.fileno(), 0)
                self._flags = 0
                self._last_words()
                break
            self._flags, _, _ = REPORT.unpack(said)
        running = bool(self._flags & RUNNING)
        if running and self._busy_due is None:
            self._busy_due = now + BUSY_AFTER
        elif not running:
            self._busy_due = None

    def _last_words(self) -> str:
        """Return why the bridge has ended, as a clause; "" where it has not."""
        if self._words:
            return self._words
        try:
            status = self._bridge.wait(0.5)
        except subprocess.TimeoutExpired:
            return ""
        lines: list[str] = []
        try:
            with open(os.path.join(self._folder, ERRORS), "rb") as file:
                lines = file.read()[-2000:].decode(errors="replace").strip().splitlines()
        except OSError:
            # It ended in order, and removed its folder.
            pass
        end = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        self._words = f"its bridge ended: {lines[-1]}" if lines else f"its bridge {end}"
        shutil.rmtree(self._folder, ignore_errors=True)
        return self._words

    def _tell_busy(self, now: float) -> None:
        if self._busy_due is None and self._told_busy:
            self._told_busy = False
            self._publish("idle")
        elif self._busy_due is not None and now >= self._busy_due:
            self._busy_due, self._told_busy = now + BUSY_AGAIN, True
            self._publish("busy")

    def _publish(self, state: str) -> None:
        # Gateways look at the type of what it belongs to.
        parent = {"msg_id": "sandbox-carrier", "msg_type": "execute_request"}
        self._session.send(self._kernel.iopub_socket, "status", {"execution_state": state}, parent, ident=b"status")


def _start_bridge(folder: str, arguments: list[str]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start the bridge; return its control socket and process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for name in ("journal", "run", "packages"):
        os.makedirs(os.path.join(folder, name), 0o700, exist_ok=True)
    # With JPY_… names an ipykernel would take our parent for its own.
    environment = {name: text for name, text in os.environ.items() if not name.startswith("JPY_")}
    with open(os.path.join(folder, ERRORS), "wb") as errors:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", _LAUNCH.format(folder=folder)),
                *("--control-fd", str(theirs.fileno()), "--tells"),
                *("--journal-dir", os.path.join(folder, "journal"), "--runtime-dir", os.path.join(folder, "run")),
                *arguments,
            ],
            env={**environment, "SANDBOX_PACKAGES": os.path.join(folder, "packages")},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            # What interrupts or ends this kernel's group is not for it: it ends with its control socket.
            start_new_session=True,
        )
    theirs.close()
    ours.setblocking(False)
    return ours, process
