"""Who serves the calls of cells treats what arrives as an attacker's, and holds to its limits."""

from __future__ import annotations

import asyncio
import json
import pickle
import struct
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_kernel.bridge import tool_sockets, toolbox
from sandbox_kernel.errors import CommandError, ToolRegistrationError, UnknownToolError
from sandbox_kernel.events import EventLog
from sandbox_kernel.host_tools import FRAME, CellScope
from sandbox_kernel.link.protocol import Buffer
from sandbox_kernel.tools import ToolRegistry, calls, checking, current_context
from sandbox_kernel.tools.calls import ToolCalls
from sandbox_kernel.tools.settings import Tools


class FakeSession:
    """Keeps what would be sent to the sandbox."""

    def __init__(self, folder: Path) -> None:
        self.log = EventLog(path=str(folder / "log"))
        self.directory = folder
        self.sandbox_ids = {"provider": "fake", "sandbox_id": "box", "correlation_id": "sk-1"}
        self.tool_backlog = 0
        self.sent: list[tuple[int, dict[str, Any], bytes]] = []
        self.news = asyncio.Event()

    async def room_for_tools(self) -> None:
        while self.tool_backlog:  # noqa: ASYNC110 - a test changes it
            await asyncio.sleep(0.01)

    def send_tool_frame(self, connection: int, data: Sequence[Buffer]) -> None:
        raw = b"".join(data)
        size, _ = FRAME.unpack_from(raw)
        end = FRAME.size + size
        self.sent.append((connection, json.loads(raw[FRAME.size : end]), raw[end:]))
        self.news.set()

    async def answers(self, count: int = 1) -> list[dict[str, Any]]:
        while len(self.sent) < count:
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 20)
        return [said for _, said, _ in self.sent]


class FakeCells:
    """Knows one running cell, and how its person answers."""

    def __init__(self) -> None:
        self.running = "cell-1"
        self.answer = "n"
        self.asked: list[tuple[str, str]] = []
        self.narrowed: list[CellScope] = []

    async def settle(self, cell: str) -> None:
        pass

    def scope(self, cell: str) -> CellScope | None:
        return CellScope("cm-1") if cell == self.running else None

    def scopes(self) -> Iterable[CellScope]:
        return self.narrowed

    async def ask(self, cell: str, prompt: str) -> str:
        if cell != self.running:
            raise CommandError("no such cell runs.")
        self.asked.append((cell, prompt))
        return self.answer


class Rig:
    """What serves, and what it is given."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.registry = ToolRegistry(Tools(audit_file=str(folder / "audit"), **options))
        self.session = FakeSession(folder)
        self.cells = FakeCells()
        self.calls = ToolCalls(self.registry, self.session, self.cells)
        self.audit = folder / "audit"

    def say(self, request: object, connection: int = 1) -> None:
        self.calls.on_frame(connection, frame(request))

    def call(self, name: str, number: int = 1, **fields: Any) -> None:
        request = {"do": "call", "id": number, "kind": "tool", "name": name, "arguments": {}, "cell": "cell-1"}
        self.say({**request, **fields})


exploded: list[int] = []


def explode(number: int) -> None:
    exploded.append(number)


class Bomb:
    """Tells when it is unpickled."""

    def __reduce__(self) -> Any:
        return explode, (1,)


def frame(request: object) -> bytes:
    data = json.dumps(request).encode()
    return FRAME.pack(len(data), 0) + data


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path)
    yield made
    await made.calls.close()


def test_both_ends_have_the_same_frames() -> None:
    assert toolbox.FRAME.format == tool_sockets.FRAME.format == FRAME.format
    assert toolbox.MAX_ARGUMENTS == tool_sockets.MAX_ARGUMENTS == calls.MAX_REQUEST


def test_both_ends_have_the_same_errors() -> None:
    import sandbox_kernel.errors

    assert [name for name in toolbox.OWN if not hasattr(sandbox_kernel.errors, name)] == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
NEAR = st.fixed_dictionaries(
    {},
    optional={
        "do": st.sampled_from(["list", "call", "cancel"]) | JSON,
        "id": st.integers(0, 5) | JSON,
        "kind": st.sampled_from(["tool", "agent"]) | JSON,
        "name": st.sampled_from(["allowed", "__class__"]) | JSON,
        "arguments": st.just({}) | JSON,
        "cell": st.just("cell-1") | JSON,
        "timeout": JSON,
        "context": JSON,
        "codec": JSON,
    },
)


@given(st.lists(st.binary(max_size=60) | NEAR.map(frame) | JSON.map(frame), max_size=10))
@settings(max_examples=60, deadline=None)
def test_any_frames_are_survived(tmp_path_factory: pytest.TempPathFactory, frames: list[bytes]) -> None:
    async def attack() -> None:
        rig = Rig(tmp_path_factory.mktemp("rig"))
        rig.registry.register_tool("allowed", lambda: "there")
        for one in frames:
            rig.calls.on_frame(1, one)
        for _ in range(20):
            await asyncio.sleep(0)
        before = len(rig.session.sent)
        rig.calls.on_frame(1, b"")
        rig.session.sent.clear()
        rig.call("allowed", number=1000)
        while not any(said["id"] == 1000 for said in await rig.session.answers()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert before <= len(frames) * 2
        await rig.calls.close()

    asyncio.run(attack())


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",
        FRAME.pack(2, 0) + b"{",
        FRAME.pack(2, 1) + b"{}x",
        FRAME.pack((1 << 32) - 1, (1 << 32) - 1) + b"{}",
        FRAME.pack(100_000, 0) + b"[" * 100_000,
        FRAME.pack(3, 0) + b"NaN",
        FRAME.pack(20_000, 0) + b"9" * 20_000,
        pickle.dumps({"do": "list", "id": 1}),
        FRAME.pack(5 * 1024 * 1024, 0) + b" " * (5 * 1024 * 1024),
    ],
)
async def test_what_is_no_frame_is_dropped(rig: Rig, data: bytes) -> None:
    rig.calls.on_frame(1, data)
    assert rig.calls.dropped == 1
    await asyncio.sleep(0)
    ((_, said, rest),) = rig.session.sent
    assert (said["id"], said["do"], rest) == (None, "error", b"")
    # Who takes no answers gets none.
    rig.session.tool_backlog = calls.MAX_PROGRESS
    rig.calls.on_frame(1, data)
    assert len(rig.session.sent) == 1


@pytest.mark.parametrize("value", [b"9" * 5000, b"[" * 100_000 + b"]" * 100_000, b"NaN"], ids=["number", "deep", "nan"])
async def test_a_call_that_cannot_be_read_is_answered(rig: Rig, value: bytes) -> None:
    rig.registry.register_tool("echo", lambda value: value, input_schema={"properties": {"value": {}}})
    for number, start in enumerate([b'{"id":0,"do":"call"', b'{"do": "call", "id": 1']):
        data = start + b',"kind":"tool","name":"echo","cell":"cell-1","arguments":{"value":' + value + b"}}"
        rig.calls.on_frame(1, FRAME.pack(len(data), 0) + data)
        said = (await rig.session.answers(number + 1))[number]
        assert (said["id"], said["do"]) == (number, "error")
        assert "cannot be read" in said["message"]
    rig.say({"do": "neither", "id": 7})
    assert (await rig.session.answers(3))[2]["message"] == "the request is neither a list nor a call"


async def test_a_pickle_in_the_arguments_is_text_and_nothing_more(rig: Rig) -> None:
    rig.registry.register_tool("echo", lambda value: value, input_schema={"properties": {"value": {}}})
    pickled = pickle.dumps(Bomb()).hex()
    rig.call("echo", arguments={"value": {"$": ["pickle", pickled]}})
    (said,) = await rig.session.answers()
    assert said["do"] == "result"
    assert exploded == []
    assert pickle.loads(bytes.fromhex(pickled)) is None  # noqa: S301 - it would have
    assert exploded == [1]


async def test_only_what_is_registered_can_be_called(rig: Rig) -> None:
    rig.registry.register_tool("good", lambda: 1)
    rig.registry.register_agent("helper", lambda: 1)
    names = ["good.__globals__", "os:system", "__init__", "Good", "good ", "helper", "", "g" * 150]
    for number, name in enumerate(names):
        rig.call(name, number)
    answers = await rig.session.answers(len(names))
    assert {said["error"] for said in answers} == {"UnknownToolError"}
    ended = [json.loads(line) for line in rig.audit.read_text().splitlines()]
    assert {line["outcome"] for line in ended} == {"unknown"}


async def test_an_approval_belongs_to_a_running_cell_and_to_one_call(rig: Rig) -> None:
    rig.registry.register_tool("asked", lambda n: n, policy="ask", input_schema={"properties": {"n": {}}})
    rig.cells.answer = "y"
    rig.call("asked", 1, cell="cell-of-yesterday", arguments={"n": 1})
    rig.call("asked", 2, cell="", arguments={"n": 2})
    rig.call("asked", 3, arguments={"n": 3})
    rig.call("asked", 4, arguments={"n": 4}, approved=True, approved_by="person", policy="allow")
    answers = {said["id"]: said for said in await rig.session.answers(4)}
    assert [answers[number]["do"] for number in (1, 2, 3, 4)] == ["error", "error", "result", "result"]
    # The one that says that it is approved was asked for as well.
    assert [prompt.count("n=4") for _, prompt in rig.cells.asked] == [0, 1]


async def test_a_call_that_is_too_long_to_be_shown_cannot_be_approved(rig: Rig) -> None:
    rig.registry.register_tool("asked", lambda n: n, policy="ask", input_schema={"properties": {"n": {}}})
    rig.cells.answer = "y"
    rig.call("asked", arguments={"n": "harmless" + " " * 5000 + "harmful"})
    (said,) = await rig.session.answers()
    assert "too long to be shown" in said["message"]
    assert rig.cells.asked == []


async def test_the_configuration_wins_over_context_and_timeout_of_a_call(rig: Rig) -> None:
    rig.registry.settings.context = {"tenant": "own"}

    async def look() -> dict[str, Any]:
        return dict(current_context().variables)

    async def wait() -> None:
        await asyncio.sleep(60)

    rig.registry.register_tool("look", look)
    rig.registry.register_tool("wait", wait, timeout=0.05)
    rig.call("look", context={"tenant": "other", "more": 1})
    await rig.session.answers()
    assert json.loads(rig.session.sent[0][2]) == {"tenant": "own", "more": 1}
    rig.call("wait", 2, timeout=1e9)
    assert (await rig.session.answers(2))[1]["error"] == "ToolTimeoutError"


async def test_a_cancelled_call_is_told_to_the_tool_and_written_down(rig: Rig) -> None:
    ended = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    rig.registry.register_tool("wait", wait)
    rig.call("wait")
    while not rig.audit.exists():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    # Another connection cannot cancel it.
    rig.say({"do": "cancel", "id": 1}, connection=2)
    await asyncio.sleep(0.05)
    assert not ended.is_set()
    rig.say({"do": "cancel", "id": 1})
    await asyncio.wait_for(ended.wait(), 10)
    await asyncio.sleep(0.05)
    assert json.loads(rig.audit.read_text().splitlines()[-1])["outcome"] == "cancelled"
    assert rig.session.sent == []


async def test_when_the_sandbox_is_gone_nothing_runs_on(rig: Rig) -> None:
    cancelled = []

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    rig.registry.register_tool("wait", wait)
    for number in range(20):
        rig.call("wait", number)
    await asyncio.sleep(0.1)
    rig.calls.on_lost()
    await asyncio.sleep(0.05)
    assert len(cancelled) == 20


async def test_calls_are_bounded_in_number(tmp_path: Path) -> None:
    rig = Rig(tmp_path, max_parallel=3)
    running = most = 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    rig.registry.register_tool("work", work)
    for number in range(calls.MAX_CALLS + 50):
        rig.call("work", number)
    assert rig.calls.dropped == 50
    refused = await rig.session.answers(50)
    assert {said["id"] for said in refused} == set(range(calls.MAX_CALLS, calls.MAX_CALLS + 50))
    assert "1000 calls of this session are under way" in refused[0]["message"]
    await rig.session.answers(50 + 30)
    assert most == 3
    await rig.calls.close()


async def test_a_sandbox_that_takes_no_answers_gets_no_more_made(rig: Rig) -> None:
    rig.registry.register_tool("work", lambda: "x" * 1000)
    rig.session.tool_backlog = calls.MAX_PROGRESS
    for number in range(calls.MAX_CALLS * 2):
        rig.call("work", number)
        rig.say({"do": "list", "id": number + 5000, "codec": True})
    await asyncio.sleep(0.3)
    assert rig.session.sent == []
    rig.session.tool_backlog = 0
    await rig.session.answers(10)


async def test_hanging_threads_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_LEFT_BEHIND", 3)
    release = threading.Event()
    rig.registry.register_tool("hang", lambda: release.wait(30), timeout=0.05, input_schema={})
    for number in range(3):
        rig.call("hang", number)
    await rig.session.answers(3)
    rig.call("hang", 10)
    assert (await rig.session.answers(4))[3]["error"] == "ToolDeniedError"
    release.set()
    while rig.calls._left_behind:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    rig.call("hang", 11)
    assert (await rig.session.answers(5))[4]["do"] == "result"


async def test_what_a_tool_raises_is_never_more_than_name_and_message(rig: Rig) -> None:
    def leave() -> None:
        raise SystemExit(3)

    def stop() -> None:
        raise StopIteration

    def chained() -> None:
        try:
            open_secret = "hunter2"  # noqa: S105 - a variable that must not travel
            int(open_secret)
        except ValueError as exc:
            raise RuntimeError("it did not work") from exc

    for function in (leave, stop, chained):
        rig.registry.register_tool(function.__name__, function)
        rig.call(function.__name__, len(rig.registry.all()))
    answers = {said["id"]: said for said in await rig.session.answers(3)}
    assert [answers[number]["error"] for number in (1, 2, 3)] == [
        "ToolExecutionError",
        "ToolExecutionError",
        "RuntimeError",
    ]
    assert answers[3]["message"] == "it did not work"
    assert "hunter2" not in json.dumps(list(answers.values()))


async def test_names_must_be_new_and_well_formed(rig: Rig) -> None:
    rig.registry.register_tool("one", lambda: 1)
    with pytest.raises(ToolRegistrationError, match="already"):
        rig.registry.register_tool("one", lambda: 2)
    with pytest.raises(ToolRegistrationError, match="65 characters"):
        rig.registry.register_tool("x" * 65, lambda: 1)
    with pytest.raises(ToolRegistrationError, match="no name for a tool"):
        rig.registry.register_tool("two words", lambda: 1)
    with pytest.raises(UnknownToolError, match="There is no tool 'two'"):
        rig.registry.remove("two")


def test_frames_are_what_struct_says() -> None:
    assert struct.calcsize("!II") == FRAME.size


HOSTILE = {
    "pattern": ({"type": "string", "pattern": r"^(\w+\s?)+$"}, "a" * 40 + "!"),
    "key": ({"type": "object", "patternProperties": {r"^(\w+\s?)+$": {}}}, {"a" * 40 + "!": 1}),
    "large": ({"type": "array", "items": {"type": "array", "uniqueItems": True}}, [[n, [n]] for n in range(100_000)]),
}


@pytest.mark.parametrize("kind", ["pattern", "key"])
async def test_a_check_that_never_ends_is_given_up_and_holds_nobody_up(
    rig: Rig, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema, value = HOSTILE[kind]
    rig.registry.register_tool("hostile", lambda value: value, input_schema={"properties": {"value": schema}})
    rig.registry.register_tool("other", lambda value: value, input_schema={"properties": {"value": {}}})
    monkeypatch.setattr(checking, "CHECK_TIMEOUT", 0.5)
    monkeypatch.setattr(checking, "START_ALLOWANCE", 0)
    rig.call("hostile", 1, arguments={"value": value})
    rig.call("other", 2, arguments={"value": 1})
    # The loop goes on, and so do the session's other calls.
    assert (await rig.session.answers())[0]["id"] == 2
    said = (await rig.session.answers(2))[1]
    assert said["error"] == "ToolArgumentsError"
    assert "checking the arguments took longer" in said["message"]
    monkeypatch.undo()
    # The next one has another process.
    rig.call("hostile", 3, arguments={"value": "fine" if kind == "pattern" else {"fine": 1}})
    assert (await rig.session.answers(3))[2]["do"] == "result"


async def test_an_interrupt_ends_a_check(rig: Rig) -> None:
    schema, value = HOSTILE["pattern"]
    rig.registry.register_tool("hostile", lambda value: value, input_schema={"properties": {"value": schema}})
    rig.call("hostile", 1, arguments={"value": value})
    while rig.calls._checker._process is None:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    process = rig.calls._checker._process
    rig.say({"do": "cancel", "id": 1})
    while rig.calls._under_way:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert process.poll() is not None
    rig.call("hostile", 2, arguments={"value": "fine"})
    assert (await rig.session.answers())[0]["do"] == "result"


async def test_large_arguments_are_checked_beside_and_found_wrong(rig: Rig) -> None:
    schema, value = HOSTILE["large"]
    rig.registry.register_tool("take", len, input_schema={"properties": {"obj": schema}})
    rig.call("take", 1, arguments={"obj": [*value[:2000], [1, 1.0]]})
    rig.call("take", 2, arguments={"obj": [*value[:2000], [[1], True, 1]]})
    answers = {said["id"]: said for said in await rig.session.answers(2)}
    assert "[1, 1.0] has non-unique elements" in answers[1]["message"]
    assert "non-unique" not in str(answers[2].get("message"))


async def test_who_is_denied_gets_no_arguments_checked(rig: Rig) -> None:
    schema, value = HOSTILE["pattern"]
    options = {"input_schema": {"properties": {"value": schema}}}
    rig.registry.register_tool("denied", lambda value: value, policy="deny", **options)
    rig.registry.register_tool("asked", lambda value: value, policy="ask", **options)
    rig.call("denied", 1, arguments={"value": value})
    assert (await rig.session.answers())[0]["error"] == "ToolDeniedError"
    rig.cells.answer = "never"
    rig.call("asked", 2, arguments={"value": "fine"})
    assert (await rig.session.answers(2))[1]["error"] == "ToolDeniedError"
    asker = rig.calls._checker._process
    rig.call("asked", 3, arguments={"value": value})
    assert (await rig.session.answers(3))[2]["error"] == "ToolDeniedError"
    assert rig.calls._checker._process is asker
    # Nobody is asked about what could not be called.
    rig.registry.register_tool("asked_too", lambda value: value, policy="ask", **options)
    rig.call("asked_too", 4, arguments={"value": 4})
    assert (await rig.session.answers(4))[3]["error"] == "ToolArgumentsError"
    assert len(rig.cells.asked) == 1


async def test_a_call_of_no_running_cell_is_refused_whatever_the_policy(rig: Rig) -> None:
    called = []
    rig.registry.register_tool("allowed", lambda: called.append(1), policy="allow")
    for number, cell in enumerate(["cell-of-yesterday", "", "deadbeef_1"]):
        rig.call("allowed", number, cell=cell)
    answers = await rig.session.answers(3)
    assert {said["error"] for said in answers} == {"ToolDeniedError"}
    assert "is not running" in answers[0]["message"]
    rig.cells.running = ""
    rig.call("allowed", 4)
    assert (await rig.session.answers(4))[3]["error"] == "ToolDeniedError"
    assert called == []


async def test_results_that_nobody_takes_are_bounded(tmp_path: Path) -> None:
    size = 1_000_000
    rig = Rig(tmp_path, max_result=size)
    tracemalloc.start()
    begun = 0

    async def large() -> bytes:
        nonlocal begun
        begun += 1
        # The link is full from now on.
        rig.session.tool_backlog = calls.MAX_PROGRESS
        await asyncio.sleep(0.1)
        return b"x" * size

    rig.registry.register_tool("large", large)
    for number in range(200):
        rig.call("large", number)
    await asyncio.sleep(0.5)
    # Those that had begun before; no other one begins.
    assert begun <= rig.registry.settings.max_parallel
    assert rig.calls._waiting <= calls.WAITING_RESULTS * size
    assert rig.session.sent == []
    held = begun
    # What is lost is not kept by the error that waits to be told.
    kept = [trace.size for trace in tracemalloc.take_snapshot().traces if trace.size >= size]
    tracemalloc.stop()
    assert len(kept) <= calls.WAITING_RESULTS

    async def small() -> bytes:
        return b"x"

    rig.registry.remove("large")
    rig.registry.register_tool("large", small)
    rig.session.tool_backlog = 0
    answers = await rig.session.answers(200)
    assert [said["do"] for said in answers].count("error") == held - calls.WAITING_RESULTS
    assert {said["error"] for said in answers if said["do"] == "error"} == {"ToolExecutionError"}
    assert rig.calls._waiting == 0
    # One result may always wait, and one that nobody takes goes with its connection.
    await rig.calls.close()
