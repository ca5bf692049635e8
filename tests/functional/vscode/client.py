"""A kernel client that behaves as VS Code's Jupyter extension does, over raw ZeroMQ: no jupyter_client in here.

How the extension finds, launches, talks to and stops a kernel is written down once, here; what a kernel must then do
is in the tests beside it. Everything runs in the caller's thread: sockets are read only inside `wait_until`.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, TypeVar

import psutil
import zmq

from tests.ports import free_port

T = TypeVar("T")
JsonObject = dict[str, Any]

CHANNELS = ("shell", "control", "stdin", "iopub")
OUTPUT_TYPES = frozenset({"stream", "display_data", "update_display_data", "execute_result", "error", "clear_output"})
HEADER_FIELDS = ("msg_id", "msg_type", "session", "username", "date", "version")
DELIMITER = b"<IDS|MSG>"
ANSI = re.compile(r"\x1b\[[0-9;]*m")

LAUNCH_TIMEOUT = 60.0  # jupyter.jupyterLaunchTimeout
INTERRUPT_TIMEOUT = 10.0  # jupyterInterruptTimeout
KERNEL_INFO_INTERVAL = 0.5
PORT_POLL_INTERVAL = 0.2
WAIT_TIMEOUT = 40.0  # ours: how long a step may hang before the test fails


class KernelDiedError(Exception):
    """The kernel process exited while the client waited for it; the extension shows its stderr."""


class ProtocolError(Exception):
    """The kernel sent something that no client could read or believe."""


@dataclass(frozen=True)
class KernelSpec:
    """The fields of kernel.json that the extension reads."""

    name: str
    folder: Path
    argv: tuple[str, ...]
    display_name: str
    language: str
    env: Mapping[str, str]
    interrupt_mode: str
    metadata: Mapping[str, Any]


def kernelspec_folders() -> Iterator[Path]:
    """Yield the folders that hold kernelspecs: JUPYTER_PATH, the interpreter's own, the user's, the system's."""
    for entry in filter(None, os.environ.get("JUPYTER_PATH", "").split(os.pathsep)):
        yield Path(entry) / "kernels"
    yield Path(sys.prefix) / "share/jupyter/kernels"
    yield Path.home() / ".local/share/jupyter/kernels"
    yield Path("/usr/local/share/jupyter/kernels")
    yield Path("/usr/share/jupyter/kernels")


def find_kernelspecs() -> dict[str, KernelSpec]:
    """Read every kernelspec that the extension would see; the first of a name wins."""
    found: dict[str, KernelSpec] = {}
    for file in itertools.chain.from_iterable(folder.glob("*/kernel.json") for folder in kernelspec_folders()):
        found.setdefault(file.parent.name, read_kernelspec(file))
    return found


def read_kernelspec(file: Path) -> KernelSpec:
    """Read one kernel.json."""
    fields = json.loads(file.read_text())
    return KernelSpec(
        name=file.parent.name,
        folder=file.parent,
        argv=tuple(fields["argv"]),
        display_name=fields["display_name"],
        language=fields["language"],
        env=fields.get("env", {}),
        interrupt_mode=fields.get("interrupt_mode", "signal"),
        metadata=fields.get("metadata", {}),
    )


def is_launched_by_extension(argv: Sequence[str]) -> bool:
    """Tell whether the extension takes the command for `python -m ipykernel` and rewrites it."""
    if Path(argv[0]).name not in ("python", "python3") or "-m" not in argv:
        return False
    return "ipykernel" in argv[argv.index("-m") + 1]


def launch_command(spec: KernelSpec, connection_file: Path) -> list[str]:
    """Fill in the argv, with the extension's two oddities: `--f=`, and quotes around a path with spaces."""
    argv = [argument.replace("{resource_dir}", str(spec.folder)) for argument in spec.argv]
    if is_launched_by_extension(argv):
        rest = [argument for argument in argv[1:] if argument not in ("-f", "{connection_file}")]
        return [sys.executable, *rest, f"--f={connection_file}"]
    quoted = f'"{connection_file}"' if " " in str(connection_file) else str(connection_file)
    return [
        str(connection_file) if argument == "{connection_file}" else argument.replace("{connection_file}", quoted)
        for argument in argv
    ]


def launch_environment(spec: KernelSpec, extra: Mapping[str, str]) -> dict[str, str]:
    """Build the environment: the extension host's, the activated interpreter's, the kernelspec's, pydevd's flag."""
    env = {**os.environ, **extra, "VIRTUAL_ENV": sys.prefix}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    # Set by jupyter_server and jupyter_client only: a kernel must not count on them.
    for name in ("JPY_PARENT_PID", "JPY_SESSION_NAME"):
        env.pop(name, None)
    for name, value in spec.env.items():
        env[name] = re.sub(r"\$\{(\w+)\}", lambda match: env.get(match[1], ""), value)
    env["PYDEVD_IPYTHON_COMPATIBLE_DEBUGGING"] = "1"
    return env


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Connection:
    """The contents of a connection file; the client chooses the ports and the key."""

    shell_port: int = field(default_factory=free_port)
    iopub_port: int = field(default_factory=free_port)
    stdin_port: int = field(default_factory=free_port)
    control_port: int = field(default_factory=free_port)
    hb_port: int = field(default_factory=free_port)
    ip: str = "127.0.0.1"
    transport: str = "tcp"
    signature_scheme: str = "hmac-sha256"
    key: str = field(default_factory=lambda: str(uuid.uuid4()))

    def write(self, folder: Path, kernel_name: str) -> Path:
        """Write the connection file under the name that the extension gives it."""
        file = folder / f"kernel-v3{uuid.uuid4().hex}{uuid.uuid4().hex[:8]}.json"
        file.write_text(json.dumps({**asdict(self), "kernel_name": kernel_name}, indent=2))
        file.chmod(0o600)
        return file

    def sign(self, parts: Iterable[bytes]) -> bytes:
        """Return the hexadecimal HMAC-SHA256 of the four JSON parts."""
        digest = hmac.new(self.key.encode(), digestmod=hashlib.sha256)
        for part in parts:
            digest.update(part)
        return digest.hexdigest().encode()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_gone(processes: Iterable[psutil.Process], timeout: float = WAIT_TIMEOUT) -> list[psutil.Process]:
    """Wait until the processes have ended; return those that have not.

    A zombie has ended: when orphans are reaped is the business of the machine's init, which in a container may be slow.
    """
    deadline = time.monotonic() + timeout
    while (alive := list(filter(_is_alive, processes))) and time.monotonic() < deadline:
        time.sleep(0.02)
    return alive


class KernelProcess:
    """A kernel spawned plainly: three pipes, the notebook's folder as working directory, the caller's process group."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], folder: Path) -> None:
        self._popen = subprocess.Popen(
            command,
            env=env,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.pid = self._popen.pid
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self._output: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        # Pipes that nobody empties would stop the kernel once they are full.
        self._readers = [
            self._start_reader("stdout", self._popen.stdout),
            self._start_reader("stderr", self._popen.stderr),
        ]

    def _start_reader(self, name: str, pipe: IO[bytes]) -> threading.Thread:
        reader = threading.Thread(target=self._read, args=(name, pipe), daemon=True)
        reader.start()
        return reader

    def _read(self, name: str, pipe: IO[bytes]) -> None:
        with pipe:
            self._output[name].extend(pipe)

    @property
    def exit_code(self) -> int | None:
        """The exit code, or None while the process runs."""
        return self._popen.poll()

    @property
    def stderr(self) -> str:
        """What the kernel has written to stderr so far."""
        return b"".join(self._output["stderr"]).decode(errors="replace")

    def descendants(self) -> list[psutil.Process]:
        """List every process below the kernel."""
        try:
            descendants: list[psutil.Process] = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return descendants

    def terminate(self) -> list[psutil.Process]:
        """Stop as the extension does: SIGTERM to all descendants, then to the kernel; nothing is waited for."""
        descendants = self.descendants()
        for process in descendants:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)
        self._popen.terminate()
        return descendants

    def wait(self, timeout: float = WAIT_TIMEOUT) -> int:
        """Wait until the process has exited and its pipes are empty; return the exit code."""
        exit_code = self._popen.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        return exit_code

    def close(self) -> None:
        """Leave no process behind, whatever state the kernel is in."""
        remaining = self.terminate()
        try:
            self._popen.wait(10)
        except subprocess.TimeoutExpired:
            self._popen.kill()
        for process in wait_gone(remaining, timeout=10):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.wait()
        assert self._popen.stdin is not None
        self._popen.stdin.close()


@dataclass(frozen=True)
class Message:
    """One message from the kernel, its signature checked."""

    channel: str
    header: JsonObject
    parent: JsonObject
    metadata: JsonObject
    content: JsonObject
    buffers: list[bytes]
    position: int  # in the order in which the client read them

    @property
    def type(self) -> str:
        """The message type."""
        return str(self.header["msg_type"])

    @property
    def is_idle(self) -> bool:
        """Whether this is the end of what a request published."""
        return self.type == "status" and self.content["execution_state"] == "idle"


@dataclass(frozen=True)
class Request:
    """One request and what has come back for it so far."""

    msg_id: str
    channel: str
    answers: Sequence[Message]  # everything with this parent; grows while the client reads

    @property
    def replies(self) -> list[Message]:
        """The replies on the request's own channel: there must be exactly one."""
        return [msg for msg in self.answers if msg.channel == self.channel]

    @property
    def reply(self) -> JsonObject:
        """The content of the one reply."""
        (reply,) = self.replies
        return reply.content

    @property
    def published(self) -> list[Message]:
        """What came on iopub with this parent."""
        return [msg for msg in self.answers if msg.channel == "iopub"]

    @property
    def input_requests(self) -> list[Message]:
        """What the kernel asked on stdin."""
        return [msg for msg in self.answers if msg.channel == "stdin"]

    @property
    def is_done(self) -> bool:
        """Whether reply and idle status have both arrived."""
        return bool(self.replies) and any(msg.is_idle for msg in self.published)

    @property
    def outputs(self) -> list[Message]:
        """The messages that put something below a cell."""
        return [msg for msg in self.published if msg.type in OUTPUT_TYPES]

    @property
    def shown(self) -> list[JsonObject]:
        """The MIME bundles displayed or returned."""
        return [msg.content["data"] for msg in self.outputs if "data" in msg.content]

    def stream(self, name: str = "stdout") -> str:
        """Return the text written to one stream."""
        return "".join(
            msg.content["text"] for msg in self.outputs if msg.type == "stream" and msg.content["name"] == name
        )


class VSCodeClient:
    """The extension's connection to one kernel process: four sockets, one identity, its own signatures."""

    def __init__(self, connection: Connection, process: KernelProcess) -> None:
        self.connection = connection
        self.process = process
        self.session = str(uuid.uuid4())
        self.messages: list[Message] = []
        self._by_parent: defaultdict[str, list[Message]] = defaultdict(list)
        self._debug_sequence = itertools.count(1)
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._sockets = {channel: self._connect(channel) for channel in CHANNELS}
        self._channel_of = {socket: channel for channel, socket in self._sockets.items()}

    def _connect(self, channel: str) -> zmq.Socket[bytes]:
        connected = self._context.socket(zmq.SUB if channel == "iopub" else zmq.DEALER)
        connected.linger = 0
        if channel == "iopub":
            connected.subscribe(b"")
        else:
            # One identity for all three, so that an input_request finds the front end that ran the cell.
            connected.identity = self.session.encode()
        connected.connect(f"tcp://{self.connection.ip}:{getattr(self.connection, f'{channel}_port')}")
        self._poller.register(connected, zmq.POLLIN)
        return connected

    def close(self) -> None:
        """Close the sockets; the process is left alone."""
        self._context.destroy(linger=0)

    # Sending

    def send(
        self,
        channel: str,
        msg_type: str,
        content: JsonObject,
        *,
        parent: JsonObject | None = None,
        metadata: JsonObject | None = None,
        buffers: Sequence[bytes] = (),
        subshell_id: str | None = None,
    ) -> Request:
        """Send one signed message."""
        header = {
            "msg_id": str(uuid.uuid4()),
            "msg_type": msg_type,
            "session": self.session,
            "username": "",
            "date": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "version": "5.2",
        }
        if subshell_id is not None:
            header["subshell_id"] = subshell_id
        parts = [json.dumps(part).encode() for part in (header, parent or {}, metadata or {}, content)]
        self._sockets[channel].send_multipart([DELIMITER, self.connection.sign(parts), *parts, *buffers])
        return Request(header["msg_id"], channel, self._by_parent[header["msg_id"]])

    def send_execute(self, code: str, *, hidden: bool = False) -> Request:
        """Send a cell, or code of the extension's own, and do not wait for it."""
        content = {
            "code": code,
            "silent": False,
            "store_history": not hidden,
            "stop_on_error": False,
            "allow_stdin": True,
            "user_expressions": {},
        }
        metadata = {} if hidden else {"cellId": f"vscode-notebook-cell:/notebook.ipynb#{uuid.uuid4().hex[:8]}"}
        return self.send("shell", "execute_request", content, metadata=metadata)

    def answer_input(self, asked: Message, value: str) -> None:
        """Answer an input_request; a cancelled box is the empty string."""
        self.send("stdin", "input_reply", {"value": value, "status": "ok"}, parent=asked.header)

    # Receiving

    def wait_until(self, read: Callable[[], T], what: str, timeout: float = WAIT_TIMEOUT) -> T:
        """Read messages until `read` returns something true, and return that.

        Raises `KernelDiedError` when the kernel process exits first, `TimeoutError` after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not (value := read()):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError(f"no {what} within {timeout:g} s; last messages: {self._last_messages()}")
            if not self._read_messages(min(remaining, 0.2)) and self.process.exit_code is not None:
                raise KernelDiedError(
                    f"kernel exited with {self.process.exit_code} before {what}: {self.process.stderr}"
                )
        return value

    def _read_messages(self, timeout: float) -> int:
        ready = self._poller.poll(int(timeout * 1000))
        for ready_socket, _ in ready:
            message = self._parse(self._channel_of[ready_socket], ready_socket.recv_multipart())
            self.messages.append(message)
            self._by_parent[message.parent.get("msg_id", "")].append(message)
        return len(ready)

    def _parse(self, channel: str, frames: list[bytes]) -> Message:
        start = frames.index(DELIMITER) + 1
        signature, parts, buffers = frames[start], frames[start + 1 : start + 5], frames[start + 5 :]
        if not hmac.compare_digest(signature, self.connection.sign(parts)):
            raise ProtocolError(f"wrong signature on {channel}: {parts[0]!r}")
        header, parent, metadata, content = (json.loads(part) for part in parts)
        missing = [name for name in HEADER_FIELDS if name not in header]
        if missing:
            raise ProtocolError(f"header without {missing} on {channel}: {header}")
        return Message(channel, header, parent, metadata, content, buffers, len(self.messages))

    def _last_messages(self) -> list[str]:
        return [f"{msg.channel} {msg.type} {str(msg.content)[:120]}" for msg in self.messages[-8:]]

    def wait_done(self, request: Request, timeout: float = WAIT_TIMEOUT) -> Request:
        """Wait for reply and idle status of one request."""
        self.wait_until(lambda: request.is_done, "reply and idle status", timeout)
        return request

    # What the extension does with them

    def request(self, channel: str, msg_type: str, content: JsonObject | None = None) -> JsonObject:
        """Send a request, wait until it is done, return the content of its reply."""
        return self.wait_done(self.send(channel, msg_type, content or {})).reply

    def execute(self, code: str, *, hidden: bool = False) -> Request:
        """Run a cell, or code of the extension's own, to its end."""
        return self.wait_done(self.send_execute(code, hidden=hidden))

    def debug(self, command: str, arguments: JsonObject | None = None) -> JsonObject:
        """Send one request of the debug adapter protocol on control; return the body of a successful response."""
        request = {
            "type": "request",
            "seq": next(self._debug_sequence),
            "command": command,
            "arguments": arguments or {},
        }
        response = self.request("control", "debug_request", request)
        if not response.get("success"):
            raise ProtocolError(f"{command} failed: {response}")
        body: JsonObject = response.get("body", {})
        return body

    def debug_events(self, name: str) -> list[JsonObject]:
        """List the debugger events of one kind that have arrived, oldest first."""
        events = [msg.content for msg in self.messages if msg.type == "debug_event"]
        return [event for event in events if event.get("event") == name]

    def interrupt(self) -> JsonObject:
        """Interrupt by message, which has to be answered before the extension offers a restart."""
        return self.wait_done(self.send("control", "interrupt_request", {}), INTERRUPT_TIMEOUT).reply

    def connect(self) -> list[Request]:
        """Repeat kernel_info on both channels until one reply and one iopub message have come; return the requests."""
        sent: list[Request] = []
        deadline = time.monotonic() + LAUNCH_TIMEOUT

        def is_connected() -> bool:
            replied = any(request.replies for request in sent)
            return replied and any(msg.channel == "iopub" for msg in self.messages)

        while not is_connected():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not connected within {LAUNCH_TIMEOUT:g} s: {self.process.stderr}")
            sent += [self.send(channel, "kernel_info_request", {}) for channel in ("control", "shell")]
            with suppress(TimeoutError):
                self.wait_until(is_connected, "connection", KERNEL_INFO_INTERVAL)
        return sent


def launch(
    spec: KernelSpec,
    folder: Path,
    runtime_folder: Path,
    env: Mapping[str, str],
    connection: Connection | None = None,
) -> tuple[Connection, KernelProcess]:
    """Spawn a kernel for a notebook in `folder`, at once."""
    connection = connection or Connection()
    file = connection.write(runtime_folder, spec.name)
    return connection, KernelProcess(launch_command(spec, file), launch_environment(spec, env), folder)


def wait_for_ports(connection: Connection, process: KernelProcess) -> None:
    """Wait until the shell and iopub ports are bound; the connections made to see it are dropped without a word."""
    deadline = time.monotonic() + LAUNCH_TIMEOUT
    while not (_is_listening(connection.shell_port) and _is_listening(connection.iopub_port)):
        if process.exit_code is not None:
            process.wait()
            raise KernelDiedError(f"kernel exited with {process.exit_code} at start: {process.stderr}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"ports not bound within {LAUNCH_TIMEOUT:g} s: {process.stderr}")
        time.sleep(PORT_POLL_INTERVAL)
