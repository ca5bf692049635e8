"""A kernel process with sandboxes at a stand-in for E2B: what costs money, commands, pauses, `doctor`, `emulate`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the emulator runs local sandboxes, on Linux", allow_module_level=True)

from tests.emulators.e2b.kernel import arguments
from tests.emulators.e2b.process import EmulatorProcess

from .client import FrontEnd, kernel_environment, running

pytestmark = pytest.mark.usefixtures("e2b_key")


@contextmanager
def opened(folder: Path, *options: str) -> Iterator[FrontEnd]:
    """A front end, which shuts its kernel down: one that is ended by a signal waits for its successor."""
    with running(folder, *options) as kernel:
        front_end = kernel.front_end()
        yield front_end
        front_end.ask("shutdown_request", {"restart": False}, channel="control")


def created(emulator: EmulatorProcess) -> int:
    return int(emulator.report().get("created", 0))


def status(front_end: FrontEnd) -> str:
    (shown,) = front_end.run("%sandbox status").contents("display_data")
    return str(shown["data"]["text/plain"])


def test_opening_a_notebook_makes_nothing_that_is_paid_for(emulator: EmulatorProcess, tmp_path: Path) -> None:
    with opened(tmp_path, *arguments(emulator, mode="bridge")) as front_end:
        before = created(emulator)
        # As VS Code and JupyterLab do by themselves.
        assert front_end.run("import sys; sys.version", store_history=False, silent=True).status == "ok"
        assert front_end.ask("complete_request", {"code": "pri", "cursor_pos": 3})["matches"] == []
        assert front_end.ask("inspect_request", {"code": "x", "cursor_pos": 1, "detail_level": 0})["found"] is False
        front_end.run("%sandbox status")
        front_end.run("%sandbox templates")
        time.sleep(1)
        assert created(emulator) == before
        assert front_end.run("1 + 1").result == "2"
        assert created(emulator) == before + 1


def test_an_idle_notebook_is_paused_and_the_next_cell_goes_on(emulator: EmulatorProcess, tmp_path: Path) -> None:
    with opened(tmp_path, *arguments(emulator, mode="bridge", idle_timeout=1.0)) as front_end:
        front_end.run("x = 41")
        busy = front_end.run("import time; time.sleep(3); 'awake'")
        assert busy.result == "'awake'", "a cell that runs is not idle"
        deadline = time.monotonic() + 30
        while "paused" not in status(front_end):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert "paused" in emulator.report()["sandboxes"].values()
        resumed = front_end.run("x + 1")
        assert resumed.result == "42"
        assert "goes on" in resumed.stream("stderr")
        other = front_end.run("%%sandbox --language javascript\nconst y = 6; console.log('out'); y * 7")
        assert other.stream() == "out\n42\n"
        slow = "const end = Date.now() + 3000; while (Date.now() < end); 6 * 7"
        assert front_end.run(f"%%sandbox --language javascript\n{slow}").stream() == "42\n", "it is not idle either"
        assert front_end.run("%%sandbox --language javascript\nnull.y").error["ename"] == "CodeFailedError"


def test_in_basic_mode_what_the_service_paused_goes_on_and_what_it_ended_is_told(
    emulator: EmulatorProcess, tmp_path: Path
) -> None:
    with opened(tmp_path, *arguments(emulator, mode="basic", timeout=5)) as front_end:
        assert front_end.run("x = 41").status == "ok"
        until_states(emulator, ["paused"])
        resumed = front_end.run("x + 1")
        assert resumed.result == "42"
        assert "goes on" in resumed.stream("stderr")
    with opened(tmp_path, *arguments(emulator, mode="basic", timeout=5, auto_pause=False)) as front_end:
        assert front_end.run("x = 41").status == "ok"
        until_states(emulator, [])
        lost = front_end.run("x")
        assert lost.error["ename"] == "SandboxLostError"
        assert "its time was over" in lost.error["evalue"]
        assert "the next cell starts a fresh one" in lost.error["evalue"]
        assert front_end.run("'x' in dir()").result == "False"


def until_states(emulator: EmulatorProcess, states: list[str]) -> None:
    """Wait until the sandboxes are in these states."""
    deadline = time.monotonic() + 30
    while list(emulator.report()["sandboxes"].values()) != states:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_commands_show_templates_and_make_sandboxes_of_them(emulator: EmulatorProcess, tmp_path: Path) -> None:
    with opened(tmp_path, *arguments(emulator, mode="bridge", hourly_rate=0.5, rates_of="2026-11-01")) as front_end:
        listed = front_end.run("%sandbox templates --tag agent").stream()
        assert re.findall(r"^(\S+)", listed, re.MULTILINE) == ["NAME", "echo-agent", "second-agent"]
        assert "no such templates" in front_end.run("%sandbox templates nothing-like-this").stream()
        assert "is running" in front_end.run("%sandbox start --template base").stream()
        shown = status(front_end)
        assert "tpl0base" in shown
        assert "$0.5 an hour, rates of 2026-11-01" in shown
        assert front_end.run("%sandbox start --template base").error["ename"] == "CommandError"
        without = front_end.run("%%sandbox --language javascript\n1")
        assert "no code interpreter" in without.error["evalue"]
        front_end.run("open('file.txt', 'w').write('kept')")
        kept = re.search(r"--template (\S+)`", front_end.run("%sandbox snapshot mine").stream())
        assert kept is not None
        listed = front_end.run("%sandbox list").stream()
        assert all(sandbox_id in listed for sandbox_id in emulator.report()["sandboxes"])
        assert "is stopped" in front_end.run("%sandbox stop").stream()
        assert "There are no sandboxes" in front_end.run("%sandbox list").stream()
        front_end.run(f"%sandbox start --template {kept[1]}")
        assert front_end.run("open('file.txt').read()").result == "'kept'"
        assert "attach" in front_end.run("%sandbox fork").stream()
        missing = front_end.run("%sandbox stop\n%sandbox start --template no-such-template")
        assert missing.error["ename"] == "TemplateNotFoundError"
        assert "%sandbox templates" in missing.error["evalue"]
        assert front_end.run("1").result == "1", "the next cell recovers, with the ordinary template"


def test_a_kernel_of_another_language_says_so(emulator: EmulatorProcess, tmp_path: Path) -> None:
    with opened(tmp_path, *arguments(emulator, language="javascript")) as front_end:
        assert front_end.ask("kernel_info_request")["language_info"]["name"] == "javascript"
        cell = front_end.run("const x = 20; console.log('out'); x + 1")
        assert (cell.stream(), cell.result) == ("out\n", "21")
        assert "basic" in status(front_end)
        assert front_end.run("null.x").error["ename"] == "TypeError"


def test_agents_in_cells(emulator: EmulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = json.dumps({"agent": "allow"})
    options = [*arguments(emulator, mode="bridge"), f"--SandboxSession.approvals={allowed}"]
    before = set(emulator.report()["sandboxes"])
    with opened(tmp_path, *options) as front_end:
        assert "no sessions" in front_end.run("%sandbox agents").stream()
        first = json.loads(front_end.run("%%sandbox agent echo-agent\nhello").stream())
        assert (first["response"], first["turn"]) == ("You said: hello", 1)
        second = json.loads(front_end.run('%%sandbox agent echo-agent\n{"prompt": "x", "more": [1]}').stream())
        assert (second["turn"], second["received"]) == (2, {"prompt": "x", "more": [1]})
        other = json.loads(front_end.run("%%sandbox agent echo-agent --session other\nhello").stream())
        assert other["turn"] == 1
        streamed = front_end.run('%%sandbox agent echo-agent\n{"prompt": "a b c", "stream": "ndjson"}')
        assert streamed.stream() == "abc\n"
        batch = front_end.run("%%sandbox agent echo-agent --batch --concurrency 2\none\ntwo\nthree")
        assert batch.stream() == "[1] You said: one\n[2] You said: two\n[3] You said: three\n"
        assert "3 of 3 answered" in batch.contents("update_display_data")[-1]["data"]["text/plain"]
        assert front_end.run("%sandbox agents pause other").stream() == "The session other with echo-agent is paused.\n"
        listed = front_end.run("%sandbox agents").stream()
        assert re.search(r"default +echo-agent +\w+ +active +Healthy", listed)
        assert re.search(r"other +echo-agent +\w+ +paused", listed)
        assert '"turn": 2' in front_end.run("%%sandbox agent echo-agent --session other\nback").stream()
        assert "closed" in front_end.run("%sandbox agents close other").stream()
        wrong = front_end.run("%%sandbox agent no-such-agent\nhello")
        assert wrong.error["ename"] == "TemplateNotFoundError"
        assert front_end.run("%%sandbox agent echo-agent\n ").error["ename"] == "CommandError"
        assert front_end.run("%sandbox agents close nobody").error["ename"] == "CommandError"
    assert set(emulator.report()["sandboxes"]) <= before, "agents end with the kernel"


def test_agents_are_asked_after_the_person_agreed(emulator: EmulatorProcess, tmp_path: Path) -> None:
    with opened(tmp_path, *arguments(emulator, mode="bridge")) as front_end:
        cell = front_end.cell("%%sandbox agent echo-agent\nhello", allow_stdin=True)
        front_end.until(lambda: bool(cell.questions) or cell.done)
        front_end.answer("n")
        front_end.finish(cell)
        assert "not confirmed" in cell.error["evalue"]


def cli(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sandbox_kernel.cli", *words],
        env=kernel_environment(folder),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_doctor_names_what_is_missing_and_starts_nothing(
    emulator: EmulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = created(emulator)
    config = tmp_path / "config.py"
    config.write_text(f"c.E2BProvider.api_url = '{emulator.url}'\n")
    words = ["doctor", "--provider", "e2b", "--config", str(config)]
    works = cli(tmp_path, *words)
    assert (works.returncode, works.stdout.count("yes  ")) == (0, 3), works.stdout + works.stderr
    config.write_text(f"c.E2BProvider.api_url = '{emulator.url}'\nc.E2BProvider.template = 'absent'\n")
    missing = cli(tmp_path, *words)
    assert missing.returncode == 1
    assert re.search(r"no +the template 'absent' is there", missing.stdout)
    monkeypatch.setenv("E2B_API_KEY", "bad-key")
    refused = cli(tmp_path, *words)
    assert "E2B_API_KEY" in refused.stdout
    assert "bad-key" not in refused.stdout + refused.stderr
    monkeypatch.delenv("E2B_API_KEY")
    absent = cli(tmp_path, *words)
    assert absent.returncode == 1
    assert "keyring set sandbox-kernel e2b" in absent.stdout
    assert created(emulator) == before


def test_emulate_is_told_how_to_be_called(tmp_path: Path) -> None:
    assert cli(tmp_path, "emulate", "nothing").returncode == 2
    half = cli(tmp_path, "emulate", "e2b", "--certificate", "x.pem")
    assert (half.returncode, "--private-key" in half.stderr) == (2, True)
