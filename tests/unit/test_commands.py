"""The `%sandbox` commands: what they do to a session, what they show, and how mistakes are told."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sandbox_kernel.bridge import stub
from sandbox_kernel.commands import load_commands
from sandbox_kernel.durations import age
from sandbox_kernel.errors import CommandError, InvocationError, SandboxKernelError
from sandbox_kernel.events import EventLog
from sandbox_kernel.lifecycle import State, move
from sandbox_kernel.providers.base import Resources, SandboxRecord
from sandbox_kernel.session import SandboxSession
from sandbox_kernel.session_info import SessionInfo
from sandbox_kernel.shell_command import ShellCommand
from sandbox_kernel.workspace.changes import Action, Change, Kind
from sandbox_magics.commands import run_line
from sandbox_magics.registry import CellCommand, Command, all_cell_commands, all_commands
from sandbox_magics.selection import select


class FakeSession:
    """Goes through the states of a session, with no sandbox behind it; a shell command gives what it is told to."""

    def __init__(self, log: EventLog, state: State = State.INACTIVE) -> None:
        self.log = log
        self.state = state
        self.sandbox_id = "box-1" if state in (State.ACTIVE, State.PAUSED) else ""
        self.details: Mapping[str, str] = {}
        self.error = ""
        self.restarts = 0
        self.shell_output: list[bytes] = []
        self.shell_exit = 0
        self.shell_texts: list[str] = []
        self.killed = asyncio.Event()
        self.is_foreign = False
        self.mode = "bridge"
        self.resources = Resources()

    async def others(self) -> Sequence[SandboxRecord]:
        return []

    @property
    def info(self) -> SessionInfo:
        return SessionInfo(
            state=self.state,
            provider="fake",
            isolation="none" if self.sandbox_id else "",
            sandbox_id=self.sandbox_id,
            created=0.0 if self.sandbox_id else None,
            correlation_id="sk-1",
            python="3.11.7",
            error=self.error,
            details=self.details,
        )

    def choose_resources(self, resources: Resources) -> None:
        self.resources = resources

    def _through(self, *states: State) -> None:
        for state in states:
            self.state = move(self.state, state)

    async def start(self) -> None:
        if self.state is State.PAUSED:
            await self.resume()
        else:
            self._through(State.STARTING, State.ACTIVE)
        self.sandbox_id = "box-1"

    async def stop(self) -> None:
        self._through(State.STOPPING, State.INACTIVE)
        self.sandbox_id = ""

    async def pause(self) -> None:
        self._through(State.PAUSING, State.PAUSED)

    async def resume(self) -> None:
        self._through(State.RESUMING, State.ACTIVE)

    async def restart(self) -> None:
        self.restarts += 1

    def shell(self, text: str) -> ShellCommand:
        assert self.state is State.ACTIVE
        self.shell_texts.append(text)
        command = ShellCommand(self.killed.set)
        for chunk in self.shell_output:
            command.feed(chunk)
        if self.shell_exit != 1000:
            command.finish(self.shell_exit)
        return command


class Context:
    """A CommandContext that keeps what it is given."""

    def __init__(self, session: FakeSession) -> None:
        self._session = session
        self.texts: list[str] = []
        self.written = asyncio.Event()
        self.displays: list[dict[str, Any]] = []

    @property
    def session(self) -> Any:
        return self._session

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def write(self, text: str, *, error: bool = False) -> None:
        assert not error
        self.texts.append(text)
        self.written.set()

    def display(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *,
        display_id: str = "",
        update: bool = False,
    ) -> None:
        assert metadata is None
        self.displays.append(data)

    async def ask(self, prompt: str) -> str:
        raise CommandError(f"nobody can answer {prompt!r}")


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    """A log of this test's own."""
    return EventLog(path=str(tmp_path / "log"))


@pytest.fixture
def active(log: EventLog) -> FakeSession:
    """A session with a sandbox."""
    return FakeSession(log, State.ACTIVE)


@pytest.fixture
def inactive(log: EventLog) -> FakeSession:
    """A session without one."""
    return FakeSession(log)


async def run(line: str, session: FakeSession) -> Context:
    context = Context(session)
    await run_line(line, context)
    return context


def test_fake_session_offers_what_the_real_one_does() -> None:
    for name in ("start", "stop", "pause", "resume", "restart", "shell"):
        fake, real = getattr(FakeSession, name), getattr(SandboxSession, name)
        assert inspect.iscoroutinefunction(fake) == inspect.iscoroutinefunction(real), name


def test_kernel_finds_the_commands_by_their_entry_point() -> None:
    assert load_commands() is run_line


async def test_sandbox_is_started_paused_resumed_restarted_and_stopped(inactive: FakeSession) -> None:
    for line, state in (
        ("start", State.ACTIVE),
        ("pause", State.PAUSED),
        ("resume", State.ACTIVE),
        ("restart", State.ACTIVE),
        ("stop", State.INACTIVE),
    ):
        inactive.resources = Resources(cpus=4)
        context = await run(line, inactive)
        assert inactive.state is state
        assert context.text.endswith(".\n")
        # What an earlier start asked for counts no more.
        assert (inactive.resources == Resources()) is (line in ("start", "stop"))
    assert inactive.restarts == 1


async def test_what_is_done_already_is_said_and_not_done_again(active: FakeSession, inactive: FakeSession) -> None:
    assert "already" in (await run("start", active)).text
    assert (await run("stop", inactive)).text == "No sandbox is running.\n"


@pytest.mark.parametrize("line", ["pause", "resume"])
async def test_without_a_sandbox_the_error_says_what_to_do(line: str, inactive: FakeSession) -> None:
    with pytest.raises(CommandError, match="%sandbox start"):
        await run(line, inactive)


async def test_unknown_command_is_answered_with_the_nearest_and_all(active: FakeSession) -> None:
    with pytest.raises(CommandError) as caught:
        await run("stauts --log", active)
    names = ", ".join(one.name for one in all_commands())
    assert str(caught.value) == f"There is no command `%sandbox stauts`; did you mean `status`? There are: {names}."
    with pytest.raises(CommandError, match=r"`%sandbox xyz`\. There are: "):
        await run("xyz", active)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("status --lgo", "unrecognized arguments: --lgo"),
        ("status --log many", "invalid int value: 'many'"),
        ("start now", "unrecognized arguments: now"),
        ("status 'open", "No closing quotation"),
    ],
)
async def test_bad_arguments_are_one_error_and_print_nothing(
    line: str, part: str, active: FakeSession, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CommandError, match=re.escape(part)) as caught:
        await run(line, active)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", [one.name for one in all_commands()])
async def test_each_command_has_help(name: str, inactive: FakeSession, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [(await run(line, inactive)).text for line in (f"{name} --help", f"{name} -h", f"help {name}")]
    assert texts[0].startswith(f"usage: %sandbox {name}")
    assert texts == [texts[0]] * 3
    assert inactive.state is State.INACTIVE
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("line", ["", "  ", "help"])
async def test_help_lists_every_command_with_a_sentence(line: str, inactive: FakeSession) -> None:
    text = (await run(line, inactive)).text
    for one in all_commands():
        assert re.search(rf"^  {one.name} +\S.*[.;]", text, re.MULTILINE)


async def test_status_is_a_table_as_text_and_html(active: FakeSession) -> None:
    active.details = {"memory": "120 MiB of 2 GiB", "processes": "4 of 1024"}
    (data,) = (await run("status", active)).displays
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in data["text/plain"].splitlines())
    assert {name: rows[name] for name in ("Provider", "Mode", "Isolation", "State", "Sandbox", "Memory", "Python")} == {
        "Provider": "fake",
        "Mode": "bridge",
        "Isolation": "none",
        "State": "active",
        "Sandbox": "box-1",
        "Memory": "120 MiB of 2 GiB",
        "Python": "3.11.7",
    }
    assert re.fullmatch(r"\d+ d \d+ h", rows["Age"])
    cells = re.findall(r"<th[^>]*>(.*?)</th><td[^>]*>(.*?)</td>", data["text/html"])
    assert dict(cells) == rows


async def test_status_leaves_out_what_there_is_not(inactive: FakeSession) -> None:
    (data,) = (await run("status", inactive)).displays
    assert "Sandbox" not in data["text/plain"]
    assert "Age" not in data["text/plain"]


async def test_what_a_sandbox_says_of_itself_cannot_become_html(active: FakeSession) -> None:
    active.details = {"<b>Memory": "<img src=x onerror=alert(1)>"}
    active.error = '"><script>'
    (data,) = (await run("status", active)).displays
    assert "<img" not in data["text/html"]
    assert "<b>" not in data["text/html"]
    assert "<script" not in data["text/html"]
    assert "&lt;img src=x onerror=alert(1)&gt;" in data["text/html"]


async def test_status_shows_the_logs_last_lines(active: FakeSession) -> None:
    assert "no lines yet" in (await run("status --log", active)).text
    for number in range(30):
        active.log.write("tick", number=number)
    assert (await run("status --log 2", active)).text.count("\n") == 2
    text = (await run("status --log", active)).text
    assert text.count("\n") == 20
    assert '"number": 29' in text


async def test_shell_shows_output_as_it_comes_and_whole_characters(active: FakeSession) -> None:
    euro = "€".encode()
    active.shell_output = [b"a", b"b " + euro[:1], euro[1:], b"\xff", b"\n"]
    context = await run("shell  echo 'a  b' | tr a-z A-Z > \"x y\"; ls --help", active)
    assert active.shell_texts == ["echo 'a  b' | tr a-z A-Z > \"x y\"; ls --help"]
    assert context.text == "ab €\ufffd\n"
    assert context.texts[:2] == ["a", "b "]


async def test_shell_command_that_fails_is_an_error_after_its_output(active: FakeSession) -> None:
    active.shell_output, active.shell_exit = [b"no such file\n"], 2
    context = Context(active)
    with pytest.raises(InvocationError, match="exit code 2") as caught:
        await run_line("shell ls nothing", context)
    assert context.text == "no such file\n"
    assert caught.value.sandbox_id == "box-1"


async def test_shell_command_that_was_killed_names_the_signal(active: FakeSession) -> None:
    active.shell_exit = -9
    with pytest.raises(InvocationError, match=r"signal 9 \(SIGKILL\)"):
        await run("shell sleep 100", active)


@pytest.mark.parametrize("state", [State.INACTIVE, State.PAUSED, State.ERROR])
async def test_shell_starts_or_resumes_a_sandbox(state: State, log: EventLog) -> None:
    session = FakeSession(log, state)
    await run("shell true", session)
    assert session.state is State.ACTIVE


async def test_shell_without_a_command_says_how_it_is_called(inactive: FakeSession) -> None:
    with pytest.raises(CommandError, match="needs a command"):
        await run("shell", inactive)
    assert inactive.state is State.INACTIVE


async def test_interrupted_shell_command_is_ended(active: FakeSession) -> None:
    active.shell_output, active.shell_exit = [b"started\n"], 1000
    context = Context(active)
    task = asyncio.create_task(run_line("shell sleep 100", context))
    await context.written.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert active.killed.is_set()


def test_ages_are_told_in_their_two_largest_units() -> None:
    assert [age(seconds) for seconds in (-1, 0.5, 59, 60, 3605, 86400 * 3 + 7200)] == [
        "0 s",
        "0 s",
        "59 s",
        "1 min 0 s",
        "1 h 0 min",
        "3 d 2 h",
    ]


@pytest.mark.parametrize("line", ["push name", "pull name"])
async def test_variables_need_not_travel_where_the_cells_are_in_the_sandbox(line: str, active: FakeSession) -> None:
    with pytest.raises(CommandError, match="run in the sandbox already"):
        await run(line, active)


class FakeShell:
    """The parts of an IPython shell that the stub uses."""

    def __init__(self) -> None:
        self.magics: dict[tuple[str, str], Any] = {}
        self.Completer = SimpleNamespace(custom_matchers=[])
        self.lines: list[tuple[str, str]] = []

    def register_magic_function(self, func: Any, kind: str, name: str) -> None:
        self.magics[kind, name] = func

    def find_line_magic(self, name: str) -> Any:
        return lambda line: self.lines.append((name, line))


def test_stub_knows_every_command_and_its_options() -> None:
    assert {one.name: options_of(one) for one in all_commands()} == stub.COMMANDS
    assert {one.name: options_of(one) for one in all_cell_commands()} == stub.CELL_COMMANDS


def options_of(one: Command | CellCommand) -> tuple[str, ...]:
    flags = (flag for action in one.parser._actions for flag in action.option_strings)
    return tuple(flag for flag in flags if flag.startswith("--") and flag != "--help")


class Cursor:
    """What IPython tells a matcher, of a line whose end the cursor is at."""

    def __init__(self, text: str) -> None:
        self.text_until_cursor = self.line_with_cursor = text


def completed(text: str) -> list[str]:
    return [one.text for one in stub.complete(Cursor(text))["completions"]]


def test_stub_completes_commands_and_options() -> None:
    shell = FakeShell()
    stub.register(shell)
    (matcher,) = shell.Completer.custom_matchers
    assert [one.text for one in matcher(Cursor("%sandbox st"))["completions"]] == ["start", "status", "stop"]
    assert completed("%sandbox ") == sorted(stub.COMMANDS)
    assert completed("%sandbox help sh") == ["shell"]
    assert completed("%sandbox status --") == ["--help", "--log"]
    assert completed("%sandbox nothing ") == ["--help"]
    assert completed("%%sandbox ") == sorted(stub.CELL_COMMANDS)
    assert completed("%%sandbox tool --l") == ["--language"]
    assert completed("%sandbo") == []


def test_stub_completes_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/inner").mkdir(parents=True)
    for name in ("data/a b.csv", "data/.hidden", "draft.txt"):
        (tmp_path / name).touch()
    assert completed("%sandbox download d") == ["data/", "draft.txt"]
    assert completed("%sandbox diff data/") == ["data/a b.csv", "data/inner/"]
    assert completed("%sandbox upload data/.h") == ["data/.hidden"]
    assert completed("%sandbox upload --t") == ["--to"]
    assert completed("%sandbox upload ../") == completed("%sandbox upload ~/") == []
    assert completed("%sandbox install -r d") == ["data/", "draft.txt"]
    assert completed("%sandbox upload x --to d") == ["data/", "draft.txt"]
    assert completed("%sandbox files absent/") == []
    assert completed("%sandbox shell d") == []


def test_stub_says_where_a_line_belongs() -> None:
    from IPython.core.error import UsageError

    shell = FakeShell()
    stub.register(shell)
    with pytest.raises(UsageError, match=r"`%sandbox status` stands too late.*beginning of the cell"):
        shell.magics["line", "sandbox"]("status")
    with pytest.raises(UsageError, match="every cell runs in the sandbox"):
        shell.magics["cell", "sandbox"]("", "x = 1")
    with pytest.raises(UsageError, match="`%%sandbox generate` is run outside the sandbox"):
        shell.magics["cell", "sandbox"]("generate", "x = 1")


def test_errors_of_commands_belong_to_the_projects_tree() -> None:
    assert issubclass(CommandError, SandboxKernelError)


def test_choosing_among_very_many_changes_is_not_quadratic() -> None:
    changes = [Change("many", Action.ADD, Kind.FOLDER)]
    changes += [Change(f"many/{number}", Action.ADD, Kind.FILE, digest=str(number)) for number in range(100_000)]
    assert len(select(changes, ["many/*"], "/project")) == 100_001
    few = select(changes, ["many/7", "many/99999"], "/project")
    assert [change.path for change in few] == ["many", "many/7", "many/99999"]


ADDED = [
    "a1.txt",
    "a[1].txt",
    "b.csv",
    "sub/x.txt",
    "sub/in/y.txt",
    "data.csv/part",
    "line\nbreak.txt",
    "-rf",
    ".env.d",
]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("a[1].txt", ["a[1].txt"]),
        ("a?.txt", ["a1.txt"]),
        ("a[0-9].txt", ["a1.txt"]),
        ("*.txt", ["a1.txt", "a[1].txt", "line\nbreak.txt"]),
        ("./*.txt", ["a1.txt", "a[1].txt", "line\nbreak.txt"]),
        ("**/*.txt", ["a1.txt", "a[1].txt", "sub/x.txt", "sub/in/y.txt", "line\nbreak.txt"]),
        ("sub/**/*.txt", ["sub/x.txt", "sub/in/y.txt"]),
        ("sub/*", ["sub/x.txt", "sub/in/y.txt"]),
        ("*.csv", ["b.csv", "data.csv/part"]),
        ("line\\nbreak.txt", ["line\nbreak.txt"]),
        ("/project/sub/in/", ["sub/in/y.txt"]),
        ("/work/sub/x.txt", ["sub/x.txt"]),
        ("/project", ADDED),
        ("-rf", ["-rf"]),
        (".", ADDED),
        ("**", ADDED),
    ],
)
def test_files_of_a_diff_are_meant_as_they_are_called(name: str, meant: list[str]) -> None:
    changes = [Change(path, Action.ADD, Kind.FILE) for path in ADDED]
    assert [change.path for change in select(changes, [name], "/project")] == meant


def test_a_file_of_a_diff_that_is_not_there_is_told() -> None:
    with pytest.raises(CommandError, match="nothing called"):
        select([Change("sub/x", Action.ADD, Kind.FILE)], ["sub/x", "x"], "/project")


@pytest.mark.parametrize("name", ["w/a", "w", "?"])
def test_what_was_in_the_place_of_a_new_folder_or_file_goes_with_it(name: str) -> None:
    to_folder = [
        Change("w", Action.REMOVE, Kind.FILE),
        Change("w", Action.ADD, Kind.FOLDER),
        Change("w/a", Action.ADD, Kind.FILE),
    ]
    assert select(to_folder, [name], "/project") == to_folder
    to_file = [
        Change("w/a", Action.REMOVE, Kind.FILE),
        Change("w", Action.REMOVE, Kind.FOLDER),
        Change("w", Action.ADD, Kind.FILE),
    ]
    if name != "w/a":
        assert select(to_file, [name], "/project") == to_file
