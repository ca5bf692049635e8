"""Kernel processes and front ends for tests: every message of a request is collected, in the order of its arrival.

A front end is jupyter_client's BlockingKernelClient; what is added here is patience for several requests at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager

from tests.ports import write_connection

KERNEL = os.environ.get("SANDBOX_KERNEL_UNDER_TEST", "sandbox")
PATIENCE = 60.0
"""Seconds after which a test gives up; nothing takes so long."""
OUTPUTS = {"stream", "display_data", "update_display_data", "execute_result", "error", "clear_output"}

Message = dict[str, Any]
Json = dict[str, Any]


class Exchange:
    """One request and everything that came for it. `messages` are those of iopub."""

    def __init__(self, request: Message, channel: str) -> None:
        self.request = request
        self.channel = channel
        self.msg_id: str = request["header"]["msg_id"]
        self.messages: list[Message] = []
        self.replies: list[Message] = []
        self.questions: list[Message] = []
        self.order: list[str] = []
        """Types in the order of arrival, over all channels."""

    def take(self, channel: str, msg: Message) -> None:
        """Add a message that belongs to the request."""
        self.order.append(msg["msg_type"])
        {"iopub": self.messages, "stdin": self.questions}.get(channel, self.replies).append(msg)

    @property
    def done(self) -> bool:
        """Whether the reply and the idle status are there."""
        return bool(self.replies) and "idle" in self.statuses

    @property
    def statuses(self) -> list[str]:
        """The states that were published for it."""
        return [msg["content"]["execution_state"] for msg in self.of_type("status")]

    @property
    def reply(self) -> Json:
        """The content of its only reply."""
        assert len(self.replies) == 1, self.replies
        content: Json = self.replies[0]["content"]
        return content

    @property
    def status(self) -> str:
        """The reply's status."""
        return str(self.reply["status"])

    @property
    def count(self) -> int:
        """The reply's execution count."""
        return int(self.reply["execution_count"])

    def of_type(self, msg_type: str) -> list[Message]:
        """The outputs of one type."""
        return [msg for msg in self.messages if msg["msg_type"] == msg_type]

    def contents(self, msg_type: str) -> list[Json]:
        """The contents of the outputs of one type."""
        return [msg["content"] for msg in self.of_type(msg_type)]

    @property
    def outputs(self) -> list[str]:
        """The types of what a notebook would keep."""
        return [msg["msg_type"] for msg in self.messages if msg["msg_type"] in OUTPUTS]

    def stream(self, name: str = "stdout") -> str:
        """What was printed."""
        return "".join(content["text"] for content in self.contents("stream") if content["name"] == name)

    @property
    def result(self) -> str:
        """The value of the cell as text."""
        results = self.contents("execute_result")
        assert len(results) == 1, [(msg["msg_type"], msg["content"]) for msg in self.messages]
        return str(results[0]["data"]["text/plain"])

    @property
    def error(self) -> Json:
        """The only error, which the reply tells too."""
        errors = self.contents("error")
        assert len(errors) == 1, [(msg["msg_type"], msg["content"]) for msg in self.messages + self.replies]
        content: Json = errors[0]
        assert self.status == "error"
        assert self.reply["ename"] == content["ename"]
        assert self.reply["evalue"] == content["evalue"]
        return content

    @property
    def input_count(self) -> int:
        """The number with which the cell's code was announced."""
        (content,) = self.contents("execute_input")
        return int(content["execution_count"])

    def assert_ended_once(self) -> None:
        """Busy, one idle, one reply, and nothing behind them but the reply.

        Busy is said again after the idle of what is answered beside the cell: front ends show the last status of all.
        """
        assert self.statuses[-1:] == ["idle"], self.order
        assert set(self.statuses[:-1]) == {"busy"}, self.order
        assert len(self.replies) == 1, self.order
        # The reply comes through another socket, so its place among the outputs says nothing.
        outputs = [message["msg_type"] for message in self.messages if not message["msg_type"].endswith("_reply")]
        assert (outputs[0], outputs[-1]) == ("status", "status"), self.order


class FrontEnd:
    """A client of a kernel. Sockets are read only inside `until`, so nothing happens behind a test's back."""

    def __init__(self, connection: Path | Any, *, queue: int = 0, stdin: bool = True) -> None:
        """``queue`` is how many messages ZeroMQ may take ahead of the test; 0 means any number.

        Without ``stdin`` that socket connects only when `connect_stdin` is called.
        """
        context = zmq.Context()
        context.setsockopt(zmq.RCVHWM, queue)
        context.setsockopt(zmq.SNDTIMEO, int(1000 * PATIENCE))
        self.client = BlockingKernelClient(context=context)
        if isinstance(connection, dict):
            self.client.load_connection_info(connection)
        else:
            self.client.load_connection_file(str(connection))
        self.client.start_channels(hb=False, stdin=stdin)
        self.exchanges: dict[str, Exchange] = {}
        self.log: list[tuple[Exchange, str]] = []
        """Every message's request and type, in the order of arrival."""
        self.others: list[tuple[str, Message]] = []
        """What belongs to no request of this front end, with its channel."""
        self._channels: dict[str, Any] = {}
        self._poller = zmq.Poller()
        for name in ("shell", "control", "stdin", "iopub") if stdin else ("shell", "control", "iopub"):
            self._listen(name)

    def _listen(self, name: str) -> None:
        channel = self._channels[name] = getattr(self.client, f"{name}_channel")
        self._poller.register(channel.socket, zmq.POLLIN)

    def connect_stdin(self) -> None:
        """Connect the socket for questions, too."""
        self.client.stdin_channel.start()
        self._listen("stdin")

    def close(self) -> None:
        """Close the sockets."""
        self.client.stop_channels()
        self.client.context.destroy(0)

    # ---- sending

    def send(
        self,
        msg_type: str,
        content: Json | None = None,
        *,
        channel: str = "shell",
        buffers: Sequence[bytes] = (),
        header: Mapping[str, Any] | None = None,
    ) -> Exchange:
        """Send a message and return at once."""
        msg = self.client.session.msg(msg_type, content or {})
        msg["header"].update(header or {})
        exchange = self.exchanges[msg["header"]["msg_id"]] = Exchange(msg, channel)
        self.client.session.send(self._channels[channel].socket, msg, buffers=list(buffers) or None)
        return exchange

    def cell(self, code: str, *, header: Mapping[str, Any] | None = None, **options: object) -> Exchange:
        """Send a cell, with the fields of an execute request, and return at once."""
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": True}
        return self.send("execute_request", {**content, "stop_on_error": True, **options}, header=header)

    def run(self, code: str, *, timeout: float = PATIENCE, **options: Any) -> Exchange:
        """Run a cell to its end."""
        return self.finish(self.cell(code, **options), timeout=timeout)

    def ask(self, msg_type: str, content: Json | None = None, *, channel: str = "shell") -> Json:
        """Return the content of the reply to a request."""
        return self.finish(self.send(msg_type, content, channel=channel)).reply

    def answer(self, value: str) -> None:
        """Answer an input request."""
        self.client.input(value)

    def interrupt(self) -> Json:
        """Interrupt what runs; return the reply."""
        return self.ask("interrupt_request", channel="control")

    def position(self, exchange: Exchange, msg_type: str) -> int:
        """Where in the log the last message of a type for a request stands."""
        return max(index for index, entry in enumerate(self.log) if entry == (exchange, msg_type))

    # ---- waiting

    def finish(self, exchange: Exchange, *others: Exchange, timeout: float = PATIENCE) -> Exchange:
        """Wait until requests are done; return the first."""
        all_of_them = (exchange, *others)
        self.until(lambda: all(one.done for one in all_of_them), timeout, lambda: [one.order for one in all_of_them])
        return exchange

    def until(
        self, condition: Callable[[], bool], timeout: float = PATIENCE, state: Callable[[], object] = lambda: ""
    ) -> None:
        """Take what arrives until a condition holds."""
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"waited {timeout:g} s in vain: {state()}"
            self._take(min(left, 0.5))

    def drain(self) -> None:
        """Take everything that belongs to what was done so far: a request goes there and back."""
        for channel in ("shell", "control"):
            self.ask("kernel_info_request", channel=channel)

    def _take(self, timeout: float) -> None:
        ready = dict(self._poller.poll(int(timeout * 1000)))
        for name, channel in self._channels.items():
            if channel.socket in ready:
                msg = channel.get_msg(timeout=0)
                exchange = self.exchanges.get(msg["parent_header"].get("msg_id", ""))
                if exchange is None:
                    self.others.append((name, msg))
                else:
                    exchange.take(name, msg)
                    self.log.append((exchange, msg["msg_type"]))

    def ready(self, timeout: float = PATIENCE) -> FrontEnd:
        """Wait until outputs are heard: a subscription takes its time, and what was published before is lost."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            exchange = self.send("kernel_info_request")
            attempt = time.monotonic() + 1
            while time.monotonic() < attempt:
                self._take(0.05)
                if exchange.done:
                    return self
        raise AssertionError("the kernel does not answer")


@dataclass
class KernelProcess:
    """A kernel process of this test's own, and the front ends that were opened to it."""

    process: subprocess.Popen[bytes]
    connection_file: Path
    stderr: Path
    front_ends: list[FrontEnd] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    def front_end(self, connection: Path | Any = None, *, queue: int = 0, stdin: bool = True) -> FrontEnd:
        """Open one more front end; it hears outputs from now on."""
        front_end = FrontEnd(connection or self.connection_file, queue=queue, stdin=stdin)
        self.front_ends.append(front_end)
        return front_end.ready()

    def complaints(self) -> str:
        """What the kernel process wrote to its standard error: nothing, if all is well."""
        return self.stderr.read_text(errors="replace")

    def descendants(self) -> list[psutil.Process]:
        """The processes that it started, and theirs."""
        try:
            return list(psutil.Process(self.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []

    def processor_time(self) -> float:
        """Seconds that all its descendants have computed."""
        total = 0.0
        for process in self.descendants():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total

    def memory(self) -> int:
        """Resident bytes of the kernel process itself."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def end(self) -> None:
        """End it as a front end without manners does, and what it left, so that no test burdens the next."""
        for front_end in self.front_ends:
            front_end.close()
        left = self.descendants()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        psutil.wait_procs(left, timeout=5)


def kernel_command(connection_file: Path, *arguments: str, name: str = KERNEL) -> list[str]:
    """The command of an installed kernelspec."""
    argv: list[str] = KernelSpecManager().get_kernel_spec(name).argv
    filled = [part.replace("{connection_file}", str(connection_file)) for part in argv]
    return [sys.executable if filled[0] in ("python", "python3") else filled[0], *filled[1:], *arguments]


def kernel_environment(folder: Path) -> dict[str, str]:
    """The environment of a user who has configured nothing: the tester's own settings do not count."""
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
    own = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER_", "JPY_", "SANDBOX_"))}
    return {**own, **{name: str(folder / place) for name, place in places.items()}}


def spawn(
    folder: Path, *arguments: str, connection: Json | None = None, environment: Mapping[str, str] | None = None
) -> KernelProcess:
    """Start a kernel process. CONNECTION adds to, or overrides, what its connection file says."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "connection.json"
    write_connection(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **(connection or {})}))
    return spawn_with(path, *arguments, environment=environment)


def spawn_with(
    path: Path, *arguments: str, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> KernelProcess:
    """Start a kernel process, in a folder, with a connection file that may not exist yet."""
    stderr = path.parent / f"{path.stem}.stderr"
    with stderr.open("wb") as file:
        process = subprocess.Popen(
            kernel_command(path, *arguments),
            cwd=folder or path.parent,
            env={**kernel_environment(path.parent), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    return KernelProcess(process, path, stderr)


@contextmanager
def running(
    folder: Path,
    *arguments: str,
    connection: Json | None = None,
    environment: Mapping[str, str] | None = None,
    silent: bool = True,
) -> Iterator[KernelProcess]:
    """A kernel process for one block; it must not complain on its standard error while it runs."""
    kernel = spawn(folder, *arguments, connection=connection, environment=environment)
    try:
        yield kernel
        if silent and KERNEL == "sandbox":
            assert kernel.complaints() == ""
    finally:
        kernel.end()


class SharedKernel:
    """One kernel process for the tests of a module; a test that leaves it in disorder costs only its own."""

    def __init__(self, new_folder: Callable[[], Path], *arguments: str) -> None:
        self._new_folder, self._arguments = new_folder, arguments
        self._process: KernelProcess | None = None
        self._front_end: FrontEnd | None = None

    @property
    def process(self) -> KernelProcess:
        """The kernel process, started if there is none."""
        if self._process is None:
            self._process = spawn(self._new_folder(), *self._arguments)
        return self._process

    @property
    def front_end(self) -> FrontEnd:
        """Its first front end."""
        if self._front_end is None:
            self._front_end = self.process.front_end()
        return self._front_end

    def check(self) -> None:
        """Replace the process if it does not run a cell; fail if it complained."""
        if self._process is None:
            return
        complaints = self._process.complaints() if KERNEL == "sandbox" else ""
        if complaints or not self._is_healthy():
            self.end()
        assert complaints == ""

    def _is_healthy(self) -> bool:
        if self._front_end is None:
            return False
        try:
            check = self._front_end.cell("None", stop_on_error=False)
            return self._front_end.finish(check, timeout=10).status == "ok"
        except AssertionError:
            return False

    def end(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.end()
            self._process = self._front_end = None
