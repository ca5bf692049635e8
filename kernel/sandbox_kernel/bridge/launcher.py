"""Starts the ipykernel that runs the user's cells, with the few settings that ipykernel has no option for.

Run by the bridge with the arguments ``READY_FD -f CONNECTION_FILE …``. One byte is written to READY_FD
when the kernel's sockets are bound. Nothing here is visible to a cell but by its effects:

* unflushed prints leave after `FLUSH_INTERVAL` (ipykernel: 0.2 s), and outputs that nobody takes block the cell that
  makes them instead of filling its memory or being dropped;
* requests that come while a cell is busy get the interpreter lock within `SWITCH_INTERVAL`;
* no pause before a reply: replies and outputs travel to the front end in one ordered stream.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from contextlib import suppress
from time import monotonic
from typing import Any

FLUSH_INTERVAL = 0.02
SWITCH_INTERVAL = 0.0002
MAX_UNSENT_TIME = 0.2
"""Seconds of printing that wait in this process before the cell that goes on printing has to wait."""
MAX_TEXT = 1024 * 1024
"""Characters of one stream message; while one is relayed the next is made."""
MAX_UNSENT = 8 * 1024 * 1024
"""Bytes of other output that wait in this process before the cell that makes more has to wait."""
WAKE = "sandbox_wake"
"""A request that only wakes the kernel's loop, so that it sees a signal; relay.py says the same."""
QUEUED_MESSAGES = 50
"""Messages that ZeroMQ keeps for a bridge that is slower than the cell."""


def main() -> None:
    """Start the kernel and serve until it is shut down."""
    # Nothing is garbage while modules are imported, and looking for it takes a tenth of the start.
    gc.disable()
    ready_fd = int(sys.argv.pop(1))
    os.set_inheritable(ready_fd, False)
    from sandbox_kernel.bridge import debugging, describing, packages, stub

    # What lies beside this file is no business of a cell's.
    del sys.path[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == "sandbox_kernel"]:
        del sys.modules[name]

    debugging.postpone_debugpy()
    import ipykernel_launcher  # type: ignore[import-untyped]
    from ipykernel import iostream, kernelapp

    # Behind the kernel's own imports: what was added to the sandbox cannot keep it from starting again.
    packages.add_to_path(sys.path)
    # Libraries look here to learn that they run in a kernel.
    sys.argv[0] = ipykernel_launcher.__file__
    bound_streams(iostream)
    if hasattr(iostream, "defaultdict"):
        # The releases of ipykernel that keep text by the request that it belongs to.
        quicken_streams(iostream.OutStream)

    class Application(kernelapp.IPKernelApp):  # type: ignore[misc, unused-ignore]
        """ipykernel's application with an output socket that waits instead of dropping."""

        name = "ipython-kernel"

        def init_iopub(self, context: Any) -> None:
            import zmq

            context.setsockopt(zmq.XPUB_NODROP, 1)
            context.setsockopt(zmq.SNDHWM, QUEUED_MESSAGES)
            super().init_iopub(context)
            context.sockopts.clear()

    from zmq.utils import garbage

    app = Application.instance()
    # It ends with the bridge, also where no namespace ends it.
    app.parent_handle = os.getppid()
    app.initialize(sys.argv[1:])
    stub.register(app.kernel.shell)
    address = sys.argv[sys.argv.index("-f") + 1].removesuffix(".json")
    stub.add_tools(app.kernel.shell, f"{address}-tools")
    serve_beside_cells(app.kernel)
    tell_lively(app.kernel, f"{address}-lively")
    only_wake(app.kernel)
    app.kernel.control_handlers["sandbox_installed_request"] = lambda *request: tell_imported(app.kernel, *request)
    app.kernel.control_handlers["sandbox_describe_request"] = lambda *request: tell(
        app.kernel, describing.describe, *request
    )
    app.kernel.shell_handlers["sandbox_count_request"] = lambda *request: set_count(app.kernel, request[2])
    # pyzmq's thread that learns of what was sent. The first flush needs it; so cells see no thread come from nowhere.
    garbage.gc.start()
    # Made by its first user, which must be this thread, and complete before the control thread serves: a request for a
    # subshell may already be waiting.
    manager = getattr(getattr(app, "shell_channel_thread", None), "manager", None)
    if manager is not None:
        manager._on_recv_callback = app.kernel.shell_main
    # As if all that had just been looked through; else the first allocation looks, before anybody is served.
    gc.freeze()
    gc.unfreeze()
    gc.enable()
    # The bridge's way to make the main thread look for an interrupt that it missed (InnerKernel.nudge).
    signal.signal(signal.SIGURG, lambda *_: None)
    os.write(ready_fd, b"1")
    os.close(ready_fd)
    app.start()


class Mark:
    """A message behind all outputs, by which one learns that they left. The bridge drops it: it has one part only."""

    def __init__(self) -> None:
        self._scheduled = threading.Event()
        self._tracker: Any = None

    def send(self, socket: Any) -> None:
        """Send it; called by the thread that owns the socket."""
        threshold, socket.copy_threshold = socket.copy_threshold, 0
        try:
            # Not copied, so that ZeroMQ tells when it is done with it.
            self._tracker = socket.send(b"-", copy=False, track=True)
        finally:
            socket.copy_threshold = threshold
            self._scheduled.set()

    def wait(self, timeout: float) -> None:
        """Wait until ZeroMQ has sent it, for so many seconds at most."""
        import zmq

        if self._scheduled.wait(timeout) and self._tracker is not None:
            with suppress(zmq.NotDone):
                self._tracker.wait(timeout)


def bound_streams(iostream: Any) -> None:  # noqa: C901 - what is replaced in two classes, and shares its state
    """Make cells that print or display wait for the output thread when it does not keep up."""
    stream, thread = iostream.OutStream, iostream.IOPubThread
    stream.flush_interval = FLUSH_INTERVAL
    schedule, flush, flush_now, send = stream._schedule_flush, stream.flush, stream._flush, thread.send_multipart

    def bounded_schedule(self: Any) -> None:
        # Called by each write, so it costs what a clock costs.
        if not self._flush_pending:
            self.overdue = monotonic() + MAX_UNSENT_TIME
            schedule(self)
        elif monotonic() > self.overdue:
            while self._flush_pending and in_main_process(self):
                self.flush()

    def noted_flush(self: Any) -> None:
        if getattr(self, "_buffers", True):
            # Never taken back here: a second flush, by the clock, may come before the first one's caller looks.
            self.under_way = True
        flush_now(self)

    def complete_flush(self: Any) -> None:
        flush(self)
        if getattr(self, "under_way", False) and in_main_process(self):
            # ipykernel's ends when the text is in ZeroMQ's queue; a cell that holds the interpreter lock for long, or
            # that ends the process, must find it sent.
            self.under_way = False
            mark = Mark()
            self.pub_thread.schedule(lambda: mark.send(self.pub_thread.socket))
            mark.wait(self.flush_timeout)

    def in_main_process(self: Any) -> bool:
        publisher = self.pub_thread
        return bool(publisher and publisher.thread.is_alive() and publisher.thread is not threading.current_thread())

    room = threading.Condition()
    unsent = 0

    def bounded_send(self: Any, msg: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal unsent
        size = sum(len(part) for part in msg)
        if self.thread is threading.current_thread() or not self.thread.is_alive() or size < 4096:
            send(self, msg, *args, **kwargs)
            return
        with room:
            while unsent > MAX_UNSENT and self.thread.is_alive():
                room.wait(1)
            unsent += size
        send(self, msg, *args, **kwargs)

        def sent() -> None:
            nonlocal unsent
            with room:
                unsent -= size
                room.notify_all()

        self.schedule(sent)

    stream._schedule_flush, stream.flush, stream._flush = bounded_schedule, complete_flush, noted_flush
    thread.send_multipart = bounded_send


def quicken_streams(stream: Any) -> None:
    """Let a write find its buffer without hashing its whole parent header, and cut long texts into several messages."""
    write, buffers = stream.write, stream._flush_buffers
    stream.known_parent = stream.known_key = None
    getpid = os.getpid

    def quick_write(self: Any, string: str) -> Any:
        if type(string) is not str or self.echo is not None or self.pub_thread is None or getpid() != self._master_pid:
            return write(self, string)
        parent = self.parent_header
        with self._buffer_lock:
            if parent is not self.known_parent:
                self.known_key = frozenset(parent.items())
                self.known_parent = parent
            self._buffers[self.known_key].write(string)
        self._schedule_flush()
        return len(string)

    def short_buffers(self: Any) -> Any:
        for parent, text in buffers(self):
            for start in range(0, len(text), MAX_TEXT):
                yield parent, text[start : start + MAX_TEXT]

    stream.write, stream._flush_buffers = quick_write, short_buffers


def only_wake(kernel: Any) -> None:
    """Do nothing about a WAKE request: while others are handled an interrupt is not ignored, and may end the loop."""
    should_handle = kernel.should_handle

    def should_handle_others(stream: Any, msg: Any, idents: Any) -> Any:
        return msg["header"]["msg_type"] != WAKE and should_handle(stream, msg, idents)

    kernel.should_handle = should_handle_others


def serve_beside_cells(kernel: Any) -> None:
    """Let the control thread have the interpreter lock quickly while it answers, however busy the cell is."""
    kernel._execute_sleep = 0
    process, execute = kernel.process_control, kernel.execute_request
    complete = kernel.do_complete
    completer = kernel.shell.Completer
    warm = False
    cells = 0

    # Not what takes it from the socket, which is no coroutine in older releases, whose sockets await none.
    async def process_quickly(msg: Any) -> None:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(min(interval, SWITCH_INTERVAL))
        try:
            await process(msg)
        finally:
            sys.setswitchinterval(interval)

    async def counted_execute(*request: Any) -> None:
        nonlocal cells
        cells += 1
        try:
            await execute(*request)
        finally:
            cells -= 1

    def complete_quickly(code: str, cursor_pos: int) -> Any:
        """Beside a cell, cold jedi takes long: what IPython finds in the namespace does, if it finds anything."""
        use_jedi = completer.use_jedi
        if use_jedi and cells and not warm:
            completer.use_jedi = False
            try:
                found = complete(code, cursor_pos)
            finally:
                completer.use_jedi = use_jedi
            if found["matches"]:
                return found
        return complete(code, cursor_pos)

    async def warm_up(*_request: Any) -> None:
        nonlocal warm
        sys.setswitchinterval(0.005)
        for code in ("_", "sys."):
            complete(code, len(code))
        warm = True

    kernel.process_control = process_quickly
    kernel.do_complete = complete_quickly
    kernel.shell_handlers["execute_request"] = kernel.control_handlers["execute_request"] = counted_execute
    kernel.control_handlers["sandbox_warm_request"] = warm_up


def tell_lively(kernel: Any, path: str) -> None:
    """Note in a file, where the bridge has made one, whether anything of a cell's goes on when it has ended."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    import asyncio
    import weakref

    execute = kernel.shell_handlers["execute_request"]
    threads: weakref.WeakSet[Any] = weakref.WeakSet()
    tasks: weakref.WeakSet[Any] = weakref.WeakSet()
    """Those that came into being in a cell."""

    async def noted_execute(*request: Any) -> None:
        if not threads:
            # What there is before the first cell is no cell's.
            threads.update(threading.enumerate())
        # The kernel itself makes some for each request.
        before = asyncio.all_tasks()
        try:
            await execute(*request)
        finally:
            tasks.update(asyncio.all_tasks() - before)
            goes_on = any(not task.done() for task in tasks) or any(
                thread not in threads and is_of_cells(thread) for thread in threading.enumerate()
            )
            os.pwrite(fd, b"1" if goes_on else b"0", 0)

    kernel.shell_handlers["execute_request"] = noted_execute


def is_of_cells(thread: Any) -> bool:
    """Whether a thread that appeared later may be a cell's: not one of the debugger's, or of a subshell."""
    return not getattr(thread, "is_pydev_daemon_thread", False) and not str(thread.name).startswith("subshell")


async def tell_imported(kernel: Any, stream: Any, ident: Any, request: dict[str, Any]) -> None:
    """Look for packages anew; answer which of these modules, in another version perhaps, were imported before."""
    import importlib

    importlib.invalidate_caches()
    imported = [str(name) for name in request["content"]["modules"] if name in sys.modules]
    kernel.session.send(stream, "sandbox_installed_reply", {"imported": imported}, request, ident=ident)


async def tell(kernel: Any, describe: Any, stream: Any, ident: Any, request: dict[str, Any]) -> None:
    """Answer what `describe` says of the namespace; IPython's own parts that the user changed may fail in any way."""
    try:
        content = describe(kernel.shell, request["content"])
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - who asked is to get an answer
        content = {"failed": f"{type(exc).__name__}: {exc}"[:200]}
    kernel.session.send(stream, "sandbox_describe_reply", content, request, ident=ident)


def set_count(kernel: Any, request: dict[str, Any]) -> None:
    """Continue the numbering of cells, some of which were run outside; ``inputs`` are their texts."""
    shell, content = kernel.shell, request["content"]
    count, inputs = int(content["execution_count"]), [str(text) for text in content["inputs"]]
    history = shell.history_manager
    for name in ("input_hist_raw", "input_hist_parsed"):
        texts = getattr(history, name)
        del texts[count:]
        texts.extend([""] * (count - len(texts)))
        if inputs:
            texts[count - len(inputs) :] = inputs
    shell.execution_count = count
