"""What may be imported where: the start of the kernel stays small, and what only Linux has stays in one folder."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = (REPOSITORY / "kernel/sandbox_kernel", REPOSITORY / "magics/sandbox_magics")

LEFT_OUT = {"boto3", "grpc", "httpx", "IPython", "jedi", "ipykernel", "jupyter_client", "tornado"}
"""They cost time and memory in each kernel process, and it needs none of them."""

ONLY_UNIX = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
MAY_IMPORT_THEM = ("providers/local/", "bridge/", "emulators/agentcore/")
"""Of sandbox_kernel: where code is that runs on Linux only. The kernel process must run on macOS and Windows too."""

BRIDGE = REPOSITORY / "kernel/sandbox_kernel/bridge"
BRIDGE_NEEDS = {
    "sandbox_kernel.bridge",
    "sandbox_kernel.link",
    "sandbox_kernel.link.pieces",
    "sandbox_kernel.link.protocol",
    "sandbox_kernel.link.websocket",
    "sandbox_kernel.link.envelope",
}
IN_THE_SANDBOX = {"IPython", "ipykernel", "ipykernel_launcher", "tornado", "zmq"}
"""Come with the ipykernel that is there."""

IMPORT_APP = "import sandbox_kernel.app"
# What `app.main` imports, until the loop serves a front end and the session starts a sandbox.
START = """
from traitlets.config import Config
import sandbox_kernel.app
from sandbox_kernel.providers.registry import create_provider
create_provider("local", Config())
import sandbox_kernel.frontend, sandbox_kernel.kernel, sandbox_kernel.session, sandbox_kernel.events
import sandbox_kernel.recording
"""


@pytest.mark.parametrize("program", [IMPORT_APP, START], ids=["app", "start"])
def test_kernel_process_starts_without_what_it_does_not_need(program: str) -> None:
    assert LEFT_OUT.isdisjoint(modules_after(program))


def test_commands_load_without_what_the_kernel_process_does_not_need() -> None:
    loaded = modules_after("from sandbox_kernel.commands import load_commands\nload_commands()")
    assert "sandbox_magics.commands" in loaded
    assert LEFT_OUT.isdisjoint(loaded)
    # Nor what is about models, before one is asked.
    assert [name for name in loaded if name.startswith(("sandbox_kernel.generation", "markdown_it", "sqlite3"))] == []


def test_generation_is_set_up_without_the_clients_of_services() -> None:
    loaded = modules_after(
        "from traitlets.config import Config\nfrom sandbox_kernel.generation.generator import Generator\n"
        "from sandbox_kernel.generation.models.registry import BUILT_IN, make_model\n"
        "[make_model({'kind': kind, 'model': 'x'}, Config()) for kind in BUILT_IN]"
    )
    assert "sandbox_kernel.generation.models.bedrock" in loaded
    assert {"boto3", "botocore", "httpx", "strands", "markdown_it", "sqlite3"}.isdisjoint(loaded)


def test_the_executors_provider_loads_grpc_when_a_sandbox_is_asked_for() -> None:
    program = """
from traitlets.config import Config
from sandbox_kernel.providers.registry import create_provider
create_provider("executor", Config())
"""
    assert LEFT_OUT.isdisjoint(modules_after(program))


def test_a_needless_import_would_be_noticed() -> None:
    assert "tornado" in modules_after("import tornado.ioloop")


def modules_after(program: str) -> set[str]:
    """Return the modules that a fresh Python has loaded after the program."""
    code = f"{program}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_modules_of_one_system_are_imported_in_the_local_provider_only(package: Path) -> None:
    found = [
        f"{file.relative_to(REPOSITORY)}:{line} imports {name}"
        for file in sorted(package.rglob("*.py"))
        if not file.relative_to(package).as_posix().startswith(MAY_IMPORT_THEM)
        for line, name in imports(file)
        if name.partition(".")[0] in ONLY_UNIX
    ]
    assert found == []


@pytest.mark.skipif(sys.platform != "linux", reason="without Linux the local provider is not asked for")
def test_the_search_for_modules_of_one_system_finds_some() -> None:
    local = REPOSITORY / "kernel/sandbox_kernel/providers/local"
    assert ONLY_UNIX & {name for file in local.rglob("*.py") for _, name in imports(file)}


def test_program_in_the_sandbox_needs_what_is_there() -> None:
    own = {file.stem for file in BRIDGE.glob("*.py")}
    for file in BRIDGE.rglob("*.py"):
        for line, name in imports(file):
            package = name.partition(".")[0]
            if package == "sandbox_kernel":
                assert name in BRIDGE_NEEDS or name.startswith("sandbox_kernel.bridge."), f"{file.name}:{line}: {name}"
            else:
                known = {*sys.stdlib_module_names, *IN_THE_SANDBOX, *own}
                assert package in known, f"{file.name}:{line}: {name}"


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Give line and module of each absolute import in a file, at whatever depth."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                # `from package import module` imports a module where there is one of that name.
                yield from ((node.lineno, _submodule(module, alias.name)) for alias in names)


def _submodule(package: str, name: str) -> str:
    place = REPOSITORY / "kernel" / Path(*package.split("."))
    return f"{package}.{name}" if (place / f"{name}.py").is_file() else package


def test_every_module_says_what_lives_in_it() -> None:
    silent = [
        str(file.relative_to(REPOSITORY))
        for package in PACKAGES
        for file in sorted(package.rglob("*.py"))
        if (text := file.read_text(encoding="utf-8")) and ast.get_docstring(ast.parse(text)) is None
    ]
    assert silent == []
