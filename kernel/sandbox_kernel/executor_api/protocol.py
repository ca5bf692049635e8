"""What both ends agree on besides the messages: version, metadata, methods. Nothing here imports grpc."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from . import executor_pb2 as pb
from . import link_chunks

PROTOCOL = 2
"""Raised by a change that the other end has to know of. Both ends must have the same."""
SERVICE = "sandbox_kernel.executor.v1.Executor"

KEY = "authorization"
"""Metadata: "Bearer " and the API key."""
BEARER = "Bearer "
VERSION = "sandbox-protocol"
CALL = "sandbox-call"
"""Metadata: the number of a call, a text that its client uses for no other; repetitions have the same."""
CORRELATION = "sandbox-correlation-id"
ERROR = "sandbox-error"
"""Trailing metadata: the name of the error's class in errors.py."""

CHUNK = 256 * 1024
"""Bytes of a file in one message; less where there is no more."""
LINK_CHUNK = 384 * 1024
"""Bytes of a link in one message at most: as many as a sandbox has on its way at most. Each message costs the same at
both ends, however long it is. See memory.py."""
LARGEST_MESSAGE = 4 * 1024 * 1024
"""Bytes of one message that either end takes."""
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    # As they are, frames of 16 KiB and a window of 64 KiB make output a third slower.
    ("grpc.http2.max_frame_size", 1024 * 1024),
    ("grpc.http2.lookahead_bytes", 8 * 1024 * 1024),
)
"""gRPC's options at both ends."""


Codec = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]


@dataclass(frozen=True)
class Method:
    """One method of the service, as `executor.proto` has it."""

    name: str
    request: type[Message]
    reply: type[Message]
    streams_requests: bool
    streams_replies: bool

    @property
    def path(self) -> str:
        """How gRPC names it."""
        return f"/{SERVICE}/{self.name}"

    @property
    def request_codec(self) -> Codec:
        """Serializer and deserializer of its requests."""
        return _codec(self.request)

    @property
    def reply_codec(self) -> Codec:
        """Serializer and deserializer of its replies."""
        return _codec(self.reply)


def _codec(message: type[Message]) -> Codec:
    if message is pb.LinkChunk:
        return link_chunks.serialize, link_chunks.parse
    return message.SerializeToString, message.FromString


def _methods() -> dict[str, Method]:
    service = pb.DESCRIPTOR.services_by_name["Executor"]
    return {
        one.name: Method(
            one.name,
            GetMessageClass(one.input_type),
            GetMessageClass(one.output_type),
            one.client_streaming,
            one.server_streaming,
        )
        for one in service.methods
    }


METHODS = _methods()
