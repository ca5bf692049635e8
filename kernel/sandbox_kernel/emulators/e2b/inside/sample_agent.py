"""The agent of the emulator's sample templates: answers, counts its turns, and streams if it is asked to.

Fields of a request: `prompt`; `stream` ("sse", "ndjson" or "mislabelled"); `seconds` to wait for; `fail`; `empty`.
"""

from __future__ import annotations

import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

PORT = 8080


class Agent(BaseHTTPRequestHandler):
    """Answers /invocations and /ping."""

    protocol_version = "HTTP/1.1"
    turns: list[str] = []  # noqa: RUF012 - shared by all requests, which is the point
    lock = Lock()
    busy = 0

    def do_GET(self) -> None:
        """Tell how it is."""
        status = "HealthyBusy" if Agent.busy else "Healthy"
        self._json(
            200, {"status": status, "message": None, "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        )

    def do_POST(self) -> None:
        """Answer."""
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        try:
            request = json.loads(body)
        except ValueError:
            self._json(400, {"error": "the body is no JSON"})
            return
        with Agent.lock:
            Agent.busy += 1
        try:
            self._answer(request)
        finally:
            with Agent.lock:
                Agent.busy -= 1

    def _answer(self, request: dict[str, Any]) -> None:
        prompt = str(request.get("prompt", ""))
        with Agent.lock:
            Agent.turns.append(prompt)
            turn = len(Agent.turns)
        time.sleep(float(request.get("seconds", 0)))
        if request.get("fail"):
            self._json(500, {"error": "the agent failed as it was asked to"})
        elif request.get("empty"):
            self._send(200, "application/json", b"")
        elif request.get("stream"):
            self._stream(request, prompt)
        else:
            mode = os.environ.get("AGENT_MODE", "")
            answer = {"response": f"You said: {prompt}", "turn": turn, "received": request}
            if len(Agent.turns) > 1:
                answer["before"] = Agent.turns[turn - 2]
            self._json(200, {**answer, "mode": mode} if mode else answer)

    def _stream(self, request: dict[str, Any], prompt: str) -> None:
        kind = request["stream"]
        types = {"sse": "text/event-stream; charset=utf-8", "ndjson": "application/x-ndjson"}
        self.send_response(200)
        self.send_header("content-type", types.get(kind, "application/json"))
        self.send_header("connection", "close")
        self.end_headers()
        for number, word in enumerate(prompt.split()):
            text = json.dumps({"chunk": word, "number": number})
            line = f"{text}\n" if kind == "ndjson" else f"data: {text}\n\n"
            self.wfile.write(line.encode())
            self.wfile.flush()
            time.sleep(float(request.get("pause", 0.01)))
        if request.get("break"):
            self.wfile.write(b'data: {"error": "the agent broke in the middle"}\n\n')
        self.close_connection = True

    def _json(self, status: int, value: Any) -> None:
        self._send(status, "application/json", json.dumps(value).encode())

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", PORT), Agent)
    server.request_queue_size = 128
    server.daemon_threads = True
    server.serve_forever()
