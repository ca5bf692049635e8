"""What a session asks of its sandbox's bridge beside cells: shell commands, packages, files, past outputs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from .bridge_events import BridgeEvent, Finished, Operation, Output, Replayed
from .errors import InvocationError, SandboxLostError
from .link.protocol import Buffer
from .operations import Operations
from .patience import in_time
from .session_link import SessionLink
from .shell_command import ShellCommand

TELL_TIMEOUT = 5.0
"""Seconds that the inner kernel has to say which of the new packages it had imported."""
MAX_DESCRIPTION = 512 * 1024
"""Bytes of what the sandbox says of its variables."""


class Errands:
    """Each has a number, under which the bridge says what comes of it."""

    def __init__(
        self, link: SessionLink, require_running: Callable[[], None], ids: Callable[[], dict[str, Any]]
    ) -> None:
        """``require_running`` raises SandboxConnectionError where no sandbox is; ``ids`` go into errors."""
        self._link, self._require_running, self._ids = link, require_running, ids
        self._numbers = 0
        self._commands: dict[int, ShellCommand] = {}
        self._replays: dict[int, tuple[asyncio.Future[Replayed], Callable[[], None]]] = {}
        self.operations = Operations(self._send, lambda: link.backlog, self._next_number, ids)

    @property
    def replays(self) -> bool:
        """Whether past outputs are being asked for."""
        return bool(self._replays)

    def take(self, event: BridgeEvent) -> None:
        """Take what the bridge says of one of them."""
        match event:
            case Output(command=command) if command in self._commands:
                self._commands[command].feed(event.data)
            case Finished(command=command) if command in self._commands:
                self._commands.pop(command).finish(event.exit)
            case Replayed(number=number) if number in self._replays:
                ended, on_end = self._replays[number]
                if not ended.done():
                    ended.set_result(event)
                    on_end()
            case Operation():
                self.operations.on_event(event.fields, event.data)

    def on_lost(self) -> None:
        """End all of them: the sandbox is gone."""
        for command in self._commands.values():
            command.finish(None)
        self._commands.clear()
        self.operations.on_lost()
        for ended, _ in self._replays.values():
            if not ended.done():
                ended.set_exception(SandboxLostError("The sandbox ended while past outputs were read.", **self._ids()))

    def shell(self, text: str) -> ShellCommand:
        """Run a shell command in the sandbox. Raises SandboxConnectionError where none is running."""
        return self._run("run", text=text)

    async def replay(self, count: int | None, on_end: Callable[[], None]) -> Replayed:
        """Have past messages sent again; return when all are there, and what became of them.

        ``on_end`` is called between the last of them and the first message behind it, which may be new.
        """
        self._require_running()
        number = self._next_number()
        ended: asyncio.Future[Replayed] = asyncio.get_running_loop().create_future()
        self._replays[number] = ended, on_end
        try:
            self._link.command("journal", id=number, count=count)
            return await ended
        finally:
            del self._replays[number]

    def _run(self, op: str, **fields: object) -> ShellCommand:
        self._require_running()
        number = self._next_number()
        command = ShellCommand(lambda: self._link.command("kill", id=number))
        self._commands[number] = command
        self._link.command(op, id=number, **fields)
        return command

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _send(self, fields: dict[str, Any], data: Buffer | None, *, begins: bool) -> None:
        if begins and not self._link.answers:
            self._require_running()
        self._link.send_operation(fields, data)

    # ---- packages, and what else there is

    async def describe_packages(self) -> dict[str, Any]:
        """Do what `SandboxSession.describe_packages` says."""
        return await self._run_packages("describe")

    async def install_wheels(self, folder: str) -> dict[str, Any]:
        """Do what `SandboxSession.install_wheels` says."""
        said = await self._run_packages("install", folder)
        with self.operations.begun("installed", modules=said["modules"]) as operation:
            try:
                ended = await in_time(operation.ended(), TELL_TIMEOUT)
            except asyncio.TimeoutError:
                # It is stopped in a debugger, or was just ended; it looks for packages by itself when it goes on.
                ended = {}
        return {**said, "imported": ended.get("imported", [])}

    async def describe(self, *, patience: float = TELL_TIMEOUT, **request: object) -> dict[str, Any]:
        """Do what `SandboxSession.describe` says."""
        with self.operations.begun("describe", request=request) as operation:
            try:
                _, data = await in_time(operation.last(), patience)
            except asyncio.TimeoutError:
                raise InvocationError("The sandbox did not say in time what it has.", **self._ids()) from None
        try:
            answer = json.loads(bytes(data)) if len(data) <= MAX_DESCRIPTION else None
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or "failed" in answer:
            raise InvocationError("The sandbox could not say what it has.", **self._ids())
        return answer

    async def _run_packages(self, *arguments: str) -> dict[str, Any]:
        command = self._run("packages", arguments=arguments)
        said = b"".join([chunk async for chunk in command])
        try:
            answer = json.loads(said)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            last = said.decode(errors="replace").strip().rpartition("\n")[2] or "it ended"
            raise InvocationError(f"The packages in the sandbox could not be changed: {last}.", **self._ids())
        return answer
