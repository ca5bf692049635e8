"""The bridge at work: relays, interrupts and restarts the ipykernel of one sandbox, and ends with its link."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from sandbox_kernel.bridge import packages
from sandbox_kernel.bridge.commands import ShellCommand
from sandbox_kernel.bridge.copies import Digests
from sandbox_kernel.bridge.files import FileOperations
from sandbox_kernel.bridge.inner import InnerKernel
from sandbox_kernel.bridge.own_requests import DELIMITER, OwnRequests
from sandbox_kernel.bridge.tool_sockets import ToolSockets
from sandbox_kernel.bridge.wire import MAX_BACKLOG, Wire
from sandbox_kernel.bridge.work import Work
from sandbox_kernel.link import envelope
from sandbox_kernel.link.protocol import SMALL, Buffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox_kernel.bridge.outbox import Outbox

WAKE = "sandbox_wake"
"""A request that makes the kernel look up, and nothing else; launcher.py says the same."""
BATCH = 64
"""Messages taken from one socket before the others and the link get their turn."""
CHANNELS = {envelope.SHELL: "shell", envelope.CONTROL: "control", envelope.ASIDE: "aside", envelope.STDIN: "stdin"}
NAMES = {name: channel for channel, name in CHANNELS.items()}
WARM_UP_AFTER = 20.0
"""Seconds of idleness after which completion is warmed up: it computes for seconds, and somebody may be measuring."""
FILL_CACHE = """\
import os, sys
os.nice(19)
import jedi
for code in ("_", "sys."):
    jedi.Interpreter(code, [{"sys": sys}]).complete()
"""
"""jedi reads Python's own stubs for seconds when it has no cache, which in a new sandbox it never has."""
LAST_OUTPUTS = 20
"""Milliseconds to wait for outputs of a kernel that died."""
ASK_AGAIN = 0.05
"""Seconds after which a kernel that was not heard on its output socket is asked again."""
SHUTDOWN_GRACE = 1.0
"""Seconds that a restarted kernel has for its exit handlers."""


class Bridge:
    """The one loop over the link, the inner kernel's sockets, its death and running shell commands."""

    def __init__(
        self,
        inner: InnerKernel,
        spawn: Callable[[int], InnerKernel],
        *,
        stream: int = -1,
        control: int = -1,
        journal: str = "",
        tells: bool = False,
        beside: Sequence[str] = (),
    ) -> None:
        """``stream`` and ``control`` are descriptors of sockets, one of which there is (see wire.py).

        With ``control`` comes the folder for a ``journal``; one that ``tells`` says over it whether it has anything to
        do. ``beside`` are names in the working folder that no copy has.
        """
        self._work = Work() if tells else None
        self._beside = tuple(beside)
        self._lives = 1
        self._inner = inner
        self._spawn = spawn
        # What a terminal or a cell's process group gets is not for the bridge; it ends with its link.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._wire = Wire(self._poller, self._on_message, self._on_peer, stream=stream, control=control)
        self._outbox = _make_outbox(self._wire, journal) if self._wire.kept else None
        self._polling_iopub = False
        self._commands: dict[int, ShellCommand] = {}
        self._polling_commands = True
        self._digests = Digests()
        self._files = self._new_files()
        self._tools = ToolSockets(self._poller, lambda number, frame: self._event("tool", frame, connection=number))
        self._tools.listen(inner.tools)
        self._polled: dict[int, int] = {}
        """Descriptors of file operations, and what is waited for."""
        self._own = OwnRequests()
        self._busy = 0
        self._warm_up_due: float | None = None
        self._restart_due: float | None = None
        self._warming: int | None = None
        """The process that fills the cache; 0 when it has ended."""
        self._ask_due: float | None = None
        self._heard = False
        self._kernel_info = b""
        self._buried = False
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        # The kernel was spawned before all this was imported, and may have ended since, which no signal tells any more.
        os.write(wake, b"\0")
        self._poller.register(self._wake, zmq.POLLIN)
        self._poller.register(self._inner.ready_fd, zmq.POLLIN)

    def run(self) -> None:
        """Serve until the link ends or breaks."""
        self._flush()
        while not self._wire.ended:
            ready = dict(self._poller.poll(self._timeout()))
            self._on_time()
            self._wire.on_ready(ready)
            self._on_kernel(ready)
            self._on_descriptors(ready)
            self._tools.turn(ready)
            if self._polling_commands:
                self._files.turn(ready)
            self._flush()
            self._poll_files()
            if self._work is not None:
                self._tell_work(self._work)

    def _tell_work(self, work: Work) -> None:
        """Say whether outputs may still come of what was asked."""
        outbox, starting = self._outbox, not self._inner.ready and not self._buried
        behind = self._wire.unsent or bool(self._wire.link.bulk_backlog) or (outbox is not None and outbox.behind)
        operating = bool(self._commands) or self._files.under_way or self._own.owes
        asked = work.under_way or operating or self._restart_due is not None
        asking = outbox is not None and any(cell.question is not None for cell in outbox.cells.open)
        asking = asking or self._tools.asking
        working = starting or behind or asked
        self._wire.tell(
            working=working,
            asking=asking,
            lively=not working and self._inner.is_lively(),
            moving=self._files.under_way,
            silent=work.silent,
            running=work.under_way or operating,
        )

    def _poll_files(self) -> None:
        """Wait for what operations wait for, unless they have no turn because the link is full."""
        readable, writable = self._files.descriptors if self._polling_commands else ((), ())
        wanted: dict[int, int] = {**dict.fromkeys(readable, zmq.POLLIN), **dict.fromkeys(writable, zmq.POLLOUT)}
        if wanted == self._polled:
            return
        for fd in self._polled.keys() - wanted.keys():
            self._poller.unregister(fd)
        for fd, events in wanted.items():
            self._poller.register(fd, events)
        self._polled = wanted

    def close(self) -> None:
        """End everything that the bridge started."""
        for command in self._commands.values():
            command.kill()
        self._files.close()
        self._tools.close()
        self._inner.close()
        if self._outbox is not None:
            self._outbox.close()

    def _timeout(self) -> int | None:
        if self._polling_commands and self._files.want_turn:
            return 0
        moments = (self._warm_up_due, self._restart_due, self._ask_due, self._inner.nudge_due)
        due = [moment for moment in moments if moment is not None]
        return max(0, int((min(due) - time.monotonic()) * 1000) + 1) if due else None

    # ---- the link

    def _on_peer(self) -> None:
        """A kernel process that was not there before is told what there is; what the one before began is of no use."""
        assert self._outbox is not None
        for command in self._commands.values():
            command.kill()
            if self._polling_commands:
                self._poller.unregister(command.fd)
            command.finish()
        self._commands.clear()
        for fd in self._polled:
            self._poller.unregister(fd)
        self._polled = {}
        self._files.close()
        self._files = self._new_files()
        self._tools.drop()
        self._own.give_up_all()
        said = self._outbox.on_peer()
        if self._inner.ready:
            self._tell("ready", {**self._life(), **said})
        elif self._buried:
            self._event("died", exit=self._inner.exit_code(), life=self._lives, stderr="")

    def _new_files(self) -> FileOperations:
        return FileOperations(lambda said, data: self._event("operation", data, **said), self._digests, self._beside)

    def _flush(self) -> None:
        """Send what can be sent; take more of what cells and commands say only as far as there is room for it."""
        wire, outbox = self._wire, self._outbox
        wire.flush()
        if outbox is not None:
            outbox.pump()
            wire.flush()
            while outbox.behind and wire.link.bulk_backlog < MAX_BACKLOG:
                outbox.pump()
                wire.flush()
        room = wire.link.bulk_backlog < MAX_BACKLOG
        self._poll_iopub(room if outbox is None else outbox.takes_output)
        self._poll_commands(room)
        self._tools.poll(room)

    def _event(self, name: str, data: bytes = b"", *, urgent: bool = False, **fields: object) -> None:
        """Tell this kernel process something."""
        self._tell(name, fields, data, urgent=urgent)

    def _tell(self, name: str, fields: dict[str, object], data: bytes = b"", *, urgent: bool = False) -> None:
        parts: list[Buffer] = [envelope.EVENT, json.dumps({"event": name, **fields}).encode(), data]
        if self._outbox is None:
            self._wire.link.send(parts, urgent=urgent)
        else:
            self._outbox.send(parts, urgent=urgent)

    def _news(self, name: str, **fields: object) -> None:
        """Tell something that has its place among the outputs, and concerns later kernel processes, too."""
        self._pass_on([envelope.EVENT, json.dumps({"event": name, **fields}).encode(), b""])

    # ---- from the kernel process

    def _on_message(self, parts: list[Buffer]) -> None:
        kind = bytes(parts[0])
        name = CHANNELS.get(kind[:1])
        if name is None:
            command = json.loads(bytes(parts[1]))
            if command["op"] == "file-cancel":
                self._own.give_up(command["id"])
            if command["op"].startswith("file"):
                self._files.command(command, parts[2] if len(parts) > 2 else b"")
            elif command["op"] == "journal" and self._outbox is not None:
                self._outbox.replay(command["id"], command["count"])
            elif command["op"] == "tool":
                self._tools.send(command["connection"], parts[2])
            else:
                self._on_command(command)
            return
        if self._outbox is not None:
            self._note_request(self._outbox, kind, parts)
        sock = self._inner.sockets.get(name)
        if sock is None:
            # Its sender was told, or is about to be, that this life of the kernel has ended.
            return
        if self._work is not None and name != "stdin":
            self._work.began(bytes(parts[1]))
        if name == "shell" and b'_request"' in bytes(parts[1]):
            # Comm messages have no reply that would end them.
            self._busy += 1
        large = any(len(part) > SMALL for part in parts)
        sock.send_multipart([kind[1:], DELIMITER, b"", *parts[1:]], copy=not large)

    def _note_request(self, outbox: Outbox, kind: bytes, parts: list[Buffer]) -> None:
        if kind[:1] == envelope.STDIN:
            outbox.cells.answered()
        elif kind[:1] == envelope.SHELL and b'"execute_request"' in bytes(parts[1]) and self._inner.sockets:
            outbox.began(kind[1:], parts[1:])

    def _on_command(self, command: dict[str, Any]) -> None:  # noqa: C901 - a table of commands
        match command["op"]:
            case "interrupt":
                self._interrupt()
            case "restart":
                self._restart()
            case "count":
                content = {"execution_count": command["execution_count"], "inputs": command["inputs"]}
                self._own.ask(self._inner.sockets["shell"], "sandbox_count_request", content)
            case "run":
                self._run(command["id"], ["/bin/sh", "-c", command["text"]])
            case "packages":
                self._run(command["id"], [*packages.PROGRAM, *command["arguments"]])
            case "installed":
                self._tell_installed(command["id"], command["modules"])
            case "describe":
                self._describe(command["id"], command["request"])
            case "kill":
                for running in self._commands.values():
                    if running.number == command["id"]:
                        running.kill()

    def _interrupt(self) -> None:
        if self._inner.ready:
            self._inner.interrupt()
            # A kernel that waits in its event loop sees the signal only when something wakes it.
            self._own.ask(self._inner.sockets["shell"], WAKE, {})

    def _restart(self) -> None:
        if self._inner.ready and self._restart_due is None:
            self._own.ask(self._inner.sockets["control"], "shutdown_request", {"restart": True})
            self._restart_due = time.monotonic() + SHUTDOWN_GRACE
        elif self._restart_due is None:
            self._respawn()

    def _respawn(self) -> None:
        self._restart_due = None
        self._drop_inner()
        self._heard = self._buried = False
        self._kernel_info = b""
        self._lives += 1
        self._inner = self._spawn(self._lives)
        self._tools.listen(self._inner.tools)
        self._poller.register(self._inner.ready_fd, zmq.POLLIN)

    def _drop_inner(self) -> None:
        if self._inner.ready_fd >= 0:
            self._poller.unregister(self._inner.ready_fd)
        for name, sock in self._inner.sockets.items():
            if name != "iopub" or self._polling_iopub:
                self._poller.unregister(sock)
        self._polling_iopub = False
        self._tools.close()
        self._own.clear()
        if self._work is not None:
            self._work.clear()
        self._busy = 0
        self._warm_up_due = self._ask_due = None
        if self._outbox is not None:
            self._outbox.ended()
        self._inner.close()

    def _tell_installed(self, number: int, modules: list[str]) -> None:
        """Let the kernel find new packages; it answers which of their modules it has imported before."""

        def tell(content: bytes) -> None:
            self._event("operation", id=number, end=True, imported=json.loads(content).get("imported", []))

        if self._inner.ready:
            self._own.ask_for(
                number, self._inner.sockets["control"], "sandbox_installed_request", {"modules": modules}, tell
            )
        else:
            tell(b"{}")

    def _describe(self, number: int, request: dict[str, Any]) -> None:
        """Let the kernel describe what it has; the answer is the operation's data."""

        def tell(content: bytes) -> None:
            self._event("operation", content, id=number, end=True)

        if self._inner.ready:
            self._own.ask_for(number, self._inner.sockets["control"], "sandbox_describe_request", request, tell)
        else:
            tell(b'{"failed": "Python is being restarted"}')

    def _run(self, number: int, arguments: list[str]) -> None:
        try:
            command = ShellCommand(number, arguments)
        except (OSError, ValueError) as exc:
            # Too long, a zero byte, no process to be had: the shell's own numbers for what cannot be run.
            self._event("output", f"the command cannot be run: {exc}\n".encode(), id=number)
            self._event("finished", id=number, exit=126)
            return
        self._commands[command.fd] = command
        if self._polling_commands:
            self._poller.register(command.fd, zmq.POLLIN)

    # ---- from the inner kernel

    def _on_kernel(self, ready: dict[Any, int]) -> None:
        sockets = self._inner.sockets
        if not sockets:
            return
        # Outputs first: a reply must not overtake what was printed before it.
        if sockets["iopub"] in ready:
            self._relay_iopub(sockets["iopub"])
        for name in ("shell", "stdin", "control", "aside"):
            if sockets[name] in ready:
                self._relay_replies(name, sockets[name])

    def _poll_commands(self, wanted: bool) -> None:
        if wanted != self._polling_commands:
            self._polling_commands = wanted
            for fd in self._commands:
                if wanted:
                    self._poller.register(fd, zmq.POLLIN)
                else:
                    self._poller.unregister(fd)

    def _poll_iopub(self, wanted: bool) -> None:
        sock = self._inner.sockets.get("iopub")
        if sock is not None and wanted != self._polling_iopub:
            self._polling_iopub = wanted
            if wanted:
                self._poller.register(sock, zmq.POLLIN)
            else:
                self._poller.unregister(sock)

    def _relay_iopub(self, sock: Any, limit: int = BATCH) -> None:
        for _ in range(limit):
            frames = _receive(sock)
            if frames is None:
                return
            if frames[0] == DELIMITER:
                # What user code sends by itself may have no topic.
                frames.insert(0, b"")
            if not self._inner.ready:
                # "starting", or what belongs to the question whether it is ready: it is heard. A greeting says all.
                self._heard = True
                self._on_news(greeted=b"iopub_welcome" in bytes(frames[3] if len(frames) > 3 else b""))
            elif len(frames) >= 7 and frames[1] == DELIMITER and not self._own.take_output(frames):
                if self._work is not None:
                    self._note_output(self._work, frames)
                self._pass_on([envelope.IOPUB, frames[0], *frames[3:]])

    def _note_output(self, work: Work, frames: list[Buffer]) -> None:
        topic = bytes(frames[0])
        if not topic.endswith((b".status", b".execute_input")):
            work.shown()
        elif b'"idle"' in bytes(frames[6]):
            work.idle(bytes(frames[4]))

    def _relay_replies(self, name: str, sock: Any) -> None:
        for _ in range(BATCH):
            frames = _receive(sock)
            if frames is None:
                return
            token = bytes(frames[0])
            if token == envelope.NO_TOKEN:
                self._own.take_reply(frames)
                continue
            if self._work is not None:
                self._work.replied(bytes(frames[4]))
            if name == "shell":
                self._finished_request()
                if b"execute_reply" in bytes(frames[3]):
                    self._relay_iopub(self._inner.sockets["iopub"], 2)
            self._pass_on([NAMES[name] + token, *frames[3:]], urgent=name in ("control", "aside"))

    def _pass_on(self, parts: list[Buffer], *, urgent: bool = False) -> None:
        try:
            if self._outbox is None:
                self._wire.link.send(parts, urgent=urgent)
            elif urgent:
                self._outbox.send(parts, urgent=True)
            else:
                self._outbox.keep(parts)
        except ValueError as exc:
            self._event("dropped", reason=str(exc))

    def _finished_request(self) -> None:
        self._busy -= 1
        if self._warm_up_due is not None:
            self._warm_up_due = time.monotonic() + WARM_UP_AFTER

    # ---- the inner kernel's life

    def _on_descriptors(self, ready: dict[Any, int]) -> None:
        if self._inner.ready_fd in ready:
            self._on_bound()
        for fd in [fd for fd in ready if fd in self._commands and isinstance(fd, int)]:
            self._on_output(self._commands[fd])
        if self._wake in ready:
            os.read(self._wake, 4096)
            self._on_child()

    def _on_bound(self) -> None:
        fd = self._inner.ready_fd
        said = os.read(fd, 1)
        self._poller.unregister(fd)
        if not said:
            # It ended before it was ready; its death is noticed by SIGCHLD.
            os.close(fd)
            self._inner.ready_fd = -1
            return
        self._inner.connect(self._context)
        for name, sock in self._inner.sockets.items():
            if name != "iopub":
                self._poller.register(sock, zmq.POLLIN)
        self._poll_iopub(True)
        self._ask_whether_ready()

    def _ask_whether_ready(self) -> None:
        self._ask_due = time.monotonic() + ASK_AGAIN
        self._own.ask(self._inner.sockets["shell"], "kernel_info_request", {}, self._on_kernel_info)

    def _on_kernel_info(self, content: bytes) -> None:
        self._kernel_info = content
        self._on_news()

    def _on_news(self, *, greeted: bool = False) -> None:
        """The kernel is ready when its output socket has greeted us, or was heard and its reply came."""
        if not self._inner.ready and (greeted or (self._kernel_info and self._heard)):
            self._inner.ready = True
            self._ask_due = None
            self._warm_up_due = time.monotonic() + WARM_UP_AFTER
            self._news("ready", **self._life())

    def _life(self) -> dict[str, object]:
        life: dict[str, object] = {"pid": self._inner.pid, "life": self._lives, "python": python_version()}
        if self._outbox is not None:
            # Whoever lets the sandbox end with its stream has the environment before its eyes.
            life["ipython"] = ipython_version()
        return life

    def _on_time(self) -> None:
        now = time.monotonic()
        self._inner.nudge(now)
        if self._ask_due is not None and now >= self._ask_due:
            self._ask_whether_ready()
        if self._restart_due is not None and now >= self._restart_due:
            self._inner.kill()
            self._restart_due = now + SHUTDOWN_GRACE
        if self._warm_up_due is not None and now >= self._warm_up_due:
            self._warm_up_due = None
            if self._inner.ready and self._busy > 0:
                self._warm_up_due = now + WARM_UP_AFTER
            elif self._inner.ready:
                self._warm_up()

    def _warm_up(self) -> None:
        """Let completion be quick, when nobody waits: first its cache, by a process of its own, then the kernel."""
        if self._warming is None:
            self._warming = os.posix_spawn(sys.executable, [sys.executable, "-c", FILL_CACHE], os.environ)
        else:
            self._own.ask(self._inner.sockets["control"], "sandbox_warm_request", {})

    def _on_cache_filled(self) -> None:
        if self._warming:
            pid, status = os.waitpid(self._warming, os.WNOHANG)
            if pid:
                self._warming = 0
                if not status:
                    self._warm_up_due = time.monotonic() + WARM_UP_AFTER

    def _on_child(self) -> None:
        self._on_cache_filled()
        for command in list(self._commands.values()):
            if command.exited():
                self._on_output(command)
        code = self._inner.exit_code()
        if code is not None and self._restart_due is not None:
            self._respawn()
        elif code is not None and not self._buried:
            self._buried = True
            self._report_death(code)

    def _report_death(self, code: int) -> None:
        sockets = self._inner.sockets
        if sockets:
            # What it had sent before it died comes first, and may still be under way.
            while sockets["iopub"].poll(LAST_OUTPUTS):
                self._relay_iopub(sockets["iopub"])
            self._relay_replies("shell", sockets["shell"])
        self._news("died", exit=code, life=self._lives, stderr=self._inner.last_words())
        self._drop_inner()

    # ---- shell commands

    def _on_output(self, command: ShellCommand) -> None:
        exited = command.exited()
        data = command.read()
        while data:
            self._event("output", data, id=command.number)
            # A pipe that lives on in a background process is read to where it stood when the shell ended.
            data = command.read() if exited else None
        if data == b"" or exited:
            if self._polling_commands:
                self._poller.unregister(command.fd)
            del self._commands[command.fd]
            self._event("finished", id=command.number, exit=command.finish())


def _make_outbox(wire: Wire, folder: str) -> Outbox:
    # Imported here: most sandboxes end with their stream.
    from sandbox_kernel.bridge.outbox import Outbox

    return Outbox(wire, folder)


def python_version() -> str:
    """Return the version of the interpreter, which is the kernel's, too."""
    return sys.version.split()[0]


def ipython_version() -> str:
    """Return the version of IPython as its folder's name tells it, "" if none does; importing it takes far longer."""
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            if name.lower().startswith("ipython-") and name.endswith(".dist-info"):
                return name[len("ipython-") : -len(".dist-info")]
    return ""


def _receive(sock: Any) -> list[Buffer] | None:
    """Return one multipart message, large parts without a copy; None if none is there."""
    try:
        frame = sock.recv(zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return None
    frames: list[Buffer] = []
    while True:
        frames.append(frame.bytes if len(frame) <= SMALL else frame.buffer)
        if not frame.more:
            return frames
        frame = sock.recv(copy=False)
