"""What the kernel does for a person who writes or examines a cell: completion, help, questions, the debugger."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .debugger import Debugger
    from .lab import Lab, Notebook

# JupyterLab also proposes words that it finds in the notebook's text: these names stand nowhere in it.
HIDDEN_NAMES = """\
globals()["wind_" + "speed"] = 3
globals()["wind_" + "direction"] = "north"
"""
DOCUMENTED = '''\
def area(width, height=2):
    """The surface of a rectangle."""
    return width * height
'''
QUESTION = """\
name = input("Who is there? ")
print("Hello,", name)
"""
HIDDEN_ANSWER = """\
from getpass import getpass
secret = getpass("Password: ")
print(len(secret), "characters")
"""
STOPPED = """\
def double(number):
    result = number * 2
    return result

print("double:", double(21))
"""


def test_tab_completes_a_variable_of_the_notebook(lab: Lab) -> None:
    notebook = lab.open_notebook(HIDDEN_NAMES, "")
    notebook.cell(0).run()
    cell = notebook.cell(1).click().type("wind_").press("Tab")
    items = lab.page.locator(".jp-Completer-item")
    items.filter(has_text="wind_speed").wait_for()
    items.filter(has_text="wind_direction").wait_for()
    cell.type("sp").press("Enter")
    cell.expect_source("wind_speed").run().expect_output("3")


def test_tab_completes_an_attribute(lab: Lab) -> None:
    notebook = lab.open_notebook("import math", "")
    notebook.cell(0).run()
    notebook.cell(1).click().type("math.fa").press("Tab")
    lab.page.locator(".jp-Completer-item", has_text="factorial").click()
    notebook.cell(1).expect_source("math.factorial")


def test_shift_tab_shows_signature_and_documentation(lab: Lab) -> None:
    notebook = lab.open_notebook(DOCUMENTED, "")
    notebook.cell(0).run()
    notebook.cell(1).click().type("area").press("Shift+Tab")
    lab.page.locator(".jp-Tooltip", has_text="area(width, height=2)").wait_for()
    assert "The surface of a rectangle." in lab.page.locator(".jp-Tooltip").inner_text()


def test_question_is_answered_in_the_page(lab: Lab) -> None:
    cell = lab.open_notebook(QUESTION).cell(0).start()
    cell.expect_output("Who is there?").expect_running()
    cell.answer("Ada").wait_until_done().expect_output("Hello, Ada")


def test_password_is_not_shown(lab: Lab) -> None:
    cell = lab.open_notebook(HIDDEN_ANSWER).cell(0).start()
    cell.stdin.wait_for()
    assert cell.stdin.get_attribute("type") == "password"
    cell.answer("swordfish").wait_until_done().expect_output("9 characters")
    assert "swordfish" not in cell.outputs.inner_text()


def test_breakpoint_stops_the_cell_and_shows_its_variables(lab: Lab, debug: Callable[[Notebook], Debugger]) -> None:
    notebook = lab.open_notebook(STOPPED)
    cell = notebook.cell(0)
    debugger = debug(notebook).set_breakpoint(cell, 2)
    cell.start()
    debugger.wait_until_stopped("double", 2).wait_for_variable("number", "21")
    debugger.press("next").wait_until_stopped("double", 3).wait_for_variable("result", "42")
    cell.expect_running()
    debugger.press("continue")
    cell.wait_until_done().expect_output("double: 42")
