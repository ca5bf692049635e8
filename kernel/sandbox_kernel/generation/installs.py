"""The lines of code that call pip, which has no network in a sandbox: what they ask for, and the code without them."""

from __future__ import annotations

import re
from collections.abc import Iterator

_INSTALL = re.compile(
    r"^(?P<indent>[ \t]*)(?:[$!%][ \t]*)?(?:python3?[ \t]+-m[ \t]+)?pip3?[ \t]+install[ \t]+"
    r"(?P<what>[^\n;&|#]+)[^\n]*\n?",
    re.MULTILINE,
)
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:\[[\w,-]+\])?(?:[=<>!~]=?[\w.*]+)?")
_QUOTED = (
    r'"""(?:\\.|[^\\])*?(?:"""|\Z)|' r"'''(?:\\.|[^\\])*?(?:'''|\Z)" r'|"(?:\\.|[^"\\\n])*"?' r"|'(?:\\.|[^'\\\n])*'?"
)
_WORDS = re.compile(rf"(?P<comment>\#[^\n]*)|(?P<text>{_QUOTED})", re.DOTALL)
"""Comments and texts of Python code. Not Python's own tokenizer: that one gives up at lines for the shell."""
_OTHER = re.compile(r"\s*%%(?!(?:time|timeit|capture|prun)\b)")
"""Begins a cell that is not Python."""
_TEXT = re.compile(r"\s*%%(?!(?:time|timeit|capture|prun|bash|sh|sx|system)\b)")
"""Begins a cell in which nothing is a command."""


def installed_packages(code: str) -> list[str]:
    """Return the packages of the lines that call pip."""
    if _TEXT.match(code):
        return []
    words = (word.strip("\"'") for found in _install_lines(code) for word in found["what"].split())
    return [word for word in words if _PACKAGE.fullmatch(word)][:20]


def without_installs(code: str) -> str:
    """Return the code without lines that call pip; in a block, which may hold nothing else, they become `pass`."""
    if _OTHER.match(code):
        return code
    kept, end = [], 0
    for found in _install_lines(code):
        kept += [code[end : found.start()], f"{found['indent']}pass\n" if found["indent"] else ""]
        end = found.end()
    return "".join([*kept, code[end:]])


def _install_lines(code: str) -> Iterator[re.Match[str]]:
    """Yield the lines that call pip, not those that only stand in a text of Python's."""
    texts = [(found.start(), found.end()) for found in _WORDS.finditer(code) if found["text"]]
    for found in _INSTALL.finditer(code):
        while texts and texts[0][1] <= found.start():
            del texts[0]
        if not (texts and texts[0][0] < found.start()):
            yield found
