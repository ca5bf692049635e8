"""Asks models one after the other until one has answered, and tells each time that it goes on to the next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Union

from sandbox_kernel.errors import CommandError, GenerationError, ModelError

from .models.base import FILTER, End, Model, ModelRequest, Reason, Text, reason_of
from .settings import Generation
from .text import without_full_stop


@dataclass(frozen=True)
class Asked:
    """A model is being asked."""

    model: str
    place: str


@dataclass(frozen=True)
class Failed:
    """A model failed; what it had said, ``dropped`` characters, does not count."""

    model: str
    reason: str
    seconds: float
    """Of its own work; 0 where it was not asked at all."""
    dropped: int = 0


@dataclass(frozen=True)
class Answered:
    """The answer is complete."""

    model: str
    seconds: float
    """Of this model's own work."""
    first: float
    """Seconds until its first piece."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cut: str = ""
    """Why the answer is not whole; "" if it is."""


Step = Union[Asked, Failed, Text, Answered]


@dataclass
class Health:
    """How a model did in this session."""

    answers: int = 0
    failures: int = 0
    last_first: float | None = None
    """Seconds until the first piece of its last answer."""
    last_failure: str = ""
    last_time: float = 0.0
    """Of the last attempt, in seconds since the epoch; 0 if it was never asked."""
    well: bool = False
    """Whether the last attempt was an answer."""


class Chain:
    """The configured models in their order, and how each did. Each is asked once per question."""

    def __init__(self, models: Sequence[Model], settings: Generation) -> None:
        self.models = tuple(models)
        self._settings = settings
        self.health = {model.name: Health() for model in models}

    def chosen(self, name: str) -> tuple[Model, ...]:
        """Return the models to ask: all, or the one that is named, by a part of its name. Raises CommandError."""
        if not name:
            return self.models
        found = [one for one in self.models if one.name == name] or [one for one in self.models if name in one.name]
        if len(found) != 1:
            known = ", ".join(one.name for one in self.models)
            what = "is not configured" if not found else "could be several"
            raise CommandError(f"The model {name!r} {what}; there are: {known} (Generation.models).")
        return tuple(found)

    async def ask(self, request: ModelRequest, name: str = "") -> AsyncGenerator[Step, None]:
        """Ask, and yield what happens; the last step is Answered.

        Raises GenerationError where no model has answered, with the reason of each, and CommandError for a wrong name.
        """
        models = self.chosen(name)
        if not models:
            raise GenerationError("No model is configured; name one in Generation.models.")
        failures: list[str] = []
        refused: dict[str, str] = {}
        for model in models:
            if model.account in refused:
                failures.append(f"{model.name}: not asked, its credentials are those of {refused[model.account]}")
                yield Failed(model.name, failures[-1], 0.0)
                continue
            yield Asked(model.name, model.place)
            attempt = _Attempt(model, self._settings)
            try:
                async with aclosing(attempt.run(request)) as steps:
                    async for step in steps:
                        yield step
            except ModelError as exc:
                failures.append(without_full_stop(str(exc)))
                self._note_failure(model, exc)
                if reason_of(exc) is Reason.CREDENTIALS:
                    refused[model.account] = model.name
                yield Failed(model.name, failures[-1], attempt.seconds, attempt.said)
            else:
                self._note_answer(model, attempt)
                return
        raise GenerationError(f"No model has answered. {'; '.join(failures)}. `%sandbox models` tells more.")

    def _note_failure(self, model: Model, error: ModelError) -> None:
        health = self.health[model.name]
        health.failures += 1
        health.well = False
        health.last_time = time.time()
        health.last_failure = str(error)

    def _note_answer(self, model: Model, attempt: _Attempt) -> None:
        health = self.health[model.name]
        health.answers += 1
        health.well = True
        health.last_time = time.time()
        health.last_first = attempt.first


class _Attempt:
    """One model is asked once, within the configured times and sizes."""

    def __init__(self, model: Model, settings: Generation) -> None:
        self._model = model
        self._settings = settings
        self._began = time.monotonic()
        self.characters = 0
        self.first = 0.0
        self._has_words = False
        self._heard = 0.0
        """When it last said something, in seconds since it was asked."""

    @property
    def said(self) -> int:
        """Characters that were shown and can be seen."""
        return self.characters if self._has_words else 0

    @property
    def seconds(self) -> float:
        """Since it was asked."""
        return time.monotonic() - self._began

    async def run(self, request: ModelRequest) -> AsyncGenerator[Text | Answered, None]:
        """Yield the pieces, and Answered. Raises ModelError."""
        try:
            async with aclosing(self._model.stream(request)) as pieces:
                while True:
                    piece = await self._next(pieces)
                    if isinstance(piece, End):
                        yield self._ended(piece)
                        return
                    text = piece.text[: self._settings.max_answer - self.characters]
                    if text:
                        self._heard = self.seconds
                        self.first = self.first or self._heard
                        self._has_words = self._has_words or not text.isspace()
                    self.characters += len(text)
                    yield Text(text)
                    if self.characters >= self._settings.max_answer:
                        yield self._answered(End(), f"it is longer than {self._settings.max_answer} characters")
                        return
        except ModelError:
            raise
        except Exception as exc:  # a third party's class may raise anything
            raise self._model.error(Reason.UNAVAILABLE, f"{type(exc).__name__}: {exc}") from exc

    async def _next(self, pieces: AsyncGenerator[Text | End, None]) -> Text | End:
        settings = self._settings
        pause = settings.next_token_timeout if self.characters else settings.first_token_timeout
        left = min(self._heard + pause - self.seconds, settings.answer_timeout - self.seconds)
        if left <= 0:
            # It sends something, and no words.
            raise self._late()
        # Not wait_for, which before Python 3.12 may swallow the interrupt of a stream that is quick.
        waiting = asyncio.ensure_future(anext(pieces))
        try:
            await asyncio.wait([waiting], timeout=left)
        finally:
            if not waiting.done():
                waiting.cancel()
                await asyncio.wait([waiting])
        if waiting.cancelled():
            raise self._late()
        try:
            return waiting.result()
        except StopAsyncIteration:
            raise self._model.error(Reason.BROKEN) from None

    def _ended(self, end: End) -> Answered:
        """Raises ModelError where it has said nothing."""
        if self._has_words:
            return self._answered(end, end.cut)
        if end.cut == FILTER:
            raise self._model.error(Reason.FILTERED)
        raise self._model.error(Reason.EMPTY, end.cut)

    def _late(self) -> ModelError:
        return self._model.error(Reason.TIMEOUT, f"waited {self.seconds:.1f} s")

    def _answered(self, end: End, cut: str) -> Answered:
        return Answered(self._model.name, self.seconds, self.first, end.input_tokens, end.output_tokens, cut)
