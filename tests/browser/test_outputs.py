"""What cells produce, as JupyterLab shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .lab import Lab, Notebook

STREAM = """\
import time
for step in range(3):
    print("step", step)
try:
    time.sleep(600)
except KeyboardInterrupt:
    print("released")
"""
PLOT = """\
import matplotlib.pyplot as plt
plt.plot([1, 4, 9, 16])
plt.title("squares")
plt.show()
"""
TABLE = """\
import pandas as pd
pd.DataFrame({"city": ["Oslo", "Lima"], "metres": [23, 161]})
"""
TRACEBACK = """\
def divide(dividend, divisor):
    return dividend / divisor

divide(1, 0)
"""
RICH = """\
from IPython.display import HTML, Latex, Markdown, display
display(Markdown("**bold** and `code`"))
display(Latex(r"$\\frac{1}{2}$"))
display(HTML("<ul><li>first</li><li>second</li></ul>"))
"""
UPDATE = """\
from IPython.display import display
handle = display("before", display_id=True)
handle.update("after")
"""
WIDGET = """\
import ipywidgets as widgets
button = widgets.Button(description="Count")
label = widgets.Label("nothing yet")
printed = widgets.Output()
clicks = []

def count(_):
    clicks.append(None)
    label.value = f"clicked {len(clicks)}"
    with printed:
        print("printed", len(clicks))

button.on_click(count)
widgets.VBox([button, label, printed])
"""


def test_output_arrives_while_the_cell_runs(notebook: Notebook) -> None:
    cell = notebook.append(STREAM).start()
    cell.expect_output("step 0\nstep 1\nstep 2").expect_running()
    notebook.interrupt()
    cell.wait_until_done().expect_output("released")


def test_plot_is_shown_as_a_picture(notebook: Notebook) -> None:
    cell = notebook.run(PLOT)
    picture = cell.outputs.locator(".jp-RenderedImage img")
    picture.wait_for()
    assert picture.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }") > 300


def test_data_frame_is_shown_as_a_table(notebook: Notebook) -> None:
    cell = notebook.run(TABLE)
    table = cell.outputs.locator(".jp-RenderedHTMLCommon table.dataframe")
    table.wait_for()
    assert table.locator("thead th").all_inner_texts() == ["", "city", "metres"]
    assert table.locator("tbody td").all_inner_texts() == ["Oslo", "23", "Lima", "161"]


def test_markdown_formulas_and_lists_are_rendered(notebook: Notebook) -> None:
    cell = notebook.run(RICH)
    cell.outputs.locator(".jp-RenderedMarkdown strong", has_text="bold").wait_for()
    cell.outputs.locator(".jp-RenderedLatex mjx-container").wait_for()
    cell.outputs.locator(".jp-RenderedHTML li", has_text="second").wait_for()


def test_shown_output_is_replaced_by_its_update(notebook: Notebook) -> None:
    cell = notebook.run(UPDATE).expect_output("'after'")
    assert "before" not in cell.outputs.inner_text()


def test_error_shows_its_traceback_in_colour_and_stops_the_queue(lab: Lab) -> None:
    notebook = lab.open_notebook(TRACEBACK, "print('not reached')")
    lab.execute("notebook:run-all-cells")
    error = notebook.cell(0).outputs.locator("[data-mime-type='application/vnd.jupyter.stderr']")
    error.wait_for()
    text = error.inner_text()
    assert "ZeroDivisionError: division by zero" in text
    assert "return dividend / divisor" in text
    assert error.locator("[class*=ansi-]").count() > 0
    assert "not reached" not in notebook.cell(1).outputs.inner_text()


def test_widget_callback_changes_what_the_page_shows(notebook: Notebook) -> None:
    cell = notebook.run(WIDGET).expect_output("nothing yet")
    for clicks in (1, 2):
        cell.outputs.get_by_role("button", name="Count").click()
        cell.expect_output(f"clicked {clicks}").expect_output(f"printed {clicks}")
    notebook.run("print('clicks:', len(clicks))").expect_output("clicks: 2")


def test_widget_is_shown_where_a_command_of_the_kernel_comes_behind_it(lab: Lab) -> None:
    notebook = lab.open_notebook(PLOT, TABLE, WIDGET, "%sandbox status", "'end'", "%sandbox status")
    lab.execute("notebook:run-all-cells")
    notebook.cell(2).outputs.get_by_role("button", name="Count").click()
    notebook.cell(2).expect_output("clicked 1")
