"""An upstream project's test suite: fetched from its source distribution and run against a kernel by name.

The suites ask for the kernel `python` or `python3`, or for none. So the process they run in gets a folder on its
`JUPYTER_PATH` in which the name `python3` means the kernel under test; nothing in jupyter_client or in the tests is
changed for that.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from IPython.core.profiledir import ProfileDir
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

IPYKERNEL = "python3"
_TEST_SECONDS = 60
_HUNG_SECONDS = 180
_STOP_SECONDS = 30
# Ours, not upstream's: theirs turns every warning of any dependency into an error. `timeout` needs pytest-timeout.
_PYTEST_INI = f"""[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
xfail_strict = true
timeout = {_TEST_SECONDS}
filterwarnings =
    ignore::pytest.PytestUnknownMarkWarning
"""
# Plugins are named, not found: what else is installed must not change the upstream tests.
_PYTEST_OPTIONS = ["-p", "pytest_asyncio.plugin", "-p", "pytest_timeout", "-p", "no:cacheprovider", "--strict-config"]
_CHILD = Path(__file__).with_name("upstream_child.py")


@dataclass(frozen=True)
class Suite:
    """The tests of `project` that are run; `files` names some files of its tests folder, none means all."""

    project: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """How one upstream test ended; `launched` has the kernelspec command of each kernel it started."""

    name: str
    outcome: str
    detail: str
    seconds: float
    launched: list[list[str]] = field(default_factory=list)


class SuiteError(Exception):
    """The suite could not be fetched, collected or run; the message says why."""


def kernelspec(name: str) -> KernelSpec:
    """The installed kernelspec `name`; raises `jupyter_client.kernelspec.NoSuchKernel`."""
    return KernelSpecManager().get_kernel_spec(name)


def fetch(project: str, cache: Path) -> Path:
    """The folder that holds the `tests` of `project`, in the installed version; downloaded once."""
    folder = cache / f"{project}-{version(project)}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=cache) as download:
            unpacked = Path(download) / "unpacked"
            _unpack_tests(_download(project, Path(download)), unpacked)
            try:
                unpacked.rename(folder)
            except OSError:
                # Another process of the same test run was quicker.
                if not folder.is_dir():
                    raise
    # Written each time, so that a change of the settings reaches a cache that is already there.
    (folder / "pytest.ini").write_text(_PYTEST_INI)
    return folder


def _download(project: str, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--no-binary={project}"]
    # pip asks the build backend for the metadata. With the backend at hand it need not download that as well.
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    command = [*pip, *isolation, f"--dest={folder}", f"{project}=={version(project)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or not archives:
        raise SuiteError(f"pip could not download the source distribution of {project}:\n{done.stderr or done.stdout}")
    return archives[0]


def _unpack_tests(archive: Path, folder: Path) -> None:
    """Unpack the tests alone: the package beside them would shadow the installed one."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name.partition("/")[2])
            content = tar.extractfile(member) if member.isfile() else None
            # By hand: the safe filters of `extract` came with 3.10.12 and 3.11.4.
            if content is not None and name.parts[:1] == ("tests",) and ".." not in name.parts:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content.read())


def collect(suite: Suite, folder: Path) -> list[str]:
    """The names of all tests of the suite, such as `test_kernel.py::test_x[case]`."""
    with tempfile.TemporaryDirectory() as scratch:
        child = _Child(folder, [*_arguments(suite), "--collect-only"], dict(os.environ), Path(scratch) / "log")
        try:
            names: list[str] = child.receive()
        except (EOFError, TimeoutError):
            raise SuiteError(f"The tests of {suite.project} could not be collected:\n{child.log()}") from None
        finally:
            child.stop()
    return names


def _arguments(suite: Suite) -> list[str]:
    return [f"tests/{name}" for name in suite.files] or ["tests"]


class Run:
    """One run of some tests of a suite; hands out results in any order, each as soon as the test has ended.

    A kernel that one of ``after_a_cell`` starts has answered a cell before the test goes on.
    """

    def __init__(
        self,
        folder: Path,
        names: list[str],
        environment: dict[str, str],
        log: Path,
        *,
        after_a_cell: Sequence[str] = (),
    ) -> None:
        arguments = [f"--after-a-cell={name}" for name in after_a_cell]
        self._child = _Child(folder, [*arguments, *(f"tests/{name}" for name in names)], environment, log)
        self._names = names
        self._results: dict[str, Result] = {}

    def result(self, name: str) -> Result:
        """Wait for the result of `name`; raises SuiteError if the run ended or hung before it."""
        while name not in self._results:
            try:
                received: dict[str, Any] = self._child.receive()
            except EOFError:
                raise SuiteError(f"The run ended before this test:\n{self._child.log()}") from None
            except TimeoutError:
                self._child.interrupt()
                raise SuiteError(f"The run hung and was stopped:\n{self._child.log()}") from None
            self._results[received["name"]] = Result(**received)
        return self._results[name]

    def close(self) -> None:
        """End the run; tests still to come are not run."""
        if len(self._results) < len(self._names):
            self._child.interrupt()
        self._child.stop()


class _Child:
    """The process that runs pytest on the upstream tests, and the pipe on which it reports."""

    def __init__(self, folder: Path, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        self._reader, writer = Pipe(duplex=False)
        with writer, log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    str(_CHILD),
                    str(writer.fileno()),
                    *_PYTEST_OPTIONS,
                    f"--rootdir={folder}",
                    *arguments,
                ],
                cwd=folder,
                env={**environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[writer.fileno()],
            )

    def receive(self) -> Any:
        """The next report; raises EOFError at the end, TimeoutError if the process says nothing for too long."""
        reader: Connection = self._reader
        if not reader.poll(_HUNG_SECONDS):
            raise TimeoutError
        return reader.recv()

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-8000:]

    def interrupt(self) -> None:
        """End it as Ctrl-C does: pytest then still stops the kernels it started."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def stop(self) -> None:
        """Wait for the process to end by itself, and kill it if it does not."""
        self._reader.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def environment_for(kernel: str, folder: Path, *, trusted: bool = False) -> dict[str, str]:
    """The environment in which `python3` names `kernel`; what it needs on disk is put into the empty `folder`.

    With ``trusted`` the kernel's output guard is off.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    # Upstream asks for the path of the default profile, which only a first start of ipykernel on this host would make.
    environment["IPYTHONDIR"] = str(folder / "ipython")
    ProfileDir.create_profile_dir_by_name(_made(folder / "ipython"), "default")  # type: ignore[no-untyped-call]
    if kernel != IPYKERNEL:
        shadow = folder / "jupyter"
        Path(_made(shadow / "kernels"), IPYKERNEL).symlink_to(kernelspec(kernel).resource_dir, target_is_directory=True)
        environment["JUPYTER_PATH"] = jupyter_path(shadow)
    if trusted:
        settings = Path(_made(folder / "config"), "jupyter_sandbox_config.json")
        settings.write_text(json.dumps({"Guard": {"trusted_output": True}}))
        environment["JUPYTER_CONFIG_PATH"] = str(settings.parent)
    return environment


def jupyter_path(folder: Path) -> str:
    """The value of `JUPYTER_PATH` by which what is in the folder is found before what is elsewhere."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("JUPYTER_PATH")]))


def _made(folder: Path) -> str:
    folder.mkdir(parents=True)
    return str(folder)
