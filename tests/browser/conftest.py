"""Fixtures: a JupyterLab server and a Chromium for each module, a page for each test.

Environment: `SANDBOX_KERNEL_UNDER_TEST` names the kernelspec (default `sandbox`), `SANDBOX_CHROMIUM` the browser's
program, and `SANDBOX_SCREENSHOTS` a folder that gets a picture of every test's last moment.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

    from .debugger import Debugger
    from .lab import Lab, Notebook
    from .server import LabServer

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# What the page objects import is imported by the fixtures only, so that the tests skip where a package is absent.
PACKAGES = ("jupyterlab", "playwright", "ipywidgets", "matplotlib", "pandas")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def kernel_name() -> str:
    """Name the kernelspec under test."""
    return os.environ.get("SANDBOX_KERNEL_UNDER_TEST", "sandbox")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Find the browser's program; skip where it, or a package that these tests need, is absent."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    program = os.environ.get("SANDBOX_CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(PROGRAMS)} is on the path")
    return program


@pytest.fixture(scope="module")
def lab_config() -> Mapping[str, Mapping[str, Any]]:
    """Name further JSON files for the server's Jupyter configuration folder; a module overrides this to add its own."""
    return {}


@pytest.fixture(scope="module")
def server(
    kernel_name: str,
    lab_config: Mapping[str, Mapping[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LabServer]:
    """Run a JupyterLab server that knows the kernel under test."""
    from .server import lab_server

    with lab_server(tmp_path_factory.mktemp("jupyterlab"), lab_config) as running:
        assert kernel_name in running.get("api/kernelspecs")["kernelspecs"], f"no kernelspec named {kernel_name}"
        yield running


# Not for the session: while playwright's synchronous interface is open, its event loop counts as the thread's
# running one, and every asynchronous test after it would fail.
@pytest.fixture(scope="module")
def browser(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    """Run a headless Chromium. Its profile lies on disk, because compiled scripts are kept only there."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("chromium"),
            executable_path=chromium,
            args=FLAGS,
            viewport={"width": 1200, "height": 800},
        )
        yield context
        context.close()


class OpenPage:
    """A page for JupyterLab, and what its console said."""

    def __init__(self, browser: BrowserContext, server: LabServer, kernel_name: str) -> None:
        from .lab import Lab

        page = browser.new_page()
        self.console: list[str] = []
        page.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.console.append(f"uncaught: {error}"))
        self.lab = Lab(page, server, kernel_name)

    def tell(self, request: pytest.FixtureRequest) -> None:
        """Let a failed test's report show what the browser and the server said."""
        if folder := os.environ.get("SANDBOX_SCREENSHOTS"):
            self.lab.screenshot(Path(folder) / f"{request.node.name}.png")
        request.node.add_report_section("teardown", "browser console", "\n".join(self.console))
        request.node.add_report_section("teardown", "JupyterLab log", self.lab.server.log_tail())

    def close(self) -> None:
        """End it, and its kernels."""
        self.lab.close()
        self.lab.page.close()


@pytest.fixture
def lab(request: pytest.FixtureRequest, browser: BrowserContext, server: LabServer, kernel_name: str) -> Iterator[Lab]:
    """Open a page for JupyterLab."""
    opened = OpenPage(browser, server, kernel_name)
    yield opened.lab
    opened.tell(request)
    opened.close()


@pytest.fixture(scope="module")
def shared_page(browser: BrowserContext, server: LabServer, kernel_name: str) -> Iterator[OpenPage]:
    """Open a page with a notebook, which takes as long as most tests."""
    opened = OpenPage(browser, server, kernel_name)
    opened.lab.open_notebook("")
    yield opened
    opened.close()


@pytest.fixture
def notebook(request: pytest.FixtureRequest, shared_page: OpenPage) -> Iterator[Notebook]:
    """Give a notebook to which tests that need no kernel of their own add their cells."""
    yield shared_page.lab.current_notebook()
    shared_page.tell(request)


@pytest.fixture
def debug() -> Callable[[Notebook], Debugger]:
    """Turn the debugger of a notebook on."""
    from .debugger import Debugger

    return lambda notebook: Debugger(notebook).enable()
