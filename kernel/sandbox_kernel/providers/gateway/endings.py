"""Gives requests the end that they have not had: a connection, a gateway or a renewed kernel may lose it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sandbox_kernel.link import envelope
from sandbox_kernel.link.protocol import Buffer

from . import words
from .greeting import happens_within
from .own import OwnRequest, OwnRequests, make_header
from .sent import ON_CONTROL, Lane, Sent, SentRequests

Json = dict[str, Any]

LAST_OUTPUTS = 2.0
"""Seconds after a lane's answer in which its outputs must have come."""
END_IN = 2.0
"""Seconds after its reply in which a request's idle status must have come; then it is looked for."""
ENDS_IN = 0.5
"""Seconds after an interrupt that nobody here asked for in which the kernel says that it was told to end, if it was."""
REPLY_IN = 5.0
"""Seconds after the idle status of a cell that failed in which its reply must have come; then one is made."""
END_QUESTIONS = 5
"""How often a kernel of which no output was ever heard for such questions is asked for it."""
TOPIC = b"kernel"


class Endings:
    """Of one kernel's requests."""

    def __init__(self, sent: SentRequests, own: OwnRequests, send: Callable[..., None]) -> None:
        """``send`` takes the parts of a message to the session, and whether it is ``urgent``."""
        self._sent, self._own, self._send = sent, own, send
        self._asking: set[asyncio.Task[None]] = set()
        self._session = uuid.uuid4().hex

    def stop(self) -> None:
        """Ask no more."""
        for task in self._asking:
            task.cancel()
        self._asking = set()

    def settle(
        self,
        lanes: Iterable[Lane],
        doubtful: Sequence[Sent],
        is_known: Callable[[Json], bool],
        lost: Callable[..., str],
    ) -> None:
        """Find out in these lanes which of the requests that are ``doubtful`` get no answer, and give them up.

        ``is_known`` takes an answer's header; where the kernel is another one it is False, and nothing is given up.
        ``lost`` takes whether a request had begun, and returns what is said of it.
        """
        self.stop()
        for lane in lanes:
            self._begin(self._settle(lane, doubtful, is_known, lost))

    async def _settle(
        self, lane: Lane, doubtful: Sequence[Sent], is_known: Callable[[Json], bool], lost: Callable[..., str]
    ) -> None:
        """Ask in a lane; what was sent before and has no answer then never gets one."""
        question = self._own.ask(lane, "kernel_info_request")
        try:
            answer = await question.replied
            if not is_known(answer.header):
                return
            await happens_within(question.idle, LAST_OUTPUTS)
        finally:
            self._own.done(question)
        for sent in doubtful:
            if sent.lane == lane and self._sent.has(sent):
                self.give_up(sent, lost(begun=sent.busy or sent.replied))

    def find_end(self, sent: Sent, lane: Lane) -> None:
        """Look for the end of a request that was answered."""
        self._begin(self._find_end(sent, lane))

    async def _find_end(self, sent: Sent, lane: Lane) -> None:
        """Ask until the question's idle status is heard, or the request's.

        Outputs are published in order, but ZeroMQ drops what a slow gateway does not fetch, an idle status like any
        other; a front end would wait for it for ever.
        """
        questions: list[OwnRequest] = []
        try:
            while self._sent.has(sent) and not any(question.idle.is_set() for question in questions):
                if len(questions) >= END_QUESTIONS and not self._own.heard.is_set():
                    break
                questions.append(self._own.ask(lane, "kernel_info_request"))
                await happens_within(questions[-1].idle, END_IN)
        finally:
            self._own.done(*questions)
        if self._sent.has(sent):
            self.give_up(sent, words.END_LOST)

    def _begin(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    def give_up(self, sent: Sent, reason: str) -> None:
        """Give a request, of which nothing more will come, what it has not had."""
        if sent.reply is not None or sent.lacks_reply:
            self._miss_reply(sent)
        if sent.idle and sent.replied:
            return
        self._sent.forget(sent)
        error = {
            "ename": "SandboxConnectionError",
            "evalue": reason,
            "traceback": [f"SandboxConnectionError: {reason}"],
        }
        if not sent.busy:
            self.publish("status", {"execution_state": "busy"}, sent.header)
        if sent.is_cell and not sent.replied:
            self.publish("error", error, sent.header)
        elif sent.is_cell:
            self.publish("stream", {"name": "stderr", "text": f"{reason}\n"}, sent.header)
        if not sent.replied:
            self._reply(sent, error)
        self.release(sent)
        if not sent.idle:
            self.publish("status", {"execution_state": "idle"}, sent.header)

    def hold(self, sent: Sent, idle: Sequence[Buffer]) -> None:
        """Hold the idle status of a cell that ended with an error, until its reply has come.

        Where none comes, it is made: the kernel ended just then, as a rule, and why may be known before.
        """
        sent.held = idle
        asyncio.get_running_loop().call_later(REPLY_IN, self._miss_reply, sent)

    def hold_reply(self, sent: Sent, reply: Sequence[Buffer], is_ending: Callable[[], bool]) -> None:
        """Hold the reply of a cell that somebody else interrupted: gateways begin with that to end a kernel."""
        sent.reply, sent.failure = reply, sent.failure or json.loads(bytes(reply[3]))

        def go_on() -> None:
            if is_ending():
                asyncio.get_running_loop().call_later(REPLY_IN, self._miss_reply, sent)
            else:
                self._miss_reply(sent)

        asyncio.get_running_loop().call_later(ENDS_IN, go_on)

    def _miss_reply(self, sent: Sent) -> None:
        if not self._sent.has(sent) or sent.failure is None or sent.replied:
            return
        sent.replied = True
        if sent.reply is not None:
            self._send([sent.kind, *sent.reply], urgent=sent.kind[:1] in ON_CONTROL)
        else:
            self._reply(sent, sent.failure)
        if sent.idle:
            self._sent.forget(sent)
            self.release(sent)

    def release(self, sent: Sent) -> None:
        """Send a cell's idle status, if it was held."""
        if sent.held is not None:
            held, sent.held = sent.held, None
            self._send([envelope.IOPUB, TOPIC, *held])

    def end_failed(self, reason: str) -> None:
        """Make the replies of cells that ended with an error when their kernel did; ``reason`` is a clause.

        Being ended interrupts a kernel: that error is the only one that such a cell gets.
        """
        for sent in self._sent.failed():
            self.publish("stream", {"name": "stderr", "text": words.ended(reason)}, sent.header)
            self._miss_reply(sent)

    def _reply(self, sent: Sent, error: Json) -> None:
        content = {**error, "status": "error"}
        if sent.is_cell:
            content |= {"execution_count": sent.count or self._sent.count, "payload": [], "user_expressions": {}}
        parts = [sent.kind, *self._made(f"{sent.msg_type.removesuffix('_request')}_reply", content, sent.header)]
        self._send(parts, urgent=sent.kind[:1] in ON_CONTROL)

    # ---- messages of our own

    def publish(self, msg_type: str, content: Json, parent: bytes) -> None:
        """Send the session an output as if the kernel had."""
        self._send([envelope.IOPUB, TOPIC, *self._made(msg_type, content, parent)])

    def _made(self, msg_type: str, content: Json, parent: bytes) -> list[bytes]:
        header = make_header(uuid.uuid4().hex, msg_type, self._session)
        return [json.dumps(header).encode(), parent, b"{}", json.dumps(content).encode()]
