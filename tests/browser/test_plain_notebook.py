"""`%%sandbox` in a notebook of an ordinary kernel, as JupyterLab shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .lab import Lab

PLOT = """\
%%sandbox
import matplotlib.pyplot as plt
plt.plot([1, 4, 9, 16])
plt.show()
"""
PROGRESS = """\
%%sandbox
from IPython.display import ProgressBar
import time
for step in ProgressBar(4):
    time.sleep(0.05)
"""
INPUT = """\
%%sandbox
name = input("Name? ")
print("hello", name)
"""
WAITING = """\
%%sandbox
import time
print("waiting")
time.sleep(600)
"""


@pytest.fixture(scope="module")
def kernel_name() -> str:
    """Name the ordinary kernel."""
    return "python3"


def test_cell_in_a_sandbox_plots_shows_progress_asks_and_is_interrupted(lab: Lab) -> None:
    notebook = lab.open_notebook("%load_ext sandbox_magics", PLOT, PROGRESS, INPUT, WAITING, "%%sandbox\nname")
    notebook.cell(0).run()
    picture = notebook.cell(1).run().outputs.locator(".jp-RenderedImage img")
    picture.wait_for()
    assert picture.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }") > 300

    bars = notebook.cell(2).run().outputs.locator("progress")
    bars.first.wait_for()
    # One bar, which was updated in its place.
    assert (bars.count(), bars.get_attribute("value"), bars.get_attribute("max")) == (1, "4", "4")

    notebook.cell(3).start().answer("Ada").wait_until_done().expect_output("hello Ada")

    waiting = notebook.cell(4).start().expect_output("waiting").expect_running()
    notebook.interrupt()
    waiting.wait_until_done().expect_output("KeyboardInterrupt")
    # ipykernel aborts what comes before it is idle again, and JupyterLab may wait for the end of that for ever.
    notebook.wait_until_ready()
    notebook.cell(5).run().expect_output("'Ada'")
