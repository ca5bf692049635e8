"""Agents deployed in sandboxes, called by programs: sessions, streams, batches, life, errors."""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest

if sys.platform != "linux":
    pytest.skip("the emulator runs local sandboxes, on Linux", allow_module_level=True)

from sandbox_kernel.agents import AgentClient, BlockingAgentClient
from sandbox_kernel.errors import (
    AuthenticationError,
    InvocationError,
    QuotaError,
    RateLimitError,
    SandboxConnectionError,
    SandboxCreationError,
    SandboxError,
    SandboxTimeoutError,
    SessionNotFoundError,
    TemplateNotFoundError,
)
from tests.emulators.e2b.process import KEY, EmulatorProcess, emulating
from tests.waiting import until


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    with emulating(tmp_path_factory.mktemp("e2b"), "--max-sandboxes", "24") as running:
        yield running


@pytest.fixture
async def client(emulator: EmulatorProcess) -> AsyncIterator[AgentClient]:
    emulator.clear()
    async with AgentClient("ppio", api_key=KEY, api_url=emulator.url, sandbox_url=emulator.url) as client:
        yield client


def state_of(emulator: EmulatorProcess, sandbox_id: str) -> str:
    """The state of a sandbox, whose id is longer on PPIO's older domains than the emulator's own."""
    states: dict[str, str] = emulator.report()["sandboxes"]
    return states.get(sandbox_id.removesuffix("-c1"), "")


async def test_an_agent_answers_and_remembers_within_a_session(client: AgentClient) -> None:
    session = await client.create_session("echo-agent", name="talk")
    first = await session.invoke("hello")
    assert first == {"response": "You said: hello", "turn": 1, "received": {"prompt": "hello"}}
    request = {"prompt": "again", "temperature": 0.5, "nested": {"kept": [1, None]}}
    second = await session.invoke(request)
    assert (second["turn"], second["before"], second["received"]) == (2, "hello", request)
    assert (await session.invoke('{"prompt": "as text", "n": 1}'))["received"] == {"prompt": "as text", "n": 1}
    assert (await session.invoke("[1, 2]"))["received"] == {"prompt": "[1, 2]"}


@pytest.mark.parametrize("kind", ["sse", "ndjson", "mislabelled"])
async def test_answers_are_streamed_as_they_come(client: AgentClient, kind: str) -> None:
    request = {"prompt": "one two three", "stream": kind}
    chunks = [piece["chunk"] async for piece in client.stream("echo-agent", request, session="streams")]
    assert chunks == ["one", "two", "three"]
    collected = await client.invoke("echo-agent", request, session="streams")
    assert [piece["chunk"] for piece in collected] == chunks


@pytest.mark.parametrize("kind", ["sse", "ndjson"])
async def test_a_stream_without_pieces_is_an_answer_and_ends_no_batch(client: AgentClient, kind: str) -> None:
    empty = {"prompt": "", "stream": kind}
    assert await client.invoke("echo-agent", empty, session="streams") == []
    answers = await client.batch("echo-agent", [empty, "x"], session="streams")
    assert (answers[0].value, answers[1].value["response"]) == ([], "You said: x")


async def test_the_first_piece_does_not_wait_for_the_last(client: AgentClient) -> None:
    request = {"prompt": "one two", "stream": "sse", "pause": 60}
    async with aclosing(client.stream("echo-agent", request, session="streams")) as pieces:
        assert (await asyncio.wait_for(anext(pieces), 20))["chunk"] == "one"


async def test_a_stream_that_breaks_says_so(client: AgentClient) -> None:
    request = {"prompt": "one", "stream": "sse", "break": True}
    with pytest.raises(InvocationError, match="broke in the middle"):
        _ = [piece async for piece in client.stream("echo-agent", request, session="streams")]


async def test_a_request_without_a_session_leaves_nothing(client: AgentClient, emulator: EmulatorProcess) -> None:
    before = emulator.report()["sandboxes"]
    assert (await client.invoke("echo-agent", "once"))["turn"] == 1
    assert (await client.invoke("echo-agent", "twice"))["turn"] == 1
    assert emulator.report()["sandboxes"] == before


async def test_environment_reaches_the_agent(client: AgentClient) -> None:
    session = await client.create_session("echo-agent", environment={"AGENT_MODE": "given"})
    assert (await session.invoke("x"))["mode"] == "given"


async def test_pausing_keeps_what_the_agent_knows_and_the_next_request_resumes(
    client: AgentClient, emulator: EmulatorProcess
) -> None:
    session = await client.create_session("echo-agent")
    await session.invoke("before")
    await session.pause()
    assert state_of(emulator, session.sandbox_id) == "paused"
    assert session.state == "paused"
    assert (await session.invoke("after"))["before"] == "before"
    assert session.state == "active"
    await session.pause()
    await session.resume()
    assert state_of(emulator, session.sandbox_id) == "running"


async def test_a_request_after_the_sandboxs_time_resumes_what_the_service_has_paused(emulator: EmulatorProcess) -> None:
    async with AgentClient("ppio", api_key=KEY, api_url=emulator.url, sandbox_url=emulator.url, lifetime=5) as client:
        session = await client.create_session("echo-agent")
        await session.invoke("before", timeout=0.5)
        await until(lambda: state_of(emulator, session.sandbox_id) == "paused")
        assert session.state == "active"
        assert (await session.invoke("after"))["before"] == "before"


async def test_health_and_closing(client: AgentClient, emulator: EmulatorProcess) -> None:
    session = await client.create_session("echo-agent", name="health")
    assert (await session.ping()).status == "Healthy"
    busy = asyncio.ensure_future(session.invoke({"prompt": "x", "seconds": 2}))
    while (health := await session.ping()).status == "Healthy":
        assert not busy.done()
    assert (health.status, health.is_healthy) == ("HealthyBusy", True)
    await busy
    assert session.sandbox_id in [one.sandbox_id for one in await client.list_sessions()]
    await session.close()
    assert state_of(emulator, session.sandbox_id) == ""
    with pytest.raises(SessionNotFoundError):
        await session.invoke("x")


async def test_a_session_can_be_attached_by_another_client(client: AgentClient, emulator: EmulatorProcess) -> None:
    session = await client.create_session("echo-agent", name="shared")
    await session.invoke("mine")
    async with AgentClient("ppio", api_key=KEY, api_url=emulator.url, sandbox_url=emulator.url) as other:
        attached = await other.attach_session(session.sandbox_id)
        assert attached.name == "shared"
        assert (await attached.invoke("yours"))["before"] == "mine"


async def test_templates_by_tags_and_names(client: AgentClient) -> None:
    assert {one.name for one in await client.list_templates(["agent"])} == {"echo-agent", "second-agent"}
    assert [one.name for one in await client.list_templates(["agent", "demo"])] == ["echo-agent"]
    assert [one.name for one in await client.list_templates(name="second")] == ["second-agent"]
    template = await client.get_template("echo-agent")
    assert (template.template_id, template.entrypoint) == ("tpl2echo", "app.py")


async def test_what_could_not_be_closed_takes_no_requests_and_is_closed_by_the_next_attempt(
    client: AgentClient, emulator: EmulatorProcess
) -> None:
    session = await client.session("echo-agent", "kept")
    emulator.fault("status", path="DELETE /sandboxes", status=500, times=2)
    with pytest.raises(SandboxConnectionError):
        await session.close()
    assert (session.state, state_of(emulator, session.sandbox_id)) == ("active", "running")
    with pytest.raises(SessionNotFoundError, match="is closed"):
        await session.invoke("x")
    other = await client.session("echo-agent", "kept")
    assert other is not session, "its name is free"
    with pytest.raises(SandboxError, match=f"may still run.*{session.sandbox_id}"):
        await client.close()
    assert other.state == "closed"
    await client.close()
    assert (session.state, state_of(emulator, session.sandbox_id)) == ("closed", "")


async def test_requests_are_refused_while_a_session_is_being_closed(
    client: AgentClient, emulator: EmulatorProcess
) -> None:
    session = await client.create_session("echo-agent")
    emulator.fault("delay", path="DELETE /sandboxes", seconds=1)
    closing = asyncio.ensure_future(session.close())
    await until(lambda: session.is_closing)
    assert session.state == "active"
    with pytest.raises(SessionNotFoundError, match="is closed"):
        await session.invoke("x")
    await closing
    assert session.state == "closed"


async def test_an_error_in_the_block_is_not_hidden_by_one_of_closing(emulator: EmulatorProcess) -> None:
    client = AgentClient("ppio", api_key=KEY, api_url=emulator.url, sandbox_url=emulator.url)

    async def fail() -> None:
        async with client:
            await client.create_session("echo-agent")
            emulator.fault("status", path="DELETE /sandboxes", status=500)
            raise KeyError

    with pytest.warns(RuntimeWarning, match="may still run"), pytest.raises(KeyError):
        await fail()
    await client.close()


@pytest.mark.parametrize("failures", [0, 1])
async def test_who_is_cancelled_while_a_sandbox_is_made_leaves_none(
    client: AgentClient, emulator: EmulatorProcess, failures: int
) -> None:
    before = emulator.report()
    emulator.fault("delay", path="POST /sandboxes$", seconds=1)
    emulator.fault("status", path="DELETE /sandboxes", status=500, times=failures)
    creating = asyncio.ensure_future(client.create_session("echo-agent"))
    # Nobody tells that the request has arrived, whose answer takes longer than this.
    await asyncio.sleep(0.5)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    await client.close()
    # That none is made later can only be seen by waiting.
    await asyncio.sleep(1)
    after = emulator.report()
    assert after["created"] == before.get("created", 0) + 1
    assert after["sandboxes"] == before["sandboxes"]


# ---- batches


async def test_a_batch_answers_each_request_in_order_and_goes_on_after_a_failure(client: AgentClient) -> None:
    requests = [{"prompt": f"number {n}", "fail": n == 3} for n in range(10)]
    seen: list[object] = []
    answers = await client.batch("echo-agent", requests, on_answer=seen.append)
    assert len(seen) == 10
    assert [bool(one.error) for one in answers] == [n == 3 for n in range(10)]
    assert all(one.value["response"] == f"You said: number {n}" for n, one in enumerate(answers) if n != 3)
    assert isinstance(answers[3].error, InvocationError)


@pytest.mark.timeout(280)
async def test_a_hundred_requests_over_twenty_sessions_with_ten_connections(emulator: EmulatorProcess) -> None:
    """All are answered, none is mixed up, and memory stays as it is."""
    async with AgentClient(
        "ppio", api_key=KEY, api_url=emulator.url, sandbox_url=emulator.url, max_connections=10
    ) as client:
        making = [client.session("echo-agent", f"session {n}") for n in range(20)]
        sessions = await asyncio.gather(*making)
        assert len({one.sandbox_id for one in sessions}) == 20
        filler = "x" * 10_000

        async def ask(number: int) -> None:
            session = sessions[number % 20]
            said = await session.invoke({"prompt": f"{session.name} request {number}", "filler": filler})
            assert said["response"] == f"You said: {session.name} request {number}"
            assert said["received"]["filler"] == filler

        await asyncio.gather(*(ask(number) for number in range(100)))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(3):
            await asyncio.gather(*(ask(number) for number in range(100)))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert sum(one.invocations for one in sessions) == 400
        assert grown < 8 * 1024, f"{grown} KiB more at its highest"


# ---- errors


async def test_what_is_not_there_is_named(client: AgentClient) -> None:
    with pytest.raises(TemplateNotFoundError, match="no-such-agent"):
        await client.create_session("no-such-agent")
    with pytest.raises(SessionNotFoundError):
        await client.attach_session("no-such-sandbox")


async def test_an_agent_that_fails_says_why(client: AgentClient) -> None:
    session = await client.session("echo-agent", "fails")
    with pytest.raises(InvocationError, match="failed as it was asked to"):
        await session.invoke({"prompt": "x", "fail": True})
    with pytest.raises(InvocationError, match="nothing"):
        await session.invoke({"prompt": "x", "empty": True})
    with pytest.raises(SandboxTimeoutError, match="within 1 s"):
        await session.invoke({"prompt": "x", "seconds": 30}, timeout=1)


async def test_a_refused_key_is_told_without_the_key(emulator: EmulatorProcess) -> None:
    async with AgentClient("ppio", api_key="bad-key", api_url=emulator.url) as client:
        with pytest.raises(AuthenticationError, match="PPIO_API_KEY") as caught:
            await client.list_templates()
        assert "bad-key" not in str(caught.value)
        assert "bad-key" not in repr(client.control.place)


async def test_no_key_says_where_to_put_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PPIO_API_KEY", raising=False)
    with pytest.raises(AuthenticationError, match="PPIO_API_KEY"):
        AgentClient("ppio")


async def test_limits_are_of_two_kinds(client: AgentClient, emulator: EmulatorProcess) -> None:
    message = "you have reached the maximum number of concurrent sandboxes"
    emulator.fault("status", path="POST /sandboxes$", status=429, body={"code": 429, "message": message})
    client.control.rest._sleep = _no_wait
    with pytest.raises(QuotaError):
        await client.create_session("echo-agent")
    emulator.clear()
    emulator.fault("status", path="POST /sandboxes$", status=429, times=-1, headers={"Retry-After": "100"})
    with pytest.raises(RateLimitError, match="100 s") as caught:
        await client.create_session("echo-agent")
    assert caught.value.retry_after == 100
    emulator.clear()
    emulator.fault("status", path="POST /sandboxes$", status=500, times=-1)
    with pytest.raises(SandboxCreationError):
        await client.create_session("echo-agent")


async def _no_wait(seconds: float) -> None:
    """In the place of sleep."""


async def test_network_faults_are_tried_again_after_1_2_and_4_seconds(
    client: AgentClient, emulator: EmulatorProcess
) -> None:
    session = await client.session("echo-agent", "network")
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    client.control.rest._sleep = wait
    emulator.fault("drop", where="8080", path="/invocations", times=3)
    assert (await session.invoke("x"))["response"] == "You said: x"
    assert waited == [1, 2, 4]
    emulator.fault("drop", where="8080", path="/invocations", times=4)
    with pytest.raises(SandboxConnectionError):
        await session.invoke("x")
    emulator.clear()
    waited.clear()
    emulator.fault("status", where="8080", path="/invocations", status=500, times=1)
    with pytest.raises(InvocationError):
        await session.invoke("x")
    assert waited == [], "an answer is no fault of the network's"


async def test_an_agent_that_was_paused_or_ended_elsewhere_is_told(
    client: AgentClient, emulator: EmulatorProcess
) -> None:
    session = await client.create_session("echo-agent")
    await session.invoke("first")
    await client.control.pause(session.sandbox_id)
    with pytest.raises(SandboxConnectionError, match="paused"):
        await session.invoke("x")
    assert (await session.invoke("x"))["before"] == "first"
    await client.control.kill(session.sandbox_id)
    with pytest.raises(SessionNotFoundError):
        await session.invoke("x")


# ---- the same for programs that wait


def test_the_blocking_client_does_the_same(emulator: EmulatorProcess) -> None:
    with BlockingAgentClient("ppio", api_key=KEY, api_url=emulator.url, sandbox_url=emulator.url) as client:
        assert [one.name for one in client.list_templates(["demo"])] == ["echo-agent"]
        session = client.create_session("echo-agent", name="blocking")
        assert session.invoke("hello")["turn"] == 1
        session.pause()
        assert session.invoke("again")["before"] == "hello"
        assert session.ping().is_healthy
        pieces = client.stream("echo-agent", {"prompt": "a b", "stream": "sse"}, session="blocking")
        assert [piece["chunk"] for piece in pieces] == ["a", "b"]
        answers = client.batch("echo-agent", ["x", "y"], session="blocking")
        assert [one.value["response"] for one in answers] == ["You said: x", "You said: y"]
        session.close()
        assert state_of(emulator, session.session.sandbox_id) == ""
    client = BlockingAgentClient("ppio", api_key=KEY, api_url=emulator.url, sandbox_url=emulator.url)
    session = client.create_session("echo-agent")
    emulator.fault("status", path="DELETE /sandboxes", status=500)
    with pytest.raises(SandboxError, match="may still run"):
        client.close()
    client.close()
    assert state_of(emulator, session.session.sandbox_id) == ""
