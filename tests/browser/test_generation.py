"""Code from plain words as a person sees it: the answer while it arrives, the new cell, the plot, the correction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from tests.emulators.openai import openai
from tests.emulators.server import Emulator, Say

if TYPE_CHECKING:
    from .lab import Cell, Lab

FRAME = 'import pandas as pd\ndf = pd.DataFrame({"city": ["Lima", "Oslo"], "population": [10, 7]})'


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with openai() as running:
        yield running


@pytest.fixture(scope="module")
def lab_config(emulator: Emulator) -> Mapping[str, Mapping[str, Any]]:
    """A user with one model, who has agreed that it is asked."""
    model = {"kind": "openai", "model": "emulated", "endpoint_url": f"{emulator.url}/v1"}
    options = {"SandboxSession": {"approvals": {"generate": "allow"}}, "Generation": {"models": [model]}}
    return {"jupyter_sandbox_config": options}


def expect_image(cell: Cell) -> None:
    cell.outputs.locator("img").wait_for()


def test_request_becomes_a_plot_that_is_refined_and_a_failed_cell_is_corrected(lab: Lab) -> None:
    notebook = lab.open_notebook(FRAME, "%%sandbox generate --run\nplot the cities")
    notebook.cell(0).run()
    asked = notebook.cell(1).run()
    asked.expect_output("A bar chart.").expect_output("It ran, in ")
    expect_image(asked)
    written = notebook.cell(2)
    assert 'ax.bar(df["city"], df["population"])' in source_of(written)
    expect_image(written.run())

    refined = notebook.append("%%sandbox generate --run\nwith the title Cities").run()
    expect_image(refined)
    assert 'ax.set_title("Cities")' in source_of(notebook.cell(refined.index + 1))

    failed = notebook.append('print("sum", df["popluation"].sum())').run()
    failed.expect_output("KeyError")
    fixed = notebook.append("%sandbox fix --run").run()
    fixed.expect_output('+print("sum", df["population"].sum())').expect_output("sum 17")
    corrected = notebook.cell(fixed.index + 1)
    assert 'df["population"]' in source_of(corrected)
    corrected.run().expect_output("sum 17")


def test_interrupt_leaves_the_notebook_usable(lab: Lab, emulator: Emulator) -> None:
    emulator.plan("emulated", Say("word after word ", pause=0.02, repeat=True))
    notebook = lab.open_notebook("%%sandbox generate\nplot", "1 + 1")
    asked = notebook.cell(0).start().expect_output("word after word")
    notebook.interrupt()
    asked.wait_until_done().expect_output("Interrupted.").expect_output("KeyboardInterrupt")
    notebook.cell(1).run().expect_output("2")


def test_hostile_answer_does_not_act(lab: Lab, emulator: Emulator) -> None:
    act = "document.title='owned'"
    emulator.plan(
        "emulated", Say(f'<img src="x" onerror="{act}"><script>{act}</script>\n\n<b onclick="{act}">press me</b>')
    )
    notebook = lab.open_notebook("%%sandbox generate\nplot")
    notebook.cell(0).run().expect_output("press me").expect_output("There is no code in this answer.")
    notebook.cell(0).outputs.get_by_text("press me").click()
    assert "owned" not in lab.page.title()


def source_of(cell: Cell) -> str:
    """Return what a cell holds, when it is there."""
    cell.editor.wait_for()
    source = "(index) => window.jupyterapp.shell.currentWidget.content.widgets[index].model.sharedModel.getSource()"
    text: str = cell.page.evaluate(source, cell.index)
    return text
