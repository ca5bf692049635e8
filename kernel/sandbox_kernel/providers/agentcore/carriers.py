"""Brings questions to the porter and answers back: by code in the service's interpreter, or by a shell command."""

from __future__ import annotations

import asyncio
import os
import shlex
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sandbox_kernel.errors import SandboxConnectionError, SandboxError, SandboxLostError

from .api import Api
from .faults import PROVIDER
from .questions import MARK, Answer, BrokenAnswerError, as_text, packed, read_answer
from .results import ToolResult

INLINE = 24 * 1024
"""Bytes of a question that travel in code or a command; IPython takes half a second for each MB of code, and command
lines of 128 KB hang."""
FILE_PREFIX = ".sandbox-kernel-"
"""Of files in the working folder that hold larger questions for a moment."""
MISSES = 2
"""How often the interpreter may have lost what was loaded until that is loaded with each call."""
GRACE = 30.0
"""Seconds that a call may take longer than the porter was told to wait; then it is given up and made again."""
_LOAD = """\
import importlib.util as _sbx, sys as _sbx_sys
_sbx_spec = _sbx.spec_from_file_location("_sandbox_asker", {path!r})
_sbx_sys.modules["_sandbox_asker"] = _sbx_asker = _sbx.module_from_spec(_sbx_spec)
_sbx_spec.loader.exec_module(_sbx_asker)
"""
_ASK = 'print(__import__("_sandbox_asker").ask({folder!r}, {text!r}))'


class PorterGoneError(SandboxLostError):
    """Nobody serves in the sandbox any more."""


@dataclass(frozen=True)
class Place:
    """Where the porter is in a sandbox."""

    folder: str
    python: str

    @property
    def asker(self) -> str:
        """The program that asks the porter."""
        return f"{self.folder}/sandbox_kernel/bridge/asker.py"

    @property
    def loading(self) -> str:
        """Code that loads it."""
        return _LOAD.format(path=self.asker)


class Carriers:
    """Both ways into one session."""

    def __init__(self, api: Api, session_id: str, place: Place, correlation_id: str) -> None:
        self._api, self._session_id, self._place = api, session_id, place
        self._ids: dict[str, Any] = {"sandbox_id": session_id, "correlation_id": correlation_id}
        self._correlation_id = correlation_id
        self._misses, self._forgets = 0, False
        self.has_commands = True
        """Whether shell commands reach the porter, too; then two calls can be under way at one time."""

    async def exchange(self, head: dict[str, Any], data: bytes = b"", *, beside: bool = False) -> Answer:
        """Ask the porter, and return its answer; ``beside`` another call that may wait.

        Raises SandboxError; PorterGoneError where nobody serves.
        """
        question = packed(head, data)
        text = as_text(question) if len(question) <= INLINE else await self._left(question)
        seconds = float(head.get("hold", 0.0)) + GRACE
        try:
            said = await (self._by_command(text, seconds) if beside else self._by_code(text, seconds))
        except BaseException:
            if text.startswith("@"):
                await self._remove(text[1:])
            raise
        try:
            return read_answer(said.printed)
        except BrokenAnswerError as exc:
            raise self._error(said, str(exc)) from exc

    async def _left(self, question: bytes) -> str:
        """Leave a large question in a file, and return what stands for it."""
        name = FILE_PREFIX + os.urandom(6).hex()
        content = [{"path": name, "blob": question}]
        await self._api.invoke(
            self._session_id, "writeFiles", {"content": content}, timeout=120, correlation_id=self._correlation_id
        )
        return f"@{name}"

    async def _remove(self, name: str) -> None:
        """Remove a question that may not have been fetched; it is in the way of nobody."""
        with suppress(SandboxError, asyncio.CancelledError):
            await self._api.invoke(self._session_id, "removeFiles", {"paths": [name]}, timeout=10)

    async def _by_code(self, text: str, seconds: float) -> ToolResult:
        code = _ASK.format(folder=self._place.folder, text=text)
        if self._forgets:
            return await self._execute(self._place.loading + code, seconds)
        said = await self._execute(code, seconds)
        if MARK not in said.printed and "_sandbox_asker" in said.text + said.stderr + said.stdout:
            # Somebody has cleared the interpreter's context, or it keeps none.
            self._misses += 1
            self._forgets = self._misses > MISSES
            said = await self._execute(self._place.loading + code, seconds)
        return said

    async def _execute(self, code: str, seconds: float) -> ToolResult:
        arguments = {"code": code, "language": "python"}
        return await self._api.invoke(
            self._session_id, "executeCode", arguments, timeout=seconds, correlation_id=self._correlation_id
        )

    async def _by_command(self, text: str, seconds: float) -> ToolResult:
        place = self._place
        command = shlex.join([place.python, "-ISE", place.asker, place.folder, text])
        return await self._api.invoke(
            self._session_id,
            "executeCommand",
            {"command": command},
            timeout=seconds,
            correlation_id=self._correlation_id,
        )

    def _error(self, said: ToolResult, broken: str) -> SandboxError:
        everything = f"{said.text}\n{said.stderr}\n{said.stdout}"
        if any(name in everything for name in ("ConnectionRefusedError", "FileNotFoundError", "BrokenPipeError")):
            return PorterGoneError("Nobody serves in the sandbox any more.", provider=PROVIDER, **self._ids)
        last = " ".join((everything.strip() or broken).splitlines()[-1:])[-200:]
        return SandboxConnectionError(f"The sandbox's answer was broken ({last}).", provider=PROVIDER, **self._ids)
