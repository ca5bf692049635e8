"""Gets the bridge to run in a session of the service: unpacked, started in the first way that lasts, and answering."""

from __future__ import annotations

import asyncio
import base64
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbox_kernel.errors import SandboxError, SandboxLostError, SandboxTimeoutError
from sandbox_kernel.retry import RetryPolicy

from .api import Api
from .bundle import bundle
from .carriers import Carriers, Place
from .results import ToolResult

WAYS = ("code", "task", "command")
"""How the porter can be started, in the order in which it is tried: by the service's interpreter, as a task of the
service, by a shell command that leaves it behind."""
CALL_TIMEOUT = 120.0
INSTALL_TIMEOUT = 300.0
POLICY = RetryPolicy(attempts=4, first_delay=0.2, longest_delay=1.0, jitter=0.2)
"""For shell commands that fail at the start: the whole session would lack them."""
MARK = "<sbx-boot>"
WHEELS = ".sandbox-kernel-wheels"
_UNPACK = """\
def _sbx_boot():
    import base64, importlib.util, io, json, os, subprocess, sys, zipfile
    folder, options, starts = {folder!r}, {options!r}, {starts!r}
    def lacks(name):
        try:
            return importlib.util.find_spec(name) is None
        except (ImportError, ValueError):
            return True
    missing = [name for name in ("ipykernel", "zmq", "tornado") if lacks(name)]
    os.makedirs(folder, 0o700, exist_ok=True)
    whole = os.path.join(folder, "whole")
    if not os.path.exists(whole):
        # Not again under the hands of what was started by a call whose answer was lost.
        zipfile.ZipFile(io.BytesIO(base64.b64decode({archive!r}))).extractall(folder)
        open(whole, "w").close()
    porter = os.path.join(folder, "sandbox_kernel", "bridge", "porter.py")
    beside = [name for name in os.listdir(".") if ":" not in name]
    words = [sys.executable, "-I", porter, folder, "--beside", ":".join(beside), *options]
    environment = {{name: text for name, text in os.environ.items() if not name.startswith("JPY_")}}
    if starts and not missing:
        nothing = subprocess.DEVNULL
        subprocess.Popen(words, stdin=nothing, stdout=nothing, stderr=nothing, env=environment, start_new_session=True)
    print({mark!r} + json.dumps({{
        "python": sys.executable, "version": sys.version.split()[0], "cwd": os.getcwd(),
        "missing": missing, "words": words,
    }}))
_sbx_boot()
"""
_PIP = """\
def _sbx_pip():
    import subprocess, sys
    words = [sys.executable, "-m", "pip", "install", "-q", "--retries", "1", *{arguments!r}]
    done = subprocess.run(words, capture_output=True, text=True)
    print({mark!r} if not done.returncode else done.stderr[-500:])
_sbx_pip()
"""


class NoBridgeError(Exception):
    """The bridge cannot run in this session; why, as a clause."""


@dataclass(frozen=True)
class Booted:
    """A session in which the porter answers."""

    place: Place
    version: str
    way: str
    carriers: Carriers


@dataclass(frozen=True)
class Boot:
    """Starts the bridge in one session. ``report`` takes what happens, for the log."""

    api: Api
    session_id: str
    options: Sequence[str] = ()
    """Arguments of the ipykernel."""
    correlation_id: str = ""
    ways: Sequence[str] = WAYS
    wheels: str = ""
    """A folder on this machine with wheels of ipykernel and all that it needs; "" for none."""
    report: Callable[[str, str, dict[str, Any]], None] = field(default=lambda name, level, fields: None)

    @property
    def folder(self) -> str:
        """Where the program lies in the sandbox: short, since sockets are in it."""
        return f"/tmp/sbx-{self.session_id}"  # noqa: S108 - in the sandbox; only its owner can enter it

    async def run(self) -> Booted:
        """Do it. Raises NoBridgeError where it cannot be done, SandboxError for what may go better the next time."""
        said = await self._unpack(starts="code" in self.ways)
        if said["missing"]:
            await self._install(said["missing"])
            said = await self._unpack(starts="code" in self.ways)
        if said["missing"]:
            raise NoBridgeError(f"its Python has no {', '.join(said['missing'])}")
        place = Place(self.folder, said["python"])
        carriers = Carriers(self.api, self.session_id, place, self.correlation_id)
        for way in self.ways:
            if way != "code":
                await self._start(way, said["words"], said["cwd"])
            if await self._answers(carriers, load=place.loading):
                self.report("bridge_started", "info", {"way": way, "commands": carriers.has_commands})
                return Booted(place, said["version"], way, carriers)
            self.report("way_failed", "warning", {"way": way})
        raise NoBridgeError("no process that is started in it lasts")

    # ---- the steps

    async def _unpack(self, *, starts: bool) -> dict[str, Any]:
        archive = base64.b64encode(bundle()).decode()
        code = _UNPACK.format(folder=self.folder, options=list(self.options), starts=starts, archive=archive, mark=MARK)
        said = await self._execute(code, CALL_TIMEOUT)
        _, mark, text = said.printed.partition(MARK)
        try:
            found = json.loads(text.splitlines()[0]) if mark else None
        except (ValueError, IndexError):
            found = None
        if not isinstance(found, dict):
            last = (said.stderr or said.text or "it said nothing").strip().splitlines()[-1:]
            raise NoBridgeError(f"its files cannot be put there: {' '.join(last)[-200:]}")
        return found

    async def _start(self, way: str, words: Sequence[str], cwd: str) -> None:
        command = f"cd {shlex.quote(cwd)} && exec {shlex.join(words)} </dev/null >/dev/null 2>&1"
        try:
            if way == "task":
                await self.api.invoke(
                    self.session_id, "startCommandExecution", {"command": command}, timeout=CALL_TIMEOUT
                )
            else:
                left = f"setsid nohup sh -c {shlex.quote(command)} </dev/null >/dev/null 2>&1 &"
                await self.api.invoke(self.session_id, "executeCommand", {"command": left}, timeout=CALL_TIMEOUT)
        except SandboxError as exc:
            self.report("way_refused", "warning", {"way": way, "error": str(exc)})

    async def _answers(self, carriers: Carriers, load: str) -> bool:
        """Whether the porter answers, and note whether shell commands reach it, too."""
        hello = {"stream": "", "at": 0, "have": 0, "want": False}
        await self._execute(load, CALL_TIMEOUT)
        by_code, by_command = await asyncio.gather(
            carriers.exchange(hello), carriers.exchange(hello, beside=True), return_exceptions=True
        )
        if isinstance(by_code, SandboxLostError):
            return False
        if isinstance(by_code, BaseException):
            raise by_code
        carriers.has_commands = not isinstance(by_command, BaseException) or (
            _may_be_mended(by_command) and await self._answers_commands(carriers, hello)
        )
        return True

    async def _answers_commands(self, carriers: Carriers, hello: dict[str, Any]) -> bool:
        """Whether shell commands reach the porter after all, where the first did not: it is asked a few times more."""
        for attempt in range(1, POLICY.attempts):
            await asyncio.sleep(POLICY.delay_at_random(attempt))
            try:
                await carriers.exchange(hello, beside=True)
            except SandboxError as exc:
                if not _may_be_mended(exc):
                    return False
            else:
                return True
        return False

    async def _install(self, missing: Sequence[str]) -> None:
        """Try to add what is missing: from wheels of this machine, else from where the sandbox's pip looks."""
        arguments = ["ipykernel"]
        if self.wheels:
            paths = await asyncio.to_thread(lambda: sorted(Path(self.wheels).expanduser().glob("*.whl")))
            for path in paths:
                content = [{"path": f"{WHEELS}/{path.name}", "blob": await asyncio.to_thread(path.read_bytes)}]
                await self.api.invoke(self.session_id, "writeFiles", {"content": content}, timeout=CALL_TIMEOUT)
            arguments = ["--no-index", "--find-links", WHEELS, "ipykernel"]
        said = await self._execute(_PIP.format(arguments=arguments, mark=MARK), INSTALL_TIMEOUT)
        if MARK not in said.printed:
            last = " ".join((said.printed or said.text).strip().splitlines()[-1:])
            self.report("install_failed", "warning", {"missing": ", ".join(missing), "error": last[-200:]})

    async def _execute(self, code: str, timeout: float) -> ToolResult:
        arguments = {"code": code, "language": "python"}
        return await self.api.invoke(
            self.session_id, "executeCode", arguments, timeout=timeout, correlation_id=self.correlation_id
        )


def _may_be_mended(error: BaseException) -> bool:
    """Whether a command that failed so is worth another try; one that hangs would hang again, for half a minute."""
    return isinstance(error, SandboxError) and error.retryable and not isinstance(error, SandboxTimeoutError)
