"""The contract of a model: a request in, pieces of text out. Third parties register by the group GROUP."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Union

from traitlets import Float, Integer, Unicode
from traitlets.config.configurable import Configurable

from sandbox_kernel.errors import ModelError
from sandbox_kernel.providers.registry import MODEL_GROUP

GROUP = MODEL_GROUP


class Reason(str, Enum):
    """Why a model gave no answer. The value is what people read."""

    THROTTLED = "too many requests"
    UNAVAILABLE = "unavailable"
    DENIED = "access denied to this model"
    TIMEOUT = "no answer in time"
    CREDENTIALS = "no valid credentials"
    REFUSED = "the request was refused"
    BROKEN = "the answer broke off"


ASKS_NEXT = frozenset(
    {Reason.THROTTLED, Reason.UNAVAILABLE, Reason.DENIED, Reason.TIMEOUT, Reason.CREDENTIALS, Reason.BROKEN}
)
"""Reasons for which another model may do better. One that refused the request itself is believed."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; ``role`` is "user" or "assistant"."""

    role: str
    text: str


@dataclass(frozen=True)
class ModelRequest:
    """What a model is asked. The messages begin and end with one of the user's, and alternate."""

    system: str
    messages: tuple[Message, ...]
    max_tokens: int


@dataclass(frozen=True)
class Text:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class End:
    """The end of an answer; tokens as the service counts them, None where it does not."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cut: bool = False
    """Whether the answer ends because it has reached the most tokens that it may have."""


Piece = Union[Text, End]


class Model(Configurable):
    """One model of one service.

    Its options are traits: those of its entry in `Generation.models` win over those of its class's section. Credentials
    are none of them: they come from the environment, or from the SDK's own chain. It is made on the event loop's
    thread, and nothing is connected before `stream`.
    """

    model = Unicode(config=True, help="The model's name or identifier, as its service has it.")
    request_timeout = Float(30.0, config=True, help="Seconds without a byte after which a connection is given up.")
    max_tokens = Integer(4096, config=True, help="Tokens that an answer may have at most.")

    kind = ""
    """The name of the entry point, set by who makes it."""

    @property
    def name(self) -> str:
        """What people call it, and `--model` takes."""
        return f"{self.kind}:{self.model}"

    @property
    def place(self) -> str:
        """Where requests go, for people: "Amazon Bedrock, us-east-1". Without credentials."""
        raise NotImplementedError

    def stream(self, request: ModelRequest) -> AsyncGenerator[Piece, None]:
        """Ask, and yield pieces as they arrive; the last one is an End.

        Called once per question, never retried inside. Closing the generator ends the request. What blocks runs in a
        thread. Raises ModelError; anything else is a fault of this class, and is told as such.
        """
        raise NotImplementedError

    def error(self, reason: Reason, detail: str = "") -> ModelError:
        """Return an error about this model; ``detail`` is what the service said, of any length."""
        said = f": {' '.join(detail.split())[:300]}" if detail else ""
        return ModelError(f"{self.name}: {reason.value}{said}", reason=reason.name, model=self.name)

    def __repr__(self) -> str:
        # Not what traitlets would show: options may hold a key.
        return f"<{type(self).__name__} {self.name}>"


def reason_of(error: ModelError) -> Reason:
    """Return the reason of an error, whose class knows only its name."""
    return Reason[error.reason]


def whole(value: Any) -> int | None:
    """Return a number of tokens from a service's answer; None where it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40 else None
