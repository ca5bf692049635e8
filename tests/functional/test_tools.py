"""Tools outside the sandbox, called from cells: with the library, in real sandboxes of the local provider."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox_kernel import BlockingSandbox, Sandbox
from sandbox_kernel.generation.context import gather
from sandbox_kernel.generation.settings import Generation
from sandbox_kernel.library import Display, Stream
from sandbox_kernel.tools import RuntimeContext, ToolRegistry, current_context, report_progress

if sys.platform != "linux":
    pytest.skip("the local provider needs bubblewrap, which only Linux has", allow_module_level=True)

SIZE = 50_000_000

caught: list[RuntimeContext] = []


def weather(city: str, days: int = 1) -> dict[str, Any]:
    """Tell the weather of a town.

    city: the town's name
    """
    return {"city": city, "days": days}


async def double(n: int) -> int:
    """Double a number, slowly."""
    await asyncio.sleep(0.01)
    return 2 * n


def fail(kind: str) -> None:
    """Raise something."""
    raise {"key": KeyError, "value": ValueError, "own": OwnError}[kind]("no such town")


class OwnError(Exception):
    """Known outside only."""


def hang() -> None:
    """Never answer."""
    context = current_context()
    assert context.cancelled is False
    caught.append(context)
    context.wait_cancelled(60)


def large(size: int) -> bytes:
    """Return many bytes."""
    return b"x" * size


def count(steps: int) -> str:
    """Count, and tell how far it is."""
    for step in range(steps):
        report_progress(step / steps, f"step {step}")
        time.sleep(0.06)
    return "counted"


def variables(delay: float = 0.0) -> dict[str, Any]:
    """Return the context's variables before and after a while."""
    before = dict(current_context().variables)
    time.sleep(delay)
    return {"before": before, "after": dict(current_context().variables)}


async def variables_later(delay: float) -> dict[str, Any]:
    """Return the context's variables after a while."""
    await asyncio.sleep(delay)
    return dict(current_context().variables)


class Table:
    """An object with `run`."""

    description = "Return a table."

    def run(self, rows: int, kind: str = "arrow") -> Any:
        import numpy as np
        import pandas as pd
        import pyarrow as pa

        table = pa.table({"n": list(range(rows)), "text": [str(n) for n in range(rows)]})
        return {"arrow": table, "pandas": pd.DataFrame({"n": range(rows)}), "numpy": np.arange(rows)}[kind]


class Researcher:
    """Finds things out."""

    async def arun(self, task: str) -> str:
        """Find something out."""
        return f"found: {task}"


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tester's own configuration not count."""
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))


@pytest.fixture
def registry() -> ToolRegistry:
    made = ToolRegistry()
    for function in (weather, double, fail, large, count, variables, variables_later):
        made.register_tool(function.__name__, function)
    made.register_tool("hang", hang, timeout=0.3)
    made.register_tool("patient", hang)
    made.register_tool("table", Table())
    made.register_tool("denied", weather, policy="deny")
    made.register_tool("asked", weather, policy="ask")
    made.register_agent("researcher", Researcher())
    return made


Run = Callable[..., Any]


@pytest.fixture
async def sandbox(registry: ToolRegistry) -> AsyncIterator[Sandbox]:
    async with Sandbox.create(tools=registry) as made:
        yield made


async def text(sandbox: Sandbox, code: str, **options: Any) -> str:
    """Return what a cell printed; it may not fail."""
    return (await sandbox.run(code, **options)).raise_on_error().stdout


def audited(tmp_path: Path) -> list[dict[str, Any]]:
    lines = (tmp_path / "data/sandbox/tool-calls.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


async def test_a_cell_calls_tools_in_every_way(sandbox: Sandbox) -> None:
    code = """
        print(tools["weather"].run(city="Rome"), tools.weather(city="Oslo", days=3))
        print(await tools.double.arun(n=4), agents["researcher"].run(task="x"), await agents.researcher.arun(task="y"))
        print(list(tools)[:2], "weather" in tools, "researcher" in tools, len(agents))
    """
    assert await text(sandbox, code.replace("        ", "")) == (
        "{'city': 'Rome', 'days': 1} {'city': 'Oslo', 'days': 3}\n8 found: x found: y\n"
        "['asked', 'count'] True False 1\n"
    )


async def test_parameters_may_have_any_name_and_tuples_are_tuples(registry: ToolRegistry) -> None:
    def named(self: int, arguments: str, pair: tuple[int, str]) -> list[Any]:
        return [self, arguments, list(pair)]

    registry.register_tool("named", named)
    code = """
given = dict(self=1, arguments="a", pair=[2, "x"])
print(tools.named(**given), tools.named.run(**given), await tools.named.arun(**given), *tools.named.stream(**given))
print(tools.named)
"""
    async with Sandbox(tools=registry) as sandbox:
        shown = (await text(sandbox, code)).splitlines()
    assert shown[0] == " ".join(["[1, 'a', [2, 'x']]"] * 4)
    assert "self: int" in shown[1]


async def test_a_thousand_calls_and_fifty_at_once_are_all_right(sandbox: Sandbox) -> None:
    code = """
import asyncio, threading
one_by_one = [tools.weather(city=str(n))["city"] for n in range(1000)] == [str(n) for n in range(1000)]
at_once = await asyncio.gather(*[tools.double.arun(n=n) for n in range(50)]) == [2 * n for n in range(50)]
found = {}
threads = [threading.Thread(target=lambda n=n: found.update({n: tools.double(n=n)})) for n in range(50)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(one_by_one, at_once, found == {n: 2 * n for n in range(50)})
"""
    assert await text(sandbox, code) == "True True True\n"


async def test_what_a_tool_returns_arrives_as_it_was(sandbox: Sandbox) -> None:
    code = f"""
data = tools.large(size={SIZE})
print(type(data).__name__, len(data), data[-1:])
table, frame, array = (tools.table(rows=3, kind=kind) for kind in ("arrow", "pandas", "numpy"))
print(table.to_pydict(), list(frame.n), array.sum(), agents.researcher(task="\\u00e9\\n"))
"""
    assert await text(sandbox, code) == (
        f"bytes {SIZE} b'x'\n{{'n': [0, 1, 2], 'text': ['0', '1', '2']}} [0, 1, 2] 3 found: é\n\n"
    )


@pytest.mark.parametrize(
    ("call", "caught", "said"),
    [
        ('tools.fail(kind="key")', "KeyError", "no such town"),
        ('tools.fail(kind="value")', "ValueError", "no such town"),
        ('tools.fail(kind="own")', "tools.ToolError", "no such town"),
        ("tools.hang()", "tools.ToolTimeoutError", "the tool 'hang' took longer than 0.3 s"),
        ("tools.count.options(timeout=0.1)(steps=100)", "TimeoutError", "the tool 'count' took longer than 0.1 s"),
        ('tools.denied(city="x")', "tools.ToolDeniedError", "the tool 'denied' is denied by the configuration"),
        ('tools.asked(city="x")', "tools.ToolDeniedError", "nobody can be asked"),
        ("tools.weather()", "tools.ToolArgumentsError", "'city' is a required property"),
        ("tools.weather(city=3)", "ValueError", "city: 3 is not of type 'string'"),
        ("tools.weather(city=object())", "tools.ToolArgumentsError", "the arguments of a tool are what JSON holds"),
        ('tools.weather(city="x" * 5_000_000)', "tools.ToolArgumentsError", "at most 4194304 travel in a call"),
        ("tools.weather.options(timeout=float('nan'))", "tools.ToolArgumentsError", "timeout is a number of seconds"),
        ("tools.weather.options(timeout=-1)", "ValueError", "greater than 0, not -1"),
        (
            "tools.weather.options(context={'a': float('nan')})(city='x')",
            "tools.ToolArgumentsError",
            "the context of a",
        ),
        (
            "sys = __import__('sys'); sys.set_int_max_str_digits(0); tools.weather(city=10**5000)",
            "tools.ToolError",
            "the request cannot be read",
        ),
        ("tools.wether", "AttributeError", "did you mean 'weather'?"),
        ("tools['wether']", "LookupError", "did you mean 'weather'?"),
        ("tools.large(size=70_000_000)", "tools.ToolError", "at most 67108864 travel (Tools.max_result)"),
    ],
)
async def test_what_goes_wrong_is_an_exception_and_the_cell_goes_on(
    sandbox: Sandbox, call: str, caught: str, said: str
) -> None:
    code = f"try:\n    {call}\nexcept {caught} as exc:\n    print(isinstance(exc, tools.ToolError), exc)\nprint('on')"
    shown = await text(sandbox, code)
    assert said in shown
    assert shown.startswith("True ")
    assert shown.endswith("\non\n")


async def test_the_traceback_shows_the_cell_and_nothing_of_this_machine(sandbox: Sandbox) -> None:
    error = (await sandbox.run("tools.fail(kind='value')")).error
    assert error is not None
    shown = "\n".join(error.traceback)
    assert (error.name, error.value) == ("ValueError", "no such town")
    assert "tools" in shown
    assert __file__ not in shown
    assert "calls.py" not in shown


async def test_an_interrupt_ends_the_call_and_the_cell_goes_on(sandbox: Sandbox) -> None:
    caught.clear()
    code = "print('begun')\ntry:\n    tools.patient()\nexcept KeyboardInterrupt:\n    print(tools.double(n=1))"
    outputs = []
    async for output in sandbox.stream(code):
        outputs.append(output)
        if output == Stream("stdout", "begun\n"):
            while not caught:  # noqa: ASYNC110 - it is set in a thread
                await asyncio.sleep(0.01)
            assert sandbox.interrupt()
    assert Stream("stdout", "2\n") in outputs
    # The tool is told that nobody waits any more.
    assert await asyncio.to_thread(caught[0].wait_cancelled, 30)
    assert caught[0].cancelled is True


async def test_progress_is_shown_and_can_be_followed(sandbox: Sandbox) -> None:
    shown = [one async for one in sandbox.stream("tools.count(steps=4)") if isinstance(one, Display)]
    assert shown[0].data["text/plain"] == "  0% step 0"
    assert {one.update for one in shown[1:]} == {True}
    followed = await text(sandbox, "for item in tools.count.stream(steps=3): print(item)")
    assert followed.splitlines()[0] == "  0% step 0"
    assert followed.splitlines()[-1] == "counted"
    assert await text(sandbox, "seen = []\ntools.count.options(progress=seen.append)(steps=3)\nprint(seen[0])")


async def test_tools_show_what_they_are(sandbox: Sandbox) -> None:
    result = await sandbox.run("tools")
    display = result.outputs[-1]
    assert "<td>weather</td><td>(*, city: str, days: int = 1)</td><td>allow</td>" in display.data["text/html"]
    plain = [line.split() for line in display.data["text/plain"].splitlines()]
    row = "weather (*, city: str, days: int = 1) allow Tell the weather of a town."
    assert row.split() in plain
    code = """
import inspect
ip = get_ipython()
print(inspect.signature(tools.weather), inspect.signature(tools.weather.run))
print(tools.weather.run.__doc__)
print([name for name in ip.run_line_magic("who_ls", "") if name in ("tools", "agents")])
ip.run_line_magic("reset", "-f")
"""
    shown = (await text(sandbox, code)).splitlines()
    assert shown[0] == "(*, city: str, days: int = 1) (*, city: str, days: int = 1)"
    assert "    city: str - the town's name" in shown
    assert shown[-1] == "[]"
    assert await text(sandbox, "print(tools.double(n=1))") == "2\n"


async def test_contexts_of_sessions_and_calls_are_kept_apart(registry: ToolRegistry, tmp_path: Path) -> None:
    registry.settings.context = {"region": "eu"}
    code = """
import asyncio
found = await asyncio.gather(*[tools.variables_later.options(context={"n": n}).arun(delay=0.1) for n in range(10)])
print([one["n"] for one in found] == list(range(10)), {one["client"] for one in found})
print(tools.variables(delay=0.2), tools.variables.options(context={"region": "us"})()["after"]["region"])
"""
    async with (
        Sandbox(tools=registry, context=RuntimeContext({"client": "one"})) as first,
        Sandbox(tools=registry, context=RuntimeContext({"client": "two"})) as second,
    ):
        runs = [
            text(first, code),
            text(second, code, correlation_id="second-run"),
        ]
        for name, shown in zip(("one", "two"), await asyncio.gather(*runs), strict=True):
            seen = {"client": name, "region": "eu"}
            assert shown.splitlines() == [
                f"True {{{name!r}}}",
                f"{{'before': {seen}, 'after': {seen}}} eu",
            ]
        context = RuntimeContext({"client": "three"})
        assert "'three'" in await text(first, "print(tools.variables())", context=context)
        assert "'one'" in await text(first, "print(tools.variables())")
    ids = {line["correlation_id"].partition(".")[0] for line in audited(tmp_path) if line["event"] == "tool_call"}
    assert "second-run" in ids
    assert all(one == "second-run" or one.startswith("cm-") for one in ids)


async def test_tools_can_be_narrowed_for_a_sandbox_and_for_a_cell(registry: ToolRegistry) -> None:
    code = (
        "print(list(tools))\ntry:\n    print(tools.double(n=1))\nexcept tools.UnknownToolError as exc:\n    print(exc)"
    )
    async with Sandbox(tools=registry, available_tools=["double", "var*"]) as sandbox:
        assert await text(sandbox, code) == "['double', 'variables', 'variables_later']\n2\n"
        refused = await text(sandbox, code, available_tools=["weather", "variables"])
        assert refused.startswith("['variables']\n")
        # A thread of an earlier cell has no more rights than the cell that runs.
        await text(sandbox, "import threading\ngo = threading.Event()\nseen = []\ndouble = tools.double")
        late = "def later():\n    go.wait(30)\n    try: seen.append(double(n=1))\n"
        late += "    except Exception as exc: seen.append(str(exc))"
        await text(sandbox, f"{late}\nthread = threading.Thread(target=later)\nthread.start()")
        shown = await text(sandbox, "go.set()\nthread.join()\nprint(seen)", available_tools=["variables"])
        assert "may not be used by this cell" in shown


async def test_a_thread_that_outlives_its_cell_calls_nothing(registry: ToolRegistry) -> None:
    late = """
import threading, time
seen = []
def later():
    time.sleep(1)
    try: seen.append(call())
    except Exception as exc: seen.append(f"{type(exc).__name__}: {exc}")
call = lambda call=tools.weather: call(city="Rome")
thread = threading.Thread(target=later)
thread.start()
"""
    async with Sandbox(tools=registry) as sandbox:
        await text(sandbox, late, available_tools=["weather"])
        await asyncio.sleep(2)
        shown = await text(sandbox, "thread.join()\nprint(seen)")
        assert "ToolDeniedError: the cell that this call belongs to is not running" in shown
        # A cell that waits for its threads.
        assert "Rome" in await text(sandbox, f"{late}thread.join()\nprint(seen)", available_tools=["weather"])


async def test_approval_is_asked_for_and_remembered_if_told_so(registry: ToolRegistry, tmp_path: Path) -> None:
    asked: list[str] = []
    answers = iter(["y", "n", "a"])

    def approve(question: str) -> str:
        asked.append(question)
        return next(answers)

    call = (
        "try:\n    print(tools.asked(city='R\\u202eom', days=2))\nexcept tools.ToolDeniedError as exc:\n    print(exc)"
    )
    async with Sandbox(tools=registry, on_approval=approve) as sandbox:
        shown = [await text(sandbox, call) for _ in range(4)]
    assert ["days" in one for one in shown] == [True, False, True, True]
    assert "was not approved" in shown[1]
    assert len(asked) == 3
    assert 'asked(city="R\\u202eom", days=2)' in asked[0]
    approved = [line.get("approved_by") for line in audited(tmp_path) if line["event"] == "tool_call"]
    assert approved == ["person", "person", "session"]


async def test_calls_are_written_down_without_secrets(registry: ToolRegistry, tmp_path: Path) -> None:
    def login(user: str, password: str, note: str, pin: int) -> str:
        return user

    registry.register_tool("login", login, secrets=["pin"])
    async with Sandbox(tools=registry) as sandbox:
        code = "tools.login(user='ada', password='geheim', note='use sk-abcdefghijklmnopqrstuv', pin=1234)"
        await text(sandbox, f"{code}\ntry: tools.fail(kind='own')\nexcept Exception: pass", correlation_id="cm-1")
    lines = audited(tmp_path)
    assert [(line["event"], line["tool"], line.get("outcome")) for line in lines] == [
        ("tool_call", "login", None),
        ("tool_ended", "login", "ok"),
        ("tool_call", "fail", None),
        ("tool_ended", "fail", "error"),
    ]
    assert lines[0]["arguments"] == {"user": "ada", "password": "***", "note": "use ***", "pin": "***"}
    assert [line["correlation_id"] for line in lines] == ["cm-1.1", "cm-1.1", "cm-1.2", "cm-1.2"]
    assert lines[3]["error"] == "OwnError: no such town"
    raw = (tmp_path / "data/sandbox/tool-calls.jsonl").read_text()
    assert "geheim" not in raw
    assert "1234" not in raw
    assert (tmp_path / "data/sandbox/tool-calls.jsonl").stat().st_mode & 0o777 == 0o600


async def test_without_a_trace_nothing_is_called(registry: ToolRegistry, tmp_path: Path) -> None:
    registry.settings.audit_file = str(tmp_path)
    async with Sandbox(tools=registry) as sandbox:
        code = "try:\n    tools.weather(city='x')\nexcept tools.ToolDeniedError as exc:\n    print(exc)"
        assert "the audit log" in await text(sandbox, code)


async def test_without_tools_a_cell_hears_so() -> None:
    async with Sandbox.create() as sandbox:
        code = "try:\n    tools.weather\nexcept tools.ToolError as exc:\n    print(exc)"
        assert "this sandbox was made without tools" in await text(sandbox, code)


async def test_tools_registered_later_are_found_and_removed_ones_are_not(
    sandbox: Sandbox, registry: ToolRegistry
) -> None:
    assert await text(sandbox, "print('late' in dir(tools))") == "False\n"
    registry.register_tool("late", lambda n: n + 1, input_schema={"properties": {"n": {"type": "integer"}}})
    assert await text(sandbox, "late = tools.late\nprint('late' in dir(tools), late(n=1))") == "True 2\n"
    registry.remove("late")
    code = "try:\n    late(n=1)\nexcept tools.UnknownToolError as exc:\n    print(exc)"
    assert "There is no tool 'late'" in await text(sandbox, code)


async def test_tools_outlive_a_restart_and_a_process_that_forked(sandbox: Sandbox) -> None:
    await text(sandbox, "tools.double(n=1)")
    fork = "import os\npid = os.fork()\nif not pid:\n    os._exit(tools.double(n=3))\nprint(os.waitpid(pid, 0)[1] >> 8)"
    assert await text(sandbox, f"{fork}\nprint(tools.double(n=2))") == "6\n4\n"
    await sandbox.restart()
    assert await text(sandbox, "print(tools.double(n=5))") == "10\n"


def test_the_blocking_library_has_them_too(registry: ToolRegistry) -> None:
    with BlockingSandbox(tools=registry, on_approval=lambda question: "y") as sandbox:
        result = sandbox.run("print(tools.asked(city='Rome')['city'])").raise_on_error()
    assert result.stdout == "Rome\n"


async def test_models_are_told_what_cells_may_call(registry: ToolRegistry) -> None:
    async with Sandbox(tools=registry, available_tools=["weather", "denied", "researcher"]) as sandbox:
        await sandbox.run("1")
        told = (await gather(sandbox.session, Generation(), "how warm is it?")).text(60_000)
    assert "- tools.weather(city=…, days=…): Tell the weather of a town.\n" in told
    assert "- agents.researcher(task=…): Finds things out.\n" in told
    assert "denied" not in told
    assert "double" not in told
