"""Shows an answer while it arrives: one display that is replaced, cleaned like everything that comes from elsewhere."""

from __future__ import annotations

import asyncio
import os
import time
from types import TracebackType

from sandbox_kernel.commands import CommandContext
from sandbox_kernel.generation.chain import Answered, Asked, Failed, Step
from sandbox_kernel.generation.models.base import Text
from sandbox_kernel.generation.text import one_line, without_controls
from sandbox_kernel.guard.bundles import BundleGuard

INTERVAL = 0.08
"""Seconds between two pictures of a short answer; a long one is shown less often, since each picture is the whole."""
LONG = 10_000
"""Characters."""
EFFORT = 5
"""How many times as long as a picture takes to be made the next one waits at least."""


class AnswerView:
    """One answer, from the question to its end. Takes the steps of `Chain.ask`."""

    def __init__(self, context: CommandContext) -> None:
        self._context = context
        self._guard = BundleGuard((), ())
        self._id = f"sandbox-answer-{os.urandom(8).hex()}"
        self._notes: list[str] = []
        self._status = ""
        self._text = ""
        self._ends: list[str] = []
        self._displayed = False
        self._last = self._cost = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> AnswerView:  # noqa: PYI034 - Python 3.10 has no Self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is asyncio.CancelledError:
            self._ends.append("Interrupted.")
        if value is not None and self._displayed:
            self._show()
        self._stop_timer()

    @property
    def text(self) -> str:
        """What the model has said, without control characters."""
        return self._text

    def take(self, step: Step) -> None:
        """Show one more step; the first piece of an answer at once."""
        match step:
            case Asked(model, place):
                self._status = f"{model} ({place}) …"
                self._show()
            case Failed(reason=reason, seconds=seconds, dropped=dropped):
                lost = f"; the {dropped} characters that it had said do not count" if dropped else ""
                took = f", after {seconds:.1f} s" if seconds else ""
                self._notes.append(f"{reason}{took}{lost}")
                self._text = self._status = ""
                self._show()
            case Text(text):
                first = not self._text
                self._text += without_controls(text)
                self._show() if first else self._show_soon()
            case Answered() as answered:
                self._status = summary(answered)
                if answered.cut:
                    self._ends.append(f"The answer was cut: {answered.cut}.")
                self._show()

    def add(self, note: str) -> None:
        """Add a line below the answer."""
        self._ends.append(note)
        self._show()

    def _show_soon(self) -> None:
        if self._timer is None:
            pause = max(INTERVAL * (1 + len(self._text) / LONG), EFFORT * self._cost)
            due = max(0.0, self._last + pause - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(due, self._show)

    def _show(self) -> None:
        self._stop_timer()
        began = time.monotonic()
        head = [f"*{escaped(note)}*" for note in (*self._notes, self._status) if note]
        source = "\n\n".join([*head, self._text, *_below(self._text, self._ends)])
        plain = "\n\n".join(part for part in (*self._notes, self._status, self._text, *self._ends) if part)
        cleaned = self._guard.clean({"text/plain": plain, "text/markdown": source}, {})
        self._context.display(cleaned.data, cleaned.metadata, display_id=self._id, update=self._displayed)
        self._displayed = True
        self._last = time.monotonic()
        self._cost = self._last - began

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _below(text: str, notes: list[str]) -> list[str]:
    """Return the notes as they stand below an answer, whose last fence may be open."""
    if not notes:
        return []
    fences = [line.strip()[:3] for line in text.split("\n") if line.strip().startswith(("```", "~~~"))]
    close = [fences[-1]] if len(fences) % 2 else []
    return [*close, "---", *notes]


def summary(answered: Answered) -> str:
    """Return who answered, how long it took, and what it cost."""
    parts = [answered.model, f"{answered.seconds:.1f} s", f"first words after {answered.first:.2f} s"]
    if answered.input_tokens is not None and answered.output_tokens is not None:
        parts.append(f"{answered.input_tokens} + {answered.output_tokens} tokens")
    return " · ".join(parts)


def escaped(text: str) -> str:
    """Return text for a line of Markdown, in which it means nothing."""
    line = one_line(text, 1000)
    return "".join(f"\\{one}" if one in "\\`*_{}[]<>()#!|$~&" else one for one in line)
