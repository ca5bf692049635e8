"""Files and commands of a sandbox, through a process in it that is started when the first of them is asked for."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sandbox_kernel.bridge_events import Finished, Operation, Output, read_event
from sandbox_kernel.errors import InvocationError, SandboxConnectionError
from sandbox_kernel.link import envelope
from sandbox_kernel.link.channel import LinkChannel
from sandbox_kernel.link.protocol import Buffer, Link, LinkError
from sandbox_kernel.link.stream import SocketTransport
from sandbox_kernel.operations import Operations
from sandbox_kernel.providers.local.sandbox import LocalSandbox
from sandbox_kernel.session_files import LinkFiles
from sandbox_kernel.shell_command import ShellCommand

KEPT = 30.0
"""Seconds that the process stays when nothing is asked of it."""
MAX_MESSAGE = 1024 * 1024
"""Bytes of a message that is taken; what the process sends is smaller."""
HELD = 4 * 1024 * 1024
"""Bytes of a command's output that wait for a client; then the process waits."""
MAX_CALLS = 16
"""Files and commands at one time; of each some megabytes may wait for a client."""


class Errands:
    """What one sandbox is asked to do beside its link."""

    def __init__(self, sandbox: LocalSandbox) -> None:
        self._sandbox = sandbox
        self._channel: LinkChannel | None = None
        self._commands: dict[int, ShellCommand] = {}
        self._numbers = 0
        self._users = 0
        self._idle: asyncio.TimerHandle | None = None
        self._waiting: Counter[ShellCommand] = Counter()
        """Bytes of each command's output that wait for its client."""
        self._operations = Operations(self._send, self._backlog, self._next_number, self._ids)
        self._files = LinkFiles(self._operations)

    @property
    def under_way(self) -> bool:
        """Whether a file or command is."""
        return self._users > 0

    @contextmanager
    def files(self) -> Iterator[LinkFiles]:
        """Give the sandbox's files for a block."""
        with self._used():
            yield self._files

    @contextmanager
    def command(self, text: str) -> Iterator[ShellCommand]:
        """Run a shell command, which is killed at the end of the block if it has not ended.

        Who takes its output says so with `taken`.
        """
        with self._used():
            number = self._next_number()
            command = self._commands[number] = ShellCommand(lambda: self._say({"op": "kill", "id": number}))
            try:
                self._say({"op": "run", "id": number, "text": text})
                yield command
            finally:
                if self._commands.pop(number, None) is not None:
                    command.kill()
                self.taken(command, self._waiting[command])
                del self._waiting[command]

    def taken(self, command: ShellCommand, size: int) -> None:
        """Take note that a client has got so many bytes of a command's output."""
        before = self._waiting.total()
        # Nothing is counted any more of what a process wrote that is gone.
        self._waiting[command] -= min(size, self._waiting[command])
        if before >= HELD > self._waiting.total() and self._channel is not None:
            self._channel.release()

    def close(self) -> None:
        """End the process."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._channel is not None:
            self._channel.close()
        self._lose()

    @contextmanager
    def _used(self) -> Iterator[None]:
        """Have the process for a block. Raises InvocationError, SandboxLostError or SandboxConnectionError."""
        if self._users >= MAX_CALLS:
            message = (
                f"The sandbox has {MAX_CALLS} files and commands under way already; wait until one of them is done."
            )
            raise InvocationError(message, **self._ids())
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._channel is None:
            self._open()
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users and self._channel is not None:
                self._idle = asyncio.get_running_loop().call_later(KEPT, self.close)

    def _open(self) -> None:
        transport = SocketTransport(self._sandbox.open_errands())
        link = Link(os.urandom(16), max_received=MAX_MESSAGE)
        self._channel = LinkChannel(
            link, self._on_message, lambda parts, size: None, lambda reason, error: self._lose()
        )
        self._channel.attach(transport)

    def _on_lost(self, reason: str, error: LinkError | None) -> None:
        self._lose()

    def _lose(self) -> None:
        self._channel = None
        self._waiting.clear()
        for command in self._commands.values():
            command.finish(None)
        self._commands.clear()
        self._operations.on_lost()

    # ---- what is said, and what comes

    def _say(self, fields: dict[str, Any]) -> None:
        if self._channel is not None:
            self._channel.send([envelope.COMMAND, json.dumps(fields).encode()], urgent=True)

    def _send(self, fields: dict[str, Any], data: Buffer | None, *, begins: bool) -> None:
        if self._channel is None:
            if begins:
                raise SandboxConnectionError("The sandbox's files cannot be reached now; try again.", **self._ids())
            return
        parts: list[Buffer] = [envelope.COMMAND, json.dumps(fields).encode()]
        self._channel.send(parts if data is None else [*parts, data], urgent=data is None)

    def _backlog(self) -> int:
        return self._channel.backlog if self._channel is not None else 0

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _ids(self) -> dict[str, Any]:
        return {"sandbox_id": self._sandbox.sandbox_id}

    def _on_message(self, parts: list[Buffer]) -> None:
        # A cell can do to this process what it likes; what makes no sense is not heard.
        with suppress(ValueError, IndexError):
            match read_event(parts):
                case Operation(fields=fields, data=data):
                    self._operations.on_event(fields, data)
                case Output(command=number, data=data) if number in self._commands:
                    self._feed(self._commands[number], data)
                case Finished(command=number, exit=code) if number in self._commands:
                    self._commands.pop(number).finish(code)

    def _feed(self, command: ShellCommand, data: bytes) -> None:
        command.feed(data)
        self._waiting[command] += len(data)
        if self._waiting.total() >= HELD and self._channel is not None:
            self._channel.hold()
