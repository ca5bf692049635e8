"""Cleaning of HTML. What is passed on is what nh3 wrote, or HTML of tags so plain that nothing in it can act.

Whether HTML is cleaned or goes into a frame is decided by looking at its tags. That may be wrong in either direction
without harm: what is cleaned is cleaned whatever was found, and a frame holds whatever is in it.
"""

from __future__ import annotations

import re
from enum import Enum
from itertools import accumulate
from typing import NamedTuple

import nh3

MAX_CLEANED = 512 * 1024
"""Characters of HTML that are cleaned; what is longer goes into a frame unless it is all plain tags."""
MAX_DEPTH = 300
"""Elements in each other; an HTML parser's time grows with their square."""
MAX_PLAIN_TAG = 300

TAGS = frozenset(
    """
    a abbr address article aside audio b bdi bdo big blockquote br caption center cite code col colgroup data dd del
    details dfn div dl dt em figcaption figure font footer h1 h2 h3 h4 h5 h6 header hgroup hr i img ins kbd li main
    mark meter nav ol p pre progress q rp rt ruby s samp section small source span strike strong sub summary sup table
    tbody td tfoot th thead time tr tt u ul var video wbr
    """.split()
)
COMMON = frozenset(
    """
    abbr align alt aria-label bgcolor border cellpadding cellspacing class color colspan datetime dir face headers
    height hidden id lang max min nowrap open reversed role rowspan scope size span start style summary title valign
    value width
    """.split()
)
ATTRIBUTES = {
    "*": set(COMMON),
    "a": {"href", "target", "download"},
    "img": {"src"},
    "audio": {"src", "controls", "loop", "muted", "autoplay", "preload"},
    "video": {"src", "controls", "loop", "muted", "autoplay", "preload"},
    "source": {"src", "type"},
    "ol": {"type"},
    "ul": {"type"},
    "li": {"type"},
}
STYLES = frozenset(
    """
    border border-bottom border-bottom-color border-bottom-style border-bottom-width border-collapse border-color
    border-left border-left-color border-left-style border-left-width border-radius border-right border-right-color
    border-right-style border-right-width border-spacing border-style border-top border-top-color border-top-style
    border-top-width border-width box-sizing caption-side clear color background-color column-gap display
    empty-cells flex flex-basis flex-direction flex-flow flex-grow flex-shrink flex-wrap align-content align-items
    align-self justify-content justify-items justify-self gap row-gap grid-template-columns grid-template-rows order
    float font-family font-size font-style font-variant font-weight height letter-spacing line-height
    list-style-type margin margin-bottom margin-left margin-right margin-top max-height max-width min-height min-width
    opacity overflow overflow-wrap overflow-x overflow-y padding padding-bottom padding-left padding-right padding-top
    table-layout text-align text-decoration text-indent text-overflow text-transform vertical-align visibility
    white-space width word-break word-spacing word-wrap
    """.split()
)
SCHEMES = frozenset({"http", "https", "mailto", "ftp", "tel"})
"""Of links, which a person has to click. Nothing is loaded but `data:`."""

_OTHER_TAGS = re.compile(r"<(?!/?t[dhr]>)[^>]*>?")
_PLAIN_STYLE = (
    r"(?:text-align|vertical-align|color|background-color|font-weight|font-size|width|height|white-space|padding|"
    r"min-width|max-width)\s*:\s*[\w#%. -]+"
)
_PLAIN_TAG = re.compile(
    r"</?(?:table|thead|tbody|tfoot|tr|th|td|caption|div|p|span|b|i|u|em|strong|code|pre|ul|ol|li|h[1-6]|br|hr|sub|sup|"
    r"small|dl|dt|dd|blockquote|kbd|samp|s|del|ins|mark)"
    r'(?: (?:border|colspan|rowspan|width|height)="\d+%?"| (?:align|valign|halign)="[a-z]+"'
    r'| class="(?:dataframe|table|row_heading|col_heading|data|blank| )+"'
    rf'| style="{_PLAIN_STYLE}(?:;\s*{_PLAIN_STYLE})*;?")*\s*/?>'
)
_PANDAS_STYLE = re.compile(
    r"<style scoped>\s*(?:\.dataframe(?: (?:tbody|thead|tr|th|td|th:only-of-type))+ "
    r"\{\s*(?:(?:vertical|text)-align: \w+;\s*)+\}\s*)+</style>"
)
"""The style block with which each data frame's table comes: it can say nothing but how text is aligned."""
_TAG_PARTS = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)([^>]*)>?")
_ATTRIBUTE = re.compile(r"""([^\s"'<>/=]+)(?:\s*=\s*("[^"]*"|'[^']*'|[^\s"'=<>`]+))?""")
_DATA_URL = re.compile(r"data:(?:image|audio|video)/[\w.+-]+[;,]", re.IGNORECASE)
_NESTING = re.compile(r"<(/?)(?!(?:br|img|hr|p|li|td|tr|th|wbr|source|col|dd|dt)[\s/>])[a-zA-Z]")
_SCHEME = re.compile(r"[^/?#:]*:")
_PAGE_NAMES = re.compile(r"(?:jp|lm|p|jupyter|cm|mjx|jl)-|jupyter|main$|ipy|widget-", re.IGNORECASE)
_LOADS = re.compile(r"url|image|src|expression|\\|@", re.IGNORECASE)


class Verdict(Enum):
    """What became of HTML."""

    SAME = "same"
    CLEANED = "cleaned"
    """Written anew, at most in another spelling."""
    CUT = "cut"
    """Something was taken out that a frame would not bring back."""
    FRAMED = "framed"
    """It needs scripts or styles: a frame."""


class Cleaned(NamedTuple):
    """HTML and what became of it. Of a framed one it is the source as it came."""

    html: str
    verdict: Verdict


def judge(source: str) -> Cleaned:
    """Return HTML that is safe in a page, or say that it needs a frame."""
    bare = _PANDAS_STYLE.sub("", source, count=1)
    others = set(_OTHER_TAGS.findall(bare))
    if all(len(tag) < MAX_PLAIN_TAG and _PLAIN_TAG.fullmatch(tag) for tag in others):
        return Cleaned(source, Verdict.SAME)
    if len(source) > MAX_CLEANED or _is_deep(bare):
        return Cleaned(source, Verdict.FRAMED)
    needs = {_need(tag) for tag in others}
    if Verdict.FRAMED in needs:
        return Cleaned(source, Verdict.FRAMED)
    html = clean(bare)
    if html == source:
        return Cleaned(source, Verdict.SAME)
    return Cleaned(html, Verdict.CUT if Verdict.CUT in needs else Verdict.CLEANED)


def clean(source: str) -> str:
    """Return HTML without anything that acts or loads; of what is too long or too deep to be cleaned, its source."""
    if len(source) > MAX_CLEANED or _is_deep(source):
        return nh3.clean_text(_NESTING.sub("", source[:MAX_CLEANED]).encode("utf-8", "replace").decode())
    return nh3.clean(
        # Half of a surrogate pair is no text for nh3, nor for a browser.
        source.encode("utf-8", "replace").decode(),
        tags=set(TAGS),
        attributes=ATTRIBUTES,
        attribute_filter=_filter_attribute,
        filter_style_properties=set(STYLES),
        url_schemes={*SCHEMES, "data"},
        link_rel=None,
    )


def _is_deep(source: str) -> bool:
    """Whether elements may be nested deeper than anything that a person would read."""
    steps = (-1 if closing else 1 for closing in _NESTING.findall(source))
    return max(accumulate(steps, lambda depth, step: max(0, depth + step)), default=0) > MAX_DEPTH


def plain_text(source: str) -> str:
    """Return the text that HTML shows, without its tags."""
    from html import unescape

    if len(source) > MAX_CLEANED or _is_deep(source):
        return ""
    text = nh3.clean(source.encode("utf-8", "replace").decode(), tags=set(), link_rel=None)
    return unescape("\n".join(line.strip() for line in text.splitlines() if line.strip()))


def is_safe_link(url: str) -> bool:
    """Whether a link may be offered: a known scheme, or none."""
    bare = re.sub(r"[\x00-\x20\x7f-\xa0\u200b-\u200f\ufeff]", "", url)
    found = _SCHEME.match(bare)
    return found is None or found.group()[:-1].lower() in SCHEMES


def _filter_attribute(_tag: str, name: str, value: str) -> str | None:
    if name == "src":
        return value if _DATA_URL.match(value) else None
    if name == "href":
        return value if is_safe_link(value) else None
    if name == "class":
        return " ".join(word for word in value.split() if not _PAGE_NAMES.match(word)) or None
    if name == "id":
        return None if _PAGE_NAMES.match(value) else value
    if name == "style" and _LOADS.search(value):
        return None
    # Any other frame that a link names may be the page itself.
    return "_blank" if name == "target" else value


def _need(tag: str) -> Verdict:
    """Judge one tag's source."""
    parts = None if tag.startswith("<!") else _TAG_PARTS.fullmatch(tag)
    if parts is None:
        return Verdict.CLEANED
    closing, name, attributes = parts[1], parts[2].lower(), parts[3]
    if name not in TAGS:
        # A tag that HTML does not know, as in List<int>, only loses its brackets.
        return Verdict.FRAMED if name in SPECIAL_TAGS else Verdict.CUT
    if closing:
        return Verdict.SAME
    return _need_of_attributes(name, attributes)


def _need_of_attributes(name: str, attributes: str) -> Verdict:
    allowed = COMMON | ATTRIBUTES.get(name, set())
    verdict = Verdict.SAME
    for spelled, quoted in _ATTRIBUTE.findall(attributes):
        key, value = spelled.lower(), quoted.strip("\"'")
        if key not in allowed and not key.startswith("data-"):
            return Verdict.FRAMED
        if key == "style" and not _keeps_style(value):
            return Verdict.FRAMED
        if key in ("src", "href") and _filter_attribute(name, key, value) is None:
            verdict = Verdict.CUT
    return verdict


def _keeps_style(value: str) -> bool:
    names = {declaration.partition(":")[0].strip().lower() for declaration in value.split(";")}
    return names - {""} <= STYLES and not _LOADS.search(value)


SPECIAL_TAGS = frozenset(
    """
    animate applet area base basefont bgsound body button canvas command content datalist dialog element embed
    fieldset foreignobject form frame frameset g head html iframe image input isindex keygen label legend link listing
    map marquee math menu menuitem meta multicol nextid noembed noframes noscript object optgroup option output param
    path picture plaintext portal rect script select set shadow slot spacer style svg template text textarea title
    track use xmp
    """.split()
)
"""Elements that do something a frame can give them."""
