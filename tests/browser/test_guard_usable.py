"""What people use outputs for still works with the guard on: each is looked at in a real JupyterLab.

`SANDBOX_SCREENSHOTS` names a folder that gets a picture of each; the assertions are on what is rendered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import FrameLocator, Locator

    from .lab import Cell, Notebook

pytest.importorskip("plotly")
pytest.importorskip("altair")
pytest.importorskip("bokeh")
pytest.importorskip("tqdm")

STYLER = """\
import pandas as pd
frame = pd.DataFrame({"city": ["Oslo", "Lima"], "metres": [23, 161]})
frame.style.background_gradient(subset=["metres"]).set_caption("heights")
"""
WIDE_TABLE = """\
import pandas as pd
pd.DataFrame([[row * column for column in range(8)] for row in range(200)])
"""
MATPLOTLIB_SVG = """\
import matplotlib.pyplot as plt
from matplotlib_inline.backend_inline import set_matplotlib_formats
set_matplotlib_formats("svg")
plt.plot([1, 4, 9, 16])
plt.title("squares")
plt.show()
"""
PLOTLY = """\
import plotly.graph_objects as go
figure = go.Figure(go.Bar(x=["a", "b", "c"], y=[1, 3, 2]), layout={"title": {"text": "three bars"}, "height": 400})
"""
ALTAIR = """\
import altair, pandas
frame = pandas.DataFrame({"a": ["x", "y", "z"], "b": [3, 1, 2]})
chart = altair.Chart(frame).mark_bar().encode(x="a", y="b", tooltip="b").properties(title="three bars", width=300)
"""
BOKEH = """\
from bokeh.embed import file_html
from bokeh.plotting import figure
from bokeh.resources import INLINE
from IPython.display import HTML
plot = figure(width=400, height=300, title="a line")
plot.line([1, 2, 3], [1, 4, 9])
HTML(file_html(plot, INLINE))
"""
MARKDOWN = r'''
from IPython.display import Markdown
Markdown(r"""
# A title

**bold**, `code <T>`, a [link](https://jupyter.org), $a<b$ and

$$\\int_0^1 x^2 \\, dx = \\frac{1}{3}$$

| left | right |
|------|------:|
| 1    | 2     |

```python
assert 1 < 2 > 0
```
""".replace("\\\\", "\\"))
'''
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
LINKS = f"""\
from IPython.display import HTML
HTML('<h3 style="color: teal">A heading</h3><p>See <a href="https://jupyter.org" target="_blank">Jupyter</a>.</p>'
     '<img src="data:image/png;base64,{PIXEL}" width="40" height="30" alt="a pixel">')
"""
SVG_FIGURE = """\
from IPython.display import SVG
SVG('<svg xmlns="http://www.w3.org/2000/svg" width="120" height="60"><defs><linearGradient id="g"><stop offset="0" '
    'stop-color="red"/><stop offset="1" stop-color="blue"/></linearGradient></defs>'
    '<rect width="120" height="60" fill="url(#g)"/><text x="10" y="30" style="font-size:12px">text</text></svg>')
"""
TQDM = """\
from tqdm.notebook import tqdm
for step in tqdm(range(5), desc="steps"):
    pass
"""
INTERACT = """\
from ipywidgets import interact, IntSlider

@interact(x=IntSlider(3, 0, 10))
def square(x):
    print("square:", x * x)
"""
OUTPUT_WIDGET = """\
import ipywidgets, pandas
from IPython.display import display
output = ipywidgets.Output(layout={"border": "1px solid black"})
display(output)
with output:
    print("inside")
    display(pandas.DataFrame({"kept": [1]}))
other = ipywidgets.Output()
display(other)
other.append_stdout("appended")
"""
PROGRESS = """\
import ipywidgets
ipywidgets.VBox([
    ipywidgets.IntProgress(value=7, max=10, description="Loading:", bar_style="info"),
    ipywidgets.HTML("<b>seven</b> of <i>ten</i>"),
    ipywidgets.HTMLMath(r"with $x^2$"),
    ipywidgets.Dropdown(options=["one", "two"], description="Pick:"),
])
"""
FILES = """\
from pathlib import Path
from IPython.display import FileLink, display
Path("notes.txt").write_text("x")
display(FileLink("notes.txt"))
"""
SOUND = "from IPython.display import Audio\nAudio([0.0, 0.5, -0.5, 0.0] * 2000, rate=8000)"
PICTURE = f"import base64\nfrom IPython.display import Image\nImage(base64.b64decode('{PIXEL}'), width=50, height=40)"
TREE = "from IPython.display import JSON\nJSON({'name': 'value', 'list': [1, 2]})"


def framed(cell: Cell) -> FrameLocator:
    """What the guard put into frames, one in the other."""
    return cell.outputs.frame_locator("iframe").frame_locator("iframe")


def expect_size(locator: Locator, width: int, height: int) -> None:
    """Wait until it is there, and fail unless it is at least so large."""
    locator.wait_for()
    box = locator.bounding_box()
    assert box is not None
    assert (box["width"] >= width, box["height"] >= height) == (True, True), box


def expect_frame_to_fit(cell: Cell) -> None:
    """Fail where the frame is much lower than what is in it: nobody wants to scroll inside an output."""
    frame = cell.outputs.locator("iframe").first
    content = framed(cell).locator("html")
    visible = frame.evaluate("(node) => node.clientHeight")
    needed = content.evaluate("(node) => node.scrollHeight")
    assert visible >= min(needed, 900) * 0.9, (visible, needed)


def test_data_frame_is_a_table_of_the_page(notebook: Notebook) -> None:
    cell = notebook.run(WIDE_TABLE)
    expect_size(cell.outputs.locator(".jp-RenderedHTMLCommon table.dataframe"), 200, 300)
    assert cell.outputs.locator("iframe").count() == 0


def test_styler_has_its_colours(notebook: Notebook) -> None:
    cell = notebook.run(STYLER)
    table = framed(cell).locator("table")
    expect_size(table, 60, 40)
    colours = table.locator("td.col1").evaluate_all(
        "(cells) => cells.map((one) => getComputedStyle(one).backgroundColor)"
    )
    assert len(set(colours)) == 2
    assert table.locator("caption").inner_text() == "heights"
    expect_frame_to_fit(cell)


def test_matplotlib_svg_is_drawn(notebook: Notebook) -> None:
    cell = notebook.run(MATPLOTLIB_SVG)
    picture = cell.outputs.locator(".jp-RenderedSVG img, .jp-RenderedSVG svg").first
    expect_size(picture, 200, 150)
    if picture.evaluate("(node) => node.tagName") == "IMG":
        assert picture.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }") > 200


# Not `figure.show("notebook")`: it loads its library in one output and draws in another, and frames share nothing.
@pytest.mark.parametrize("way", ["figure", "HTML(figure.to_html())"])
def test_plotly_draws_its_bars(notebook: Notebook, way: str) -> None:
    cell = notebook.run(f"from IPython.display import HTML\n{PLOTLY}\n{way}")
    place = cell.outputs if way == "figure" else framed(cell)
    expect_size(place.locator("svg.main-svg").first, 300, 300)
    assert place.locator(".bars .point").count() == 3
    assert "three bars" in place.locator(".gtitle").first.inner_html()
    if way != "figure":
        expect_frame_to_fit(cell)


@pytest.mark.parametrize("way", ["mimetype", "inline"])
def test_altair_draws_its_bars(notebook: Notebook, way: str) -> None:
    if way == "inline":
        pytest.importorskip("vl_convert", reason="altair needs it to bring its scripts along")
    # JupyterLab knows version 5 of the MIME type, altair 6 writes version 6.
    as_data = "display({'application/vnd.vegalite.v5+json': chart.to_dict()}, raw=True)"
    inline = "from IPython.display import HTML\nHTML(chart.to_html(inline=True))"
    cell = notebook.run(ALTAIR + {"mimetype": as_data, "inline": inline}[way])
    place = cell.outputs if way == "mimetype" else framed(cell)
    expect_size(place.locator("canvas.marks, svg.marks").first, 200, 200)
    if way == "inline":
        expect_frame_to_fit(cell)


def test_bokeh_draws_its_line(notebook: Notebook) -> None:
    cell = notebook.run(BOKEH)
    expect_size(framed(cell).locator("canvas").first, 300, 200)
    expect_frame_to_fit(cell)


def test_markdown_has_its_formulas_code_and_table(notebook: Notebook) -> None:
    outputs = notebook.run(MARKDOWN).outputs
    outputs.locator("mjx-container").nth(1).wait_for()
    assert outputs.locator("h1").inner_text().startswith("A title")
    assert outputs.locator("p code").inner_text() == "code <T>"
    assert outputs.locator("pre code").inner_text().strip() == "assert 1 < 2 > 0"
    assert outputs.locator("td").all_inner_texts() == ["1", "2"]
    assert outputs.locator("p a").first.get_attribute("href") == "https://jupyter.org"


def test_html_keeps_links_colours_and_pictures(notebook: Notebook) -> None:
    outputs = notebook.run(LINKS).outputs
    picture = outputs.locator("img")
    expect_size(picture, 40, 30)
    assert picture.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }") == 1
    assert outputs.locator("p a").get_attribute("href") == "https://jupyter.org"
    assert outputs.locator("h3").evaluate("(node) => getComputedStyle(node).color") == "rgb(0, 128, 128)"


def test_svg_keeps_its_gradient_and_text(notebook: Notebook) -> None:
    picture = notebook.run(SVG_FIGURE).outputs.locator(".jp-RenderedSVG img")
    expect_size(picture, 100, 50)
    source = picture.evaluate("(node) => decodeURIComponent(node.src)")
    assert "url(#g)" in source
    assert "text" in source


def test_tqdm_shows_its_bar(notebook: Notebook) -> None:
    outputs = notebook.run(TQDM).outputs
    expect_size(outputs.locator(".widget-hprogress, .jupyter-widgets.progress, .progress-bar").first, 10, 5)
    outputs.get_by_text("5/5").wait_for()
    outputs.get_by_text("steps").wait_for()


def test_interact_runs_its_function_again(notebook: Notebook) -> None:
    cell = notebook.run(INTERACT).expect_output("square: 9")
    readout = cell.outputs.locator(".widget-readout")
    readout.fill("5")
    readout.press("Enter")
    cell.expect_output("square: 25")


def test_output_widget_shows_text_and_tables(notebook: Notebook) -> None:
    cell = notebook.run(OUTPUT_WIDGET).expect_output("inside").expect_output("appended")
    expect_size(cell.outputs.locator("table.dataframe"), 20, 20)


def test_progress_bar_and_html_widgets_are_shown(notebook: Notebook) -> None:
    cell = notebook.run(PROGRESS).expect_output("Loading:").expect_output("Pick:")
    assert cell.outputs.locator(".widget-html b").inner_text() == "seven"
    cell.outputs.locator(".widget-htmlmath mjx-container").wait_for()
    width = cell.outputs.locator(".progress-bar").evaluate("(bar) => bar.style.width")
    assert width == "70%"


def test_sound_can_be_played(notebook: Notebook) -> None:
    cell = notebook.run(SOUND)
    player = cell.outputs.locator("audio")
    player.wait_for()
    loaded = (
        "(node) => new Promise((done) => node.readyState > 0 ? done(node.duration)"
        " : (node.onloadedmetadata = () => done(node.duration), node.load()))"
    )
    assert player.evaluate(loaded) == pytest.approx(1.0, abs=0.05)
    expect_size(player, 100, 20)


def test_picture_and_tree_are_shown(notebook: Notebook) -> None:
    expect_size(notebook.run(PICTURE).outputs.locator(".jp-RenderedImage img"), 50, 40)
    notebook.run(TREE).outputs.locator(".jp-RenderedJSON").get_by_text("name").first.wait_for()


def test_link_to_a_file_is_a_link(notebook: Notebook) -> None:
    link = notebook.run(FILES).outputs.locator("a")
    link.wait_for()
    assert link.inner_text() == "notes.txt"
