"""Files and commands for whoever runs the sandbox, in a process of its own beside the bridge, over a link of its own.

The bridge's link is the kernel process's, which may be away, or have much to hear. An executor reads and writes files
and runs commands all the same: with the sandbox's own rights, since it is a process in the sandbox that does it.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from typing import Any

from sandbox_kernel.bridge.commands import ShellCommand
from sandbox_kernel.bridge.files import FileOperations
from sandbox_kernel.bridge.inner import ROOT
from sandbox_kernel.link import envelope
from sandbox_kernel.link.protocol import Buffer, Link, Message

MAX_BACKLOG = 1024 * 1024
"""Bytes that wait for the link before no more is read from files and commands."""
READ_SIZE = 512 * 1024
_LAUNCH = f"import sys; sys.path[0] = {ROOT!r}; from sandbox_kernel.bridge.errands import main; main()"


def begin(stream: int) -> subprocess.Popen[bytes]:
    """Start a process that serves this stream until it ends. Raises OSError."""
    return subprocess.Popen(
        [sys.executable, "-S", "-c", _LAUNCH, str(stream)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[stream],
        start_new_session=True,
    )


def main() -> None:
    """Serve the stream that is named by the program's argument."""
    stream = int(sys.argv[1])
    # What it starts must not hold the stream open.
    os.set_inheritable(stream, False)
    errands = Errands(socket.socket(fileno=stream))
    try:
        errands.run()
    finally:
        errands.close()


class Errands:
    """The loop over one stream, the files under way and the commands that run."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._link = Link(os.urandom(16))
        self._link.connect()
        self._files = FileOperations(lambda said, data: self._event("operation", data, **said))
        self._commands: dict[int, ShellCommand] = {}
        self._unsent: list[Buffer] = []
        self._ended = False

    def run(self) -> None:
        """Serve until the stream ends."""
        self._flush()
        while not self._ended:
            roomy = self._link.bulk_backlog < MAX_BACKLOG
            readers: list[Any] = [self._sock, *(self._commands if roomy else ())]
            # A command that ended may have left something in the background that holds its output open.
            wait = 0 if roomy and self._files.want_turn else 0.2 if self._commands else None
            readable, writable, _ = select.select(readers, [self._sock] if self._unsent else [], [], wait)
            if writable:
                self._flush_unsent()
            if self._sock in readable:
                self._receive()
            if roomy:
                self._serve({one for one in readable if isinstance(one, int)})
            self._flush()

    def close(self) -> None:
        """End everything that was started."""
        self._files.close()
        for command in self._commands.values():
            command.kill()

    def _serve(self, readable: set[int]) -> None:
        self._files.turn()
        for fd, command in list(self._commands.items()):
            if fd in readable or command.exited():
                self._on_output(command)

    # ---- the stream

    def _receive(self) -> None:
        try:
            data = self._sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._ended = not data
        for event in self._link.receive(memoryview(data)):
            if isinstance(event, Message):
                self._on_command(json.loads(bytes(event.parts[1])), event.parts[2:])

    def _flush(self) -> None:
        while not self._unsent and not self._ended:
            self._unsent = self._link.data_to_send()
            if not self._unsent:
                return
            self._flush_unsent()

    def _flush_unsent(self) -> None:
        while self._unsent:
            try:
                sent = self._sock.sendmsg(self._unsent[:512])
            except BlockingIOError:
                return
            except OSError:
                self._ended = True
                return
            while self._unsent and sent >= len(self._unsent[0]):
                sent -= len(self._unsent.pop(0))
            if sent:
                self._unsent[0] = memoryview(self._unsent[0])[sent:]

    def _event(self, name: str, data: bytes = b"", **fields: object) -> None:
        self._link.send([envelope.EVENT, json.dumps({"event": name, **fields}).encode(), data])

    # ---- what is asked for

    def _on_command(self, command: dict[str, Any], data: list[Buffer]) -> None:
        match command["op"]:
            case "run":
                self._run(command["id"], command["text"])
            case "kill":
                for running in self._commands.values():
                    if running.number == command["id"]:
                        running.kill()
            case _:
                self._files.command(command, data[0] if data else b"")

    def _run(self, number: int, text: str) -> None:
        try:
            command = ShellCommand(number, ["/bin/sh", "-c", text])
        except (OSError, ValueError) as exc:
            # Too long, a zero byte, no process to be had: the shell's own number for what cannot be run.
            self._event("output", f"the command cannot be run: {exc}\n".encode(), id=number)
            self._event("finished", id=number, exit=126)
            return
        self._commands[command.fd] = command

    def _on_output(self, command: ShellCommand) -> None:
        exited = command.exited()
        data = command.read()
        while data:
            self._event("output", data, id=command.number)
            data = command.read() if exited else None
        if data == b"" or exited:
            del self._commands[command.fd]
            self._event("finished", id=command.number, exit=command.finish())
