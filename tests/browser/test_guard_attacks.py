"""What comes out of a sandbox cannot act as the user: hostile outputs in a real JupyterLab in a real Chromium.

All vectors run once with the default policy and once with `trusted_output = True`; tests look their effects up. With
the trusted policy what is known to be open has to be open, so that each of these tests can fail.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sandbox_kernel.requests import leading_commands

from .attack_vectors import DESTRUCTIVE, VECTORS, Vector

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

    from .server import LabServer
    from .trial import Trial

TRUSTED_KERNEL = "sandbox-trusted"
INSPECTED = """\
def do_inspect(code, cursor_pos, detail_level=0, omit_sections=()):
    page = SCRIPTED + '<img src="@URL@/tip.png"><p style="background:url(@URL@/bg.png)">x</p>'
    data = {"text/plain": "a tip", "text/html": page, "text/markdown": "![x](@URL@/md.png)"}
    return {"status": "ok", "found": True, "data": data, "metadata": {}}
kernel.do_inspect = do_inspect
"""
QUESTION = """input(SCRIPTED + '<img src="@URL@/prompt.png">')"""


@pytest.fixture(scope="module")
def lab_config() -> Mapping[str, Mapping[str, Any]]:
    from .server import SETTINGS
    from .trial import RENDER_ALL

    return {"labconfig/default_setting_overrides": {**SETTINGS, **RENDER_ALL}}


@pytest.fixture(scope="module")
def trusted_kernel(server: LabServer) -> str:
    """Give the server a kernelspec whose outputs are trusted."""
    folder = server.root.parent / "data" / "kernels" / TRUSTED_KERNEL
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "sandbox_kernel", "-f", "{connection_file}", "--Guard.trusted_output=True"]
    spec = {"argv": argv, "display_name": "trusted", "language": "python", "interrupt_mode": "message"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    return TRUSTED_KERNEL


def attack(browser: BrowserContext, server: LabServer, kernel_name: str, policy: str) -> Iterator[Trial]:
    """Run all vectors but those that would take away an unguarded page."""
    from .elsewhere import elsewhere
    from .lab import Lab
    from .trial import Trial

    with elsewhere() as other_host:
        lab = Lab(browser.new_page(), server, kernel_name)
        trial = Trial(browser, lab, other_host, policy)
        trial.open(VECTORS, f"{policy}.ipynb")
        trial.settle()
        trial.click_everything()
        inspect(trial)
        ask(trial)
        trial.settle()
        trial.collect()
        yield trial
        lab.close()
        lab.page.close()


def inspect(trial: Trial) -> None:
    """Let hostile answers to Shift+Tab be shown."""
    notebook, page = trial.notebook, trial.page
    notebook.run(trial.source(Vector("inspect", INSPECTED), trial.lab.server.url))
    cell = notebook.append("").click().type("print").press("Shift+Tab")
    page.locator(".jp-Tooltip").wait_for()
    trial.settle()
    cell.press("Escape")


def ask(trial: Trial) -> None:
    """Let a hostile question be shown."""
    cell = trial.notebook.append(trial.source(Vector("question", QUESTION), trial.lab.server.url)).start()
    cell.stdin.wait_for()
    cell.answer("x").wait_until_done()


@pytest.fixture(scope="module")
def guarded(browser: BrowserContext, server: LabServer, kernel_name: str) -> Iterator[Trial]:
    """All vectors with the default policy."""
    yield from attack(browser, server, kernel_name, "guarded")


@pytest.fixture(scope="module")
def trusted(browser: BrowserContext, server: LabServer, trusted_kernel: str) -> Iterator[Trial]:
    """All vectors with `trusted_output = True`."""
    yield from attack(browser, server, trusted_kernel, "trusted")


# A content security policy does not bind what opens a connection without a request: nothing is sent, but the host is
# told that somebody is there, and its name may carry something.
NOT_HELD = {"html-link-preconnect", "frame-preconnect"}


def checked(vector: Vector) -> Any:
    reason = "no policy stops a frame's preconnect"
    marks = [pytest.mark.xfail(strict=True, reason=reason)] if vector.name in NOT_HELD else []
    return pytest.param(vector, id=vector.name, marks=marks)


@pytest.mark.parametrize("vector", [checked(vector) for vector in VECTORS])
def test_output_reaches_nothing(guarded: Trial, vector: Vector) -> None:
    assert guarded.reached[vector.name] == set()


@pytest.mark.parametrize("vector", [vector for vector in VECTORS if vector.opens], ids=lambda vector: vector.name)
def test_trusted_output_reaches_what_is_known_to_be_open(trusted: Trial, vector: Vector) -> None:
    assert trusted.reached[vector.name] >= vector.opens


@pytest.mark.parametrize("name", ["inspect", "question"])
def test_answer_and_question_reach_nothing(guarded: Trial, name: str) -> None:
    assert guarded.reached[name] == set()


def test_scripts_ran_where_they_cannot_leave(guarded: Trial) -> None:
    assert {"html-script", "html-script-beside-table", "javascript"} <= guarded.ran


def test_nothing_opened_a_window_or_a_dialog(guarded: Trial) -> None:
    assert (guarded.popups, guarded.dialogs, guarded.downloads) == ([], [], [])
    assert guarded.page.locator(".jp-Dialog").count() == 0


def test_no_cell_that_the_sandbox_put_into_the_notebook_is_a_command(guarded: Trial) -> None:
    sources: list[str] = guarded.page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.content.widgets.map((cell) => cell.model.sharedModel.getSource())"
    )
    assert [source for source in sources if leading_commands(source) or source.lstrip().startswith("%%sandbox")] == []


def test_kernel_and_page_still_work(guarded: Trial) -> None:
    assert guarded.is_still_there
    guarded.notebook.run("print(6 * 7)").expect_output("42")


def test_no_output_takes_the_page_away(guarded: Trial, tmp_path: Path) -> None:
    guarded.open(DESTRUCTIVE, "destructive.ipynb")
    for _ in range(2):
        guarded.settle()
        guarded.click_everything()
    guarded.settle()
    guarded.collect()
    assert guarded.is_still_there
    reached = {vector.name: guarded.reached[vector.name] - vector.opens for vector in DESTRUCTIVE}
    assert {name: effects for name, effects in reached.items() if effects} == {}
    guarded.notebook.run("print(6 * 7)").expect_output("42")
