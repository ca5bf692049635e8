"""Text of others made harmless where it is put into text of ours: control characters, fences, lengths."""

from __future__ import annotations

import re

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
"""What terminals obey, what turns the direction of writing or hides in it, and halves of characters."""
_TICKS = re.compile(r"`{3,}")


def without_controls(text: str) -> str:
    """Return text of lines, with tabs and line ends as its only control characters."""
    return _CONTROLS.sub("", text)


def one_line(text: object, limit: int) -> str:
    """Return text as one line of at most so many characters; "" for what is no text."""
    if not isinstance(text, str):
        return ""
    line = " ".join(without_controls(text[: 2 * limit]).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def without_full_stop(text: str) -> str:
    """Return text of others for the inside of a sentence of ours."""
    return text.rstrip(" .")


def fenced(text: str, language: str = "") -> str:
    """Return text as a code block of Markdown that it cannot end."""
    longest = max((len(found.group()) for found in _TICKS.finditer(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{without_controls(text)}\n{fence}"


def tokens(text: str) -> int:
    """Return about how many tokens a text has: rather too many, since what counts is a limit."""
    return len(text.encode(errors="replace")) // 3 + 1
