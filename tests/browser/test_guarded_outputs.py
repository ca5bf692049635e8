"""What the guard makes of outputs, as JupyterLab shows it; see test_guard_usable for what people use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import FrameLocator, Locator

    from .lab import Cell, Lab

BOKEH_SHOW = """\
from bokeh.io import output_notebook, show
from bokeh.plotting import figure
from bokeh.resources import INLINE
output_notebook(INLINE)
plot = figure(height=250, width=400)
plot.line([1, 2, 3], [3, 1, 2])
show(plot)
"""
MEDIA = """\
from IPython.display import HTML, JSON, Audio, FileLink, Javascript, display
display(Audio(b"RIFF", rate=8000))
display(JSON({"key": "value of it"}))
display(HTML('<a href="https://www.example.com">a link</a><img width=30 src="data:image/png;base64,'
             'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==">'))
display(Javascript("element.textContent = 'made by a script'"))
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
    return cell.outputs.frame_locator("iframe").last.frame_locator("iframe")


def see(found: Locator) -> Locator:
    found.first.wait_for()
    return found


def test_plot_that_is_shown_by_a_library_loaded_before_is_drawn(lab: Lab) -> None:
    pytest.importorskip("bokeh")
    cell = lab.open_notebook(BOKEH_SHOW).cell(0).run()
    see(inner(cell).locator(".bk-Figure"))


def test_sound_data_links_pictures_and_scripts_are_shown(lab: Lab) -> None:
    cell = lab.open_notebook(MEDIA).cell(0).run()
    cell.outputs.locator("audio source[src^='data:audio/wav']").wait_for(state="attached")
    cell.outputs.locator("a[href='https://www.example.com']", has_text="a link").wait_for()
    picture = see(cell.outputs.locator("img[src^='data:']"))
    assert picture.evaluate("image => image.naturalWidth") == 1
    see(inner(cell).get_by_text("made by a script"))


def test_foreign_widget_is_refused_with_a_word(lab: Lab) -> None:
    cell = lab.open_notebook(ANYWIDGET).cell(0).run()
    cell.expect_output("sandbox: widgets of foreign are not allowed (Guard.widget_modules)")
