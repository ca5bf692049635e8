"""Models of Strands Agents (package strands-agents, extra `strands`): their classes, with a Strands user's options."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from importlib import import_module
from typing import Any

from traitlets import Dict, Unicode

from sandbox_kernel.errors import ConfigurationError

from .base import CUTS, End, Model, ModelRequest, Piece, Reason, Text, reason_of_complaint, whole

REASONS = {
    "ModelThrottledException": Reason.THROTTLED,
    "ContextWindowOverflowException": Reason.TOO_LONG,
    "AccessDeniedException": Reason.DENIED,
    "NoCredentialsError": Reason.CREDENTIALS,
    "AuthenticationError": Reason.CREDENTIALS,
    "PermissionDeniedError": Reason.DENIED,
    "RateLimitError": Reason.THROTTLED,
    "TimeoutError": Reason.TIMEOUT,
    "APITimeoutError": Reason.TIMEOUT,
    "ReadTimeout": Reason.TIMEOUT,
    "ReadTimeoutError": Reason.TIMEOUT,
}
"""By the exception's name: Strands lets through what its services' packages raise, and they are many."""


class StrandsModel(Model):
    """A model class of Strands'. What it reads from the environment, and where it connects, is its own."""

    model_class = Unicode(config=True, help='The class, as in "strands.models.ollama:OllamaModel".')
    options = Dict(key_trait=Unicode(), config=True, help="What the class is called with, such as host and model_id.")

    _made: Any = None

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.model or self.options.get('model_id') or self.model_class.rpartition(':')[2]}"

    @property
    def place(self) -> str:
        return f"Strands, {self.model_class}"

    @property
    def account(self) -> str:
        # Where its class finds credentials is its own.
        return self.name

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece, None]:
        model = await asyncio.to_thread(self._model)
        messages = [{"role": one.role, "content": [{"text": one.text}]} for one in request.messages]
        end, stopped = End(), False
        events = model.stream(messages, None, request.system)
        try:
            async for event in events:
                text = event.get("contentBlockDelta", {}).get("delta", {}).get("text")
                if text:
                    yield Text(str(text))
                stopped = stopped or "messageStop" in event
                end = _noted(event, end)
        except Exception as exc:  # of whatever package its service has
            reason = next((REASONS[kind.__name__] for kind in type(exc).__mro__ if kind.__name__ in REASONS), None)
            said = f"{type(exc).__name__}: {exc}"
            raise self.error(reason or reason_of_complaint(said, Reason.UNAVAILABLE), said) from exc
        finally:
            if hasattr(events, "aclose"):
                await events.aclose()
        if not stopped:
            raise self.error(Reason.BROKEN)
        yield end

    def _model(self) -> Any:
        if self._made is None:
            module, _, name = self.model_class.partition(":")
            try:
                found = getattr(import_module(module), name)
            except (ImportError, AttributeError, ValueError) as exc:
                raise ConfigurationError(
                    f"The model class {self.model_class!r} cannot be loaded ({exc}); "
                    "it is written as package.module:Class, and needs `pip install 'sandbox-kernel[strands]'`."
                ) from exc
            self._made = found(**self.options)
        return self._made


def _noted(event: dict[str, Any], end: End) -> End:
    """Return what is known of an answer's end after one more event."""
    if "messageStop" in event:
        stop = str(event["messageStop"].get("stopReason"))
        return End(end.input_tokens, end.output_tokens, CUTS.get(stop, ""))
    usage = event.get("metadata", {}).get("usage")
    return End(whole(usage.get("inputTokens")), whole(usage.get("outputTokens")), end.cut) if usage else end
