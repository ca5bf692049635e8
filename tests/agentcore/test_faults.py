"""Each fault of the service against each thing that a notebook does: nothing runs twice, nothing is lost or doubled."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from sandbox_kernel.errors import QuotaError, SandboxKernelError, SandboxLostError
from sandbox_kernel.library.outputs import InputRequest
from sandbox_kernel.library.sandbox import Sandbox
from tests.conftest import SAID
from tests.emulators.agentcore import AgentCore

from .conftest import Make

FAULTS = "error error-after drop-before drop truncate empty slow several expire quota throttle exception".split()
SEVERAL = "several"
"""No fault: results come in several events instead of one."""
LINES = 30
INVOKE = {"operation": "InvokeCodeInterpreter"}


@dataclass
class Outcome:
    """What came of a step: an error, or none, and what it printed."""

    error: SandboxKernelError | None = None
    printed: str = ""


async def run(sandbox: Sandbox, code: str) -> Outcome:
    """Run a cell; its output is kept also where it ends with the sandbox."""
    outcome = Outcome()
    execution = sandbox.stream(code)
    try:
        async for _ in execution:
            pass
    except SandboxKernelError as exc:
        outcome.error = exc
    outcome.printed = execution.result.stdout
    return outcome


def plan(emulator: AgentCore, fault: str, **details: object) -> None:
    """Have a fault happen."""
    if fault == SEVERAL:
        emulator.behave(several_events=True)
    else:
        emulator.plan(fault, **details)


Step = Callable[[Sandbox, AgentCore, str], Awaitable[Outcome]]


async def start(sandbox: Sandbox, emulator: AgentCore, fault: str) -> Outcome:
    """Start another sandbox in place of this one."""
    await sandbox.stop()
    plan(emulator, fault, operation="StartCodeInterpreterSession", seconds=1.0)
    try:
        await sandbox.start()
    except SandboxKernelError as exc:
        return Outcome(exc)
    return await run(sandbox, "runs = 1; print('line')")


async def boot(sandbox: Sandbox, emulator: AgentCore, fault: str) -> Outcome:
    """The same, with the fault in the call that starts the bridge."""
    await sandbox.stop()
    plan(emulator, fault, **INVOKE, seconds=1.0)
    try:
        await sandbox.start()
    except SandboxKernelError as exc:
        return Outcome(exc)
    return await run(sandbox, "runs = 1; print('line')")


async def short(sandbox: Sandbox, emulator: AgentCore, fault: str) -> Outcome:
    """Run a cell that takes no time."""
    plan(emulator, fault, **INVOKE, seconds=1.0)
    return await run(sandbox, "runs += 1; print('line')")


async def streaming(sandbox: Sandbox, emulator: AgentCore, fault: str) -> Outcome:
    """Run a cell that prints for a second and a half; the fault comes in the middle."""
    if fault in ("throttle", "exception"):
        # After one that throttled, fewer calls are made: too few for this.
        await sandbox.stop()
        await run(sandbox, "runs = 0")
    plan(emulator, fault, **INVOKE, skip=1, seconds=1.0)
    return await run(
        sandbox,
        f"import time\nruns += 1\nfor n in range({LINES}):\n    print('line', n, flush=True); time.sleep(0.05)",
    )


async def asking(sandbox: Sandbox, emulator: AgentCore, fault: str) -> Outcome:
    """Run a cell that asks; the fault is in the call that brings the question, and the one with the answer."""
    plan(emulator, fault, **INVOKE, seconds=0.5)
    if fault != "expire":
        plan(emulator, fault, **INVOKE, skip=int(fault != "slow"), seconds=0.5)
    return await run(sandbox, "runs += 1\nprint('line', input('?'))")


async def upload(sandbox: Sandbox, emulator: AgentCore, fault: str) -> Outcome:
    """Write a file of some megabytes and look at it."""
    content = bytes(range(256)) * 40_000

    async def pieces() -> AsyncIterator[bytes]:
        for begin in range(0, len(content), 100_000):
            yield content[begin : begin + 100_000]

    plan(emulator, fault, **INVOKE, skip=2, seconds=0.5)
    try:
        await sandbox.session.files.write(f"data-{fault}", pieces())
    except SandboxKernelError as exc:
        return Outcome(exc)
    code = f"runs += 1; data = open('data-{fault}', 'rb').read(); print('line', len(data), data[255])"
    said = await run(sandbox, code)
    assert said.printed in (f"line {len(content)} 255\n", "")
    return said


STEPS: dict[str, Step] = {step.__name__: step for step in (start, boot, short, streaming, asking, upload)}


@pytest.mark.parametrize("name", STEPS)
async def test_a_fault_costs_no_output_and_runs_nothing_twice(
    name: str, make: Make, emulator: AgentCore, record_property: Callable[[str, object], None]
) -> None:
    sandbox = make(on_input=_answer)
    try:
        for fault in FAULTS:
            said = await _tried(name, fault, sandbox, emulator)
            record_property(SAID, ("AgentCore: what each fault came to", f"{name:10} {fault:12} {said}"))
    finally:
        await sandbox.close()


async def _tried(name: str, fault: str, sandbox: Sandbox, emulator: AgentCore) -> str:
    """Do one thing with one fault, check it, and return what a person has seen of it."""
    case = f"{name} with {fault}"
    assert (await sandbox.run("runs = 0")).ok, case
    outcome = await STEPS[name](sandbox, emulator, fault)
    assert emulator.tell("faults") == [], f"{case}: it did not happen"
    emulator.tell("reset")
    _check_output(name, outcome, case)
    if outcome.error is None:
        assert (await sandbox.run("runs")).text == "1", case
        return "nothing was noticed"
    _check_message(outcome.error, fault)
    # Said once; then the notebook goes on, with a new sandbox where the old one is gone.
    again = await _next(sandbox)
    assert again.printed == "line\n", (case, again)
    return f"{type(outcome.error).__name__}: {_shortened(str(outcome.error))}"


async def _next(sandbox: Sandbox) -> Outcome:
    outcome = await run(sandbox, "print('line')")
    return outcome if outcome.error is None else await run(sandbox, "print('line')")


def _answer(request: InputRequest) -> str:
    assert request.prompt == "?"
    return "answer"


def _check_output(name: str, outcome: Outcome, case: str) -> None:
    """What was printed is whole, or where the sandbox ended the beginning of it, and nothing is there twice."""
    lines = outcome.printed.splitlines()
    if name == "streaming":
        wanted = [f"line {n}" for n in range(LINES)]
        assert lines == wanted[: len(lines)], case
        assert len(lines) == LINES or isinstance(outcome.error, SandboxLostError), case
    elif outcome.error is None:
        assert len(lines) == 1, case
        assert lines[0].startswith("line"), case


def _check_message(error: SandboxKernelError, fault: str) -> None:
    """Only what cannot be mended is told: in one sentence or two, without a word of Python."""
    assert fault in ("expire", "quota"), error
    assert isinstance(error, QuotaError if fault == "quota" else (SandboxLostError, SandboxKernelError))
    assert not re.search(r"Traceback|botocore|urllib3|Exception\(", str(error))


def _shortened(text: str) -> str:
    text = re.sub(r"01[0-9A-Z]{24}", "SESSION", re.sub(r"http://[\d.:]+", "ENDPOINT", text))
    return text if len(text) < 150 else f"{text[:149]}…"
