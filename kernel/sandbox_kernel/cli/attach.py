"""`jupyter sandbox attach`: what a sandbox without a kernel process sent and sends, as text in a terminal."""
# ruff: noqa: T201 - a program prints

from __future__ import annotations

import asyncio
import json
import sys
from argparse import Namespace
from typing import Any

from sandbox_kernel.answers import load
from sandbox_kernel.configuration import load_configuration
from sandbox_kernel.errors import SandboxKernelError
from sandbox_kernel.link import envelope
from sandbox_kernel.link.protocol import Buffer
from sandbox_kernel.records import RecordFile
from sandbox_kernel.session import SandboxSession

from .sandboxes import choose

QUESTION = envelope.STDIN
Json = dict[str, Any]


def add_commands(families: Any) -> None:
    """Add the subcommand to the program's parser."""
    parser = families.add_parser(
        "attach", help="show what a detached sandbox sent, and what its cells go on to send; Ctrl-C leaves it"
    )
    parser.add_argument("id", metavar="ID", help="the sandbox, or the beginning of its id")
    parser.add_argument("--force", action="store_true", help="take it away from the kernel process that uses it")
    parser.set_defaults(run=attach)


def attach(arguments: Namespace) -> int:
    """Show one sandbox's outputs until no cell runs in it; it is detached then."""
    config, said = load_configuration([])
    if said.error is not None:
        raise said.error
    (record,) = choose(RecordFile(), arguments.id)
    config.SandboxSession.provider = record.provider
    asyncio.run(_follow(SandboxSession, config, record.sandbox_id, force=arguments.force))
    return 0


async def _follow(make: type[SandboxSession], config: Any, sandbox_id: str, *, force: bool) -> None:
    from sandbox_kernel.events import EventLog
    from sandbox_kernel.recording import Recorder

    screen = Screen()
    log = EventLog(config=config)
    session = make(screen, config=config, log=log, recorder=Recorder(log))
    screen.session = session
    # A terminal has no notebook whose folder could be there.
    session.folder.wanted = False
    try:
        await session.attach(sandbox_id, force=force)
        await screen.show()
    finally:
        if session.ready:
            await session.detach()
            print(f"The sandbox {sandbox_id} goes on; `%sandbox attach {sandbox_id}` in a notebook comes back to it.")
        await session.close()


class Screen:
    """Prints outputs as text; a SessionListener."""

    def __init__(self) -> None:
        self.session: SandboxSession
        self._running: dict[str, bytes] = {}
        """The cells that are under way, by message id: the tokens of their requests."""
        self._live = False
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def show(self) -> None:
        """Print what was missed, then what comes until nothing runs. Raises what ends the sandbox."""
        attached = self.session.attached
        if attached is not None:
            self._running = {cell.msg_id: cell.token for cell in attached.open}
        await self.session.replay(None, self._go_live)
        if self._running:
            await self._ended

    def _go_live(self) -> None:
        self._live = True

    # ---- SessionListener

    def on_message(self, parts: list[Buffer]) -> None:
        """Take what is new. Before all is there that is past, it comes again behind that."""
        if self._live:
            self.on_past(parts)

    def on_past(self, parts: list[Buffer]) -> None:
        """Print an output; take note of a cell's end; ask what it asks."""
        kind = bytes(parts[0])
        if kind == envelope.IOPUB:
            self._on_output(parts[2:])
        elif kind[:1] == QUESTION:
            self._on_question(kind[1:], parts[1:])

    def on_skipped(self, messages: int) -> None:
        """Say that outputs are missing."""
        print(f"[{messages} messages of output were dropped]", file=sys.stderr)

    def on_excess(self, parts: list[Buffer], size: int) -> None:
        """Say that an output was too large."""
        print(f"[a message of {size} bytes was dropped]", file=sys.stderr)

    def on_ready(self) -> None:
        """Wait for `show`."""

    def on_ended(self, error: SandboxKernelError) -> None:
        """End with the sandbox."""
        if not self._ended.done() and self._running:
            self._ended.set_exception(error)

    def _on_output(self, message: list[Buffer]) -> None:
        header, parent = load(message[0]), load(message[1])
        checked = self.session.guard.output(message, header, parent)
        if checked is None:
            return
        content = load(checked[3])
        text = _text(str(header.get("msg_type")), content)
        if text:
            print(_plain(text), end="", flush=True)
        if content.get("execution_state") == "idle":
            self._running.pop(str(parent.get("msg_id")), None)
            if not self._running and not self._ended.done():
                self._ended.set_result(None)

    def _on_question(self, token: bytes, message: list[Buffer]) -> None:
        checked = self.session.guard.question(b"{}", message)
        if checked is None or token not in self._running.values():
            return
        prompt = _plain(str(load(checked[3]).get("prompt", "")))
        answering = asyncio.ensure_future(asyncio.to_thread(input, prompt))
        answering.add_done_callback(lambda answer: self._answer(token, answer))

    def _answer(self, token: bytes, answer: asyncio.Future[str]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            # The terminal has ended; the question waits for the next who attaches.
            return
        header = {"msg_id": token.hex(), "msg_type": "input_reply", "session": "terminal", "version": "5.3"}
        parts = [json.dumps(part).encode() for part in (header, {}, {}, {"value": answer.result()})]
        self.session.send([QUESTION + token, *parts], urgent=True)


def _text(msg_type: str, content: Json) -> str:
    match msg_type:
        case "stream":
            return str(content.get("text", ""))
        case "execute_input":
            return f"In [{content.get('execution_count')}]: {content.get('code')}\n"
        case "error":
            return "\n".join([*content.get("traceback", []), ""])
        case "display_data" | "execute_result":
            return f"{content.get('data', {}).get('text/plain', '[an output without text]')}\n"
    return ""


def _plain(text: str) -> str:
    """Return a text without what would steer the terminal, colours too."""
    return "".join(
        character for character in _without_sequences(text) if character.isprintable() or character in "\n\t\r"
    )


def _without_sequences(text: str) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[\]P^_X].*?(?:\x07|\x1b\\)|\x1b.?", "", text, flags=re.DOTALL)
