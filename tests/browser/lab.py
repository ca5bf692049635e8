"""JupyterLab as a person sees it: a page, its notebooks, their cells. Each wait is for a condition, none for a time."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Locator, Page, expect

from .server import LabServer

WAIT_MS = 60_000

# In the page: the kernel of the notebook in front, once the notebook is shown and the kernel is connected.
_KERNEL = """(path) => {
    const panel = window.jupyterapp?.shell.currentWidget;
    const kernel = panel?.sessionContext?.session?.kernel;
    const isShown = panel?.context?.path === path && panel.context.isReady;
    return isShown && kernel?.connectionStatus === 'connected' ? kernel : undefined;
}"""
_IS_CONNECTED = f"(path) => ({_KERNEL})(path) !== undefined"
_IS_READY = (
    f"(path) => ({_KERNEL})(path)?.status === 'idle' && window.jupyterapp.shell.currentWidget.sessionContext.isReady"
)
_WATCH = """() => {
    window.statuses = [];
    window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.anyMessage.connect((_, { msg }) => {
        if (msg.header.msg_type === 'status') {
            window.statuses.push(`${msg.parent_header.msg_type} ${msg.content.execution_state}`);
        }
    });
}"""
_SELECT = """(index) => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    notebook.deselectAll();
    notebook.activeCellIndex = index;
}"""
# Not all of the server's sessions: other pages have theirs.
_SHUT_DOWN = """async () => {
    for (const panel of window.jupyterapp.shell.widgets('main')) {
        await panel.sessionContext?.shutdown();
    }
}"""
_workspaces = itertools.count(1)


class Lab:
    """One JupyterLab page. Each has a workspace of its own, so that no test sees the tabs of another."""

    def __init__(self, page: Page, server: LabServer, kernel_name: str) -> None:
        self.page = page
        self.server = server
        self.kernel_name = kernel_name
        self._workspace = f"test-{next(_workspaces)}"
        page.set_default_timeout(WAIT_MS)
        expect.set_options(timeout=WAIT_MS)

    def open_launcher(self) -> Locator:
        """Open JupyterLab without a document; the launcher is what it then shows."""
        self._goto("lab/workspaces/" + self._workspace)
        launcher = self.page.locator(".jp-Launcher")
        expect(launcher).to_be_visible()
        return launcher

    def open_notebook(self, *sources: str) -> Notebook:
        """Write a notebook with these code cells, open it, and wait for its kernel."""
        path = f"{self._workspace}.ipynb"
        write_notebook(self.server.root / path, sources, self.kernel_name)
        return self.open_path(path)

    def open_path(self, path: str) -> Notebook:
        """Open a notebook that lies in the server's folder, and wait for its kernel."""
        self._goto(f"lab/workspaces/{self._workspace}/tree/{path}")
        notebook = Notebook(self.page, path)
        notebook.wait_until_ready()
        return notebook

    def current_notebook(self) -> Notebook:
        """Take the notebook in front, whoever opened it."""
        self.page.wait_for_function("() => window.jupyterapp.shell.currentWidget?.content?.activeCell")
        path: str = self.page.evaluate("() => window.jupyterapp.shell.currentWidget.context.path")
        notebook = Notebook(self.page, path)
        notebook.wait_until_ready()
        return notebook

    def execute(self, command: str, **args: Any) -> None:
        """Run one of JupyterLab's commands (`notebook:run-cell`) and wait until it is done."""
        run_command(self.page, command, **args)

    def kernel_of(self, notebook: Notebook) -> str:
        """Ask the server for the kernelspec of the notebook's kernel."""
        name: str = self.server.get(f"api/kernels/{notebook.kernel_id}")["name"]
        return name

    def screenshot(self, path: Path) -> None:
        """Save what the page shows now."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)

    def close(self) -> None:
        """End the kernels that this page started, so that they take nothing from the next test."""
        if self.page.evaluate("() => 'jupyterapp' in window"):
            self.page.evaluate(_SHUT_DOWN)

    def _goto(self, path: str) -> None:
        self.page.goto(f"{self.server.url}{path}?token={self.server.token}")
        self.page.wait_for_function("() => window.jupyterapp?.restored")


class Notebook:
    """The notebook that is in front."""

    def __init__(self, page: Page, path: str) -> None:
        self.page = page
        self.path = path
        self.panel = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")

    def wait_until_ready(self) -> None:
        """Wait until the notebook is shown and its kernel is connected and idle."""
        self.page.wait_for_function(_IS_READY, arg=self.path)
        expect(self.cell(0).editor).to_be_visible()

    def cell(self, index: int) -> Cell:
        """Take the cell at this position, from 0."""
        return Cell(self, index)

    def append(self, source: str) -> Cell:
        """Add a code cell at the end."""
        count = self.panel.locator(".jp-Notebook .jp-Cell").count()
        self.page.evaluate(_SELECT, count - 1)
        run_command(self.page, "notebook:insert-cell-below")
        return self.cell(count).set_source(source)

    def run(self, *sources: str) -> Cell:
        """Add these cells, run each to its end, and return the last."""
        for source in sources:
            cell = self.append(source).run()
        return cell

    def press_toolbar(self, name: str) -> None:
        """Press the button that JupyterLab calls so in the notebook's toolbar (`interrupt`, `restart`, `save`)."""
        self.panel.locator(f".jp-NotebookPanel-toolbar [data-jp-item-name={name}] jp-button").click()

    def interrupt(self) -> None:
        """Press the toolbar's stop button."""
        self.press_toolbar("interrupt")

    def restart(self) -> None:
        """Press the toolbar's restart button, say yes, and wait for the new kernel."""
        self.press_toolbar("restart")
        accept_dialog(self.page)
        self.wait_until_ready()

    def save(self) -> None:
        """Press the toolbar's save button and wait until nothing is left to save."""
        self.press_toolbar("save")
        self.page.wait_for_function("() => !window.jupyterapp.shell.currentWidget.context.model.dirty")

    def reload(self) -> None:
        """Reload the page as F5 does; JupyterLab opens the notebook again and connects to its kernel, busy or not."""
        self.page.reload()
        self.page.wait_for_function("() => window.jupyterapp?.restored")
        self.page.wait_for_function(_IS_CONNECTED, arg=self.path)

    def watch_statuses(self) -> None:
        """Begin to note which requests the kernel is busy with; see `wait_for_status_of`."""
        self.page.evaluate(_WATCH)

    def wait_for_status_of(self, msg_type: str, status: str) -> None:
        """Wait until the kernel has published this status for a request of this type."""
        self.page.wait_for_function("(wanted) => window.statuses.includes(wanted)", arg=f"{msg_type} {status}")

    def wait_for_status(self, status: str) -> None:
        """Wait until the page shows the kernel as `busy` or `idle`."""
        self.page.wait_for_function(
            f"([path, status]) => ({_KERNEL})(path)?.status === status", arg=[self.path, status]
        )

    @property
    def kernel_id(self) -> str:
        """The server's name for the kernel that the notebook is connected to."""
        value: str = self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.id")
        return value


class Cell:
    """One code cell."""

    def __init__(self, notebook: Notebook, index: int) -> None:
        self.notebook = notebook
        self.page = notebook.page
        self.index = index
        self.root = notebook.panel.locator(".jp-Notebook .jp-Cell").nth(index)
        self.editor = self.root.locator(".jp-InputArea-editor .cm-content")
        self.prompt = self.root.locator(".jp-InputArea-prompt")
        self.outputs = self.root.locator(".jp-Cell-outputArea")
        self.stdin = self.root.locator("input.jp-Stdin-input")

    def select(self) -> Cell:
        """Make this the active cell."""
        self.page.evaluate(_SELECT, self.index)
        return self

    def set_source(self, source: str) -> Cell:
        """Replace the text at once, as pasting does."""
        self.page.evaluate(
            "([index, source]) => window.jupyterapp.shell.currentWidget.content.widgets[index]"
            ".model.sharedModel.setSource(source)",
            [self.index, source],
        )
        return self

    def click(self) -> Cell:
        """Click into the cell and go to its end."""
        self.editor.click()
        self.page.keyboard.press("Control+End")
        return self

    def type(self, text: str) -> Cell:
        """Type key by key where the cursor is."""
        self.page.keyboard.type(text)
        return self

    def press(self, keys: str) -> Cell:
        """Press a key or a chord (`Shift+Tab`) where the cursor is."""
        self.page.keyboard.press(keys)
        return self

    def run(self) -> Cell:
        """Run to the end: the reply and the idle status have arrived."""
        self.select()
        run_command(self.page, "notebook:run-cell")
        expect(self.prompt).to_have_text(re.compile(r"^\[\d+\]:$"))
        return self

    def start(self) -> Cell:
        """Run without waiting for the end, but until the page shows that the cell runs."""
        self.select()
        self.page.evaluate("() => { void window.jupyterapp.commands.execute('notebook:run-cell'); }")
        expect(self.prompt).to_have_text("[*]:")
        return self

    def expect_running(self) -> Cell:
        """Fail unless the cell still runs."""
        expect(self.prompt).to_have_text("[*]:")
        return self

    def wait_until_done(self) -> Cell:
        """Wait until a started cell has its number."""
        expect(self.prompt).to_have_text(re.compile(r"^\[\d+\]:$"))
        return self

    def expect_source(self, text: str) -> Cell:
        """Wait until the editor holds exactly this text."""
        expect(self.editor).to_have_text(text)
        return self

    def expect_output(self, text: str | re.Pattern[str]) -> Cell:
        """Wait until the outputs contain this text."""
        expect(self.outputs).to_contain_text(text)
        return self

    def answer(self, text: str) -> Cell:
        """Wait for the field that `input()` shows and answer it."""
        self.stdin.fill(text)
        self.stdin.press("Enter")
        return self


def write_notebook(path: Path, sources: Sequence[str], kernel_name: str) -> None:
    """Write a notebook for this kernel with one code cell for each source."""
    # nbformat has no types.
    cells = [nbformat.v4.new_code_cell(source) for source in sources or ("",)]  # type: ignore[no-untyped-call]
    kernelspec = {"name": kernel_name, "display_name": kernel_name, "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernelspec})  # type: ignore[no-untyped-call]
    nbformat.write(notebook, path)  # type: ignore[no-untyped-call]


def run_command(page: Page, command: str, **args: Any) -> None:
    """Run one of JupyterLab's commands and wait until it is done."""
    page.evaluate(
        "async ([command, args]) => { await window.jupyterapp.commands.execute(command, args); }", [command, args]
    )


def accept_dialog(page: Page) -> None:
    """Say yes to the dialog in front."""
    page.locator(".jp-Dialog .jp-mod-accept").click()
