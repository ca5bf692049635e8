"""What people use outputs for still works with the guard on, as JupyterLab shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import FrameLocator, Locator

    from .lab import Cell, Lab

STYLER = """\
import pandas as pd
pd.DataFrame({"metres": [23, 161]}).style.highlight_max(color="rgb(255, 0, 0)")
"""
PLOTLY = """\
import plotly.graph_objects as go
from IPython.display import HTML
HTML(go.Figure(go.Bar(x=["a", "b"], y=[1, 2])).to_html(include_plotlyjs=True))
"""
BOKEH = """\
from bokeh.embed import file_html
from bokeh.plotting import figure
from bokeh.resources import INLINE
from IPython.display import HTML
plot = figure(height=250, width=400)
plot.line([1, 2, 3], [3, 1, 2])
HTML(file_html(plot, INLINE, "plot"))
"""
ALTAIR = """\
import altair as alt
import pandas as pd
from IPython.display import display
table = pd.DataFrame({"city": ["Oslo", "Lima"], "metres": [23, 161]})
chart = alt.Chart(table).mark_bar().encode(x="city", y="metres")
# The version that JupyterLab draws; Altair's own may be ahead of it.
display({"application/vnd.vegalite.v5+json": chart.to_dict(), "text/plain": "chart"}, raw=True)
"""
SVG = """\
import matplotlib.pyplot as plt
%config InlineBackend.figure_formats = ["svg"]
plt.plot([1, 4, 9])
plt.show()
"""
MEDIA = """\
from IPython.display import HTML, JSON, Audio, FileLink, Javascript, display
display(Audio(b"RIFF", rate=8000))
display(JSON({"key": "value of it"}))
display(HTML('<a href="https://www.example.com">a link</a><img width=30 src="data:image/png;base64,'
             'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==">'))
display(Javascript("element.textContent = 'made by a script'"))
"""
WIDGETS = """\
import ipywidgets as widgets
from IPython.display import display
from ipywidgets import interact

@interact(number=(0, 10))
def show(number=3):
    print("number is", number)

display(widgets.IntProgress(value=5, description="half"), widgets.HTML("<b>bold text</b>"))
"""
ANYWIDGET = """\
import ipywidgets
import traitlets

class Foreign(ipywidgets.DOMWidget):
    _model_module = traitlets.Unicode("foreign").tag(sync=True)
    _model_name = traitlets.Unicode("ForeignModel").tag(sync=True)

Foreign()
"""


def inner(cell: Cell) -> FrameLocator:
    """The document of the inner of the two frames in which an output is shown."""
    return cell.outputs.frame_locator("iframe").first.frame_locator("iframe")


def see(found: Locator) -> Locator:
    found.first.wait_for()
    return found


def test_styled_table_keeps_its_colours(lab: Lab) -> None:
    cell = lab.open_notebook(STYLER).cell(0).run()
    marked = see(inner(cell).locator("td", has_text="161"))
    assert marked.evaluate("cell => getComputedStyle(cell).backgroundColor") == "rgb(255, 0, 0)"
    cell.expect_output("sandbox: shown in a sandboxed frame")


@pytest.mark.parametrize(("library", "code", "drawn"), [
    ("plotly", PLOTLY, ".main-svg .bars .point"),
    ("bokeh", BOKEH, ".bk-Figure"),
])  # fmt: skip
def test_plot_with_its_library_inside_is_drawn(lab: Lab, library: str, code: str, drawn: str) -> None:
    pytest.importorskip(library)
    cell = lab.open_notebook(code).cell(0).run()
    see(inner(cell).locator(drawn))


def test_chart_as_data_is_drawn_by_jupyterlab(lab: Lab) -> None:
    pytest.importorskip("altair")
    cell = lab.open_notebook(ALTAIR).cell(0).run()
    see(cell.outputs.locator(".vega-embed canvas, .vega-embed svg"))


def test_figure_as_svg_is_a_picture(lab: Lab) -> None:
    cell = lab.open_notebook(SVG).cell(0).run()
    picture = see(cell.outputs.locator("img"))
    assert picture.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }") > 200


def test_sound_data_links_pictures_and_scripts_are_shown(lab: Lab) -> None:
    cell = lab.open_notebook(MEDIA).cell(0).run()
    cell.outputs.locator("audio source[src^='data:audio/wav']").wait_for(state="attached")
    cell.outputs.locator("a[href='https://www.example.com']", has_text="a link").wait_for()
    picture = see(cell.outputs.locator("img[src^='data:']"))
    assert picture.evaluate("image => image.naturalWidth") == 1
    see(inner(cell).get_by_text("made by a script"))


def test_widgets_of_ipywidgets_work(lab: Lab) -> None:
    cell = lab.open_notebook(WIDGETS).cell(0).run().expect_output("number is 3")
    cell.outputs.locator(".widget-html b", has_text="bold text").wait_for()
    cell.outputs.locator(".widget-hprogress").wait_for()
    handle = cell.outputs.locator(".noUi-handle")
    handle.focus()
    handle.press("ArrowRight")
    cell.expect_output("number is 4")


def test_foreign_widget_is_refused_with_a_word(lab: Lab) -> None:
    cell = lab.open_notebook(ANYWIDGET).cell(0).run()
    cell.expect_output("sandbox: widgets of foreign are not allowed (Guard.widget_modules)")
