"""A bar that shows how many of many are done: one display that is replaced as the work goes on, as HTML and as text."""

from __future__ import annotations

import html
import os
from types import TracebackType

from sandbox_kernel.commands import CommandContext
from sandbox_kernel.progress import WIDTH


class Counting:
    """Shows a number, from the beginning of a block to its end."""

    def __init__(self, context: CommandContext, label: str, total: int | None) -> None:
        """``total`` is None where nobody knows it."""
        self._context, self._label, self._total = context, label, total
        self._id = f"sandbox-progress-{os.urandom(8).hex()}"
        self._done, self._note = 0, ""

    def __enter__(self) -> Counting:  # noqa: PYI034 - Python 3.10 has no Self
        self._show(update=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._show(update=True)

    def advance(self) -> None:
        """One more is done."""
        self.set(self._done + 1)

    def set(self, done: int, note: str = "") -> None:
        """So many are done; ``note`` says more of them. Each is shown at once, so it is not told too often."""
        self._done, self._note = done, note
        self._show(update=True)

    def _show(self, *, update: bool) -> None:
        total = "" if self._total is None else f" of {self._total:,}"
        facts = f"{self._done:,}{total} done{', ' if self._note else ''}{self._note}"
        share = self._done / self._total if self._total else 0.0
        full = round(share * WIDTH)
        bar = f" {'█' * full}{'░' * (WIDTH - full)}" if self._total else ""
        element = f'<progress value="{share:.4f}" max="1"></progress>' if self._total else ""
        data = {
            "text/plain": f"{self._label}{bar} {facts}",
            "text/html": f"<div>{html.escape(self._label)} {element} <code>{html.escape(facts)}</code></div>",
        }
        self._context.display(data, display_id=self._id, update=update)
