"""Parts of the AgentCore provider, and the porter in the sandbox, each by itself."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_kernel.bridge import asker, porter
from sandbox_kernel.bridge.work import Work
from sandbox_kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    InvocationError,
    NotFoundError,
    QuotaError,
    SandboxConnectionError,
    SandboxError,
)
from sandbox_kernel.link.protocol import Link, is_acknowledgement
from sandbox_kernel.providers.agentcore.api import Api, Settings
from sandbox_kernel.providers.agentcore.basic import BasicSandbox
from sandbox_kernel.providers.agentcore.carriers import Carriers
from sandbox_kernel.providers.agentcore.exchange import ExchangeTransport
from sandbox_kernel.providers.agentcore.faults import translated
from sandbox_kernel.providers.agentcore.life import Life
from sandbox_kernel.providers.agentcore.marks import MarkReader
from sandbox_kernel.providers.agentcore.pace import AT_ONCE, Pace
from sandbox_kernel.providers.agentcore.questions import Answer, BrokenAnswerError, as_text, packed, read_answer
from sandbox_kernel.providers.agentcore.results import MAX_ANSWER, NoResultError, ToolResult, read_events
from sandbox_kernel.providers.agentcore.shim import as_mark
from sandbox_kernel.providers.agentcore.shown import Shown
from tests.hostile import Ear

# ---- questions and answers


@given(st.binary(max_size=5000), st.integers(0, 1 << 40))
def test_a_question_arrives_as_it_was_asked(data: bytes, at: int) -> None:
    question = base64.b64decode(as_text(packed({"at": at}, data)))
    plain = zlib.decompress(question[1:]) if question[:1] == b"z" else question[1:]
    head, body = struct.unpack_from("!II", plain)
    assert json.loads(plain[8 : 8 + head]) == {"at": at}
    assert plain[8 + head :] == data
    assert body == len(data)


def answer_text(head: dict[str, Any], data: bytes) -> str:
    said = json.dumps(head).encode()
    return asker.marked(struct.pack("!II", len(said), len(data)) + said + data)


@given(st.binary(max_size=5000), st.sampled_from(["\n", "\r\n", ""]))
def test_an_answer_is_found_among_other_text(data: bytes, line_end: str) -> None:
    text = answer_text({"taken": 3, "at": 5, "working": True}, data)
    # A terminal may break lines, and something may be printed around it.
    broken = line_end.join(text[begin : begin + 80] for begin in range(0, len(text), 80)) if len(text) > 400 else text
    found = read_answer(f"warning: x{line_end}{broken}{line_end}")
    assert (found.taken, found.at, found.working, found.data) == (3, 5, True, data)


@pytest.mark.parametrize("harm", ["cut", "changed", "absent", "bomb"])
def test_a_broken_answer_is_told_apart(harm: str) -> None:
    text = answer_text({"taken": 1}, b"x" * 300)
    middle = len(text) // 2
    match harm:
        case "cut":
            text = text[:middle]
        case "changed":
            text = text[:middle] + ("A" if text[middle] != "A" else "B") + text[middle + 1 :]
        case "absent":
            text = "Traceback (most recent call last): …"
        case "bomb":
            text = answer_text({"taken": 1}, bytes(80 * 1024 * 1024))
    with pytest.raises(BrokenAnswerError):
        read_answer(text)


def test_an_answer_s_head_is_small() -> None:
    with pytest.raises(BrokenAnswerError, match="head that is too large"):
        read_answer(answer_text({"x": [[]] * 100_000}, b""))


@pytest.mark.parametrize("field", ["taken", "at"])
@pytest.mark.parametrize("said", ["1e999", "-1e999", "NaN", "1.5", "-1", "true", '"3"', "null", "[]"])
def test_an_answer_s_offsets_are_whole_numbers(field: str, said: str) -> None:
    head = f'{{"{field}": {said}}}'.encode()
    with pytest.raises(BrokenAnswerError):
        read_answer(asker.marked(struct.pack("!II", len(head), 0) + head))


# ---- the porter, with the bridge's end of the stream in the test's hands


class Bridge:
    """What the porter believes to be the bridge."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.stream: socket.socket | None = None
        self.received = b""

    def accept(self) -> None:
        """Take a stream that is passed."""
        _, descriptors, _, _ = socket.recv_fds(self.control, 1, 1)
        self.stream = socket.socket(fileno=descriptors[0])
        self.stream.settimeout(10)

    def read(self, size: int) -> bytes:
        assert self.stream is not None
        while len(self.received) < size:
            self.received += self.stream.recv(65536)
        return self.received

    def say(self, data: bytes, flags: int) -> None:
        """Send output, and report behind it."""
        assert self.stream is not None
        self.stream.sendall(data)
        self.report(flags)

    def report(self, flags: int) -> None:
        self.control.send(porter.REPORT.pack(flags, 1, len(self.received)))


class Served:
    """A porter that serves, whose bridge is the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.bridge = Bridge(theirs)
        theirs.settimeout(10)
        self.porter = porter.Porter.__new__(porter.Porter)
        self.porter._folder, self.porter._control = self.folder, ours
        ours.setblocking(False)
        self.porter._gone, self.porter._flags, self.porter._consumed = False, porter.WORKING, 0
        self.porter._asked = False
        self.porter._stream, self.porter._waiter, self.porter._askers = None, None, {}
        self.porter._listener = socket.socket(socket.AF_UNIX)
        self.porter._listener.bind(str(folder / porter.SOCKET))
        self.porter._listener.listen()
        self.porter._listener.setblocking(False)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ended = False
        self._thread.start()

    def _run(self) -> None:
        while not self._ended:
            self.porter._turn()

    def ask(self, data: bytes = b"", **head: Any) -> Any:
        """Ask it something, as a call does."""
        asked = {
            "stream": "s",
            "open": True,
            "at": 0,
            "have": 0,
            "want": True,
            "hold": 10,
            "linger": 0.01,
            "spacing": 0.0,
            "limit": 1000,
        }
        return read_answer(asker.ask(self.folder, as_text(packed({**asked, **head}, data))))

    def close(self) -> None:
        self.ask(want=False, stream="end")
        self._ended = True
        # It looks when something has come.
        asker.connected(str(Path(self.folder, porter.SOCKET))).close()
        self._thread.join(10)
        for one in self.porter._askers.values():
            one.sock.close()
        for sock in (self.porter._listener, self.porter._control, self.bridge.control, self.bridge.stream):
            if sock is not None:
                sock.close()
        if self.porter._stream is not None:
            self.porter._stream.end()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.close()


def test_what_is_sent_twice_arrives_once_and_what_was_not_received_comes_again(served: Served) -> None:
    served.ask(b"hello ", want=False)
    served.bridge.accept()
    served.ask(b"hello ", want=False)
    answer = served.ask(b"world", at=6, want=False)
    assert answer.taken == 11
    assert served.bridge.read(11) == b"hello world"
    served.bridge.say(b"output", 0)
    for _ in range(2):
        answer = served.ask(at=11)
        assert (answer.at, answer.data, answer.working) == (0, b"output", False)
    answer = served.ask(at=11, have=6)
    assert (answer.at, answer.data) == (6, b"")


def test_calls_may_overtake_each_other(served: Served) -> None:
    served.ask(b"", want=False)
    served.bridge.accept()
    pieces = [(begin, bytes([65 + begin]) * 3) for begin in range(0, 30, 3)]
    random.Random(1).shuffle(pieces)
    for at, data in pieces:
        served.ask(data, at=at, want=False)
    assert served.bridge.read(30) == b"".join(data for _, data in sorted(pieces))


def test_an_answer_waits_for_output_and_a_newer_question_takes_its_place(served: Served) -> None:
    served.ask(b"x", want=False)
    served.bridge.accept()
    served.bridge.read(1)
    served.bridge.report(porter.WORKING)
    answers: list[Any] = []
    older = threading.Thread(target=lambda: answers.append(served.ask(at=1)))
    older.start()
    newer = threading.Thread(target=lambda: answers.append(served.ask(at=1)))
    newer.start()
    older.join(0.2)
    assert answers[0].data == b""
    served.bridge.say(b"out", 0)
    newer.join(10)
    older.join(10)
    assert answers[1].data == b"out"


def test_a_question_of_the_cell_s_comes_at_once(served: Served) -> None:
    served.ask(b"x", want=False)
    served.bridge.accept()
    served.bridge.read(1)
    served.bridge.say(b"question", porter.WORKING | porter.ASKING)
    assert served.ask(at=1, linger=9).data == b"question"


def test_output_that_comes_seldom_leaves_at_once_and_much_of_it_together(served: Served) -> None:
    served.ask(b"x", want=False)
    served.bridge.accept()
    served.bridge.read(1)
    began = time.monotonic()
    threading.Timer(0.05, lambda: served.bridge.say(b"one", porter.WORKING)).start()
    threading.Timer(0.2, lambda: served.bridge.say(b"two", porter.WORKING)).start()
    assert served.ask(at=1, spacing=0.5).data == b"onetwo"
    assert time.monotonic() - began >= 0.5
    threading.Timer(0.3, lambda: served.bridge.say(b"later", porter.WORKING)).start()
    assert served.ask(at=1, have=6, linger=0.0, spacing=0.1).data == b"later"


def test_another_stream_takes_the_place_of_the_one_before(served: Served) -> None:
    served.ask(b"x", want=False)
    served.bridge.accept()
    served.ask(b"y", stream="other", want=False)
    assert served.ask(b"", open=False).unknown


# ---- parts of the provider


def test_the_first_output_leaves_at_once_and_a_minute_of_printing_takes_few_calls() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    assert pace.spacing == 0.0
    calls = 0
    while now < 60:
        now += 0.1 + max(AT_ONCE, pace.spacing)
        pace.take()
        calls += 1
    assert calls <= 85
    now += 30
    assert pace.spacing == 0.0


def test_a_service_that_throttles_is_called_less() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    pace.throttled()
    once = pace.spacing
    pace.throttled()
    assert pace.spacing > once > 1.0


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_marks_and_text_come_in_their_order_however_they_are_cut(size: int) -> None:
    text = f"a<s{as_mark('display', n=1)}b\n{as_mark('end')}<sbx"
    reader = MarkReader()
    found: list[Any] = []
    for begin in range(0, len(text), size):
        for one in reader.feed(text[begin : begin + size]):
            if isinstance(one, str) and found and isinstance(found[-1], str):
                found[-1] += one
            else:
                found.append(one)
    assert found == ["a<s", {"kind": "display", "n": 1}, "b\n", {"kind": "end"}]
    assert reader.rest() == "<sbx"


def test_many_marks_take_no_longer_than_their_text_is_long() -> None:
    began = time.monotonic()
    assert sum(1 for _ in MarkReader().feed(as_mark("stderr", text="x") * 200_000)) == 200_000
    assert time.monotonic() - began < 8


def test_a_large_mark_may_come_in_many_pieces() -> None:
    began = time.monotonic()
    text, reader = as_mark("display", data="x" * 8_000_000), MarkReader()
    found = [one for start in range(0, len(text), 250) for one in reader.feed(text[start : start + 250])]
    assert [len(one["data"]) for one in found if isinstance(one, dict)] == [8_000_000]
    assert time.monotonic() - began < 8


async def test_a_cell_that_shows_much_keeps_nobody_from_the_event_loop() -> None:
    seen: list[object] = []
    shown = Shown(lambda one: seen.append(one) or {}, seen.append)  # type: ignore[func-returns-value]
    event = ToolResult(text=as_mark("stderr", text="x") * 400_000 + "rest<sbx")
    shown.on_event(event)
    finishing = asyncio.ensure_future(shown.finish())
    most = before = 0
    while not finishing.done():
        await asyncio.sleep(0)
        most, before = max(most, len(seen) - before), len(seen)
    assert len(seen) == 400_002
    # In one turn of the loop only a part of it is shown.
    assert most < 200_000


# ---- a stream of calls


class ScriptedCarriers(Carriers):
    """Calls that come to what the test says; each is noted."""

    def __init__(self, outcome: Callable[[bool, int], Answer | Exception | None]) -> None:
        """``outcome`` is told whether the call is one beside, and how many there were of its kind.

        It returns an answer or an error, or None for a call that waits.
        """
        self.has_commands = True
        self.made: dict[bool, list[float]] = {False: [], True: []}
        self._outcome = outcome

    async def exchange(self, head: dict[str, Any], data: bytes = b"", *, beside: bool = False) -> Answer:
        self.made[beside].append(time.monotonic())
        outcome = self._outcome(beside, len(self.made[beside]))
        if outcome is None:
            await asyncio.Event().wait()
        if isinstance(outcome, Exception):
            raise outcome
        assert outcome is not None
        return outcome


def answered(*, working: bool = True) -> Answer:
    return Answer(0, 0, working, lively=False, ended="", unknown=False, data=b"")


@pytest.mark.parametrize("error", [ConfigurationError("No AWS region is set."), OverflowError("No AWS region is set.")])
@pytest.mark.parametrize("beside", [False, True])
async def test_a_stream_of_calls_never_dies_unseen(error: Exception, beside: bool) -> None:
    def outcome(is_beside: bool, number: int) -> Answer | Exception | None:
        if is_beside == beside:
            return error
        return answered() if number == 1 else None

    ear = Ear()
    transport = ExchangeTransport(ScriptedCarriers(outcome), Pace())
    transport.start(ear)
    await asyncio.sleep(0.05)
    transport.write([b"x"])
    await asyncio.sleep(0.05)
    assert len(ear.reasons) == 1
    assert "No AWS region is set." in ear.reasons[0]
    assert transport.closed


@pytest.mark.parametrize(
    ("error", "least", "most", "slowed"),
    [
        (QuotaError("throttled", retryable=True), 2, 3, True),
        (SandboxConnectionError("failed"), 3, 5, False),
        (AuthenticationError("denied"), 1, 1, False),
    ],
)
async def test_a_refused_call_beside_is_made_again_more_and_more_seldom(
    error: Exception, least: int, most: int, slowed: bool
) -> None:
    def outcome(beside: bool, number: int) -> Answer | Exception | None:
        if beside:
            return error
        return answered() if number == 1 else None

    carriers, pace = ScriptedCarriers(outcome), Pace()
    transport = ExchangeTransport(carriers, pace)
    transport.start(Ear())
    await asyncio.sleep(0.05)
    transport.write([b"x"])
    # That no more calls are made in some time can only be seen by waiting.
    await asyncio.sleep(1.8)
    transport.close()
    assert least <= len(carriers.made[True]) <= most
    assert (pace.spacing > 1.0) is slowed


async def test_a_configuration_that_broke_meanwhile_ends_the_making_of_a_connection() -> None:
    class Broken(Api):
        async def call(self, operation: str, *, correlation_id: str = "", sandbox_id: str = "", **params: Any) -> Any:
            raise ConfigurationError("The AWS configuration cannot be used.")

    api = Broken(Settings("any"))
    sandbox = BasicSandbox(api, "s", Life(0.0, 60.0, api.now, hourly_rate=0.0, rates_of=""), "", "python", "")
    # Whoever makes it again knows errors about sandboxes only.
    with pytest.raises(SandboxError, match="cannot be used"):
        await sandbox.ended()


def refused(code: str, message: str = "m", status: int = 400) -> Exception:
    """Return an exception like botocore's."""
    exc = Exception(message)
    exc.response = {  # type: ignore[attr-defined]
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return exc


@pytest.mark.parametrize(
    ("code", "status", "kind", "retryable", "text"),
    [
        ("ThrottlingException", 429, QuotaError, True, "throttles"),
        ("throttlingException", 200, QuotaError, True, "throttles"),
        ("ServiceQuotaExceededException", 402, QuotaError, False, "wait until others have ended"),
        ("AccessDeniedException", 403, AuthenticationError, False, "bedrock-agentcore:Op"),
        ("ExpiredTokenException", 403, AuthenticationError, False, "log in again"),
        ("ResourceNotFoundException", 404, NotFoundError, False, "does not know it"),
        ("InternalServerException", 500, SandboxConnectionError, True, "failed at Op"),
        ("internalServerException", 200, SandboxConnectionError, True, "failed at Op"),
        ("502", 502, SandboxConnectionError, True, "failed at Op"),
        ("ValidationException", 400, InvocationError, False, "refused Op"),
        ("ConflictException", 409, InvocationError, False, "refused Op"),
    ],
)
def test_each_error_of_the_service_is_one_of_ours(
    code: str, status: int, kind: type[Exception], retryable: bool, text: str
) -> None:
    error = translated(refused(code, status=status), "Op", "here", sandbox_id="s")
    assert type(error) is kind
    assert error.retryable is retryable  # type: ignore[attr-defined]
    assert text in str(error)


def test_errors_of_the_sdk_say_what_to_do() -> None:
    from botocore import exceptions as theirs

    table: list[tuple[Exception, type[Exception], str]] = [
        (theirs.NoCredentialsError(), AuthenticationError, "aws configure"),
        (theirs.NoRegionError(), ConfigurationError, "AgentCoreProvider.region"),
        (theirs.ProfileNotFound(profile="p"), ConfigurationError, "p"),
        (theirs.EndpointConnectionError(endpoint_url="http://x"), SandboxConnectionError, "cannot be reached"),
        (theirs.ReadTimeoutError(endpoint_url="http://x"), SandboxConnectionError, "cannot be reached"),
        (theirs.ParamValidationError(report="r"), ConfigurationError, "r"),
    ]
    for exc, kind, text in table:
        error = translated(exc, "Op", "here")
        assert type(error) is kind
        assert text in str(error)


def test_a_stream_without_a_result_is_an_error() -> None:
    with pytest.raises(NoResultError):
        read_events([])
    with pytest.raises(NoResultError):
        read_events([{"somethingNew": {}}])
    events = [
        {"result": {"content": [{"type": "text", "text": "a"}], "structuredContent": {"stdout": "a", "exitCode": 0}}},
        {"result": {"content": [], "structuredContent": {"stdout": "b", "exitCode": 1}, "isError": True}},
    ]
    read = read_events(events)
    assert (read.stdout, read.exit_code, read.is_error) == ("ab", 1, True)


@pytest.mark.parametrize(
    "result",
    [
        {"content": [{"type": "text", "text": "x" * (1 << 23)}], "structuredContent": {"stdout": "x" * (1 << 23)}},
        {"content": [{"type": "resource", "resource": {"blob": b"x" * (1 << 24)}}]},
    ],
)
def test_an_answer_without_an_end_is_given_up(result: dict[str, Any]) -> None:
    taken: list[object] = []
    with pytest.raises(InvocationError, match="more than"):
        read_events(({"result": result} for _ in range(20)), taken.append)
    assert len(taken) == (MAX_ANSWER >> 24) - 1


def test_a_life_is_counted_down_and_warned_of_once() -> None:
    now = 1000.0
    life = Life(1000.0, 60.0, lambda: now, hourly_rate=0.36, rates_of="then")
    assert life.warning() == ""
    now = 1055.0
    assert "ends in 5 s" in life.warning()
    assert life.warning() == ""
    assert life.describe()["cost so far"] == "$0.0055 ($0.36 an hour at most, rates of then)"
    now = 1061.0
    assert life.is_over
    assert life.cost == "$0.0060 ($0.36 an hour at most, rates of then)"


def test_acknowledgements_alone_may_wait_and_nothing_else_may() -> None:
    here, there = Link(os.urandom(16)), Link(os.urandom(16))
    for link in (here, there):
        link.connect()
    greeting = here.data_to_send()
    assert not is_acknowledgement(greeting)
    there.receive(memoryview(greeting[0]))
    here.receive(memoryview(there.data_to_send()[0]))
    there.send([b"x"])
    message = there.data_to_send()
    assert not is_acknowledgement(message)
    here.receive(memoryview(b"".join(message)))
    assert here.acknowledge()
    assert is_acknowledgement(here.data_to_send())


def test_work_is_done_by_reply_and_idle() -> None:
    work = Work()
    header = json.dumps({"msg_id": "1", "msg_type": "execute_request"}).encode()
    work.began(header)
    work.idle(header)
    assert work.under_way
    work.replied(header)
    assert not work.under_way
    comm = json.dumps({"msg_id": "2", "msg_type": "comm_msg"}).encode()
    work.began(comm)
    work.replied(header)
    assert work.under_way
    work.idle(comm)
    assert not work.under_way


def test_work_is_silent_until_somebody_has_something_to_see() -> None:
    work = Work()
    assert not work.silent
    first, second = (json.dumps({"msg_id": name, "msg_type": "execute_request"}).encode() for name in "12")
    work.began(first)
    assert work.silent
    work.shown()
    assert not work.silent
    work.began(second)
    assert not work.silent
    for header in (first, second):
        work.idle(header)
        work.replied(header)
    # Of a thread that went on.
    work.shown()
    work.began(first)
    assert work.silent
