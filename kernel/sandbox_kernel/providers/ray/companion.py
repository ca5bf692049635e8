"""The kernel process's end of its companion (driver.py): calls, and sockets for links. Ray is not imported here."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, Any

from sandbox_kernel.errors import SandboxConnectionError, SandboxKernelError

from .words import PROVIDER, error_of

PROGRAM = (sys.executable, "-m", "sandbox_kernel.providers.ray.driver")
"""The companion's command line; the number of its socket follows."""
ENDS_WITHIN = 10.0
"""Seconds that the companion has to take back what is half made, and to leave the cluster."""
SAID = 2000
"""Characters of what it wrote that are told when it has died."""


class Companion:
    """One companion process. It ends with this object, and with the kernel process, whichever is first."""

    def __init__(self, settings: dict[str, Any], timeout: float, program: Sequence[str] = PROGRAM) -> None:
        """Start it; it has ``timeout`` seconds to connect, for which `connected` waits."""
        self.loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._news: dict[int, Callable[[str], None]] = {}
        self._greeting: asyncio.Future[None] = self.loop.create_future()
        self._buffer = b""
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the process
        self._sock, theirs = socket.socketpair()
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024 * 1024)
        with theirs:
            self._process = subprocess.Popen(
                [*program, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[theirs.fileno()],
                # Of the notebook's folder it imports nothing, and a terminal's Ctrl-C is for the kernel process.
                cwd=os.sep,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(json.dumps(settings).encode() + b"\n")
        self.loop.add_reader(self._sock, self._read)
        self._waiters = 0
        self._deadline = self.loop.call_later(timeout, self._is_late, timeout)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._sock.fileno() >= 0

    async def connected(self) -> None:
        """Wait until it has connected to the cluster. Raises what keeps it from that; then it is of no use.

        Who is cancelled only stops waiting: others may wait, or come.
        """
        self._waiters += 1
        try:
            await asyncio.shield(self._greeting)
        except SandboxKernelError:
            self.kill()
            raise
        finally:
            self._waiters -= 1

    def give_up(self) -> None:
        """End it where it has not connected and nobody waits for that: Ray itself would try for minutes."""
        if not self._greeting.done() and not self._waiters:
            self.kill()

    def _is_late(self, timeout: float) -> None:
        if not self._greeting.done():
            self._greeting.set_exception(
                SandboxConnectionError(
                    f"The Ray cluster has not let us in within {timeout:g} s: see RayProvider.connect_timeout.",
                    provider=PROVIDER,
                )
            )
            self.kill()

    async def call(
        self,
        method: str,
        *,
        on_news: Callable[[str], None] | None = None,
        carried: socket.socket | None = None,
        **arguments: Any,
    ) -> Any:
        """Return what it answers. Who is cancelled has it cancelled there, and waits until that is done.

        Raises what was raised there, and SandboxConnectionError where it has ended.
        """
        number = next(self._numbers)
        answer = self._answers[number] = self.loop.create_future()
        if on_news is not None:
            self._news[number] = on_news
        try:
            self._say({"number": number, "method": method, "arguments": arguments}, carried)
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            if self.alive:
                self._say({"number": number, "method": "cancel"})
                await asyncio.wait([answer], timeout=ENDS_WITHIN)
            raise
        finally:
            self._answers.pop(number, None)
            self._news.pop(number, None)
            if answer.done() and not answer.cancelled():
                answer.exception()

    async def close(self) -> None:
        """End it."""
        self._lose()
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, ENDS_WITHIN)
        self.kill()

    def kill(self) -> None:
        """End it at once."""
        self._lose()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._log.close()

    # ---- what is said

    def _say(self, request: dict[str, Any], carried: socket.socket | None = None) -> None:
        data = json.dumps(request).encode() + b"\n"
        try:
            sent = socket.send_fds(self._sock, [data], [carried.fileno()] if carried is not None else [])
        except OSError as exc:
            raise self._dead() from exc
        if sent < len(data):
            # It has not read for long, and a line of which half was sent cannot be taken back.
            self.kill()
            raise self._dead()

    def _read(self) -> None:
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose()
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, words: dict[str, Any]) -> None:
        number = words.get("number")
        if number is None:
            if not self._greeting.done():
                _settle(self._greeting, words)
        elif "news" in words:
            if number in self._news:
                self._news[number](str(words["news"]))
        elif (answer := self._answers.get(number)) is not None and not answer.done():
            _settle(answer, words)

    def _lose(self) -> None:
        if self._sock.fileno() < 0:
            return
        self.loop.remove_reader(self._sock)
        self._deadline.cancel()
        self._sock.close()
        for answer in (self._greeting, *self._answers.values()):
            if not answer.done():
                answer.set_exception(self._dead())
        if not self._greeting.cancelled():
            self._greeting.exception()

    def _dead(self) -> SandboxConnectionError:
        said = ""
        if not self._log.closed:
            self._log.seek(0)
            said = " ".join(self._log.read().decode(errors="replace")[-SAID:].split())
        return SandboxConnectionError(
            f"The process that talks to the Ray cluster has ended; another one is started. {said}".strip(),
            provider=PROVIDER,
        )


def _settle(future: asyncio.Future[Any], words: dict[str, Any]) -> None:
    if "failure" in words:
        future.set_exception(error_of(words["failure"]))
    else:
        future.set_result(words.get("result"))
