"""What a model's answer comes to: the code in it, and why that cannot be used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sandbox_kernel.guard.replies import without_commands

from .installs import installed_packages, is_text, other_installs, outside_texts, without_installs
from .text import without_controls

SHELL = frozenset({"bash", "sh", "shell", "console", "zsh"})
MAX_BLOCKS = 50
_PYTHON = re.compile(r"(?:i?python|py|jupyter)[\d.]*(?![\w-])")
"""At the beginning of a fence's label: `python`, `Python3.11`, `py`, `ipython3`, `python title="x.py"`."""
_CODE_CELL = re.compile(r"\{code(?:-cell)?\}\s*")
_DRAFT = re.compile(r"\s*<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)", re.IGNORECASE | re.DOTALL)
_DRAFT_END = re.compile(r"^[ \t]*</(?:think|thinking|thought|reasoning)>[ \t]*$", re.IGNORECASE | re.MULTILINE)
_PRINTED = re.compile(r"\b(?:outputs?|prints?|printed|results?|displays?|shows?)\b", re.IGNORECASE)
"""In the line above a fence: below it stands what the code prints."""
_WORKS = re.compile(
    r"^[ \t]*(?:import|from|def|class|for|while|if|with|try|async|@|%|!)|[\w\])]\s*\(|[^=!<>]=[^=]", re.MULTILINE
)
"""What is in code and seldom in what it prints: statements, calls, assignments."""
_SANDBOX_LINE = re.compile(r"^(?P<indent>[^\S\n]*)(?P<line>(?:[\w., \t]{1,200}=[ \t]*)?%%?sandbox\b)", re.MULTILINE)
_FIRST_MAGIC = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\n)*(%%(?!sandbox\b)[^\n]*)")
_TAKES_COMMENTS = frozenset(
    "! bash capture cython debug perl prun pypy python python2 python3 R ruby script sh sx system time timeit".split()
)
"""Cell magics below whose line a comment of Python's is one."""


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    """"python" for all its spellings; "" where the fence has no label."""
    code: str
    closed: bool
    """Whether its fence was closed; one that is not has been cut."""
    above: str = ""
    """The line of text before it."""


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    text: str
    """Without what a model thought before it."""
    code: str = ""
    """The Python blocks in their order; "" if there are none."""
    complete: bool = True
    """Whether each of them was closed."""
    packages: tuple[str, ...] = ()
    """What it says is to be installed by pip."""
    not_proposed: tuple[str, ...] = ()
    """What it says is to be installed besides, and is no package's name."""
    left_out: int = 0
    """Blocks that cannot stand in one cell with the others, because a cell magic begins them."""


def read_answer(text: str) -> Answer:
    """Return what is in an answer."""
    text = without_drafts(text)
    blocks = code_blocks(text)
    cells = _code_of(blocks)
    whole = [block for block in cells if not _begins_with_magic(block)] or cells[:1]
    if cells and _begins_with_magic(cells[0]):
        # Everything below such a line belongs to it.
        whole = cells[:1]
    codes = (_magic_first(without_installs(block.code)).strip("\n") for block in whole)
    code = "\n\n".join(part for part in codes if part)
    asked = [block.code for block in blocks if block.language in SHELL or block in cells]
    packages = dict.fromkeys(name for one in asked for name in installed_packages(one))
    others = dict.fromkeys(name for one in asked for name in other_installs(one))
    complete = all(block.closed for block in whole)
    return Answer(text, f"{code}\n" if code else "", complete, tuple(packages), tuple(others), len(cells) - len(whole))


def without_drafts(text: str) -> str:
    """Return an answer without what its model thought before it; one that only thinks has said nothing."""
    while found := _DRAFT.match(text):
        text = text[found.end() :]
    # Some servers take the beginning of the draft for part of their prompt.
    end = _DRAFT_END.search(text)
    return text[end.end() :] if end else text


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
            _language(token.info),
            token.content,
            token.map is not None and _ends_with_fence(lines, token.map[1] - 1, token.markup, token.map[0]),
            _line_above(lines, token.map[0]) if token.map else "",
        )
        for token in fences
    ]


def signed(code: str, model: str) -> str:
    """Return the text of a cell, with who wrote it where a comment may stand: a cell magic has to be its first line."""
    if not code.startswith("%%"):
        return f"# Written by {model}.\n{code}"
    magic, _, body = code.partition("\n")
    name = (magic[2:].split() or [""])[0]
    return f"{magic}\n# Written by {model}.\n{body}" if name in _TAKES_COMMENTS else code


def without_sandbox_lines(code: str) -> str:
    """Return code with its `%sandbox` lines as comments, but for those in texts; in blocks behind a `pass`."""
    code = without_commands(code)
    if is_text(code):
        return code
    kept, end = [], 0
    for found in outside_texts(_SANDBOX_LINE, code):
        kept += [code[end : found.start()], found["indent"], "pass  # " if found["indent"] else "# "]
        end = found.start("line")
    return "".join([*kept, code[end:]])


def _language(label: str) -> str:
    """Return what a fence says it holds, by one name for Python."""
    said = _CODE_CELL.sub("", label.strip().lower()).lstrip("{. ")
    return "python" if _PYTHON.match(said) else (said.split() or [""])[0].strip("{.}")


def _line_above(lines: Sequence[str], first: int) -> str:
    return next((line for line in reversed(lines[max(0, first - 3) : first]) if line.strip()), "")


def _ends_with_fence(lines: list[str], last: int, markup: str, first: int) -> bool:
    if not first < last < len(lines):
        return False
    line = lines[last].strip(" >\t")
    return len(line) >= len(markup) and set(line) == {markup[0]}


def _code_of(blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks that are the cell: those with Python's label; where none has it, those that look like code."""
    full = [block for block in blocks if block.code.strip()]
    labelled = [block for block in full if block.language == "python" or _is_shell_cell(block)]
    bare = [block for block in full if not block.language]
    if labelled or len(bare) < 2:
        # The only block is the answer; whether it is code, the sandbox says.
        return labelled or bare
    return [block for block in bare if not _looks_printed(block)] or bare[:1]


def _looks_printed(block: Block) -> bool:
    return _PRINTED.search(block.above) is not None or _WORKS.search(block.code) is None


def _is_shell_cell(block: Block) -> bool:
    return block.language in SHELL and _begins_with_magic(block)


def _begins_with_magic(block: Block) -> bool:
    return _FIRST_MAGIC.match(block.code) is not None


def _magic_first(code: str) -> str:
    """Return code with its cell magic as the first line; models write comments before it."""
    found = _FIRST_MAGIC.match(code)
    if found is None or found.start(1) == 0:
        return code
    before, rest = code[: found.start(1)], code[found.end() :].removeprefix("\n")
    return f"{found[1]}\n{before}{rest}"
