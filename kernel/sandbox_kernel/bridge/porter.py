"""Carries a link's bytes between calls and the bridge, where a sandbox can only be called: code in, text out.

A process of its own in the sandbox. Whoever is called (asker.py) connects to its socket, hands over one *question* and
waits for the *answer*. A question has a head (JSON) and bytes for the bridge, an answer a head and bytes from it.

    question   stream, open   the stream's name; whether it is begun if it is not the one that there is
               at             the offset in the stream at which the question's bytes begin
               have           so many bytes from the bridge have arrived outside
               want           whether bytes are wanted; else the answer comes at once
               until          the offset up to which bytes are on their way: until they have come there is work to do
               hold, linger, spacing, limit, waits   how long the answer may take, and how large it may be
    answer     taken          so many bytes have arrived here
               at             the offset at which the answer's bytes begin
               working, lively           whether more will come; whether more may come by itself
               ended, unknown            why the stream ended; that it is another one's

So a call whose answer is lost is made again without harm: what has arrived is dropped, what was not received is sent
again. An answer that is wanted comes as soon as the bridge has nothing more to do (unless the question ``waits``), or
``linger`` seconds after the first output and ``spacing`` after the question (that is not for files; the news that a
cell has begun, and nothing else, waits for `PATIENCE`), or when the bridge asks something, and after ``hold`` seconds
at the latest; a newer question takes an older one's place, unless it ``waits``.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LAUNCH = f"import sys; sys.path[0] = {ROOT!r}; from sandbox_kernel.bridge.main import main; main()"
REPORT = struct.Struct("!BIQ")
"""What the bridge says of itself (see wire.py): flags, which stream it has, and how many of its bytes it has taken."""
WORKING, ASKING, LIVELY, MOVING, SILENT = 1, 2, 4, 8, 16
PATIENCE = 0.2
"""Seconds that the news that a cell has begun waits for something that people see, or for its end."""
LINK_STREAM = b"s"
"""As link/envelope.py has it."""
SIZE = struct.Struct("!II")
"""Before head and bytes: how long each is."""
READ_SIZE = 512 * 1024
MAX_KEPT = 8 * 1024 * 1024
"""Bytes from the bridge that wait for calls; more are left where they are, so that the bridge notices."""
MAX_EARLY = 64
"""Pieces that are kept until those before them have come; calls overtake each other."""
SOCKET = "porter.sock"
ERRORS = "bridge.stderr"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Stream:
    """One stream to the bridge. Offsets count its bytes from the first, in each direction."""

    def __init__(self, name: str, control: socket.socket) -> None:
        self.name = name
        ours, theirs = socket.socketpair()
        socket.send_fds(control, [LINK_STREAM], [theirs.fileno()])
        theirs.close()
        ours.setblocking(False)
        self.sock: socket.socket | None = ours
        self.taken = 0
        """Bytes that have come from calls, without a gap."""
        self.written = 0
        """Of these, those that the bridge's socket took."""
        self.unsent = bytearray()
        self.early: dict[int, bytes] = {}
        self.kept = bytearray()
        self.base = 0
        """The offset of `kept`."""
        self.ended = False

    def take(self, at: int, data: bytes) -> None:
        """Take bytes that a call brought, in whatever order calls arrive."""
        if data and len(self.early) < MAX_EARLY:
            self.early[at] = max(self.early.get(at, b""), data, key=len)
        for start in sorted(self.early):
            if start > self.taken:
                break
            fresh = self.early.pop(start)[self.taken - start :]
            self.unsent += fresh
            self.taken += len(fresh)
        self.flush()

    def flush(self) -> None:
        """Let the bridge have what it takes."""
        while self.unsent and self.sock is not None:
            try:
                sent = self.sock.send(self.unsent)
            except BlockingIOError:
                return
            except OSError:
                self.end()
                return
            self.written += sent
            del self.unsent[:sent]

    def read(self) -> bool:
        """Take what the bridge sent; return whether there may be more."""
        if self.sock is None or len(self.kept) >= MAX_KEPT:
            return False
        try:
            data = self.sock.recv(READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self.kept += data
        if not data:
            self.end()
        return bool(data)

    def forget(self, have: int) -> None:
        """Drop what has arrived at the other side."""
        if have > self.base:
            del self.kept[: have - self.base]
            self.base = have

    def end(self) -> None:
        """Take note that the bridge, or we, ended it."""
        self.ended = True
        if self.sock is not None:
            self.sock.close()
            self.sock = None


class Asker:
    """One connection: a question that arrives, then waits for its answer."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.data = bytearray()
        self.head: dict[str, Any] = {}
        self.began = 0.0
        self.closed = False

    def read(self) -> bool:
        """Take what has come; return whether the question is whole."""
        try:
            data = self.sock.recv(READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return False
        self.data += data
        if len(self.data) < SIZE.size:
            return False
        head, body = SIZE.unpack_from(self.data)
        if len(self.data) < SIZE.size + head + body:
            return False
        self.head = json.loads(bytes(self.data[SIZE.size : SIZE.size + head]))
        del self.data[: SIZE.size + head]
        self.began = time.monotonic()
        return True

    def answer(self, head: dict[str, object], data: bytes) -> None:
        """Send the answer; it may block for a moment, which nobody but the caller of an exchange notices."""
        said = json.dumps(head).encode()
        self.sock.settimeout(10)
        try:
            self.sock.sendall(SIZE.pack(len(said), len(data)) + said + data)
        except OSError:
            # It has gone; the next call gets the same bytes.
            pass
        self.sock.close()


class Porter:
    """The loop over the bridge's streams and the calls."""

    def __init__(self, folder: str, options: list[str]) -> None:
        self._folder = folder
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        os.set_inheritable(theirs.fileno(), True)
        for name in ("journal", "run"):
            os.makedirs(os.path.join(folder, name), 0o700, exist_ok=True)
        with open(os.path.join(folder, ERRORS), "wb") as errors:
            self._bridge = subprocess.Popen(
                [
                    *(sys.executable, "-c", LAUNCH, "--control-fd", str(theirs.fileno()), "--tells"),
                    *("--journal-dir", os.path.join(folder, "journal"), "--runtime-dir", os.path.join(folder, "run")),
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[theirs.fileno()],
            )
        theirs.close()
        ours.setblocking(False)
        self._control = ours
        self._gone = False
        self._flags, self._consumed = WORKING, 0
        self._asked = False
        """Something was asked in the sandbox since the last answer."""
        self._stream: Stream | None = None
        self._waiter: Asker | None = None
        self._askers: dict[int, Asker] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(os.path.join(folder, SOCKET))
        self._listener.listen(16)
        self._listener.setblocking(False)

    def run(self) -> None:
        """Serve as long as the sandbox lives: also when the bridge has ended, to say so."""
        while True:
            self._turn()

    def _turn(self) -> None:
        stream, waiter = self._stream, self._waiter
        ready, _, _ = select.select(self._readers(), self._writers(), [], self._timeout())
        if self._control in ready:
            self._on_control()
        if stream is not None:
            stream.flush()
            stream.read()
        if waiter is not None and waiter.sock in ready:
            # Who asks has been killed.
            waiter.sock.close()
            self._waiter = None
        if self._listener in ready:
            self._on_caller()
        for asker in [one for one in self._askers.values() if one.sock in ready]:
            self._on_asker(asker)
        self._answer_if_due()

    def _readers(self) -> list[Any]:
        stream = self._stream
        readers: list[Any] = [self._listener, *(asker.sock for asker in self._askers.values())]
        if not self._gone:
            readers.append(self._control)
        if self._waiter is not None:
            readers.append(self._waiter.sock)
        if stream is not None and stream.sock is not None and len(stream.kept) < MAX_KEPT:
            readers.append(stream.sock)
        return readers

    def _writers(self) -> list[Any]:
        stream = self._stream
        return [stream.sock] if stream is not None and stream.sock is not None and stream.unsent else []

    def _timeout(self) -> float | None:
        if self._waiter is None:
            return None
        due: float = self._waiter.began + self._waiter.head["hold"]
        stream = self._stream
        if stream is not None and stream.kept:
            due = min(due, self._ripe(self._waiter))
        return max(0.0, due - time.monotonic())

    _first = 0.0
    """When the first byte that waits was seen."""

    def _ripe(self, waiter: Asker) -> float:
        """Return when output that there is leaves, by the monotonic clock."""
        if self._flags & SILENT and not self._flags & MOVING:
            return self._first + PATIENCE
        ripe: float = self._first + waiter.head["linger"]
        if self._flags & MOVING:
            # Files go no faster than both sides hear of each other.
            return ripe
        spaced: float = waiter.began + waiter.head["spacing"]
        return max(ripe, spaced)

    # ---- the bridge

    def _on_control(self) -> None:
        while True:
            try:
                said = self._control.recv(REPORT.size)
            except BlockingIOError:
                return
            except OSError:
                said = b""
            if len(said) < REPORT.size:
                self._gone = True
                return
            flags, _, self._consumed = REPORT.unpack(said)
            self._asked = self._asked or bool(flags & ASKING & ~self._flags)
            if self._flags & SILENT & ~flags:
                # What is seen has come only now.
                self._first = time.monotonic()
            self._flags = flags

    # ---- calls

    def _on_caller(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        self._askers[sock.fileno()] = Asker(sock)

    def _on_asker(self, asker: Asker) -> None:
        whole = asker.read()
        if not whole and not asker.closed:
            return
        del self._askers[asker.sock.fileno()]
        if asker.closed:
            asker.sock.close()
        else:
            self._on_question(asker)

    def _on_question(self, asker: Asker) -> None:
        head = asker.head
        if head.get("open") and (self._stream is None or self._stream.name != head["stream"]):
            if self._stream is not None:
                self._stream.end()
            self._stream = None if self._gone else Stream(head["stream"], self._control)
            self._consumed = 0
        stream = self._stream
        if stream is None or stream.name != head.get("stream"):
            asker.answer({"unknown": True, "ended": self._last_words() if self._gone else ""}, b"")
            return
        stream.take(head["at"], bytes(asker.data))
        stream.forget(head["have"])
        asker.data.clear()
        if head.get("waits") and self._waiter is not None:
            # Whoever only looks takes nobody's place.
            self._answer(asker, empty=True)
            return
        if head["want"] or head.get("release"):
            waiter, self._waiter = self._waiter, None
            if waiter is not None:
                self._answer(waiter, empty=bool(head["want"]))
        if head["want"]:
            self._first = time.monotonic()
            self._waiter = asker
        else:
            self._answer(asker, empty=True)

    def _answer_if_due(self) -> None:
        waiter, stream = self._waiter, self._stream
        if waiter is None or stream is None:
            return
        now = time.monotonic()
        if not stream.kept:
            self._first = now
        arrived = stream.taken >= waiter.head.get("until", 0) and not stream.unsent
        idle = arrived and not self._flags & WORKING and self._consumed == stream.written == stream.taken
        if idle or self._asked:
            # It said so behind what it sent.
            while stream.read():
                pass
        due = (
            (idle and not waiter.head.get("waits"))
            or stream.ended
            or len(stream.kept) >= waiter.head["limit"]
            or (stream.kept and (self._asked or now >= self._ripe(waiter)))
            or now >= waiter.began + waiter.head["hold"]
        )
        if due:
            self._waiter, self._asked = None, False
            self._answer(waiter)

    def _answer(self, asker: Asker, *, empty: bool = False) -> None:
        stream = self._stream
        assert stream is not None
        data = b"" if empty else bytes(stream.kept[: asker.head["limit"]])
        rest = len(stream.kept) - len(data)
        working = bool(self._flags & WORKING) or self._consumed != stream.taken or (not empty and rest > 0)
        ended = stream.ended and not rest
        lively = bool(self._flags & LIVELY)
        head = {"taken": stream.taken, "at": stream.base, "working": working, "lively": lively}
        asker.answer({**head, "ended": self._last_words() if ended else ""}, data)

    def _last_words(self) -> str:
        """Return why the stream ended, as a clause."""
        try:
            status: int | None = self._bridge.wait(0.5)
        except subprocess.TimeoutExpired:
            status = None
        if status is None:
            return "another kernel process uses the sandbox now"
        with open(os.path.join(self._folder, ERRORS), "rb") as file:
            lines = file.read()[-2000:].decode(errors="replace").strip().splitlines()
        if lines:
            return f"its bridge ended: {lines[-1]}"
        return f"its bridge was ended by signal {-status}" if status < 0 else "its bridge closed the connection"


def main() -> None:
    """Serve. Arguments: the private folder, then what goes to the bridge."""
    folder, *options = sys.argv[1:]
    lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # Another one serves: whoever started it was not heard, and has tried again.
        return
    try:
        os.unlink(os.path.join(folder, SOCKET))
    except OSError:
        pass
    Porter(folder, options).run()


if __name__ == "__main__":
    main()
