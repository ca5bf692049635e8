"""What a model's answer comes to: the code in it, and why that cannot be used."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .text import without_controls

PYTHON = frozenset({"", "python", "py", "python3", "ipython", "ipython3", "jupyter"})
SHELL = frozenset({"bash", "sh", "shell", "console", "zsh"})
MAX_BLOCKS = 50
_INSTALL = re.compile(r"^\s*[$!%]?\s*(?:python3?\s+-m\s+)?pip3?\s+install\s+([^\n;&|]+)", re.MULTILINE)
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:\[[\w,-]+\])?(?:[=<>!~]=?[\w.*]+)?")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    code: str
    closed: bool
    """Whether its fence was closed; one that is not has been cut."""


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    text: str
    code: str = ""
    """The Python blocks in their order; "" if there are none."""
    complete: bool = True
    """Whether each of them was closed."""
    packages: tuple[str, ...] = ()
    """What it says is to be installed by pip."""


def read_answer(text: str) -> Answer:
    """Return what is in an answer."""
    blocks = code_blocks(text)
    python = [block for block in blocks if block.language in PYTHON and block.code.strip()]
    code = "\n\n".join(_without_installs(block.code).strip("\n") for block in python).strip("\n")
    wanted = (name for block in blocks if block.language in PYTHON | SHELL for name in _installs(block.code))
    return Answer(
        text, f"{code}\n" if code else "", all(block.closed for block in python), tuple(dict.fromkeys(wanted))
    )


def code_blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a Markdown text, as CommonMark has them."""
    from markdown_it import MarkdownIt

    text = without_controls(text)
    lines = text.split("\n")
    # Blocks only: what stands in a line does not matter here, and takes long where it is nested by an enemy.
    parser = MarkdownIt("commonmark", {"maxNesting": 10}).disable(["html_block", "reference", "inline", "text_join"])
    tokens = parser.parse(text)
    fences = [token for token in tokens if token.type == "fence"][:MAX_BLOCKS]
    return [
        Block(
            (token.info.split() or [""])[0].strip("{.}").lower(),
            token.content,
            token.map is not None and _ends_with_fence(lines, token.map[1] - 1, token.markup, token.map[0]),
        )
        for token in fences
    ]


def _ends_with_fence(lines: list[str], last: int, markup: str, first: int) -> bool:
    if not first < last < len(lines):
        return False
    line = lines[last].strip(" >\t")
    return len(line) >= len(markup) and set(line) == {markup[0]}


def _installs(code: str) -> list[str]:
    """Return the packages of the lines that call pip."""
    words = (word for found in _INSTALL.finditer(code) for word in found[1].split())
    return [word for word in words if _PACKAGE.fullmatch(word)][:20]


def _without_installs(code: str) -> str:
    """Return the code without lines that call pip, which has no network in a sandbox."""
    return "\n".join(line for line in code.split("\n") if not _INSTALL.match(line))
