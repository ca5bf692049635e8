"""The lines of code that call pip, which has no network in a sandbox: what they ask for, and the code without them."""

from __future__ import annotations

import re
from collections.abc import Iterator

_INSTALL = re.compile(
    r"^(?P<indent>[ \t]*)(?:[$!%][ \t]*)?(?:python3?[ \t]+-m[ \t]+)?pip3?[ \t]+install[ \t]+"
    r"(?P<what>(?:[^\n;&|#\\]|\\\n?)+)[^\n]*\n?",
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


_SHELL = re.compile(r"\s*(?:[ \t]*(?:#[^\n]*)?\n)*%%(?:bash|sh|sx|system|!)")
"""Begins a cell for the shell."""
_OPTIONS = frozenset(
    "-r --requirement -c --constraint -e --editable -i --index-url --extra-index-url -f --find-links -t".split()
)
"""Those with a value."""


def installed_packages(code: str) -> list[str]:
    """Return the packages of the lines that call pip."""
    return [word for words in _wanted(code) for word in words if _PACKAGE.fullmatch(word)][:20]


def other_installs(code: str) -> list[str]:
    """Return what lines that call pip ask for besides: addresses, files, what is no name; options do not count."""
    found = (word for words in _wanted(code) for word in words if not _PACKAGE.fullmatch(word))
    return [word for word in found if " " in word or not word.startswith("-")][:20]


def _wanted(code: str) -> Iterator[list[str]]:
    """Yield the words behind `pip install`, of each line."""
    if _TEXT.match(code):
        return
    for found in _install_lines(code):
        words = found["what"].replace("\\\n", " ").split()
        # What belongs to an option is no package, but may be what the line is about.
        pairs = zip(["", *words], words, strict=False)
        kept = [f"{before} {word}" if before in _OPTIONS else word for before, word in pairs]
        yield [word.strip("\"'") or word for word in kept if word not in _OPTIONS]


def without_installs(code: str) -> str:
    """Return the code without lines that call pip; in a block, which may hold nothing else, they become `pass`.

    In a cell for the shell only the call itself becomes `:`, which does nothing: what follows on its line stays.
    """
    shell = _SHELL.match(code) is not None
    if _OTHER.match(code) and not shell:
        return code
    kept, end = [], 0
    for found in _install_lines(code):
        indent = found["indent"]
        nothing = f"{indent}pass\n" if indent else ""
        kept += [code[end : found.start()], f"{indent}: " if shell else nothing]
        end = found.end("what") if shell else found.end()
    return "".join([*kept, code[end:]])


def _install_lines(code: str) -> Iterator[re.Match[str]]:
    """Yield the lines that call pip, not those that only stand in a text of Python's."""
    return outside_texts(_INSTALL, code)


def outside_texts(pattern: re.Pattern[str], code: str) -> Iterator[re.Match[str]]:
    """Yield what a pattern finds and does not begin in a text of Python's."""
    texts = [(found.start(), found.end()) for found in _WORDS.finditer(code) if found["text"]][::-1]
    for found in pattern.finditer(code):
        while texts and texts[-1][1] <= found.start():
            texts.pop()
        if not (texts and texts[-1][0] < found.start()):
            yield found


def is_text(code: str) -> bool:
    """Whether a cell's magic makes a text of all below it, in which nothing is a command."""
    return _TEXT.match(code) is not None
