"""The code interpreter in a sandbox: its contexts, and the lines that come of code while it runs."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import httpx

from sandbox_kernel.errors import InvocationError, SandboxError, SandboxLostError
from sandbox_kernel.providers.basic.runner import Display, Event, Failure, Runner, Text

from .access import Access
from .bounds import lines_of
from .brands import INTERPRETER
from .envd import Envd, exit_status_of, output_of
from .failures import BAD_GATEWAY, Refusal, error_of, translated
from .rest import Services

SILENCE = 60.0
"""Seconds without a line after which the connection is lost; the service says something every five."""
MIME = {
    "text": "text/plain",
    "html": "text/html",
    "markdown": "text/markdown",
    "svg": "image/svg+xml",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "pdf": "application/pdf",
    "latex": "text/latex",
    "json": "application/json",
    "javascript": "application/javascript",
    "data": "application/vnd.e2b.data+json",
    "chart": "application/vnd.e2b.chart+json",
}


class Interpreter(Runner):
    """One context of variables in one sandbox."""

    def __init__(self, rest: Callable[[], Services], access: Callable[[], Access], language: str, work: str) -> None:
        """``work`` is the folder in which code runs; by it the context is found again."""
        self.language = language
        self.version = "3.0"
        self._rest, self._access = rest, access
        self._work = work
        self._context = ""

    async def begin(self) -> None:
        """Make the context, or find the one that was made before. Raises SandboxError."""
        envd = Envd(self._rest(), self._access())
        await envd.run(f"mkdir -p {self._work}")
        self._work = (await envd.run(f"cd {self._work} && pwd")).output.decode().strip()
        contexts = await self._ask("look for contexts", "GET", "/contexts")
        same = {"language": self.language, "cwd": self._work}
        for one in contexts if isinstance(contexts, list) else []:
            if isinstance(one, dict) and same.items() <= one.items():
                self._context = str(one.get("id", ""))
        if not self._context:
            made = await self._ask(f"begin with {self.language}", "POST", "/contexts", json=same)
            self._context = str(made.get("id", "")) if isinstance(made, dict) else ""
        if self.language == "python":
            ran = [event async for event in self.run("import platform; print(platform.python_version(), end='')")]
            self.version = "".join(one.text for one in ran if isinstance(one, Text)) or self.version

    async def run(self, code: str) -> AsyncGenerator[Event, None]:
        body = {"code": code, "context_id": self._context, "language": None, "env_vars": None}
        access = self._access()
        doing = "run a cell"
        with translated(access.place.brand, doing, sandbox_id=access.sandbox_id):
            try:
                async with self._rest().stream(
                    access, INTERPRETER, "POST", "/execute", json=body, timeout=SILENCE
                ) as response:
                    ended = False
                    async for line in lines_of(response):
                        said = _read(line)
                        ended = ended or said.get("type") == "end_of_execution"
                        event = _event(said)
                        if event is not None:
                            yield event
            except Refusal as refusal:
                raise self._error(refusal, doing) from refusal
        if not ended:
            raise InvocationError(
                "The connection broke while the cell ran, so the service has interrupted it; its variables are kept.",
                provider=access.place.brand.name,
                sandbox_id=access.sandbox_id,
            )

    async def restart(self) -> None:
        await self._ask("restart", "POST", f"/contexts/{self._context}/restart")

    async def shell(self, text: str) -> AsyncIterator[bytes | int]:
        envd = Envd(self._rest(), self._access())
        pid = 0
        ended = False
        try:
            async for event in envd.start(f"cd {self._work}; {text}"):
                if isinstance(start := event.get("start"), dict):
                    pid = int(start.get("pid", 0))
                elif isinstance(end := event.get("end"), dict):
                    ended = True
                    yield exit_status_of(end)
                elif output := output_of(event):
                    yield output
        finally:
            if pid and not ended:
                await envd.kill(pid)

    async def _ask(self, doing: str, method: str, path: str, **content: Any) -> Any:
        access = self._access()
        with translated(access.place.brand, doing, sandbox_id=access.sandbox_id):
            try:
                response: httpx.Response = await self._rest().sandbox(access, INTERPRETER, method, path, **content)
            except Refusal as refusal:
                raise self._error(refusal, doing) from refusal
        try:
            return response.json() if response.content else None
        except (ValueError, RecursionError) as exc:
            raise InvocationError(
                "What the code interpreter answers cannot be read.",
                provider=access.place.brand.name,
                sandbox_id=access.sandbox_id,
            ) from exc

    def _error(self, refusal: Refusal, doing: str) -> SandboxError:
        access = self._access()
        if refusal.status == BAD_GATEWAY and not refusal.is_of_stopped:
            return SandboxLostError(
                f"The sandbox has no code interpreter, or it does not run ({refusal.said}); does the template "
                f"{access.template_id!r} have one?",
                provider=access.place.brand.name,
                sandbox_id=access.sandbox_id,
            )
        return error_of(access.place.brand, refusal, doing, sandbox_id=access.sandbox_id)


def _read(line: str) -> dict[str, Any]:
    try:
        said = json.loads(line) if line.strip() else {}
    except (ValueError, RecursionError) as exc:
        raise InvocationError(f"What the code interpreter sends cannot be read: {line[:100]!r}.") from exc
    return said if isinstance(said, dict) else {}


def _event(said: dict[str, Any]) -> Event | None:
    """Return what a line says, None for those that say nothing to a notebook."""
    match said.get("type"):
        case "stdout" | "stderr" as name:
            return Text(name, str(said.get("text", "")))
        case "result":
            data = {MIME[name]: value for name, value in said.items() if name in MIME and value is not None}
            extra = said.get("extra")
            data.update(extra if isinstance(extra, dict) else {})
            return Display(data, result=bool(said.get("is_main_result")))
        case "error":
            name, value = str(said.get("name", "Error")), str(said.get("value", ""))
            trace = str(said.get("traceback", "")) or f"{name}: {value}"
            return Failure(name, value, trace.split("\n"))
        case "unexpected_end_of_execution":
            return Failure("ContextRestarting", "the interpreter ended; variables are gone", ["ContextRestarting"])
    return None
