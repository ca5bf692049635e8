"""Vendor types that front ends draw in their own page: data that passes as far as it loads nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from . import markup
from .json_text import RefusedError

MAX_DEPTH = 200
_REMOTE = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:|[\\/]{2})", re.IGNORECASE)
_DATA = re.compile(r"\s*data:image/(?:png|jpe?g|gif|webp);base64,", re.IGNORECASE)
_MAPS = frozenset(
    "scattergeo choropleth scattermapbox choroplethmapbox densitymapbox scattermap choroplethmap densitymap".split()
)
"""plotly's traces that fetch a map."""
_PLOTLY_LOADERS = frozenset({"source", "style", "topojsonURL", "plotlyServerURL", "sourceattribution"})
_VEGA_LOADERS = frozenset({"url", "href", "usermeta", "loader", "patch"})
_VEGA_PICTURES = re.compile(r"image|\\", re.IGNORECASE)
"""Marks and tooltips of that name load a URL, which an expression may have put together."""
_WHOLE_DATUM = re.compile(r"\bdata\s*\(|\bevent\b|\b(?:datum|parent|item)\b(?!\s*[.\[])")
"""Expressions that may give a tooltip all fields, among them those that a pivot has named after data."""


def strings(value: Any) -> Iterator[tuple[str, str]]:
    """Give (key, string) for each string in a value; a list's items have the list's key, and keys are strings, too."""
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        key, one = stack.pop()
        if isinstance(one, dict):
            for name, inner in one.items():
                yield name, name
                stack.append((name, inner))
        elif isinstance(one, list):
            stack.extend((key, inner) for inner in one)
        elif isinstance(one, str):
            yield key, one


def check_plotly(figure: object) -> None:
    """Raise RefusedError if drawing the figure would load something."""
    if any(trace.get("type") in _MAPS for trace in _traces(figure)) or _becomes_map(figure):
        raise RefusedError("a map is fetched from another host")
    for key, text in strings(figure):
        # What buttons and sliders change is named by its path: `images[0].source`.
        if key.rpartition(".")[2] in _PLOTLY_LOADERS and _REMOTE.match(text) and not _DATA.match(text):
            raise RefusedError("it loads from another host")


def _traces(figure: object) -> Iterator[dict[str, Any]]:
    """Give the traces of a figure and of its frames; those of its template draw nothing."""
    if not isinstance(figure, dict):
        raise RefusedError("no figure")
    parts = [figure, *(part for part in figure.get("frames") or () if isinstance(part, dict))]
    for part in parts:
        yield from (trace for trace in part.get("data") or () if isinstance(trace, dict))


def _becomes_map(figure: object) -> bool:
    """Whether a button or a slider may make a map of a trace."""
    layout = figure.get("layout") if isinstance(figure, dict) else None
    controls = [layout.get(name) for name in ("updatemenus", "sliders")] if isinstance(layout, dict) else []
    return any(text in _MAPS for _, text in strings(controls))


def check_vega(spec: object) -> None:
    """Raise RefusedError if drawing the chart would load something, or if it is only the address of one."""
    if not isinstance(spec, dict):
        raise RefusedError("no chart")
    for key, text in strings(spec):
        if text in _VEGA_LOADERS or key in _VEGA_LOADERS or _VEGA_PICTURES.search(text):
            raise RefusedError("it may load from another host")
    texts = {text for _, text in strings(spec)}
    if _computes_names(spec) or ("pivot" in texts and ("content" in texts or any(map(_WHOLE_DATUM.search, texts)))):
        raise RefusedError("its tooltips may load from another host")


def _computes_names(spec: object) -> bool:
    """Whether names of fields are made by expressions; a tooltip takes a field of the name `image` for an address."""
    stack = [spec]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            named = one.get("as")
            if isinstance(named, dict) or (isinstance(named, list) and any(isinstance(name, dict) for name in named)):
                return True
            stack.extend(one.values())
        elif isinstance(one, list):
            stack.extend(one)
    return False


def clean_geojson(value: Any, depth: int = 0) -> Any:
    """Return the value with all its text cleaned: maps show properties as HTML."""
    if depth > MAX_DEPTH:
        raise RefusedError("nested too deeply")
    if isinstance(value, dict):
        return {_clean(key): clean_geojson(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [clean_geojson(inner, depth + 1) for inner in value]
    return _clean(value) if isinstance(value, str) else value


def _clean(text: str) -> str:
    return markup.clean(text) if "<" in text else text
