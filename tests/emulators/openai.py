"""A service with OpenAI's chat completions, streamed as server-sent events or whole."""

from __future__ import annotations

import json
import time
from typing import Any

from .server import ENDS, Emulator, Handler, Hang, Refuse, Say
from .writer import Question, write

STATUS = {
    "ThrottlingException": 429,
    "ServiceUnavailableException": 503,
    "InternalServerException": 500,
    "AccessDeniedException": 403,
    "UnrecognizedClientException": 401,
    "ResourceNotFoundException": 404,
    "ValidationException": 400,
}
STOPS = {"end": "stop", "max_tokens": "length", "content_filter": "content_filter"}


class OpenAIHandler(Handler):
    """One connection."""

    def serve(self) -> None:
        body = self.body()
        if self.path != "/v1/chat/completions":
            self.send_json(404, {"error": {"message": f"there is no {self.path}"}})
            return
        question = read(body, dict(self.headers))
        act = self.emulator.take(question)
        match act:
            case Refuse(code, message) if code.isdigit():
                self.send_status(int(code), message)
            case Refuse(code, message):
                self.send_json(STATUS[code], {"error": {"message": message, "type": code, "code": code}})
            case Hang():
                self.hang()
            case Say() if body.get("stream") and not act.whole:
                self._stream(act, question, usage=bool((body.get("stream_options") or {}).get("include_usage")))
            case Say():
                self._answer(act, question)

    def _answer(self, act: Say, question: Question) -> None:
        text = write(question) if act.text is None else act.text
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": STOPS[act.then]}
        self.send_json(
            200, {**head("chat.completion", question), "choices": [choice], "usage": tokens(question, len(text))}
        )

    def _stream(self, act: Say, question: Question, *, usage: bool) -> None:
        self.begin_stream("text/event-stream")
        self._event(question, {"role": "assistant", "content": ""})
        size = 0
        for piece in self.pieces(act, question):
            size += len(piece)
            self._event(question, {"content": piece})
        match act.then:
            case "drop":
                self.drop()
            case "hang":
                self.hang()
            case end if end in ENDS:
                self._event(question, {}, STOPS[end])
                if usage:
                    end = {**head("chat.completion.chunk", question), "choices": [], "usage": tokens(question, size)}
                    self._send(end)
                self.send_chunk(b"data: [DONE]\n\n")
                self.end_stream()
            case code:
                self._send({"error": {"message": "as the test wants it", "type": code, "code": STATUS.get(code)}})
                self.end_stream()

    def _event(self, question: Question, delta: dict[str, str], finish: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        self._send({**head("chat.completion.chunk", question), "choices": [choice]})

    def _send(self, content: object) -> None:
        self.send_chunk(f"data: {json.dumps(content)}\n\n".encode())


def head(kind: str, question: Question) -> dict[str, Any]:
    """Return what all objects of the protocol begin with."""
    return {"id": "chatcmpl-1", "object": kind, "created": int(time.time()), "model": question.model}


def read(body: dict[str, Any], headers: dict[str, str]) -> Question:
    """Return what a request asks."""
    system = "\n".join(one["content"] for one in body["messages"] if one["role"] == "system")
    messages = tuple((one["role"], one["content"]) for one in body["messages"] if one["role"] != "system")
    return Question(body["model"], system, messages, headers)


def tokens(question: Question, size: int) -> dict[str, int]:
    """Return the usage of an answer of so many characters."""
    asked, answered = len(question.text) // 4, size // 4
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


def openai() -> Emulator:
    """Start one."""
    return Emulator(OpenAIHandler)
