"""Another host, for a browser that must not be made to talk to it: notes every request and every connection."""

from __future__ import annotations

import mimetypes
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar


class Elsewhere:
    """A web server on a port of its own; `requests` are the paths that were asked for."""

    def __init__(self, url: str, requests: list[str], stack: ExitStack) -> None:
        self.url = url
        self.requests = requests
        self._stack = stack
        self._listeners: dict[str, list[socket.socket]] = {}

    def port(self, name: str) -> int:
        """Open a port, for TCP and for UDP, that counts only whether somebody came; see `visited`."""
        stream, datagram = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._listeners[name] = [self._stack.enter_context(one) for one in (stream, datagram)]
        stream.bind(("127.0.0.1", 0))
        stream.listen()
        datagram.bind(stream.getsockname())
        port: int = stream.getsockname()[1]
        return port

    def visited(self) -> set[str]:
        """Return the names of the ports that somebody connected to or sent anything to."""
        owners = {one: name for name, sockets in self._listeners.items() for one in sockets}
        ready, _, _ = select.select(list(owners), [], [], 0)
        return {owners[one] for one in ready}


class _Handler(BaseHTTPRequestHandler):
    seen: ClassVar[list[str]]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        self.send_response(200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Content-Type", mimetypes.guess_type(self.path)[0] or "text/html")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_HEAD = do_OPTIONS = do_GET  # noqa: N815 - the base class looks for these names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class has it so
        """Tests read `seen`."""


@contextmanager
def elsewhere() -> Iterator[Elsewhere]:
    """Serve until the block ends."""
    seen: list[str] = []
    handler = type("Handler", (_Handler,), {"seen": seen})
    with ExitStack() as stack, ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Elsewhere(f"http://127.0.0.1:{server.server_address[1]}", seen, stack)
        server.shutdown()
