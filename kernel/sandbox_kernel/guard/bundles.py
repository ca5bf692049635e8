"""Cleaning of MIME bundles: which types pass, what becomes of the others, and what the note below says."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from .json_text import Json, RefusedError, text_of

PLAIN = frozenset({"text/plain", "text/latex", "text/x-rst", "application/json"})
"""Types that front ends show as text or data, whatever is in them."""
IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "application/pdf"})
"""Types in base64."""
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
BACKGROUND = re.compile(r"application/vnd\.vscode\.bg\.execution\.\d+(?:\.(?:result|error))?")
"""How VS Code completes and lists variables."""
VEGA = re.compile(r"application/vnd\.vega(?:lite)?\.v\d+[.+]json")
PLOTLY = "application/vnd.plotly.v1+json"
GEOJSON = "application/geo+json"
JAVASCRIPT = ("application/javascript", "text/javascript")
BOKEH_LOAD = "application/vnd.bokehjs_load.v0+json"
BOKEH_EXEC = "application/vnd.bokehjs_exec.v0+json"
"""Beside JavaScript: bokeh's library, and a plot that needs it."""
MAX_LIBRARY = 8_000_000
"""Characters of a library that are kept for the frames of later outputs."""
LOADED = "[BokehJS is loaded into each plot's frame]"
MAX_TYPES = 100

IN_FRAME = "shown in a sandboxed frame"
CUT = "parts that could act or load from elsewhere were removed"
_OBJECT = re.compile(r"<[\w.]+(?: object)?(?: at 0x[0-9a-f]+)?>")
_MODEL_ID = re.compile(r"[\w.-]{1,200}")
_NUMBER = re.compile(r"\d{1,5}(?:\.\d{1,3})?(?:px|%)?")
_MARKUP = re.compile("[\"'<>&:/\\\\]")
"""What neither a quoted attribute nor an address does without."""
_BOKEH_PLACE = re.compile(r'"roots":\{((?:"[\w-]{1,99}":"[\w-]{1,99}",?){1,99})\}')
_FLAGS = frozenset({"isolated", "unconfined", "expanded"})


@dataclass
class Cleaned:
    """What may pass of a bundle. ``notes`` say what was changed, for people; without them nothing was lost."""

    data: Json
    metadata: Json
    changed: bool = False
    notes: list[str] = field(default_factory=list)


class BundleGuard:
    """Cleans bundles by one policy."""

    def __init__(self, mime_types: Collection[str], script_hosts: Sequence[str] | None) -> None:
        """``script_hosts``: see `frames.Hosts`."""
        self._allowed = frozenset(mime_types)
        self._script_hosts = None if script_hosts is None else tuple(script_hosts)
        self._bokeh = ""
        """What `output_notebook` loads: later plots look for it in their page, and each has its own frame."""

    def clean(self, data: object, metadata: object) -> Cleaned:
        """Return what may pass. Raises RefusedError where data and metadata are no bundle."""
        if type(data) is not dict or type(metadata) is not dict or len(data) > MAX_TYPES:
            raise RefusedError("no MIME bundle")
        if len(data) == 1 and not metadata and type(data.get("text/plain")) is str:
            return Cleaned(data, metadata)
        made = Cleaned({}, {})
        for mime, value in data.items():
            self._clean_value(mime, value, data, made)
        self._clean_scripts(data, made)
        made.metadata = _clean_metadata(metadata)
        made.changed = made.changed or made.data != data or made.metadata != metadata
        return made

    def _clean_value(self, mime: str, value: Any, data: Json, made: Cleaned) -> None:
        if mime in self._allowed or mime == "application/json" or BACKGROUND.fullmatch(mime):
            made.data[mime] = value
            return
        if mime in PLAIN:
            text_of(value)
            made.data[mime] = value
            return
        if mime in JAVASCRIPT or mime in (BOKEH_LOAD, BOKEH_EXEC):
            return
        try:
            cleaned = self._clean_special(mime, value, made)
        except RefusedError as exc:
            made.notes.append(f"{mime} is not shown: {exc}")
            return
        if cleaned is None:
            made.notes.append(f"{mime} is not shown (Guard.mime_types)")
        else:
            made.data[mime] = cleaned

    def _clean_special(self, mime: str, value: Any, made: Cleaned) -> Any:
        """Return what may pass of a value; None where its type may not."""
        if mime in IMAGES:
            return _checked_base64(value)
        if mime == "text/html":
            return self._clean_html(text_of(value), made)
        if mime == "text/markdown":
            return _clean_markdown(text_of(value), made)
        if mime == "image/svg+xml":
            return _clean_svg(text_of(value))
        if mime == WIDGET_VIEW:
            return _checked_view(value)
        return _clean_vendor(mime, value)

    def _clean_html(self, source: str, made: Cleaned) -> str:
        if "<" not in source:
            return source
        from . import frames, markup

        html, verdict = markup.judge(source)
        if verdict is markup.Verdict.FRAMED:
            made.notes.append(IN_FRAME)
            made.notes += frames.missing(source, self._script_hosts)
            return frames.frame(source, self._script_hosts)
        if verdict is markup.Verdict.CUT:
            made.notes.append(CUT)
        return html

    def _clean_scripts(self, data: Json, made: Cleaned) -> None:
        """Put JavaScript into a frame, where there is nothing else to show."""
        scripts = [text_of(data[mime]) for mime in JAVASCRIPT if mime in data and mime not in self._allowed]
        if scripts and BOKEH_LOAD in data and len(scripts[0]) <= MAX_LIBRARY:
            self._bokeh = scripts[0]
            made.data.setdefault("text/plain", LOADED)
        elif scripts and BOKEH_EXEC in data and self._bokeh:
            made.data["text/html"] = self._bokeh_frame(scripts[0])
            made.notes.append(IN_FRAME)
        elif scripts:
            from . import frames

            if "text/html" not in made.data:
                made.data["text/html"] = frames.script_frame(scripts[0], self._script_hosts)
            made.notes.append(IN_FRAME)
            made.notes += frames.missing(f"<script>{scripts[0]}", self._script_hosts)
        if IN_FRAME in made.notes:
            made.data["text/plain"] = _text_beside_frame(data)

    def _bokeh_frame(self, script: str) -> str:
        """Return a frame with the library and the places in which the plot's script wants to draw."""
        from . import frames

        found = _BOKEH_PLACE.search(script)
        pairs = re.findall(r'"([\w-]+)":"([\w-]+)"', found[1]) if found else []
        places = "".join(
            f'<div id="{place}" data-root-id="{root}" style="display: contents;"></div>' for root, place in pairs
        )
        return frames.script_frame(f"{self._bokeh}\n{script}", self._script_hosts, body=places)


def add_note(made: Cleaned) -> None:
    """Say below the output what was changed, in small print."""
    note = f"sandbox: {'; '.join(dict.fromkeys(made.notes))}"
    html = made.data.get("text/html")
    if isinstance(html, (str, list)):
        from html import escape

        small = f'<div style="font-size: 80%; opacity: 0.6;">{escape(note)}</div>'
        made.data["text/html"] = text_of(html) + small
    markdown = made.data.get("text/markdown")
    if isinstance(markdown, (str, list)):
        made.data["text/markdown"] = f"{text_of(markdown)}\n\n*{note}*"
    shown = made.data.get("text/plain")
    if (html is None and markdown is None) or shown is None:
        made.data["text/plain"] = f"{text_of(shown)}\n[{note}]" if shown else f"[{note}]"
    made.changed = True


def _text_beside_frame(data: Json) -> str:
    """Return the text for where frames are not shown: a reopened notebook, a terminal."""
    from . import frames, markup

    text = text_of(data.get("text/plain", ""))
    if text and not _OBJECT.fullmatch(text.strip()):
        return text
    html = data.get("text/html")
    return (markup.plain_text(text_of(html)) if html else "") or frames.FALLBACK


def _checked_base64(value: object) -> object:
    """Return an image's data. In a page it stands in a quoted attribute, which it must not end."""
    text = text_of(value)
    if any(character in text for character in "\"'<>&\\"):
        raise RefusedError("this is no base64")
    return value


def _checked_view(value: object) -> Json:
    if type(value) is not dict or type(value.get("model_id")) is not str or not _MODEL_ID.fullmatch(value["model_id"]):
        raise RefusedError("no widget is named")
    return {key: one for key, one in value.items() if key == "model_id" or type(one) is int}


def _clean_markdown(source: str, made: Cleaned) -> str:
    if not re.search(r"[<&]|\]\s*[:(\[]|!\[|mermaid", source, re.IGNORECASE):
        return source
    from . import markdown

    text, cut = markdown.clean_markdown(source)
    if cut:
        made.notes.append(CUT)
    return text


def _clean_svg(source: str) -> str:
    from . import svg

    return svg.clean_svg(source)


def _clean_vendor(mime: str, value: object) -> Any:
    from . import vendor

    if mime == PLOTLY:
        vendor.check_plotly(value)
        return value
    if VEGA.fullmatch(mime):
        vendor.check_vega(value)
        return value
    return vendor.clean_geojson(value) if mime == GEOJSON else None


def _clean_metadata(metadata: Json) -> Json:
    """Return metadata whose known entries are what front ends expect, and put into their pages."""
    kept: Json = {}
    for key, value in metadata.items():
        if key == "filenames":
            # The exporter's own: it would name files beside the page.
            continue
        if "/" in key and type(value) is dict:
            kept[key] = {name: one for name, one in value.items() if _is_plain_entry(name, one)}
        elif _is_plain_entry(key, value) or (key not in _FLAGS and key not in ("width", "height")):
            kept[key] = value
    return kept


def _is_plain_entry(name: str, value: object) -> bool:
    if name in _FLAGS:
        return type(value) is bool
    if name in ("width", "height"):
        return type(value) in (int, float) or (type(value) is str and _NUMBER.fullmatch(value) is not None)
    if name == "needs_background":
        return value in ("light", "dark")
    return type(value) in (bool, int, float) or (type(value) is str and not _MARKUP.search(value))
