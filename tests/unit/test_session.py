"""A session starts, retries, loses and renews its sandbox as its states say."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from sandbox_kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    SandboxError,
    SandboxKernelError,
    SandboxLostError,
    SessionError,
)
from sandbox_kernel.events import EventLog
from sandbox_kernel.lifecycle import State
from sandbox_kernel.link.protocol import Buffer
from sandbox_kernel.providers.base import Capabilities, Provider, Sandbox
from sandbox_kernel.recording import Recorder
from sandbox_kernel.session import SandboxSession
from tests.unsandboxed import ProcessProvider, throttled


class Listener:
    """Notes what a session says."""

    def __init__(self) -> None:
        self.ready = 0
        self.ended: list[SandboxKernelError] = []
        self.changed = asyncio.Event()

    async def until_ready(self, times: int) -> None:
        while self.ready < times:
            self.changed.clear()
            await self.changed.wait()

    def on_message(self, parts: list[Buffer]) -> None:
        pass

    def on_excess(self, parts: list[Buffer], size: int) -> None:
        pass

    def on_ready(self) -> None:
        self.ready += 1
        self.changed.set()

    def on_ended(self, error: SandboxKernelError) -> None:
        self.ended.append(error)
        self.changed.set()


class Clock:
    """Sleeps in no time and notes how long it would have been."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


MakeSession = Callable[..., SandboxSession]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[MakeSession]:
    sessions = []

    def make(provider: ProcessProvider, **options: object) -> SandboxSession:
        log = EventLog(path=str(tmp_path / "log"))
        session = SandboxSession(Listener(), provider=provider, log=log, directory=tmp_path, **options)  # type: ignore[arg-type]
        sessions.append(session)
        return session

    yield make
    for session in sessions:
        await session.close()


async def test_a_session_starts_lazily_and_once(make: MakeSession) -> None:
    provider = ProcessProvider()
    session = make(provider)
    assert session.state is State.INACTIVE
    assert provider.calls == 0
    await asyncio.gather(session.start(), session.start(), session.start())
    assert session.state is State.ACTIVE
    assert provider.calls == 1
    assert session.info.sandbox_id == provider.created[0].sandbox_id
    assert provider.created[0].sandbox_id in repr(session)


async def test_a_throttled_provider_starts_on_the_third_attempt(make: MakeSession) -> None:
    provider, clock = ProcessProvider([throttled(), throttled()]), Clock()
    session = make(provider, sleep=clock.sleep)
    await session.start()
    assert provider.calls == 3
    assert clock.slept == [pytest.approx(1, rel=0.1), pytest.approx(2, rel=0.1)]
    assert [line for line in session.log.tail(20) if "retry" in line]


async def test_a_provider_that_stays_throttled_is_given_up_after_three_attempts(make: MakeSession) -> None:
    provider, clock = ProcessProvider([throttled() for _ in range(5)]), Clock()
    session = make(provider, sleep=clock.sleep)
    with pytest.raises(SandboxError, match="slow down"):
        await session.start()
    assert provider.calls == 3
    assert session.state is State.ERROR
    await session.start()
    assert session.state is State.ACTIVE


async def test_a_sandbox_that_is_kept_is_noted_before_anything_runs_in_it(make: MakeSession) -> None:
    """Whoever kills the process then finds it, and its variables, again."""

    class SlowRecorder(Recorder):
        may_write = asyncio.Event()

        async def made(self, sandbox: Sandbox, provider: Provider, *, correlation_id: str) -> None:
            await self.may_write.wait()

    provider = ProcessProvider()
    provider.capabilities = Capabilities(outlives_kernel=True)
    recorder = SlowRecorder(EventLog())
    session = make(provider, recorder=recorder)
    starting = asyncio.ensure_future(session.start())
    await asyncio.wait([starting], timeout=2)
    assert (provider.calls, session.state) == (1, State.STARTING)
    recorder.may_write.set()
    await starting
    assert session.state is State.ACTIVE


@pytest.mark.parametrize("error", [AuthenticationError("refused"), ConfigurationError("wrong")])
async def test_what_no_retry_can_mend_is_tried_once(make: MakeSession, error: SandboxKernelError) -> None:
    provider, clock = ProcessProvider([error]), Clock()
    session = make(provider, sleep=clock.sleep)
    with pytest.raises(type(error)):
        await session.start()
    assert provider.calls == 1
    assert clock.slept == []
    assert session.info.error == str(error)


async def test_what_others_keep_and_cannot_close_is_logged_and_the_session_ends(make: MakeSession) -> None:
    class Agents:
        def __init__(self, session: SandboxSession) -> None:
            pass

        async def close(self) -> None:
            raise SandboxError("abc may still run")

    session = make(ProcessProvider())
    await session.start()
    session.companion(Agents)
    await session.close()
    assert session.state is State.CLOSED
    assert [line for line in session.log.tail(20) if "not_given_back" in line and "abc may still run" in line]


async def test_a_sandbox_that_dies_is_reported_and_the_next_start_makes_another(make: MakeSession) -> None:
    provider = ProcessProvider()
    session = make(provider)
    await session.start()
    listener: Listener = session._listener  # type: ignore[assignment]
    listener.changed.clear()
    provider.created[0].process.send_signal(signal.SIGKILL)
    await asyncio.wait_for(listener.changed.wait(), 10)
    assert isinstance(listener.ended[0], SandboxLostError)
    assert session.state is State.ERROR
    await session.start()
    assert len(provider.created) == 2


async def test_a_kernel_that_dies_is_renewed_in_the_same_sandbox(make: MakeSession) -> None:
    provider = ProcessProvider()
    session = make(provider)
    await session.start()
    listener: Listener = session._listener  # type: ignore[assignment]
    command = session.shell("echo $PPID")
    bridge = int(b"".join([chunk async for chunk in command]))
    os.kill(psutil.Process(bridge).children()[0].pid, signal.SIGSEGV)
    await asyncio.wait_for(listener.until_ready(2), 10)
    assert "segmentation" in str(listener.ended[0])
    assert session.ready
    assert len(provider.created) == 1


async def test_restart_pause_resume_and_stop_move_through_the_states(make: MakeSession) -> None:
    session = make(ProcessProvider())
    states: list[State] = []
    session.on_state = states.append
    await session.start()
    await session.restart()
    await session.pause()
    await session.pause()
    await session.resume()
    await session.stop()
    await session.stop()
    expected = "starting active pausing paused resuming active stopping inactive"
    assert [state.value for state in states] == expected.split()


async def test_a_shell_command_streams_and_tells_its_exit_status(make: MakeSession) -> None:
    session = make(ProcessProvider())
    await session.start()
    command = session.shell("echo out; echo err >&2; exit 3")
    assert b"".join([chunk async for chunk in command]) == b"out\nerr\n"
    assert command.exit_code == 3
    large = session.shell("head -c 5000000 /dev/zero")
    assert sum([len(chunk) async for chunk in large]) == 5_000_000


async def test_a_shell_command_that_is_cancelled_is_ended(make: MakeSession) -> None:
    session = make(ProcessProvider())
    await session.start()
    command = session.shell("echo started; sleep 600")
    chunks = command.__aiter__()
    assert await chunks.__anext__() == b"started\n"
    command.kill()
    assert [chunk async for chunk in chunks] == []
    assert command.exit_code == -signal.SIGKILL


async def test_a_start_that_takes_too_long_says_which_limit(make: MakeSession) -> None:
    session = make(ProcessProvider())
    session.startup_timeout = 0.01
    with pytest.raises(SandboxError, match="startup_timeout"):
        await session.start()
    session.startup_timeout = 60
    await session.start()


async def test_a_closed_session_cannot_be_used(make: MakeSession) -> None:
    session = make(ProcessProvider())
    await session.start()
    await session.close()
    await session.close()
    with pytest.raises(SandboxKernelError):
        await session.start()


def test_errors_of_a_session_carry_their_ids() -> None:
    error = SessionError("broken", provider="p", sandbox_id="s", correlation_id="c")
    assert (error.provider, error.sandbox_id, error.correlation_id, error.retryable) == ("p", "s", "c", False)
