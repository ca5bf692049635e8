"""What both emulators are: an HTTP server with a plan of what each model does, and a memory of what was asked."""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Union

from .writer import Question, write

ENDS = ("end", "max_tokens", "content_filter")
"""How an answer ends that is complete as far as its service is concerned."""
PIECE = 12
"""Characters of a piece of an answer."""


@dataclass(frozen=True)
class Refuse:
    """No answer: a fault before the first piece, named in AWS's words, or by its HTTP status."""

    code: str
    message: str = "as the test wants it"


@dataclass(frozen=True)
class Hang:
    """Takes the request and says nothing until the client leaves."""


@dataclass(frozen=True)
class Say:
    """An answer; ``text`` None is what the model writes by itself."""

    text: str | None = None
    piece: int = PIECE
    pause: float = 0.0
    """Seconds between two pieces."""
    then: str = "end"
    """What follows: one of ENDS, "hang" until the client leaves, "drop" the connection, or a fault's code."""
    repeat: bool = False
    """Whether it goes on saying the same until the client leaves."""
    whole: bool = False
    """Whether it comes in one piece, though a stream was asked for."""


Act = Union[Refuse, Hang, Say]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that left between two requests."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Emulator:
    """Serves on a port of its own until it is closed; `plan` says what a model does next, else it answers."""

    def __init__(self, handler: type[Handler]) -> None:
        self.questions: list[Question] = []
        self.acts: dict[str, deque[Act]] = defaultdict(deque)
        self.left = threading.Event()
        """A client went away before its answer was complete."""
        self.sent: list[float] = []
        """When pieces were sent, by the monotonic clock."""
        self.ended = threading.Event()
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.emulator = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def __enter__(self) -> Emulator:  # noqa: PYI034 - Python 3.10 has no Self
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def plan(self, model: str, *acts: Act) -> None:
        """Let a model do these things with its next requests."""
        self.acts[model].extend(acts)

    def take(self, question: Question) -> Act:
        """Note a question; return what is to be done."""
        self.questions.append(question)
        acts = self.acts[question.model]
        return acts.popleft() if acts else Say()

    def close(self) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()


class Handler(BaseHTTPRequestHandler):
    """What is common to the protocols. Streams are chunked, each piece sent at once."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def emulator(self) -> Emulator:
        found: Emulator = self.server.emulator  # type: ignore[attr-defined]
        return found

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def body(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return parsed

    def send_json(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_status(self, status: int, message: str) -> None:
        """Answer as a web server does that knows nothing of models."""
        if status == 204:
            self.send_response(status)
            self.end_headers()
            return
        self.send_json(status, {"error": {"message": message}}, {"Location": "https://elsewhere.example/v2?key=1"})

    def begin_stream(self, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_chunk(self, data: bytes) -> None:
        self.emulator.sent.append(time.monotonic())
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def drop(self) -> None:
        """Close the connection in the middle."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def hang(self) -> None:
        """Wait until the client has left, or the test is over."""
        while not self.emulator.ended.is_set():
            if select.select([self.connection], [], [], 0.02)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                self.emulator.left.set()
                break
        self.close_connection = True

    def pieces(self, act: Say, question: Question) -> Iterator[str]:
        """Give the pieces of an answer, in their time."""
        text = write(question) if act.text is None else act.text
        while not self.emulator.ended.is_set():
            for start in range(0, len(text), act.piece):
                yield text[start : start + act.piece]
                if act.pause:
                    time.sleep(act.pause)
            if not act.repeat:
                return

    def do_POST(self) -> None:
        try:
            self.serve()
        except (BrokenPipeError, ConnectionResetError):
            self.emulator.left.set()
            self.close_connection = True

    def serve(self) -> None:
        raise NotImplementedError
