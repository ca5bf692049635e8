"""A notebook in a sandbox of an emulator, which also answers questions."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from traitlets.config import Config

from sandbox_kernel.link import envelope
from sandbox_kernel.link.protocol import Buffer
from sandbox_kernel.providers.e2b.provider import E2BProvider
from tests.emulators.e2b.process import EmulatorProcess
from tests.provider_suite.notebook import Notebook, Ran


class AskedNotebook(Notebook):
    """Answers `input()` with what it was asked, and "!"."""

    questions = 0

    def on_message(self, parts: list[Buffer]) -> None:
        if bytes(parts[0][:1]) != envelope.STDIN:
            super().on_message(parts)
            return
        self.questions += 1
        asked = json.loads(bytes(parts[4]))
        header = {"msg_id": uuid.uuid4().hex, "msg_type": "input_reply", "session": "suite", "version": "5.3"}
        content = {"value": f"{asked['prompt']}!"}
        frames = [json.dumps(one).encode() for one in (header, {}, {}, content)]
        self.session.send([bytes(parts[0]), *frames], urgent=True)

    def send(self, code: str) -> Ran:
        """Send a cell that may ask."""
        msg_id = uuid.uuid4().hex
        header = {"msg_id": msg_id, "msg_type": "execute_request", "session": "suite", "username": "", "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": True, "stop_on_error": False}
        frames = [json.dumps(one).encode() for one in (header, {}, {}, content)]
        ran = self.cells[msg_id] = Ran()
        self.session.send([envelope.SHELL + os.urandom(4), *frames])
        return ran


def provider_of(emulator: EmulatorProcess, **options: Any) -> E2BProvider:
    """Return a provider of the emulator's sandboxes, which notices soon that nothing comes."""
    given = {
        "api_url": emulator.url,
        "sandbox_url": emulator.url,
        "mode": "bridge",
        "timeout": 600,
        "connect_timeout": 3,
        "keepalive": 0.5,
        "keepalive_timeout": 0.5,
        **options,
    }
    return E2BProvider(config=Config(E2BProvider=given, Workspace={"mode": "private"}))


@asynccontextmanager
async def opened(emulator: EmulatorProcess, folder: Path, **options: Any) -> AsyncIterator[AskedNotebook]:
    """Give a notebook whose sandbox runs."""
    (folder / "notebook").mkdir(exist_ok=True)
    notebook = AskedNotebook(provider_of(emulator, **options), folder / "notebook", folder)
    try:
        await notebook.session.start()
        yield notebook
    finally:
        emulator.clear()
        await notebook.session.close()
