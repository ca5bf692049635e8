"""A session in basic mode: the service's own interpreter runs the cells, and a link ends in this process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress

from sandbox_kernel.errors import SandboxLostError
from sandbox_kernel.link.protocol import Buffer, Link, Message
from sandbox_kernel.link.transport import Receiver, Transport
from sandbox_kernel.providers.basic.backlog import Backlog

from .api import Api
from .exchange import SessionTransport
from .faults import PROVIDER
from .interpreter import Interpreter
from .life import Life
from .sandbox import AgentCoreSandbox
from .tool_files import ToolFiles


class BasicSandbox(AgentCoreSandbox):
    """What cells lack here, `describe` and the first cell tell."""

    mode = "basic"

    def __init__(self, api: Api, session_id: str, life: Life, correlation_id: str, language: str, reason: str) -> None:
        """``reason`` is why there is no bridge, as a clause; "" where the configuration wants none."""
        super().__init__(api, session_id, life, correlation_id)
        self._language = language
        self._why = reason
        self._interpreter = Interpreter(api, session_id, language, correlation_id)
        self.files = ToolFiles(api, session_id, lambda: self._interpreter.folder)
        self._greeted = False

    async def open_link(self) -> Transport:
        if self._transport is not None:
            reason = self._reason or await self.ended() or "its interpreter was given up"
            raise SandboxLostError(f"The sandbox ended: {reason}.", provider=PROVIDER, **self._ids)
        await self._interpreter.prepare()
        return self._opened(BasicTransport(self._interpreter))

    def greeting(self) -> str:
        if self._greeted:
            return ""
        self._greeted = True
        why = f" ({self._why})" if self._why else ""
        return (
            f"Cells run in AgentCore's own interpreter, in basic mode{why}: output comes when a cell ends, and there "
            "is no input(), no widgets, no debugger and no interrupt that ends the code.\n"
        )

    def describe(self) -> dict[str, str]:
        lacks = "no live output, input(), widgets, debugger, copies of the notebook's folder"
        return {**super().describe(), "language": self._language, "lacks": lacks}


class BasicTransport(SessionTransport):
    """Ends in the interpreter, by a link of its own."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._link = Link(os.urandom(16))
        self._backlog = Backlog(lambda: self._link)
        self._receiver: Receiver | None = None
        self._closed = False
        self._flushing = False

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._link.connect()
        self._interpreter.serve(self._send, self.lose, self._backlog.room)
        self._flush_soon()

    def write(self, buffers: Sequence[Buffer]) -> bool:
        for buffer in buffers:
            for event in self._link.receive(memoryview(buffer)):
                if isinstance(event, Message) and not self._closed:
                    self._interpreter.on_message(event.parts)
        self._flush_soon()
        return True

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._interpreter.close()

    @property
    def closed(self) -> bool:
        return self._closed

    def lose(self, reason: str) -> None:
        if not self._closed:
            self.close()
            assert self._receiver is not None
            self._receiver.connection_lost(reason)

    def _send(self, parts: list[Buffer]) -> None:
        self._link.send(parts)
        self._flush_soon()

    def _flush_soon(self) -> None:
        # Not from inside a caller's `write`.
        if not self._flushing:
            self._flushing = True
            with suppress(RuntimeError):
                asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        while not self._closed and (buffers := self._link.data_to_send()):
            assert self._receiver is not None
            self._receiver.data_received(memoryview(b"".join(buffers)))
        self._backlog.changed()
