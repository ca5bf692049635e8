"""What both ends agree on besides the messages: version, metadata, methods. Nothing here imports grpc."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from . import executor_pb2 as pb

PROTOCOL = 1
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
"""Bytes of a file, or of a link, in one message; less where there is no more."""
LARGEST_MESSAGE = 4 * 1024 * 1024
"""Bytes of one message that either end takes."""


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
