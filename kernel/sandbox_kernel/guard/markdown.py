"""Cleaning of Markdown: raw HTML, what it makes the browser load, and links that act. The rest stays byte for byte.

markdown-it finds the raw HTML. But front ends read Markdown with other parsers, which do not always agree on what is
code or a formula. So whatever looks like HTML that acts, and is not code for every parser, is made harmless, too: it is
cleaned where it is HTML, and elsewhere gets a zero-width space behind its `<`, which shows nothing.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from html import unescape
from typing import Any, NamedTuple

from . import markup

MAX_PARSED = 32 * 1024
"""Characters that are parsed, since it may take long; HTML in what is longer is shown as its source."""
MAX_TAG = 10_000
MAX_NESTING = 20
BREAK = "\u200b"

_START = re.compile(r"<(?=[A-Za-z/!?])")
_NAME = re.compile(r"</?([A-Za-z][\w:+-]{0,99})?")
_COMMENT = re.compile(r"<!--[^<>]*-->")
_DATA_PICTURE = re.compile(
    r'<img src="data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+"(?: (?:alt|width|height)="[\w %.-]*")*\s?/?>'
)
_BLOCK_START = re.compile(r"^[ \t>*+\d.)-]*<(?=[A-Za-z/!?])", re.MULTILINE)
_IMAGE = re.compile(r"!(?=\[)")
_KEPT_IMAGE = re.compile(
    r"!\[[^\[\]]{0,1000}\]\(\s{0,9}<?(?:data:image/(?:png|jpe?g|gif|webp|svg\+xml|bmp)[;,]|attachment:)", re.IGNORECASE
)
_NO_IMAGE = re.compile(r"!\[[^\[\]]{0,200}\](?!\s*[(\[])")
_DESTINATION = re.compile(r"(\]\(\s*<?|\]:\s*<?)([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*)")
_AUTOLINK = re.compile(r"<([A-Za-z][A-Za-z0-9+.-]*:[^\s<>]*)>")
_MERMAID = re.compile(r"(?<![`~])((?:`{3,}|~{3,})[^\w`~\n]*)mermaid", re.IGNORECASE)
_FENCE = re.compile(r"(?:^|(?<=\n\n))```[\w+-]*\n((?:(?!.*```).*\n)*?)```(?=\n|$)")
_CODE_LINE = re.compile(r"(?:^|(?<=\n))[^`<\\|\n]*(?:`[^`\n\\|]+`[^`<\\|\n]*)+(?=\n|$)")
_CODE_SPAN = re.compile(r"`[^`]+`")
_MATH = re.compile(r"\$|\\\(|\\\[|\\begin")


class Cleaned(NamedTuple):
    """Markdown, and whether something was taken out of it."""

    text: str
    cut: bool


def clean_markdown(source: str) -> Cleaned:
    """Return Markdown that neither acts nor loads."""
    # Browsers' parsers end lines with returns, too.
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    text = _MERMAID.sub(r"\1text", source)
    if "<" in text:
        text = _clean_html(text)
    if "![" in text:
        text = _drop_images(text)
    if "](" in text or "]:" in text:
        text = _DESTINATION.sub(_checked_destination, text)
    return Cleaned(text, text != source)


class _Tags:
    """The places in a text where a tag could begin, each with the tag's source as far as it matters."""

    def __init__(self, text: str, *, may_be_block: bool = True) -> None:
        self._text = text
        self._may_be_block = may_be_block
        self._ends = {">": -1, "=": -1}

    def _next(self, character: str, position: int) -> int:
        """Return where a character comes next; what was found is kept, so that the whole takes linear time."""
        if self._ends[character] < position:
            found = self._text.find(character, position)
            self._ends[character] = len(self._text) if found < 0 else found
        return self._ends[character]

    def source(self, start: int) -> str:
        """Return the tag, up to its ">"; cut where it is longer than any that is cleaned."""
        return self._text[start : min(self._next(">", start) + 1, start + MAX_TAG)]

    def is_inert(self, start: int) -> bool:
        """Whether the tag would do nothing even if a front end took it for HTML."""
        if self._text.startswith(("<!", "<?"), start):
            return _COMMENT.match(self._text, start, start + MAX_TAG) is not None
        name = _NAME.match(self._text, start)
        assert name is not None
        after = self._text[name.end() : name.end() + 1]
        if ":" in name.group():
            link = _AUTOLINK.fullmatch(self.source(start))
            return link is not None and markup.is_safe_link(unescape(link[1]))
        if not self._may_be_block and after and after not in "/> \t\n\r\f":
            # In a line, no parser takes `<b$` for a tag.
            return True
        if _DATA_PICTURE.match(self._text, start):
            return True
        if (name[1] or "").lower() in markup.SPECIAL_TAGS:
            return False
        return self._next("=", start) > self._next(">", start)


def _clean_html(text: str) -> str:
    certain = [] if _MATH.search(text) else _certain_code(text)
    may_be_block = any(not _within(found.end() - 1, certain) for found in _BLOCK_START.finditer(text))
    if may_be_block:
        certain = []
    tags = _Tags(text, may_be_block=may_be_block)
    acting = [found.start() for found in _START.finditer(text) if not tags.is_inert(found.start())]
    if all(_within(start, certain) for start in acting):
        return text
    raw = _raw_html(text) if len(text) <= MAX_PARSED else set()
    tags = _Tags(text)
    parts: list[str] = []
    position = 0
    for start in acting:
        if start < position or _within(start, certain):
            continue
        tag = tags.source(start)
        # What lies between a "<" and its ">" is looked at, too, unless the whole is replaced.
        replaced, end = (_clean_tag(tag), start + len(tag)) if tag in raw else (f"<{BREAK}", start + 1)
        parts += (text[position:start], replaced)
        position = end
    return "".join([*parts, text[position:]])


def _certain_code(text: str) -> list[tuple[int, int]]:
    """Find what is code for every parser: simple fences, and code spans in lines that hold nothing else."""
    fences = [found.span() for found in _FENCE.finditer(text)]
    if text.count("```") != 2 * len(fences) or "~~~" in text:
        return []
    spans = [
        code.span()
        for line in _CODE_LINE.finditer(text)
        if not line.group()[:1].isspace() and not _within(line.start(), fences) and _stands_alone(text, line)
        for code in _CODE_SPAN.finditer(text, *line.span())
    ]
    return sorted(fences + spans)


def _stands_alone(text: str, line: re.Match[str]) -> bool:
    start, end = line.span()
    begins = start == 0 or text.startswith("\n\n", start - 2)
    return begins and (text.startswith("\n\n", end) or len(text) - end <= 1)


def _within(position: int, spans: list[tuple[int, int]]) -> bool:
    """Whether a position is in one of the spans, which are in order."""
    index = bisect_right(spans, (position, sys.maxsize)) - 1
    return index >= 0 and position < spans[index][1]


def _clean_tag(tag: str) -> str:
    """Clean one tag of a pair."""
    if tag.startswith(("</", "<!", "<?")) or not tag.endswith(">"):
        return ""
    return re.sub(r"(?:</[a-z0-9]+>)+$", "", markup.clean(tag))


def _raw_html(text: str) -> set[str]:
    """Return the sources of all tags that are HTML for markdown-it."""
    from markdown_it import MarkdownIt

    parser: Any = MarkdownIt("commonmark", {"html": True, "maxNesting": MAX_NESTING}).enable(["table", "strikethrough"])
    raw: set[str] = set()
    for token in parser.parse(text):
        if token.type == "html_block":
            tags = _Tags(token.content)
            raw.update(tags.source(found.start()) for found in _START.finditer(token.content))
        raw.update(child.content for child in token.children or () if child.type == "html_inline")
    return raw


def _drop_images(text: str) -> str:
    """Make links of the images that a browser would load from elsewhere."""
    has_definitions = "]:" in text

    def replaced(found: re.Match[str]) -> str:
        start = found.start()
        if _KEPT_IMAGE.match(text, start) or (not has_definitions and _NO_IMAGE.match(text, start)):
            return "!"
        return ""

    return _IMAGE.sub(replaced, text)


def _checked_destination(found: re.Match[str]) -> str:
    before, url = found.groups()
    bare = unescape(url).replace("\\", "")
    if markup.is_safe_link(bare) or bare[:11].lower() == "attachment:":
        return found.group()
    if bare[:11].lower() == "data:image/" and _KEPT_IMAGE.match(
        found.string, found.string.rfind("![", 0, found.start())
    ):
        return found.group()
    return f"{before}#"
