"""JupyterLab's debugger: the bug button, breakpoints beside a cell's lines, and the panel on the right."""

from __future__ import annotations

from contextlib import suppress

from playwright.sync_api import Locator
from playwright.sync_api import TimeoutError as BrowserTimeoutError

from .lab import Cell, Notebook

PRESS_AGAIN_MS = 20_000


class Debugger:
    """The debugger of one notebook."""

    def __init__(self, notebook: Notebook) -> None:
        self.notebook = notebook
        self.panel = notebook.page.locator(".jp-DebuggerSidebar")
        self.frames = self.panel.locator(".jp-DebuggerCallstackFrame")

    def enable(self) -> Debugger:
        """Press the bug in the toolbar until breakpoints can be set: JupyterLab may not listen to it yet."""
        gutter = self._gutter(self.notebook.cell(0)).first
        for _ in range(2):
            self.notebook.panel.locator(".jp-DebuggerBugButton").click()
            with suppress(BrowserTimeoutError):
                gutter.wait_for(state="attached", timeout=PRESS_AGAIN_MS)
                return self
        self.notebook.panel.locator(".jp-DebuggerBugButton").click()
        gutter.wait_for(state="attached")
        return self

    def set_breakpoint(self, cell: Cell, line: int) -> Debugger:
        """Click beside this line, from 1, and wait until the kernel has confirmed the breakpoint."""
        # The gutter's first element is an invisible one that gives it its width.
        self._gutter(cell).nth(line).click()
        self.panel.locator(".jp-DebuggerBreakpoint-line", has_text=str(line)).wait_for()
        return self

    def wait_until_stopped(self, function: str, line: int) -> Debugger:
        """Wait until the innermost frame is this function's, at this line."""
        frame = self.frames.first.filter(has_text=function)
        frame.locator(".jp-DebuggerCallstackFrame-location", has_text=f":{line}").wait_for()
        return self

    def wait_for_variable(self, name: str, value: str) -> Debugger:
        """Wait until the panel shows the variable with this value."""
        variable = self.panel.locator(".jp-DebuggerVariables [role=treeitem]").filter(has_text=name)
        variable.locator(".jp-DebuggerVariables-detail", has_text=value).wait_for()
        return self

    def press(self, command: str) -> Debugger:
        """Press a button above the call stack (`continue`, `next`, `stepIn`, `stepOut`, `terminate`)."""
        self.panel.locator(f"[data-command='debugger:{command}']").click()
        return self

    @staticmethod
    def _gutter(cell: Cell) -> Locator:
        return cell.root.locator(".cm-gutter.cm-breakpoint-gutter > .cm-gutterElement")
