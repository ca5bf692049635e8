"""Amazon Bedrock's runtime: Converse and ConverseStream, with the framing of AWS's event streams.

A frame is: its length and that of its headers as big-endian u32, the CRC-32 of these eight bytes, the headers (length
of the name as u8, name, type 7 for text, length of the value as u16, value), the payload, and the CRC-32 of all before.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any
from urllib.parse import unquote

from .server import ENDS, Emulator, Handler, Hang, Refuse, Say
from .writer import Question, write

STATUS = {
    "ThrottlingException": 429,
    "ServiceUnavailableException": 503,
    "InternalServerException": 500,
    "ModelTimeoutException": 408,
    "ModelErrorException": 424,
    "AccessDeniedException": 403,
    "UnrecognizedClientException": 403,
    "ExpiredTokenException": 403,
    "ResourceNotFoundException": 404,
    "ValidationException": 400,
}
STOPS = {"end": "end_turn", "max_tokens": "max_tokens", "content_filter": "content_filtered"}
KEYS = "AKIAEMULATOR00000000"
"""The access key that tests give to the SDK: requests without a signature of it are refused."""


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """Return one frame of an event stream."""
    packed = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack("!II", 16 + len(packed) + len(payload), len(packed))
    head = prelude + struct.pack("!I", zlib.crc32(prelude)) + packed + payload
    return head + struct.pack("!I", zlib.crc32(head))


def event(name: str, content: object) -> bytes:
    """Return an event as a frame."""
    headers = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, json.dumps(content).encode())


def fault(code: str, message: str) -> bytes:
    """Return an exception in the middle of a stream; there its name begins with a small letter."""
    name = code[0].lower() + code[1:]
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return frame(headers, json.dumps({"message": message}).encode())


class BedrockHandler(Handler):
    """One connection."""

    def serve(self) -> None:
        _, _, model, operation = self.path.split("/")
        question = read(unquote(model), self.body(), dict(self.headers))
        if KEYS not in self.headers.get("Authorization", ""):
            self._refuse(Refuse("UnrecognizedClientException", "The security token is invalid."))
            return
        act = self.emulator.take(question)
        match act:
            case Refuse():
                self._refuse(act)
            case Hang():
                self.hang()
            case Say() if operation == "converse":
                self._answer(act, question)
            case Say():
                self._stream(act, question)

    def _refuse(self, act: Refuse) -> None:
        if act.code.isdigit():
            self.send_status(int(act.code), act.message)
            return
        self.send_json(STATUS.get(act.code, 400), {"message": act.message}, {"x-amzn-ErrorType": act.code})

    def _answer(self, act: Say, question: Question) -> None:
        text = write(question) if act.text is None else act.text
        content = {"role": "assistant", "content": [{"text": text}]}
        stop = STOPS[act.then]
        usage = tokens(question, len(text))
        self.send_json(
            200, {"output": {"message": content}, "stopReason": stop, "usage": usage, "metrics": {"latencyMs": 1}}
        )

    def _stream(self, act: Say, question: Question) -> None:
        self.begin_stream("application/vnd.amazon.eventstream")
        self.send_chunk(event("messageStart", {"role": "assistant"}))
        size = 0
        for piece in self.pieces(act, question):
            size += len(piece)
            self.send_chunk(event("contentBlockDelta", {"delta": {"text": piece}, "contentBlockIndex": 0}))
        match act.then:
            case "drop":
                self.drop()
            case "hang":
                self.hang()
            case end if end in ENDS:
                self.send_chunk(event("contentBlockStop", {"contentBlockIndex": 0}))
                self.send_chunk(event("messageStop", {"stopReason": STOPS[end]}))
                self.send_chunk(event("metadata", {"usage": tokens(question, size), "metrics": {"latencyMs": 1}}))
                self.end_stream()
            case code:
                self.send_chunk(fault(code, "as the test wants it"))
                self.end_stream()


def read(model: str, body: dict[str, Any], headers: dict[str, str]) -> Question:
    """Return what a request asks."""
    system = "\n".join(block["text"] for block in body.get("system", []))
    messages = tuple((one["role"], "".join(block["text"] for block in one["content"])) for one in body["messages"])
    return Question(model, system, messages, headers)


def tokens(question: Question, size: int) -> dict[str, int]:
    """Return the usage of an answer of so many characters."""
    asked, answered = len(question.text) // 4, size // 4
    return {"inputTokens": asked, "outputTokens": answered, "totalTokens": asked + answered}


def bedrock() -> Emulator:
    """Start one."""
    return Emulator(BedrockHandler)
