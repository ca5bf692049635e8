"""The contract of a model: a request in, pieces of text out. Third parties register by the group GROUP."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Union

from traitlets import Float, Integer, Unicode
from traitlets.config.configurable import Configurable

from sandbox_kernel.errors import ModelError
from sandbox_kernel.generation.text import without_full_stop
from sandbox_kernel.providers.registry import MODEL_GROUP

GROUP = MODEL_GROUP
MAX_COMPLAINT = 2000
"""Characters of an error's text that are looked at."""


class Reason(str, Enum):
    """Why a model gave no answer. The value is what people read.

    For each of them the next model is asked: it may be there, have more room, or take what this one refuses; and each
    is asked once only.
    """

    THROTTLED = "too many requests"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "no model is to be had by this name"
    DENIED = "access denied to this model"
    UNPAID = "no credit is left"
    TIMEOUT = "no answer in time"
    CREDENTIALS = "no valid credentials"
    TOO_LONG = "the request is too long for this model"
    REFUSED = "the request was refused"
    FILTERED = "its content filter let no answer through"
    EMPTY = "the answer is empty"
    BROKEN = "the answer broke off"


MOST_TOKENS = "it reached the most tokens that it may have"
FILTER = "a content filter ended it"
CUTS = {
    "length": MOST_TOKENS,
    "max_tokens": MOST_TOKENS,
    "model_context_window_exceeded": "request and answer are longer together than the model can hold",
    "content_filter": FILTER,
    "content_filtered": FILTER,
    "guardrail_intervened": FILTER,
}
"""Why an answer ended before its end, by the words of the services: OpenAI's finish_reason, Bedrock's stopReason."""

_TOO_LONG = re.compile(
    r"too (?:long|large|many (?:input )?tokens)|context.?(?:length|limit|window|size)|(?:input|prompt) length|"
    r"exceeds? the (?:maximum|available)|input tokens",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(
    r"inference profile|on-demand throughput|model.{0,20} identifier|(?:invalid|no such|unknown|unsupported) model|"
    r"model.{0,80}(?:not found|does ?n.t exist|not supported|is(?: not|n.t) (?:available|supported)|end of its life)",
    re.IGNORECASE | re.DOTALL,
)
_FILTERED = re.compile(r"content.?(?:filter|policy|management)|guardrail|safety system", re.IGNORECASE)
_UNPAID = re.compile(r"insufficient.?(?:quota|balance|credit|funds)|exceeded your current quota|billing", re.IGNORECASE)
_COMPLAINTS = (
    (_UNPAID, Reason.UNPAID),
    (_TOO_LONG, Reason.TOO_LONG),
    (_UNKNOWN, Reason.UNKNOWN),
    (_FILTERED, Reason.FILTERED),
)


def reason_of_complaint(text: str, otherwise: Reason) -> Reason:
    """Return why a service refused a request by its words, where its code or status may mean several things."""
    said = text[:MAX_COMPLAINT]
    return next((reason for pattern, reason in _COMPLAINTS if pattern.search(said)), otherwise)


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
    cut: str = ""
    """Why the answer is not whole, for people (see CUTS); "" if it is."""


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

    @property
    def account(self) -> str:
        """What tells its credentials from those of others: models with the same are not asked once these were refused.

        It holds no secret. Default: one for each kind and place.
        """
        return f"{self.kind} {self.place}"

    def stream(self, request: ModelRequest) -> AsyncGenerator[Piece, None]:
        """Ask, and yield pieces as they arrive; the last one is an End.

        Called once per question, never retried inside. Closing the generator ends the request. What blocks runs in a
        thread. Raises ModelError; anything else is a fault of this class, and is told as such.
        """
        raise NotImplementedError

    def error(self, reason: Reason, detail: str = "") -> ModelError:
        """Return an error about this model; ``detail`` is what the service said, of any length."""
        said = without_full_stop(" ".join(detail.split())[:300])
        return ModelError(
            f"{self.name}: {reason.value}{': ' if said else ''}{said}", reason=reason.name, model=self.name
        )

    def __repr__(self) -> str:
        # Not what traitlets would show: options may hold a key.
        return f"<{type(self).__name__} {self.name}>"


def reason_of(error: ModelError) -> Reason:
    """Return the reason of an error, whose class knows only its name; a third party may have its own."""
    return Reason.__members__.get(error.reason, Reason.UNAVAILABLE)


def whole(value: Any) -> int | None:
    """Return a number of tokens from a service's answer; None where it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40 else None
