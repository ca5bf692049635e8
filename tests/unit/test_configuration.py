"""The configuration: where it comes from, what wins, and how mistakes are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from traitlets import Int, List, Unicode, default, validate
from traitlets.config.configurable import Configurable

from sandbox_kernel.configuration import check, load_configuration, parse_arguments
from sandbox_kernel.errors import ConfigurationError


class Provider(Configurable):
    """A class with options, from which another one has some."""

    region = Unicode("here", help="Where.").tag(config=True)


class BoxProvider(Provider):
    """Options of all kinds."""

    memory = Int(min=1, help="How much.").tag(config=True)
    mounts = List(Unicode(), help="What.").tag(config=True)
    secret = Unicode("not an option")

    @default("memory")
    def _memory_from_environment(self) -> int:
        import os

        return int(os.environ.get("TEST_BOX_MEMORY", "7"))

    @validate("region")
    def _known_region(self, proposal: dict[str, str]) -> str:
        if proposal["value"] == "nowhere":
            raise ValueError("nowhere is no region")
        return proposal["value"]


class SandboxSession(Configurable):
    """The class that --provider belongs to."""

    provider = Unicode("box", help="Which.").tag(config=True)


CLASSES: list[type[Configurable]] = [BoxProvider, SandboxSession]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's configuration folder; the machine's own settings do not count."""
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "user"))
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(tmp_path / "first"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    (tmp_path / "user").mkdir()
    (tmp_path / "first").mkdir()
    return tmp_path / "user"


def write(folder: Path, text: str, suffix: str = "py") -> Path:
    path = folder / f"jupyter_sandbox_config.{suffix}"
    path.write_text(text)
    return path


def mistake(*argv: str) -> str:
    """Return the message of the one mistake in the configuration."""
    config, options = load_configuration(argv)
    if options.error:
        return str(options.error)
    with pytest.raises(ConfigurationError) as caught:
        check(config, CLASSES, options)
    return str(caught.value)


@pytest.mark.parametrize(
    "argv",
    [
        ["-f", "/a b.json"],
        ["-f=/a b.json"],
        ["--f=/a b.json"],
        ["--f", "/a b.json"],
        ["--connection-file=/a b.json"],
        ["--connection-file", "/a b.json"],
        ['--connection-file="/a b.json"'],
        ["--debug", "-f", "/a b.json", "--quiet"],
    ],
)
def test_connection_file_is_found_however_it_is_passed(argv: list[str]) -> None:
    _, options = load_configuration(argv)
    assert options.connection_file == "/a b.json"
    assert options.error is None


def test_argument_wins_over_file_over_environment_over_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def memory(*argv: str, **arguments: int) -> int:
        return int(BoxProvider(config=load_configuration(argv)[0], **arguments).memory)

    assert memory() == 7
    monkeypatch.setenv("TEST_BOX_MEMORY", "8")
    assert memory() == 8
    write(folder, "c.BoxProvider.memory = 9")
    assert memory() == 9
    assert memory("--BoxProvider.memory=10") == 10
    assert memory("--BoxProvider.memory=10", memory=11) == 11


def test_earlier_folders_json_and_named_files_win(folder: Path) -> None:
    def region(*argv: str) -> str:
        return str(BoxProvider(config=load_configuration(argv)[0]).region)

    write(folder, "c.BoxProvider.region = 'user'; c.BoxProvider.memory = 3")
    assert region() == "user"
    write(folder, json.dumps({"BoxProvider": {"region": "user json"}}), "json")
    assert region() == "user json"
    write(folder.parent / "first", "c.BoxProvider.region = 'first'")
    assert region() == "first"
    named = folder.parent / "mine.py"
    named.write_text("c.BoxProvider.region = 'named'")
    assert region("--config", str(named)) == "named"
    assert region(f"--config={named}") == "named"
    assert BoxProvider(config=load_configuration([])[0]).memory == 3


def test_file_in_the_working_directory_is_not_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "c.BoxProvider.region = 'planted'")
    assert load_configuration([])[0] == {}


def test_traits_take_their_types_from_text() -> None:
    argv = ["--BoxProvider.memory", "5", "--BoxProvider.mounts=/a", "--BoxProvider.mounts=/b", "--provider=other"]
    config, options = load_configuration(argv)
    check(config, CLASSES, options)
    box = BoxProvider(config=config)
    assert (box.memory, box.mounts) == (5, ["/a", "/b"])
    assert SandboxSession(config=config).provider == "other"


def test_parsing_arguments_reads_no_file(folder: Path) -> None:
    write(folder, "c.BoxProvider.memory = 9")
    config, _ = parse_arguments(["--provider=x"])
    assert list(config) == ["SandboxSession"]


def test_settings_of_a_base_class_and_of_a_nested_section_are_known(folder: Path) -> None:
    write(
        folder, "c.Provider.region = 'there'; c.SandboxSession.BoxProvider.memory = 4; c.BoxProvider.mounts.append('x')"
    )
    config, options = load_configuration([])
    check(config, CLASSES, options)


def test_classes_that_are_not_loaded_are_not_looked_into(folder: Path) -> None:
    write(folder, "c.FarProvider.whatever = 1")
    config, options = load_configuration([])
    check(config, CLASSES, options, names={"FarProvider"})
    with pytest.raises(ConfigurationError, match="no class FarProvider"):
        check(config, CLASSES, options)


def test_name_of_a_loaded_class_does_not_keep_it_from_being_checked(folder: Path) -> None:
    write(folder, "c.BoxProvider.memory = 'much'")
    config, options = load_configuration([])
    with pytest.raises(ConfigurationError, match="memory"):
        check(config, CLASSES, options, names=set(config))


def test_unknown_trait_is_told_with_file_line_and_nearest_name(folder: Path) -> None:
    path = write(folder, "# c.BoxProvider.memroy = 1\n\nc.BoxProvider.memroy = 4\n")
    assert mistake() == f"{path}, line 3: BoxProvider has no option memroy; did you mean memory?"


def test_unknown_class_is_told_with_the_option_and_nearest_name() -> None:
    assert (
        mistake("--BoxProvder.memory=4")
        == "--BoxProvder.memory: there is no class BoxProvder; did you mean BoxProvider?"
    )


def test_trait_that_is_no_option_is_refused() -> None:
    assert "BoxProvider has no option secret" in mistake("--BoxProvider.secret=1")


@pytest.mark.parametrize(
    ("option", "part"),
    [
        ("--BoxProvider.memory=much", "'memory' trait"),
        ("--BoxProvider.memory=0", "0"),
        ("--BoxProvider.region=nowhere", "nowhere is no region"),
    ],
)
def test_refused_value_is_told_with_its_option(option: str, part: str) -> None:
    message = mistake(option)
    assert message.startswith(option.partition("=")[0] + ": ")
    assert part in message


def test_refused_value_in_json_is_told_with_its_line(folder: Path) -> None:
    path = write(folder, '{"BoxProvider": {\n  "region": "x",\n  "memory": "much"}}', "json")
    assert mistake().startswith(f"{path}, line 3: ")


@pytest.mark.parametrize(
    ("text", "suffix", "line", "part"),
    [
        ("x = 1\ny = (\n", "py", ", line 2", "SyntaxError"),
        ("c.BoxProvider.memory = 2\nimport nothing_like_it\n", "py", ", line 2", "nothing_like_it"),
        ("import sys\nsys.exit(3)\n", "py", ", line 2", "SystemExit"),
        ("c.memory = 2\n", "py", ", line 1", "Class.trait"),
        ('{"BoxProvider":\n {"memory": 3\n', "json", ", line 3", "no JSON"),
        ("[1, 2]", "json", "", "JSON object"),
        ('{"BoxProvider": 3}', "json", ", line 1", "Class.trait"),
    ],
)
def test_broken_file_gives_one_error_with_its_place(folder: Path, text: str, suffix: str, line: str, part: str) -> None:
    path = write(folder, text, suffix)
    message = mistake("-f", "x.json")
    assert message.startswith(f"{path}{line}: ")
    assert part in message


def test_kernel_learns_its_connection_file_in_spite_of_a_mistake(folder: Path) -> None:
    write(folder, "1 / 0")
    config, options = load_configuration(["--nonsense", "-f", "x.json", "--BoxProvider.memory=3"])
    assert options.connection_file == "x.json"
    assert options.error is not None
    assert config.BoxProvider.memory == "3"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--proivder=local"], "There is no option --proivder; did you mean --provider?"),
        (["--provider"], "The option --provider needs a value."),
        (["-f"], "The option -f needs a value."),
        (["--config", "/no/such/file.py"], "There is no configuration file /no/such/file.py."),
    ],
)
def test_mistake_on_the_command_line_is_told(argv: list[str], message: str) -> None:
    assert mistake(*argv) == message


def test_stray_argument_is_told_with_how_the_kernel_is_called() -> None:
    assert "'stray'" in mistake("stray")
    assert "-f CONNECTION_FILE" in mistake("stray")


def test_help_is_noted() -> None:
    assert load_configuration(["--help"])[1].help
