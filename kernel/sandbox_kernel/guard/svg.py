"""Cleaning of SVG: read as XML, written anew from elements and attributes that draw and do nothing else."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser
from xml.sax.saxutils import escape, quoteattr

from .json_text import RefusedError

MAX_SVG = 8 * 1024 * 1024
MAX_DEPTH = 100
MAX_STYLE = 4000
SVG = "{http://www.w3.org/2000/svg}"
XLINK_HREF = "{http://www.w3.org/1999/xlink}href"
ELEMENTS = frozenset(
    """
    circle clipPath defs desc ellipse feBlend feColorMatrix feComponentTransfer feComposite feConvolveMatrix
    feDiffuseLighting feDisplacementMap feDistantLight feDropShadow feFlood feFuncA feFuncB feFuncG feFuncR
    feGaussianBlur feMerge feMergeNode feMorphology feOffset fePointLight feSpecularLighting feSpotLight feTile
    feTurbulence filter g image line linearGradient marker mask path pattern polygon polyline radialGradient rect stop
    style svg switch symbol text textPath title tspan use
    """.split()
)
TRANSPARENT = frozenset({"a"})
"""Elements that are left out while what they hold is kept."""

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]*")
_LOCAL = re.compile(r"#[\w:.-]+")
_URL = re.compile(r"url\s*\(\s*(['\"]?)#[\w:.-]+\1\s*\)", re.IGNORECASE)
_LOADS = re.compile(r"url|src|image|expression|import|\\|@|<|javascript:", re.IGNORECASE)
_IMAGE = re.compile(r"data:image/(?:png|jpe?g|gif|webp);base64,[A-Za-z0-9+/=\s]*")
_RULE = re.compile(r"[\w\s.*#,:>-]+\{([^{}]*)\}")
_PAINT = re.compile(
    r"(?:stroke|fill|font|text|opacity|color|stop|marker|clip|dominant|alignment|baseline|letter|word|white-space|"
    r"visibility|display|shape|paint|mix|flood|vector|writing|overflow)[\w-]*"
)


class _Tree(TreeBuilder):
    """Builds a tree of bounded depth, from documents that declare no entities."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def start(self, tag: str, attrs: dict[str, str]) -> Element:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise RefusedError("the SVG is nested too deeply")
        return super().start(tag, attrs)

    def end(self, tag: str) -> Element:
        self._depth -= 1
        return super().end(tag)


def clean_svg(source: str) -> str:
    """Return the picture without what acts or loads. Raises RefusedError where it is none."""
    if len(source) > MAX_SVG or "<!ENTITY" in source:
        raise RefusedError("no SVG that can be checked")
    # Bounded by the checks above and by the tree: no entities, no depth.
    parser = XMLParser(target=_Tree())  # noqa: S314
    text = source.encode("utf-8", "replace").decode().lstrip()
    try:
        # A declared encoding would be for bytes.
        parser.feed(re.sub(r"^<\?xml[^>]*\?>", "", text, count=1))
        root = parser.close()
    except ParseError as exc:
        raise RefusedError(f"no SVG: {exc}") from exc
    if root.tag not in ("svg", SVG + "svg"):
        raise RefusedError("no SVG")
    root.tail = None
    parts: list[str] = []
    _write(root, parts, root=True)
    return "".join(parts)


def _write(element: Element, parts: list[str], *, root: bool = False) -> None:
    name = element.tag.removeprefix(SVG) if isinstance(element.tag, str) else ""
    kept = name in ELEMENTS and (name != "style" or _is_plain_style("".join(element.itertext())))
    if kept:
        parts.append(f"<{name}")
        if root:
            parts.extend(_namespaces(element))
        parts.extend(_attributes(name, element))
        parts.append(">")
    if kept or name in TRANSPARENT:
        parts.append(escape(element.text or ""))
        for child in element:
            _write(child, parts)
    if kept:
        parts.append(f"</{name}>")
    parts.append(escape(element.tail or ""))


def _namespaces(root: Element) -> list[str]:
    """Return the declarations that the source had, as far as they are needed."""
    own = [' xmlns="http://www.w3.org/2000/svg"'] if str(root.tag).startswith(SVG) else []
    linked = any(XLINK_HREF in element.attrib for element in root.iter())
    return [*own, ' xmlns:xlink="http://www.w3.org/1999/xlink"'] if linked else own


def _attributes(name: str, element: Element) -> list[str]:
    written = []
    for key, value in element.attrib.items():
        if key in ("href", XLINK_HREF):
            if _LOCAL.fullmatch(value) or (name == "image" and _IMAGE.fullmatch(value)):
                written.append(f" {'href' if key == 'href' else 'xlink:href'}={quoteattr(value)}")
        elif _NAME.fullmatch(key) and key[:2].lower() != "on" and _is_plain(value):
            written.append(f" {key}={quoteattr(value)}")
    return written


def _is_plain(value: str) -> bool:
    """Whether a value loads nothing: it names parts of this picture at most."""
    return _LOADS.search(_URL.sub("", value)) is None


def _is_plain_style(css: str) -> bool:
    if len(css) > MAX_STYLE or _RULE.sub("", css).strip() or not _is_plain(css):
        return False
    declarations = [one for body in _RULE.findall(css) for one in body.split(";") if one.strip()]
    return all(_PAINT.fullmatch(one.partition(":")[0].strip()) for one in declarations)
