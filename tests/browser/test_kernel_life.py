"""The kernel's life as a person steers it: launcher, interrupt, restart, reload."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .lab import Lab

PATIENT_LOOP = """\
count = 0
print("looping")
try:
    while True:
        count += 1
except KeyboardInterrupt:
    pass
"""
BUSY_LOOP = """\
count = 0
print("looping")
while True:
    count += 1
"""


def test_launcher_shows_the_kernel_and_starts_a_notebook(lab: Lab) -> None:
    spec = lab.server.get("api/kernelspecs")["kernelspecs"][lab.kernel_name]["spec"]
    launcher = lab.open_launcher()
    card = launcher.locator(".jp-LauncherCard[data-category=Notebook]", has_text=spec["display_name"])
    logo = card.locator("img")
    assert logo.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }") > 0
    card.click()
    notebook = lab.current_notebook()
    notebook.cell(0).click().type("6 * 7").press("Shift+Enter")
    notebook.cell(0).wait_until_done().expect_output("42")
    assert lab.kernel_of(notebook) == lab.kernel_name


def test_interrupted_loop_keeps_its_variables(lab: Lab) -> None:
    notebook = lab.open_notebook(BUSY_LOOP)
    kernel_id = notebook.kernel_id
    cell = notebook.cell(0).start().expect_output("looping")
    cell.expect_running()
    notebook.interrupt()
    cell.wait_until_done().expect_output("KeyboardInterrupt")
    notebook.run("print('counted', count > 0)").expect_output("counted True")
    assert notebook.kernel_id == kernel_id


def test_restarted_kernel_has_no_variables(lab: Lab) -> None:
    notebook = lab.open_notebook("kept = 'old'")
    notebook.cell(0).run()
    notebook.restart()
    notebook.run("print('kept' in globals())").expect_output("False")
    notebook.run("kept").expect_output("NameError: name 'kept' is not defined")


def test_busy_kernel_is_restarted(lab: Lab) -> None:
    notebook = lab.open_notebook(BUSY_LOOP)
    notebook.cell(0).start().expect_output("looping")
    notebook.restart()
    notebook.run("print('alive', 'count' in globals())").expect_output("alive False")


def test_reloaded_page_keeps_outputs_kernel_and_variables(lab: Lab) -> None:
    notebook = lab.open_notebook("kept = 'yes'\nprint('first output')", "kept")
    kernel_id = notebook.kernel_id
    notebook.cell(0).run()
    notebook.save()
    notebook.reload()
    notebook.wait_until_ready()
    notebook.cell(0).expect_output("first output")
    assert notebook.kernel_id == kernel_id
    notebook.cell(1).run().expect_output("'yes'")
    assert notebook.cell(1).prompt.inner_text() == "[2]:"


def test_page_reloaded_during_a_cell_goes_on_with_the_kernel(lab: Lab) -> None:
    notebook = lab.open_notebook(PATIENT_LOOP, "count > 0")
    kernel_id = notebook.kernel_id
    notebook.cell(0).start().expect_output("looping")
    notebook.save()
    notebook.reload()
    notebook.interrupt()
    notebook.cell(1).run().expect_output("True")
    assert notebook.kernel_id == kernel_id


def test_kernel_that_completes_beside_a_cell_is_shown_as_busy(lab: Lab) -> None:
    if lab.kernel_name == "python3":
        pytest.skip("ipykernel completes when the cell has ended")
    notebook = lab.open_notebook(BUSY_LOOP, "")
    cell = notebook.cell(0).start().expect_output("looping")
    notebook.watch_statuses()
    notebook.cell(1).click().type("cou").press("Tab")
    lab.page.locator(".jp-Completer-item", has_text="count").first.wait_for()
    notebook.wait_for_status_of("complete_request", "idle")
    notebook.wait_for_status("busy")
    assert lab.server.get(f"api/kernels/{notebook.kernel_id}")["execution_state"] == "busy"
    lab.page.keyboard.press("Escape")
    notebook.interrupt()
    cell.wait_until_done()
    notebook.wait_for_status("idle")
