"""What comes out of a sandbox cannot act as the user: hostile outputs in a real JupyterLab in a real Chromium.

All vectors run once with the default policy, and those that are known to be open without it once with
`trusted_output = True`; tests look their effects up. What is known to be open has to be, so that these tests can fail.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sandbox_kernel.guard.frame_script import NO_TRUSTED_TYPES
from sandbox_kernel.guard.frames import frame
from sandbox_kernel.requests import leading_commands

from .attack_vectors import CONNECTING, DESTRUCTIVE, VECTORS, Vector

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

    from .server import LabServer
    from .trial import Trial

OPEN = [vector for vector in VECTORS if vector.opens]
TRUSTED_KERNEL = "sandbox-trusted"
SCRIPTLESS_KERNEL = "sandbox-scriptless"
INSPECTED = """\
def do_inspect(code, cursor_pos, detail_level=0, omit_sections=()):
    page = SCRIPTED + '<img src="@URL@/tip.png"><p style="background:url(@URL@/bg.png)">x</p>'
    data = {"text/plain": "a tip", "text/html": page, "text/markdown": "![x](@URL@/md.png)"}
    return {"status": "ok", "found": True, "data": data, "metadata": {}}
kernel.do_inspect = do_inspect
"""
COMPLETED = """\
def do_complete(code, cursor_pos):
    match = {"text": "pri" + SCRIPTED, "type": SCRIPTED, "signature": SCRIPTED, "start": 0, "end": cursor_pos}
    return {"status": "ok", "matches": ["pri" + SCRIPTED], "cursor_start": 0, "cursor_end": cursor_pos,
            "metadata": {"_jupyter_types_experimental": [match, {**match, "text": "print"}]}}
kernel.do_complete = do_complete
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
    return add_kernel(server, TRUSTED_KERNEL, "--Guard.trusted_output=True")


@pytest.fixture(scope="module")
def scriptless_kernel(server: LabServer) -> str:
    """Give the server a kernelspec that runs no script of an output."""
    return add_kernel(server, SCRIPTLESS_KERNEL, "--Guard.framed_scripts=False")


def add_kernel(server: LabServer, name: str, option: str) -> str:
    """Give the server a kernelspec with this option and return its name."""
    folder = server.root.parent / "data" / "kernels" / name
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "sandbox_kernel", "-f", "{connection_file}", option]
    spec = {"argv": argv, "display_name": name, "language": "python", "interrupt_mode": "message"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    return name


@contextmanager
def attack(
    browser: BrowserContext, server: LabServer, kernel_name: str, policy: str, vectors: Sequence[Vector]
) -> Iterator[Trial]:
    """Run vectors that would not take away an unguarded page."""
    from .elsewhere import elsewhere
    from .lab import Lab
    from .trial import Trial

    with elsewhere() as other_host:
        lab = Lab(browser.new_page(), server, kernel_name)
        trial = Trial(browser, lab, other_host, policy)
        trial.open(vectors, f"{policy}.ipynb")
        trial.settle()
        trial.click_everything()
        inspect(trial)
        complete(trial)
        ask(trial)
        trial.settle()
        trial.wait_until_idle()
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


def complete(trial: Trial) -> None:
    """Let hostile completions be shown, and with them the documentation that inspection gives."""
    notebook, page = trial.notebook, trial.page
    notebook.run(trial.source(Vector("complete", COMPLETED), trial.lab.server.url))
    cell = notebook.append("").click().type("pri").press("Tab")
    page.locator(".jp-Completer:not(.lm-mod-hidden) .jp-Completer-item").first.wait_for()
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
    with attack(browser, server, kernel_name, "guarded", VECTORS) as trial:
        yield trial


@pytest.fixture(scope="module")
def trusted(browser: BrowserContext, server: LabServer, trusted_kernel: str) -> Mapping[str, set[str]]:
    """What is known to be open, and what it reached with `trusted_output = True`."""
    # The page is closed at once: hundreds of frames keep a browser busy.
    with attack(browser, server, trusted_kernel, "trusted", OPEN) as trial:
        return trial.reached


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_output_reaches_nothing(guarded: Trial, vector: Vector) -> None:
    assert guarded.reached[vector.name] == set()


@pytest.mark.parametrize("vector", OPEN, ids=lambda vector: vector.name)
def test_trusted_output_reaches_what_is_known_to_be_open(trusted: Mapping[str, set[str]], vector: Vector) -> None:
    assert trusted[vector.name] >= vector.opens


@pytest.mark.parametrize("name", ["inspect", "complete", "question"])
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


@pytest.fixture(scope="module")
def leaving(browser: BrowserContext, server: LabServer, kernel_name: str) -> Iterator[Trial]:
    """Scripts that try to leave their frames."""
    yield from leave(browser, server, kernel_name, "leaving")


@pytest.fixture(scope="module")
def staying(browser: BrowserContext, server: LabServer, scriptless_kernel: str) -> Iterator[Trial]:
    """The same where frames run no scripts."""
    yield from leave(browser, server, scriptless_kernel, "staying")


def leave(browser: BrowserContext, server: LabServer, kernel_name: str, policy: str) -> Iterator[Trial]:
    """Run the vectors that connect."""
    from .elsewhere import elsewhere
    from .lab import Lab
    from .trial import Trial

    with elsewhere() as other_host:
        lab = Lab(browser.new_page(), server, kernel_name)
        trial = Trial(browser, lab, other_host, policy)
        trial.open([*CONNECTING, Vector("scripts-run", 'html("<p>shown</p><script>@JS@</script>")')], f"{policy}.ipynb")
        for _ in range(2):
            trial.settle()
        trial.collect()
        yield trial
        lab.close()
        lab.page.close()


@pytest.mark.xfail(strict=True, reason="Chromium connects to where a frame would go before it asks the policies")
@pytest.mark.parametrize("vector", CONNECTING, ids=lambda vector: vector.name)
def test_script_that_tries_to_leave_connects_to_nothing(leaving: Trial, vector: Vector) -> None:
    assert leaving.reached[vector.name] == set()


@pytest.mark.parametrize("vector", CONNECTING, ids=lambda vector: vector.name)
def test_frame_without_scripts_connects_to_nothing(staying: Trial, vector: Vector) -> None:
    assert staying.reached[vector.name] == set()


def test_frame_without_scripts_shows_its_text(leaving: Trial, staying: Trial) -> None:
    assert "scripts-run" in leaving.ran
    assert "scripts-run" not in staying.ran
    framed = staying.notebook.cell(len(CONNECTING) + 1).outputs.frame_locator("iframe").frame_locator("iframe")
    framed.get_by_text("shown").wait_for()


def test_scripts_do_not_run_where_there_are_no_trusted_types(browser: BrowserContext) -> None:
    source = "<p id='p'>kept</p><script>p.textContent = 'changed'</script><img src='x' onerror='p.title = 1'>"
    ordinary = frame(source)
    # What a browser that has none makes of it.
    without = ordinary.replace("window.trustedTypes", "window.none").replace("; require-trusted-types-for 'script'", "")
    page = browser.new_page()
    framed = page.frame_locator("iframe").frame_locator("iframe")
    page.set_content(ordinary)
    framed.get_by_text("changed").wait_for()
    page.set_content(without)
    framed.get_by_text(NO_TRUSTED_TYPES).wait_for()
    assert framed.locator("#p").inner_text() == "kept"
    page.close()
