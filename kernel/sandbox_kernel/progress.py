"""A progress bar in a notebook: one display that is replaced as the work goes on, as HTML and as text."""

from __future__ import annotations

import html
import os
import time
from collections.abc import Callable
from types import TracebackType

from sandbox_kernel.commands import CommandContext

INTERVAL = 0.1
"""Seconds between two pictures; front ends draw no faster than a person looks."""
PATIENCE = 0.5
"""Seconds after which a copy that is still under way is shown at all."""
WIDTH = 24
"""Characters of the bar as text."""
UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")


def size_text(size: float) -> str:
    """Return a size in bytes as people say it: "1.2 MB", in units of 1000."""
    unit = 0
    while size >= 999.5 and unit < len(UNITS) - 1:
        size /= 1000
        unit += 1
    return f"{size:.0f} {UNITS[unit]}" if unit == 0 or size >= 99.5 else f"{size:.2g} {UNITS[unit]}"


def count_text(count: int, noun: str = "file") -> str:
    """Return "1 file" or "1,234 files"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class Progress:
    """Shows how many of ``total`` bytes are done, from the beginning of a block to its end."""

    def __init__(self, context: CommandContext, label: str, total: int) -> None:
        self._context, self._label, self._total = context, label, total
        self._id = f"sandbox-progress-{os.urandom(8).hex()}"
        self._done = 0
        self._item = ""
        self._began = self._shown = 0.0

    def __enter__(self) -> Progress:  # noqa: PYI034 - Python 3.10 has no Self
        self._began = time.monotonic()
        self._show(update=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._item = "" if value is None else "ended before it was done"
        self._show(update=True)

    def begin(self, item: str) -> None:
        """Say what is being done now."""
        self._item = item

    def advance(self, size: int) -> None:
        """So many more bytes are done."""
        self._done += size
        if time.monotonic() - self._shown >= INTERVAL:
            self._show(update=True)

    def _show(self, *, update: bool) -> None:
        self._shown = time.monotonic()
        share = min(1.0, self._done / self._total) if self._total else 1.0
        seconds = self._shown - self._began
        rate = f", {size_text(self._done / seconds)}/s" if seconds > INTERVAL else ""
        # In front of the bar, so that what changes its length stands at the end.
        facts = f"{share:4.0%}, {size_text(self._done)} of {size_text(self._total)}{rate} {self._item}".rstrip()
        full = round(share * WIDTH)
        bar = "█" * full + "░" * (WIDTH - full)
        label, told = html.escape(self._label), html.escape(facts)
        data = {
            "text/plain": f"{self._label} {bar} {facts}",
            "text/html": f'<div>{label} <progress value="{share:.4f}" max="1"></progress> <code>{told}</code></div>',
        }
        self._context.display(data, display_id=self._id, update=update)


class CopyProgress:
    """Shows how far the copies of the notebook's folder have come, where a cell waits for them."""

    def __init__(self, waiting: Callable[[], CommandContext | None]) -> None:
        """``waiting`` returns where it can be shown; None while nobody waits."""
        self._waiting = waiting

    def step(self, label: str, size: int) -> Callable[[str, int], None]:
        """Begin to move so many bytes; return what is called with the name and the size of each piece."""
        began = time.monotonic()
        done = 0
        shown: Progress | None = None

        def moved(path: str, piece: int) -> None:
            nonlocal done, shown
            done += piece
            if shown is None and time.monotonic() - began > PATIENCE and (context := self._waiting()) is not None:
                shown = Progress(context, label, size)
                shown.__enter__()
                shown.advance(done - piece)
            if shown is None:
                return
            shown.begin(path if path.isprintable() else ascii(path))
            shown.advance(piece)
            if done >= size:
                shown.__exit__(None, None, None)

        return moved


class Wait:
    """Shows what the start of a sandbox waits for: one display in each cell that waits, replaced as it changes."""

    def __init__(self) -> None:
        self._id = ""
        self._cell: object = None

    def show(self, context: CommandContext, cell: object, text: str) -> None:
        """Show a text in a cell; "" when the wait is over, which is told where it was shown."""
        update = cell is self._cell
        if not update:
            if not text:
                return
            self._id, self._cell = f"sandbox-wait-{os.urandom(8).hex()}", cell
        said = text or "The wait is over."
        data = {"text/plain": said, "text/html": f"<div>{html.escape(said)}</div>"}
        context.display(data, display_id=self._id, update=update)
