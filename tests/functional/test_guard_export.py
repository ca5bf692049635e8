"""Hostile outputs in notebooks that nbclient executed and nbconvert exported: nothing acts outside sandboxed frames."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser

import pytest

from tests.browser.attack_vectors import DESTRUCTIVE, PREAMBLE, VECTORS, Vector

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
nbconvert = pytest.importorskip("nbconvert")
pytest.importorskip("ipywidgets")

KERNEL = os.environ.get("SANDBOX_KERNEL_UNDER_TEST", "sandbox")
SCRIPT = "attack(`@NAME@`)"
HARMLESS = "display('nothing')"
ATTRIBUTES_WITH_ADDRESSES = {
    "action", "background", "cite", "classid", "codebase", "data", "formaction", "href", "icon", "longdesc", "manifest",
    "ping", "poster", "src", "srcset", "xlink:href",
}  # fmt: skip
ACTIVE = {"script", "iframe", "frame", "object", "embed", "applet", "base", "meta", "link", "form", "portal", "style"}
LOADED = ATTRIBUTES_WITH_ADDRESSES - {"cite", "href"}
"""What a browser asks for without a click."""
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""Of the elements that the exporter's scripts put a widget into."""


class Elements(HTMLParser):
    """Notes everything of a page that could act or load, each as text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.frames: list[dict[str, str]] = []
        self._within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._within = tag
        if tag == "iframe":
            self.frames.append(values)
            return
        if tag in ACTIVE:
            self.found.append(f"<{tag} {sorted(values.items())}>")
        for name, value in values.items():
            address = "".join(value.split()).lower()
            if name.startswith("on") or address.startswith(
                ("javascript:", "vbscript:", "data:text", "data:application")
            ):
                self.found.append(f"<{tag} {name}={value}>")
            if name in LOADED and address and not address.startswith(("data:", "#")):
                self.found.append(f"<{tag} {name}={value}>")
            if name == "style" and ("url(" in address or "\\" in address):
                self.found.append(f"<{tag} style={value}>")

    handle_startendtag = handle_starttag

    def handle_data(self, data: str) -> None:
        if self._within in ("script", "style"):
            self.found.append(f"{self._within}: {_ID.sub('ID', data)}")

    def handle_endtag(self, tag: str) -> None:
        self._within = ""


def source(vector: Vector) -> str:
    code = vector.code
    if "SCRIPTED" in code:
        code = f"SCRIPTED = '<img src=x onerror=\"@JS@\">'\n{code}"
    for word, value in {
        "JS": SCRIPT,
        "URL_NO_SCHEME": "//elsewhere.example",
        "URL": "http://elsewhere.example/v-@NAME@",
        "LOCAL": "/v-@NAME@",
        "PORT": "9",
        "NAME": vector.name,
    }.items():
        code = code.replace(f"@{word}@", value)
    return code


def exported(sources: list[str]) -> Elements:
    """Execute and export these cells and read the page."""
    cells = [nbformat.v4.new_code_cell(text, metadata={"tags": ["raises-exception"]}) for text in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, kernel_name=KERNEL, timeout=120).execute()
    # What a cell displays counts, not what stands in it.
    exporter = nbconvert.HTMLExporter(exclude_input=True)
    page, _ = exporter.from_notebook_node(notebook)
    elements = Elements()
    elements.feed(page)
    return elements


@cache
def harmless() -> frozenset[str]:
    """What the exporter's own template brings, with a widget and without."""
    page = exported([PREAMBLE, HARMLESS, "widgets.Label('x')"])
    return frozenset(page.found)


@pytest.fixture(scope="module")
def page() -> Iterator[Elements]:
    """All vectors in one page."""
    return exported([PREAMBLE, *(source(vector) for vector in (*VECTORS, *DESTRUCTIVE))])


def _is_widget_state(found: str) -> bool:
    """Widgets' states are data in a script element; the browser tests look at what becomes of them."""
    return found.startswith(("<script [('type', 'application/vnd.jupyter.widget", "script: "))


def test_nothing_acts_or_loads_outside_frames(page: Elements) -> None:
    new = [found for found in page.found if found not in harmless()]
    assert [found for found in new if not _is_widget_state(found)] == []


def test_scripts_are_the_templates_own_or_data(page: Elements) -> None:
    scripts = [found for found in page.found if found.startswith("script: ") and found not in harmless()]
    assert [text for text in scripts if not text.removeprefix("script: ").lstrip().startswith("{")] == []


def test_every_frame_is_sandboxed_without_an_origin(page: Elements) -> None:
    assert len(page.frames) > 20
    assert {frame.get("sandbox") for frame in page.frames} == {"allow-scripts"}
    assert all("src" not in frame and "default-src 'none'" in frame["srcdoc"] for frame in page.frames)
