"""Cleaning of Markdown: raw HTML, what it makes the browser load, and links that act. The rest stays byte for byte.

markdown-it finds the raw HTML. But front ends read Markdown with other parsers, which do not always agree on what is
code or a formula. So whatever looks like HTML that acts, and is not code for every parser, is made harmless, too: it is
cleaned where it is HTML, and elsewhere gets a zero-width space behind its `<`, which shows nothing.
"""

from __future__ import annotations

import re
from html import unescape
from typing import Any, NamedTuple

from . import markup

MAX_MARKDOWN = 512 * 1024
"""Characters; what is longer is shown as text, since parsing may take long."""
MAX_NESTING = 20
BREAK = "\u200b"

_DANGEROUS = markup._KNOWN | {"details"}  # noqa: SLF001 - one table for both
_CANDIDATE = re.compile(r"<(?=[A-Za-z/!?])[^>]*>?")
_NAME_AND_REST = re.compile(r"</?([A-Za-z][\w:+-]*|)(.*)", re.DOTALL)
_COMMENT = re.compile(r"<!--[^<>]*-->")
_BLOCK_START = re.compile(r"^[ \t>*+\d.)-]*<[A-Za-z/!?]", re.MULTILINE)
_IMAGE = re.compile(r"!(?=\[)")
_KEPT_IMAGE = re.compile(
    r"!\[[^\[\]]*\]\(\s*<?(?:data:image/(?:png|jpe?g|gif|webp|svg\+xml|bmp)[;,]|attachment:)", re.IGNORECASE
)
_REMOTE_SYNTAX = re.compile(r"!\[[^\[\]]*(?:\[[^\]]*\][^\[\]]*)*\]\s*[(\[]")
_DEFINITION = re.compile(r"^[ \t>*+-]*\[[^\]]+\]:", re.MULTILINE)
_DESTINATION = re.compile(r"(\]\(\s*<?|\]:\s*<?)([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*)")
_AUTOLINK = re.compile(r"<([A-Za-z][A-Za-z0-9+.-]*:[^\s<>]*)>")
_MERMAID = re.compile(r"^([ \t>*+\d.)-]*(?:`{3,}|~{3,})[ \t]*\{?[ \t.]*)(mermaid)", re.IGNORECASE | re.MULTILINE)
_FENCE = re.compile(r"(?:^|(?<=\n\n))```[\w+-]*\n((?:(?!.*```).*\n)*?)```(?=\n|$)")
_CODE_LINE = re.compile(r"(?:^|(?<=\n))[^`<\\|\n]*(?:`[^`\n\\|]+`[^`<\\|\n]*)+(?=\n|$)")
_MATH = re.compile(r"\$|\\\(|\\\[|\\begin")


class Cleaned(NamedTuple):
    """Markdown, and whether something was taken out of it."""

    text: str
    cut: bool


def clean_markdown(source: str) -> Cleaned:
    """Return Markdown that neither acts nor loads. Raises ValueError where it is too long to tell."""
    if len(source) > MAX_MARKDOWN:
        raise ValueError("too long to be checked")
    text = _MERMAID.sub(r"\1text", source)
    if "<" in text:
        text = _clean_html(text)
    if "![" in text:
        text = _drop_images(text)
    if "](" in text or "]:" in text or "&" in text:
        text = _DESTINATION.sub(_checked_destination, text)
    return Cleaned(text, text != source)


def _clean_html(text: str) -> str:
    raw = _raw_html(text)
    may_be_block = _BLOCK_START.search(text) is not None
    certain = [] if may_be_block or _MATH.search(text) else [found.span() for found in _certain_code(text)]
    parts: list[str] = []
    position = 0
    for found in iter(lambda: _CANDIDATE.search(text, position), None):
        parts.append(text[position : found.start()])
        whole = found.group()
        position = found.end()
        if _within(found.start(), certain) or _is_inert(whole, may_be_block=may_be_block):
            # What lies between it and its ">" is looked at, too.
            parts.append("<")
            position = found.start() + 1
        elif whole in raw:
            parts.append(_clean_tag(whole))
        else:
            parts.append(f"<{BREAK}")
            position = found.start() + 1
    return "".join([*parts, text[position:]])


def _certain_code(text: str) -> list[re.Match[str]]:
    """Find what is code for every parser: simple fences, and code spans in lines that hold nothing else."""
    fences = list(_FENCE.finditer(text))
    if text.count("```") != 2 * len(fences) or "~~~" in text:
        return []
    inside = [found.span() for found in fences]
    spans = [
        found
        for found in _CODE_LINE.finditer(text)
        if found.group().lstrip() == found.group() and not _within(found.start(), inside)
    ]
    return fences + [
        code
        for line in spans
        if _stands_alone(text, line)
        for code in re.compile(r"`[^`]+`").finditer(text, *line.span())
    ]


def _stands_alone(text: str, line: re.Match[str]) -> bool:
    before, after = text[: line.start()], text[line.end() :]
    return (not before or before.endswith("\n\n")) and (not after or after.startswith("\n\n") or after == "\n")


def _within(position: int, spans: list[tuple[int, int]]) -> bool:
    return any(start <= position < end for start, end in spans)


def _is_inert(tag: str, *, may_be_block: bool) -> bool:
    """Whether a tag would do nothing even if a front end took it for HTML."""
    if tag.startswith(("<!", "<?")):
        return _COMMENT.fullmatch(tag) is not None
    name, rest = _NAME_AND_REST.fullmatch(tag).groups()  # type: ignore[union-attr] - a candidate has a name
    if ":" in name:
        return _AUTOLINK.fullmatch(tag) is not None and markup.is_safe_link(unescape(name + rest[:-1]))
    if not may_be_block and rest and rest[0] not in "/> \t\n\r\f":
        # In a line, no parser takes `<b$` for a tag.
        return True
    if name.lower() in _DANGEROUS:
        return False
    return "=" not in rest


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
            raw.update(found.group() for found in _CANDIDATE.finditer(token.content))
        raw.update(child.content for child in token.children or () if child.type == "html_inline")
    return raw


def _drop_images(text: str) -> str:
    """Make links of the images that a browser would load from elsewhere."""
    defined = _DEFINITION.search(text) is not None

    def replaced(found: re.Match[str]) -> str:
        start = found.start()
        if _KEPT_IMAGE.match(text, start):
            return "!"
        if defined or _REMOTE_SYNTAX.match(text, start) or text.find("](", start) > 0:
            return ""
        return "!"

    return _IMAGE.sub(replaced, text)


def _checked_destination(found: re.Match[str]) -> str:
    before, url = found.groups()
    bare = unescape(url).replace("\\", "")
    if markup.is_safe_link(bare) or bare[:11].lower() == "attachment:":
        return found.group()
    if bare[:11].lower() == "data:image/" and found.string[: found.start()].rfind("![") >= 0:
        return found.group()
    return f"{before}#"
