"""Runs tools in sandboxes of their own: one for each artifact, so that no tool meets what another one left behind."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sandbox_kernel.errors import (
    QuotaError,
    SandboxKernelError,
    ToolExecutionError,
    ToolTimeoutError,
    UnknownToolError,
)

from . import harness
from .documents import Artifact

if TYPE_CHECKING:
    from typing_extensions import Self

    from sandbox_kernel.library import Sandbox

MAX_SANDBOXES = 4
"""That are kept for their next run."""
MAX_PARALLEL = 8
"""Runs at once, each in another sandbox at most; others wait."""
MAX_OUTPUT = 1024 * 1024
"""Bytes of what a tool prints that are kept; the rest is dropped."""
MAX_ANSWER = 64 * 1024 * 1024
"""Bytes of what a tool returns, as JSON."""
KEPT_RUNS = 200
CLEAN_TIMEOUT = 5.0


@dataclass
class Run:
    """One execution, and what it came to."""

    id: str
    tool: str
    state: str = "running"
    """``running``, ``done``, ``failed``, ``timeout`` or ``cancelled``."""
    value: Any = None
    stdout: str = ""
    error: str = ""
    seconds: float = 0.0
    """From the call to the answer."""
    cpu: float = 0.0
    """Seconds of processor time."""
    memory: int = 0
    """Bytes, at most at once."""
    began: float = field(default_factory=time.time)
    task: asyncio.Task[None] | None = field(default=None, repr=False, compare=False)


class Runner:
    """Keeps a few sandboxes. Its methods belong to one event loop."""

    def __init__(self, make_sandbox: Callable[[], Sandbox]) -> None:
        self._make = make_sandbox
        self._sandboxes: OrderedDict[str, Sandbox] = OrderedDict()
        self._busy: dict[str, int] = {}
        self.room = asyncio.Semaphore(MAX_PARALLEL)
        self.runs: OrderedDict[str, Run] = OrderedDict()

    def begin(self, tool: str, artifact: Artifact, function: str, arguments: Mapping[str, Any], timeout: float) -> Run:
        """Begin a run; its task ends with it, and raises nothing but a cancellation."""
        run = Run(f"run-{uuid.uuid4().hex[:12]}", tool)
        self.runs[run.id] = run
        while len(self.runs) > KEPT_RUNS:
            self.runs.popitem(last=False)
        run.task = asyncio.ensure_future(self._run(run, artifact, function, arguments, timeout))
        return run

    def find(self, run_id: str) -> Run:
        """Return a run by its id, or the beginning of it. Raises UnknownToolError."""
        found = [run for key, run in self.runs.items() if key.startswith(run_id)]
        if len(found) != 1:
            raise UnknownToolError(f"There is no run {run_id!r} in this session; `%sandbox tool status` lists them.")
        return found[0]

    async def check_syntax(self, artifact: Artifact) -> str:
        """Return what Node says of the code; "" if it is in order. Raises ToolExecutionError where there is no Node."""
        async with _Place(self, artifact) as place:
            await place.write({f"tool.{harness.SUFFIXES[artifact.language]}": artifact.code})
            output, code = await place.shell(harness.check_command(artifact.language, place.folder))
            _require_program(code, artifact.language)
            return "" if code == 0 else output

    async def _run(
        self, run: Run, artifact: Artifact, function: str, arguments: Mapping[str, Any], timeout: float
    ) -> None:
        began = time.monotonic()
        try:
            await self._execute(run, artifact, function, arguments, timeout)
        except asyncio.CancelledError:
            run.state, run.error = "cancelled", "it was cancelled"
        except ToolTimeoutError as exc:
            run.state, run.error = "timeout", str(exc)
        except SandboxKernelError as exc:
            run.state, run.error = "failed", str(exc)
        finally:
            run.seconds = time.monotonic() - began

    async def _execute(
        self, run: Run, artifact: Artifact, function: str, arguments: Mapping[str, Any], timeout: float
    ) -> None:
        language = artifact.language
        request = {
            "function": function,
            "arguments": dict(arguments),
            "positions": list(artifact.input_schema.get("properties") or {}),
        }
        name = "harness.py" if language == "python" else "harness.mjs"
        async with _Place(self, artifact) as place:
            await place.write(
                {
                    f"tool.{harness.SUFFIXES[language]}": harness.source(language, artifact.code, function),
                    name: harness.program(language),
                    "request.json": json.dumps(request, allow_nan=False),
                }
            )
            try:
                run.stdout, code = await asyncio.wait_for(place.shell(harness.command(language, place.folder)), timeout)
            except asyncio.TimeoutError:
                raise ToolTimeoutError(f"the tool {run.tool!r} took longer than {timeout:g} s and was ended") from None
            _require_program(code, language)
            answer = await place.answer()
        if answer is None:
            last = run.stdout.strip().rpartition("\n")[2][:300]
            raise ToolExecutionError(f"the tool ended (status {code}) without an answer. {last}".strip())
        _take(run, answer)

    async def sandbox(self, digest: str) -> Sandbox:
        """Return the sandbox of an artifact; that which was not used for longest is ended for a new one."""
        # Made before anything is waited for: two runs of one artifact share it.
        if digest not in self._sandboxes:
            self._sandboxes[digest] = self._make()
        found = self._sandboxes[digest]
        self._sandboxes.move_to_end(digest)
        for old in [key for key in self._sandboxes if not self._busy.get(key)]:
            if len(self._sandboxes) <= MAX_SANDBOXES:
                break
            # While another one was being ended, somebody may have taken it.
            if old in self._sandboxes and not self._busy.get(old):
                await self._sandboxes.pop(old).close()
        return found

    async def fresh(self) -> AsyncGenerator[Sandbox, None]:
        """Give one sandbox that nobody used, when there is room; it ends with the iteration."""
        async with self.room:
            sandbox = self._make()
            try:
                yield sandbox
            finally:
                await sandbox.close()

    def use(self, digest: str, change: int) -> None:
        """Note that a run uses a sandbox, or no longer."""
        self._busy[digest] = self._busy.get(digest, 0) + change
        if not self._busy[digest]:
            del self._busy[digest]

    async def close(self) -> None:
        """End all runs and sandboxes. Idempotent."""
        for run in self.runs.values():
            if run.task is not None:
                run.task.cancel()
        while self._sandboxes:
            _, sandbox = self._sandboxes.popitem()
            await sandbox.close()


class _Place:
    """A folder in an artifact's sandbox for one run."""

    def __init__(self, runner: Runner, artifact: Artifact) -> None:
        self._runner, self._digest = runner, artifact.digest
        self.folder = f"/tmp/tool-{uuid.uuid4().hex}"  # noqa: S108 - in the sandbox
        self._sandbox: Sandbox

    async def __aenter__(self) -> Self:
        await self._runner.room.acquire()
        self._runner.use(self._digest, 1)
        try:
            self._sandbox = await self._runner.sandbox(self._digest)
            await self._sandbox.start()
        except BaseException:
            self._release()
            raise
        return self

    async def __aexit__(self, *_exception: object) -> None:
        try:
            await asyncio.wait_for(self._sandbox.remove(self.folder, recursive=True), CLEAN_TIMEOUT)
        except (SandboxKernelError, asyncio.TimeoutError):
            # It is gone with its sandbox, or goes with it.
            pass
        finally:
            self._release()

    def _release(self) -> None:
        self._runner.use(self._digest, -1)
        self._runner.room.release()

    async def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            await self._sandbox.write(f"{self.folder}/{name}", text.encode("utf-8", "surrogatepass"))

    async def shell(self, text: str) -> tuple[str, int | None]:
        """Run a command; return what it wrote, and its exit status. Who is cancelled ends it."""
        command = self._sandbox.session.shell(text)
        output = bytearray()
        async for chunk in command:
            output += chunk[: max(0, MAX_OUTPUT - len(output))]
        return output.decode(errors="replace"), command.exit_code

    async def answer(self) -> dict[str, Any] | None:
        """Return the answer; None where none can be read. Raises ToolExecutionError if it is too large."""
        try:
            pieces = [piece async for piece in self._sandbox.read(f"{self.folder}/answer.json", limit=MAX_ANSWER)]
            found = json.loads(b"".join(pieces))
        except QuotaError as exc:
            raise ToolExecutionError(
                f"the tool returned more than {MAX_ANSWER} bytes as JSON; a tool returns at most that"
            ) from exc
        except (SandboxKernelError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None


def _require_program(code: int | None, language: str) -> None:
    if code == harness.NO_NODE:
        raise ToolExecutionError(
            f"a tool in {language} needs Node in the sandbox's environment: "
            "`pip install 'sandbox-kernel[javascript]'` there"
        )
    if code == harness.NO_PYTHON:
        raise ToolExecutionError("there is no Python in the sandbox")


def _take(run: Run, answer: dict[str, Any]) -> None:
    """Take an answer; the tool may have written anything into it."""
    for name in ("cpu", "memory"):
        value = answer.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1 << 60:
            setattr(run, name, type(getattr(run, name))(value))
    error = answer.get("error")
    if isinstance(error, dict):
        trace = error.get("trace")
        lines = [str(line)[:300] for line in trace[-10:]] if isinstance(trace, list) else []
        run.state = "failed"
        run.error = "\n".join([f"{str(error.get('type'))[:80]}: {str(error.get('message'))[:4000]}", *lines])
    else:
        run.state, run.value = "done", answer.get("value")
