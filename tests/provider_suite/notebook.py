"""A session without a kernel process: cells go in, what comes of them is kept."""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbox_kernel.errors import SandboxKernelError
from sandbox_kernel.events import EventLog
from sandbox_kernel.link import envelope
from sandbox_kernel.link.protocol import Buffer
from sandbox_kernel.providers.base import Provider
from sandbox_kernel.session import SandboxSession

PATIENCE = 60.0


@dataclass
class Ran:
    """A cell, and what came of it."""

    reply: dict[str, Any] = field(default_factory=dict)
    outputs: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether the reply and the idle status are there."""
        return bool(self.reply) and ("status", {"execution_state": "idle"}) in self.outputs

    @property
    def printed(self) -> str:
        """What it printed."""
        return "".join(content["text"] for kind, content in self.outputs if kind == "stream")

    @property
    def value(self) -> str:
        """Its value as text."""
        return next(content["data"]["text/plain"] for kind, content in self.outputs if kind == "execute_result")


class Notebook:
    """Listens to a session, and sends cells to its sandbox."""

    def __init__(self, provider: Provider, folder: Path, log_folder: Path) -> None:
        log = EventLog(path=str(log_folder / "session.log"))
        self.session = SandboxSession(self, provider=provider, log=log, directory=folder)
        self.cells: dict[str, Ran] = {}
        self.ended: list[SandboxKernelError] = []
        self._news = asyncio.Event()

    # ---- what the session says

    def on_message(self, parts: list[Buffer]) -> None:
        kind = bytes(parts[0][:1])
        if kind == envelope.IOPUB:
            header, parent = json.loads(bytes(parts[2])), json.loads(bytes(parts[3]))
            if parent.get("msg_id") in self.cells:
                content = json.loads(bytes(parts[5]))
                self.cells[parent["msg_id"]].outputs.append((header["msg_type"], content))
        elif kind == envelope.SHELL:
            parent = json.loads(bytes(parts[2]))
            self.cells[parent["msg_id"]].reply = json.loads(bytes(parts[4]))
        self._news.set()

    def on_excess(self, parts: list[Buffer], size: int) -> None:
        raise AssertionError(f"a message of {size} bytes")

    def on_ready(self) -> None:
        self._news.set()

    def on_ended(self, error: SandboxKernelError) -> None:
        self.ended.append(error)
        self._news.set()

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Whatever else a session may tell is no concern of these tests."""
        if name.startswith("on_"):
            return lambda *_: self._news.set()
        raise AttributeError(name)

    # ---- cells

    def send(self, code: str) -> Ran:
        """Send a cell."""
        msg_id = uuid.uuid4().hex
        header = {"msg_id": msg_id, "msg_type": "execute_request", "session": "suite", "username": "", "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": False}
        parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        self.cells[msg_id] = ran = Ran()
        self.session.send([envelope.SHELL + os.urandom(4), *parts])
        return ran

    async def run(self, code: str) -> Ran:
        """Run a cell."""
        ran = self.send(code)
        await self.until(lambda: ran.done)
        return ran

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain: {self.cells}"
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), 0.5)
            except asyncio.TimeoutError:
                continue


@asynccontextmanager
async def opened(
    provider: Provider, folder: Path, log_folder: Path | None = None, *, start: bool = True
) -> AsyncIterator[Notebook]:
    """Give a notebook whose sandbox has started, if it is to; its log is in its folder, or in another one.

    The provider keeps its connections for other notebooks.
    """
    notebook = Notebook(provider, folder, log_folder or folder)
    if start:
        await notebook.session.start()
    try:
        yield notebook
    finally:
        await notebook.session.close()
        notebook.session.log.close()
