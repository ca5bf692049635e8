"""The link's protocol: bytes in, messages out. No sockets, no clock, no import outside the standard library.

Both ends run this file, so it travels into sandboxes with the bridge. What it promises: over byte streams that may end
at any time and be replaced, each message is delivered once and in order. How:

* A message is a list of byte strings (*parts*). It is cut into frames of at most `FRAME_SIZE` bytes. Each frame gets
  the next *sequence number* at the moment it is first sent.
* Every frame carries the number up to which the other direction was taken (*ack*, cumulative). A sender keeps what is
  not acknowledged. After a reconnection both ends say in a HELLO what they received last; the rest is sent again, and
  a number that was seen before is dropped.
* There are two queues, *urgent* and *bulk*. Frames of an urgent message go between the frames of a bulk one; order is
  kept within each queue.
* The receiver grants a *window* in bytes: bulk frames wait while more than that is unacknowledged. A receiver that
  cannot get rid of what it has withholds acknowledgements (`hold`), so a slow reader slows the writer down.

The other end may be hostile (a cell owns the bridge). So nothing is allocated on its word, every length is bounded, and
whatever does not fit raises LinkError, after which the link is FAILED and takes nothing any more.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple, Union

Buffer = Union[bytes, bytearray, memoryview]

MAGIC = b"sbxl"
VERSION = 1
FRAME_SIZE = 256 * 1024
MAX_PARTS = 65535
"""So many that their lengths, with which a message begins, still fit into its first frame."""
MAX_MESSAGE = 1 << 30
WINDOW = 8 * 1024 * 1024
URGENT_ROOM = 64 * 1024 * 1024
"""Bytes beyond the window that a sender may have under way: urgent messages do not wait for it."""
SMALL = 32 * 1024
"""Bytes up to which copying a message together costs less than sending its parts one by one."""

_HEADER = struct.Struct("!BBIQQ")
_HELLO_BODY = struct.Struct("!4sB16sI")
_COUNT = struct.Struct("!H")
_HEADER_SIZE = _HEADER.size

_HELLO, _DATA, _ACK = 1, 2, 3
GREETING_SIZE = _HEADER_SIZE + _HELLO_BODY.size
"""Bytes of a greeting, with which each stream begins in both directions."""
REFUSED = b"\xff" * 16
"""The link id with which a bridge greets a peer in whose place another one has come."""

_FIRST, _LAST, _URGENT = 1, 2, 4


class LinkState(Enum):
    """Where a link stands. DISCONNECTED and OPEN alternate; FAILED is final."""

    DISCONNECTED = "disconnected"
    GREETING = "greeting"
    OPEN = "open"
    FAILED = "failed"


class LinkError(Exception):
    """The other end broke the protocol, or is another program than before."""


class LinkRefusedError(LinkError):
    """Another program has taken this one's place at the other end."""


class Opened(NamedTuple):
    """Both ends have said HELLO; ``resent`` frames are being sent again."""

    resent: int


class Message(NamedTuple):
    """One message, delivered once. Parts are bytes, or views of memory that is theirs alone."""

    parts: list[Buffer]
    urgent: bool


class Excess(NamedTuple):
    """A message that was larger than is taken here, and was dropped: those of its parts that its first frame held."""

    parts: list[Buffer]
    size: int
    """Bytes of the whole message."""


Event = Union[Opened, Message, Excess]


class _Frame(NamedTuple):
    seq: int
    size: int
    buffers: list[Buffer]


class _Assembly:
    """A message of one queue that has not arrived whole."""

    __slots__ = ("body", "kept", "size", "started", "total")

    def __init__(self) -> None:
        self.body = bytearray()
        self.started = False
        self.total = 0
        self.size = 0
        """Bytes that arrived."""
        self.kept = 0
        """Bytes of `body` that are kept of a message that is too large; 0 for others."""

    def begin(self, max_message: int, max_received: int) -> None:
        """The first frame is in `body`."""
        self.started = True
        self.total = _announced_size(self.body)
        if self.total > max_message:
            raise LinkError(f"a message of {self.total} bytes")
        if self.total > max_received:
            self.kept = len(self.body)

    def take(self, size: int) -> None:
        """A frame of ``size`` bytes is in `body`."""
        self.size += size
        if self.size > self.total:
            raise LinkError("a message longer than it said")
        if self.kept:
            del self.body[self.kept :]

    def finish(self, *, urgent: bool) -> Message | Excess:
        """Return what all frames together are."""
        if self.size != self.total:
            raise LinkError("a message shorter than it said")
        if self.kept:
            return Excess(_decode_head(self.body), self.total)
        return Message(_decode_large(self.body), urgent)


class Link:
    """One end of a link.

    ``link_id`` (16 bytes) names this end's life: a peer that comes back with another one has lost its state, and
    `receive` raises LinkError. A message that arrives and has more than ``max_received`` bytes is dropped, which an
    `Excess` tells.
    """

    def __init__(
        self,
        link_id: bytes,
        *,
        window: int = WINDOW,
        max_message: int = MAX_MESSAGE,
        max_received: int = MAX_MESSAGE,
    ) -> None:
        if len(link_id) != 16:
            raise ValueError("a link id has 16 bytes")
        self.state = LinkState.DISCONNECTED
        self.peer_id = b""
        self._link_id = link_id
        self._window = window
        self._max_message = max_message
        self._max_received = max_received
        # Sending.
        self._urgent: deque[list[Buffer]] = deque()
        self._bulk: deque[list[Buffer]] = deque()
        self._cutting: dict[bool, _Cutter | None] = {True: None, False: None}
        self._next_seq = 1
        self._acked = 0
        self._unacked: deque[_Frame] = deque()
        self._unacked_bytes = 0
        self._peer_window = FRAME_SIZE
        self._resend: deque[_Frame] = deque()
        self._hello_due = False
        self._ends: deque[int] = deque()
        """The numbers of the last frames of bulk messages that are not acknowledged."""
        self.bulk_acknowledged = 0
        """Bulk messages that have arrived whole at the other end, as far as that is known."""
        self.bulk_backlog = 0
        """Bytes of bulk messages that were handed over and have not been cut into frames yet."""
        # Receiving.
        self._received = 0
        self._ack = 0
        self._ack_sent = 0
        self._since_ack = 0
        self._held = False
        self._ack_due = False
        self._partial = bytearray()
        self._greeting = bytearray()
        self._greeting_ack = 0
        self._frame: tuple[int, int, int, int] | None = None
        self._frame_mark = 0
        self._assembly = {True: _Assembly(), False: _Assembly()}
        self.duplicates = 0
        """Frames that arrived again and were dropped."""

    # ---- the life of the stream

    def connect(self) -> None:
        """A new byte stream is there: greet the other end."""
        if self.state is LinkState.FAILED:
            raise LinkError("the link has failed and cannot be used again")
        self._forget_partial_frame()
        self._resend.clear()
        self._hello_due = True
        self.state = LinkState.GREETING

    def disconnect(self) -> None:
        """The byte stream ended. Messages are kept until another comes."""
        if self.state is not LinkState.FAILED:
            self._forget_partial_frame()
            self._resend.clear()
            self.state = LinkState.DISCONNECTED

    # ---- sending

    def send(self, parts: Sequence[Buffer], *, urgent: bool = False) -> list[Buffer]:
        """Take a message for sending; return what `withdraw` knows it by.

        Buffers must not change until they are acknowledged. Raises ValueError where the message has more parts or bytes
        than a link carries.
        """
        if len(parts) > MAX_PARTS:
            raise ValueError(f"a message has at most {MAX_PARTS} parts, not {len(parts)}")
        message, size = _encode(parts)
        if size > self._max_message:
            raise ValueError(f"a message has at most {self._max_message} bytes, not {size}")
        if urgent:
            self._urgent.append(message)
        else:
            self._bulk.append(message)
            self.bulk_backlog += size
        return message

    def withdraw(self, message: list[Buffer]) -> bool:
        """Take back a bulk message of which nothing has left; return False where something has."""
        for index, one in enumerate(self._bulk):
            if one is message:
                del self._bulk[index]
                self.bulk_backlog -= sum(map(len, message))
                return True
        return False

    @property
    def unacknowledged(self) -> int:
        """Bytes that were sent and may have to be sent again."""
        return self._unacked_bytes

    def data_to_send(self, limit: int = 4 * FRAME_SIZE) -> list[Buffer]:
        """Return about ``limit`` bytes that may be sent now; none if there is nothing or no window."""
        if self._hello_due:
            return [self._hello()]
        if self.state is not LinkState.OPEN:
            return []
        buffers: list[Buffer] = []
        taken = 0
        while taken < limit:
            frame = self._next_frame()
            if frame is None:
                break
            buffers.extend(frame.buffers)
            taken += frame.size
        if self._ack_due:
            buffers.append(self._ack_frame())
        return buffers

    def _hello(self) -> bytes:
        self._hello_due = False
        # A greeting acknowledges all that was received, like any other acknowledgement.
        self._since_ack = 0
        body = _HELLO_BODY.pack(MAGIC, VERSION, self._link_id, self._window)
        return _HEADER.pack(_HELLO, 0, len(body), 0, self._received) + body

    def _ack_frame(self) -> bytes:
        self._mark_ack_sent()
        return _HEADER.pack(_ACK, 0, 0, 0, self._ack)

    def _mark_ack_sent(self) -> None:
        self._ack_sent = self._ack
        self._since_ack = 0
        self._ack_due = False

    def _next_frame(self) -> _Frame | None:
        if self._resend:
            return self._resend.popleft()
        cutter = self._cutting[True]
        if cutter is None and self._urgent:
            cutter = self._cutting[True] = _Cutter(self._urgent.popleft(), urgent=True)
        if cutter is None:
            if self._unacked_bytes >= self._peer_window:
                return None
            cutter = self._cutting[False]
            if cutter is None and self._bulk:
                cutter = self._cutting[False] = _Cutter(self._bulk.popleft(), urgent=False)
        if cutter is None:
            return None
        return self._number(cutter)

    def _number(self, cutter: _Cutter) -> _Frame:
        flags, size, payload = cutter.cut()
        if flags & _LAST:
            self._cutting[cutter.urgent] = None
        if not cutter.urgent:
            self.bulk_backlog -= size
            if flags & _LAST:
                self._ends.append(self._next_seq)
        header = _HEADER.pack(_DATA, flags, size, self._next_seq, self._ack)
        self._mark_ack_sent()
        first = payload[0]
        buffers: list[Buffer]
        if len(payload) == 1 and isinstance(first, bytes) and size <= SMALL:
            buffers = [header + first]
        else:
            buffers = [header, *payload]
        frame = _Frame(self._next_seq, size, buffers)
        self._next_seq += 1
        self._unacked.append(frame)
        self._unacked_bytes += size
        return frame

    # ---- receiving

    def hold(self) -> None:
        """Acknowledge nothing more for now: what arrived cannot be passed on yet."""
        self._held = True

    def release(self) -> None:
        """What arrived was passed on; `data_to_send` has an acknowledgement again."""
        self._held = False
        self._ack = self._received
        self._ack_due = self._ack != self._ack_sent

    def acknowledge(self) -> bool:
        """Have `data_to_send` acknowledge what has arrived, however little; return False if there is nothing to say."""
        if self.state is LinkState.OPEN and not self._held and self._ack != self._ack_sent:
            self._ack_due = True
        return self._ack_due

    @property
    def is_receiving(self) -> bool:
        """Whether a part of a message has arrived."""
        return any(assembly.started for assembly in self._assembly.values())

    def receive(self, data: memoryview) -> list[Event]:
        """Take bytes that arrived. The view is not kept.

        Raises LinkError, after which the link is FAILED.
        """
        if self.state not in (LinkState.OPEN, LinkState.GREETING):
            raise LinkError(f"bytes arrived on a link that is {self.state.value}")
        events: list[Event] = []
        try:
            self._parse(data, events)
        except LinkError:
            self.state = LinkState.FAILED
            raise
        return events

    def _parse(self, data: memoryview, events: list[Event]) -> None:
        position, end = 0, len(data)
        while position < end:
            if self._frame is None:
                position = self._parse_header(data, position)
                if self._frame is None:
                    return
            kind, flags, missing, seq = self._frame
            take = min(missing, end - position)
            chunk = data[position : position + take]
            position += take
            if take == missing:
                self._frame = None
                self._finish_frame(kind, flags, seq, chunk, events)
            else:
                self._frame = (kind, flags, missing - take, seq)
                self._keep_chunk(kind, flags, seq, chunk)
                return

    def _parse_header(self, data: memoryview, position: int) -> int:
        """Read a frame's header into ``_frame``, across calls if it must; return where its payload begins."""
        if not self._partial and len(data) - position >= _HEADER_SIZE:
            fields = _HEADER.unpack_from(data, position)
            position += _HEADER_SIZE
        else:
            missing = _HEADER_SIZE - len(self._partial)
            self._partial += data[position : position + missing]
            position += missing
            if len(self._partial) < _HEADER_SIZE:
                return len(data)
            fields = _HEADER.unpack(self._partial)
            self._partial.clear()
        kind, flags, length, seq, ack = fields
        self._check_header(kind, length)
        if kind != _HELLO:
            self._acknowledged(ack)
        else:
            self._greeting_ack = ack
        self._frame = (kind, flags, length, seq)
        if kind == _DATA:
            self._check_order(flags, seq)
        return position

    def _check_header(self, kind: int, length: int) -> None:
        if self.state is LinkState.GREETING:
            if kind != _HELLO or length != _HELLO_BODY.size:
                raise LinkError("the other end did not begin with a greeting")
        elif kind == _DATA:
            if not 0 < length <= FRAME_SIZE:
                raise LinkError(f"a frame of {length} bytes")
        elif kind != _ACK or length:
            raise LinkError(f"a frame of unknown kind {kind}")

    def _check_order(self, flags: int, seq: int) -> None:
        if seq > self._received + 1:
            raise LinkError(f"frame {seq} after frame {self._received}")
        assembly = self._assembly[bool(flags & _URGENT)]
        if seq == self._received + 1:
            if bool(flags & _FIRST) == assembly.started:
                raise LinkError("a message that begins in the middle of another")
            self._frame_mark = len(assembly.body)

    def _keep_chunk(self, kind: int, flags: int, seq: int, chunk: memoryview) -> None:
        if kind != _DATA:
            self._greeting += chunk
        elif seq == self._received + 1:
            self._assembly[bool(flags & _URGENT)].body += chunk

    def _finish_frame(self, kind: int, flags: int, seq: int, chunk: memoryview, events: list[Event]) -> None:
        if kind == _DATA:
            if seq == self._received + 1:
                self._finish_data(flags, seq, chunk, events)
            else:
                self.duplicates += 1
                self._ack_due = not self._held
        elif kind == _HELLO:
            self._greeting += chunk
            events.append(self._greeted(bytes(self._greeting)))
            self._greeting.clear()

    def _finish_data(self, flags: int, seq: int, chunk: memoryview, events: list[Event]) -> None:
        urgent = bool(flags & _URGENT)
        assembly = self._assembly[urgent]
        size = len(chunk) + len(assembly.body) - self._frame_mark
        self._received = seq
        if not self._held:
            self._ack = seq
        self._since_ack += size
        if self._since_ack > self._window + URGENT_ROOM:
            raise LinkError(f"{self._since_ack} bytes that nobody had room for")
        # A quarter of the window, or many small frames: sooner costs calls, later stalls the sender.
        if (self._since_ack >= self._window // 4 or seq - self._ack_sent >= 256) and not self._held:
            self._ack_due = True
        if flags & _FIRST and flags & _LAST and not assembly.body:
            events.append(Message(_decode_small(chunk), urgent))
            return
        assembly.body += chunk
        if flags & _FIRST:
            assembly.begin(self._max_message, self._max_received)
        assembly.take(size)
        if flags & _LAST:
            self._assembly[urgent] = _Assembly()
            events.append(assembly.finish(urgent=urgent))

    def _greeted(self, body: bytes) -> Opened:
        magic, version, peer_id, window = _HELLO_BODY.unpack(body)
        if magic != MAGIC or version != VERSION:
            raise LinkError(f"the other end speaks another protocol (version {version}, ours is {VERSION})")
        if peer_id == REFUSED:
            raise LinkRefusedError("another kernel process uses the sandbox now")
        if self.peer_id and peer_id != self.peer_id:
            raise LinkError("the other end is not the one that was there before; its state is lost")
        self.peer_id = peer_id
        self._peer_window = max(FRAME_SIZE, min(window, self._max_message))
        if self._greeting_ack < self._acked:
            raise LinkError("the other end forgot what it had acknowledged")
        self._acknowledged(self._greeting_ack)
        self._resend = deque(self._unacked)
        self.state = LinkState.OPEN
        self._ack_due = self._ack != self._ack_sent
        return Opened(len(self._resend))

    def _acknowledged(self, ack: int) -> None:
        if ack >= self._next_seq:
            raise LinkError(f"frame {ack} was acknowledged and never sent")
        self._acked = max(self._acked, ack)
        unacked = self._unacked
        while unacked and unacked[0].seq <= ack:
            self._unacked_bytes -= unacked.popleft().size
        ends = self._ends
        while ends and ends[0] <= ack:
            ends.popleft()
            self.bulk_acknowledged += 1

    def _forget_partial_frame(self) -> None:
        """Drop the part of a frame that the lost stream had brought; the whole frame will come again."""
        if self._frame is not None:
            kind, flags, _, seq = self._frame
            if kind == _DATA and seq == self._received + 1:
                del self._assembly[bool(flags & _URGENT)].body[self._frame_mark :]
        self._frame = None
        self._partial.clear()
        self._greeting.clear()


class _Cutter:
    """Cuts one encoded message into the payloads of frames."""

    __slots__ = ("_first", "_index", "_offset", "_pieces", "urgent")

    def __init__(self, pieces: list[Buffer], *, urgent: bool) -> None:
        self._pieces = pieces
        self._index = 0
        self._offset = 0
        self._first = True
        self.urgent = urgent

    def cut(self) -> tuple[int, int, list[Buffer]]:
        """Return the next frame's flags, size and payload."""
        flags = (_FIRST if self._first else 0) | (_URGENT if self.urgent else 0)
        self._first = False
        payload: list[Buffer] = []
        size = 0
        pieces = self._pieces
        while size < FRAME_SIZE and self._index < len(pieces):
            piece = pieces[self._index]
            room = FRAME_SIZE - size
            if self._offset == 0 and len(piece) <= room:
                payload.append(piece)
                size += len(piece)
                self._index += 1
                continue
            view = memoryview(piece)[self._offset : self._offset + room]
            payload.append(view)
            size += len(view)
            self._offset += len(view)
            if self._offset == len(piece):
                self._index += 1
                self._offset = 0
        if self._index == len(pieces):
            flags |= _LAST
        return flags, size, payload


def is_acknowledgement(buffers: Sequence[Buffer]) -> bool:
    """Whether what a link wants to have sent is an acknowledgement and nothing else, which may wait for company."""
    return len(buffers) == 1 and len(buffers[0]) == _HEADER_SIZE and buffers[0][0] == _ACK


def greeting_of(data: bytes) -> bytes:
    """Return the link id in a greeting of `GREETING_SIZE` bytes; b"" if it is none."""
    if len(data) != GREETING_SIZE:
        return b""
    kind, _, length, _, _ = _HEADER.unpack_from(data)
    magic, version, peer_id, _ = _HELLO_BODY.unpack_from(data, _HEADER_SIZE)
    good = kind == _HELLO and length == _HELLO_BODY.size and magic == MAGIC and version == VERSION
    return bytes(peer_id) if good else b""


def _encode(parts: Sequence[Buffer]) -> tuple[list[Buffer], int]:
    """Return a message's pieces (a prefix with the lengths, then the parts) and their size in bytes."""
    lengths = [len(part) for part in parts]
    prefix = struct.pack(f"!H{len(parts)}I", len(parts), *lengths)
    size = len(prefix) + sum(lengths)
    if size <= SMALL:
        return [b"".join((prefix, *parts))], size
    pieces: list[Buffer] = [prefix]
    pieces.extend(part for part in parts if len(part))
    return pieces, size


def _lengths(body: Buffer) -> tuple[tuple[int, ...], int]:
    """Return the parts' lengths that a message begins with, and where its first part begins."""
    if len(body) < _COUNT.size:
        raise LinkError("a message without its lengths")
    (count,) = _COUNT.unpack_from(body)
    start = _COUNT.size + 4 * count
    if count > MAX_PARTS or len(body) < start:
        raise LinkError(f"a message of {count} parts whose lengths are missing")
    return struct.unpack_from(f"!{count}I", body, _COUNT.size), start


def _announced_size(body: Buffer) -> int:
    lengths, start = _lengths(body)
    return start + sum(lengths)


def _decode_small(body: memoryview) -> list[Buffer]:
    lengths, position = _lengths(body)
    parts: list[Buffer] = []
    for length in lengths:
        parts.append(bytes(body[position : position + length]))
        position += length
    if position != len(body):
        raise LinkError("a message of another length than it said")
    return parts


def _decode_large(body: bytearray) -> list[Buffer]:
    """Return the parts of a whole message; ``body`` is not to be used afterwards.

    Where only the last part is large, as in most messages, it is the bytearray itself: that can be searched in place,
    and a view cannot.
    """
    lengths, position = _lengths(body)
    parts: list[Buffer] = []
    if max(lengths[:-1], default=0) > SMALL:
        view = memoryview(body)
        for length in lengths:
            part = view[position : position + length]
            parts.append(bytes(part) if length <= SMALL else part)
            position += length
        return parts
    for length in lengths[:-1]:
        parts.append(bytes(body[position : position + length]))
        position += length
    if lengths:
        # Its beginning is given up without a copy.
        del body[:position]
        parts.append(bytes(body) if len(body) <= SMALL else body)
    return parts


def _decode_head(body: bytearray) -> list[Buffer]:
    """Return the parts that the beginning of a message holds whole."""
    lengths, position = _lengths(body)
    parts: list[Buffer] = []
    for length in lengths:
        if position + length > len(body):
            break
        parts.append(bytes(body[position : position + length]))
        position += length
    return parts
