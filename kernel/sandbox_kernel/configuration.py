"""Where the configuration comes from: kernelspec or command line, then files, then the traits' own defaults.

What is set in several places is taken from the first of: an argument in code, the command line, a file named by
``--config``, `jupyter_sandbox_config.json` and `.py` in Jupyter's configuration folders (their order is Jupyter's), the
environment, the default. The environment is read by the traits' ``@default`` only, so nothing here looks at it.

A mistake must not keep the kernel from starting, because a front end shows nothing but "kernel died" then. So
`load_configuration` never raises: the mistake is `Options.error`, for the first cell to show.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from traitlets import HasTraits, TraitError, TraitType
from traitlets.config.configurable import Configurable
from traitlets.config.loader import (
    Config,
    DeferredConfig,
    DeferredConfigList,
    DeferredConfigString,
    JSONFileConfigLoader,
    LazyConfigValue,
    PyFileConfigLoader,
)

from .errors import ConfigurationError

FILE_NAME = "jupyter_sandbox_config"
ALIASES = {"provider": "SandboxSession.provider"}
FLAGS = {"debug": ("EventLog.level", "debug"), "quiet": ("EventLog.level", "error")}
"""Flags that front ends pass to any ipykernel."""
CONNECTION_FILE_OPTIONS = ("-f", "--f", "--connection-file")
KERNEL_CLASSES = frozenset(
    """
    Application BaseIPythonApplication Completer DisplayFormatter HistoryAccessor HistoryManager IPCompleter IPKernelApp
    IPythonKernel InlineBackend InteractiveShell InteractiveShellApp Kernel PlainTextFormatter ZMQInteractiveShell
    """.split()
)
"""Classes of IPython and ipykernel: what the command line says of them is for the kernel in the sandbox."""
HOST_OPTIONS = (
    "--HistoryManager.hist_file",
    "--profile",
    "--profile-dir",
    "--ipython-dir",
    "--ip",
    "--transport",
    "--log-level",
)
"""Options of ipykernel's that speak of this machine and mean nothing inside; front ends pass them all the same."""
USAGE = (
    "python -m sandbox_kernel -f CONNECTION_FILE [--config FILE] [--provider NAME] [--debug] [--CLASS.TRAIT=VALUE ...]"
)

_TRAIT_PATH = re.compile(r"([A-Z]\w*\.)+[a-z_]\w*")


@dataclass
class Options:
    """What the command line says besides the configuration, and where each setting stands."""

    connection_file: str = ""
    config_file: str = ""
    help: bool = False
    kernel_arguments: list[str] = field(default_factory=list)
    """Options for the ipykernel in the sandbox."""
    ignored: list[tuple[str, str]] = field(default_factory=list)
    """Options that have no meaning here, with their values."""
    error: ConfigurationError | None = None
    """The first mistake that was found. What could be read is in the configuration nevertheless."""
    origins: dict[str, str] = field(default_factory=dict)
    """For "Class.trait": the option, or the file and line, that set it; for messages."""

    def note(self, error: ConfigurationError) -> None:
        """Keep the first of several mistakes."""
        self.error = self.error or error


def load_configuration(argv: Sequence[str]) -> tuple[Config, Options]:
    """Return what ARGV (without the program's name) and the configuration files say. Never raises."""
    arguments, options = parse_arguments(argv)
    origins = dict(options.origins)
    config = Config()
    for file in _files(options):
        _merge_file(config, file, options)
    options.origins.update(origins)
    config.merge(arguments)
    return config, options


def jupyter_folders() -> tuple[str, ...]:
    """Return where Jupyter's keys and the user's settings lie, which no sandbox may see."""
    from jupyter_core.paths import jupyter_config_dir, jupyter_data_dir, jupyter_runtime_dir

    return (jupyter_config_dir(), jupyter_data_dir(), jupyter_runtime_dir())


def parse_arguments(argv: Sequence[str]) -> tuple[Config, Options]:
    """Return what ARGV alone says. Never raises."""
    options = Options()
    values: dict[str, list[tuple[str, str]]] = {}
    words = list(argv)
    while words:
        try:
            _parse_one(words, options, values)
        except ConfigurationError as exc:
            options.note(exc)
    config = Config()
    for path, pairs in values.items():
        _set(config, path, [text for _, text in pairs])
        options.origins[path] = pairs[-1][0]
    return config, options


def check(
    config: Config, classes: Iterable[type[Configurable]], options: Options | None = None, names: Collection[str] = ()
) -> None:
    """Raise ConfigurationError if something is set that no class knows, or to a value that its trait refuses.

    ``names`` are classes that exist but may not be loaded: what is set for those that are not is not looked into.
    """
    known = {base.__name__: base for one in classes for base in one.__mro__ if issubclass(base, Configurable)}
    known.pop("Configurable", None)
    origins = options.origins if options else {}
    for path, name, value in _settings(config):
        origin = origins.get(f"{path}.{name}", f"{path}.{name}")
        for section in path.split("."):
            if section not in known and section not in names:
                raise ConfigurationError(f"{origin}: there is no class {section}{_nearest(section, [*known, *names])}")
        if section in known:
            _check_value(origin, known[section], name, value)


def _check_value(origin: str, owner: type[Configurable], name: str, value: object) -> None:
    traits = owner.class_traits(config=True)
    trait = traits.get(name)
    if trait is None:
        raise ConfigurationError(f"{origin}: {owner.__name__} has no option {name}{_nearest(name, traits)}")
    if isinstance(value, LazyConfigValue):
        return
    try:
        _validate(trait, owner, value)
    except (TraitError, ValueError) as exc:
        raise ConfigurationError(f"{origin}: {exc}") from exc


def _validate(trait: TraitType[Any, Any], owner: type[Configurable], value: object) -> None:
    if isinstance(value, DeferredConfig):
        value = value.get_value(trait)
    # An object with the class's traits, whose __init__ has not run: it could start something.
    blank: HasTraits = owner.__new__(owner)
    trait._validate(blank, value)  # noqa: SLF001 - traitlets has no public way to ask without setting


def _nearest(word: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(sorted(known))}."


def _settings(config: Config, path: str = "") -> Iterator[tuple[str, str, object]]:
    """Give (section, trait, value) for each setting, however deep its section lies."""
    for key, value in config.items():
        if isinstance(value, Config):
            yield from _settings(value, f"{path}.{key}" if path else key)
        else:
            yield path, key, value


# ---- the command line


def _parse_one(words: list[str], options: Options, values: dict[str, list[tuple[str, str]]]) -> None:
    """Take one option, and its value, off the front of WORDS; a trait's goes to VALUES, by "Class.trait"."""
    name, equals, value = words.pop(0).partition("=")
    bare = name.removeprefix("--")
    if name in ("-h", "--help"):
        options.help = True
    elif bare in FLAGS and name != bare and not equals:
        path, text = FLAGS[bare]
        values.setdefault(path, [(name, text)])
    elif name in CONNECTION_FILE_OPTIONS:
        # VS Code writes quotes into the value when the path has blanks.
        options.connection_file = (value if equals else _next(name, words)).strip('"')
    elif name in HOST_OPTIONS:
        options.ignored.append((name, value if equals else _next(name, words)))
    elif name.startswith("--") and bare.partition(".")[0] in KERNEL_CLASSES:
        options.kernel_arguments.append(f"{name}={value if equals else _next(name, words)}")
    elif name == "--config":
        options.config_file = value if equals else _next(name, words)
    elif name.startswith("--") and (bare in ALIASES or _TRAIT_PATH.fullmatch(bare)):
        text = os.path.expanduser(value if equals else _next(name, words))  # noqa: PTH111 - not always a path
        values.setdefault(ALIASES.get(bare, bare), []).append((name, text))
    else:
        raise ConfigurationError(_unknown(name))


def _next(name: str, words: list[str]) -> str:
    if not words:
        raise ConfigurationError(f"The option {name} needs a value.")
    return words.pop(0)


def _unknown(name: str) -> str:
    if not name.startswith("-"):
        return f"The argument {name!r} is not understood; the kernel is called as: {USAGE}"
    known = [*CONNECTION_FILE_OPTIONS[1:], "--config", *(f"--{one}" for one in (*ALIASES, *FLAGS)), "--CLASS.TRAIT"]
    return f"There is no option {name}{_nearest(name, known)}"


def _set(config: Config, path: str, texts: list[str]) -> None:
    *sections, name = path.split(".")
    for section in sections:
        config = config[section]
    config[name] = DeferredConfigString(texts[0]) if len(texts) == 1 else DeferredConfigList(texts)


# ---- files


def _files(options: Options) -> Iterator[Path]:
    """Give the files that exist, those that win last."""
    from jupyter_core.paths import jupyter_config_path

    for folder in reversed(jupyter_config_path()):
        for suffix in ("py", "json"):
            file = Path(folder, f"{FILE_NAME}.{suffix}")
            # A folder that may not be entered holds nothing for this user.
            if os.path.isfile(file):  # noqa: PTH113 - Path's raises there
                yield file
    if options.config_file:
        yield Path(options.config_file).expanduser()


def _merge_file(config: Config, file: Path, options: Options) -> None:
    if not file.is_file():
        options.note(ConfigurationError(f"There is no configuration file {file}."))
        return
    try:
        loaded = _load_json(file) if file.suffix == ".json" else _load_python(file)
    except ConfigurationError as exc:
        options.note(exc)
        return
    for path, name, _ in _settings(loaded):
        options.origins[f"{path}.{name}"] = _place(file, f"{path}.{name}")
    config.merge(loaded)


def _load_python(file: Path) -> Config:
    try:
        return _well_formed(PyFileConfigLoader(file.name, str(file.parent)).load_config(), file)
    # The file is a program of the user's, and may raise anything.
    except (Exception, SystemExit) as exc:
        if isinstance(exc, ConfigurationError):
            raise
        raise ConfigurationError(f"{file}{_line_of(exc, file)}: {type(exc).__name__}: {_message(exc)}") from exc


def _load_json(file: Path) -> Config:
    try:
        return _well_formed(_JSONObjectLoader(file.name, str(file.parent)).load_config(), file)
    except json.JSONDecodeError as exc:
        raise ConfigurationError(f"{file}, line {exc.lineno}: this is no JSON: {exc.msg}") from exc
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"{file}: {exc}") from exc


class _JSONObjectLoader(JSONFileConfigLoader):
    def _read_file_as_dict(self) -> dict[str, Any]:
        content = super()._read_file_as_dict()
        if not isinstance(content, dict):
            raise ValueError("a configuration file holds a JSON object, {...}")  # noqa: TRY004 - a fault of the file
        return content


def _well_formed(config: Config, file: Path) -> Config:
    """Refuse settings that belong to no class, and classes that are no sections."""
    for name, value in config.items():
        if not isinstance(value, Config):
            raise ConfigurationError(f"{file}{_line(file, name)}: {name!r} is not of the form Class.trait = value")
    return config


def _place(file: Path, path: str) -> str:
    return f"{file}{_line(file, path) or _line(file, path.rpartition('.')[2])}"


def _line(file: Path, word: str) -> str:
    """Return ", line N" for the last line with WORD as a word; "" if there is none."""
    pattern = re.compile(rf"\b{re.escape(word)}\b")
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    found = [number for number, line in enumerate(lines, 1) if pattern.search(line.partition("#")[0])]
    return f", line {found[-1]}" if found else ""


def _line_of(exc: BaseException, file: Path) -> str:
    if isinstance(exc, SyntaxError):
        return f", line {exc.lineno}"
    numbers = []
    trace = exc.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == str(file):
            numbers.append(trace.tb_lineno)
        trace = trace.tb_next
    return f", line {numbers[-1]}" if numbers else ""


def _message(exc: BaseException) -> str:
    return exc.msg if isinstance(exc, SyntaxError) else str(exc)
