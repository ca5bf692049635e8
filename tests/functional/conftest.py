"""One kernel for all tests of a module, and fresh ones; one emulator of E2B."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.emulators.e2b.process import KEY, EmulatorProcess, emulating

from .client import FrontEnd, KernelProcess, SharedKernel, running

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Of a shell that runs the tests in the background; those of Ctrl-C, and the processes that they start, need it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedKernel]:
    """A kernel for all tests after which the next cell works."""
    kernel = SharedKernel(lambda: tmp_path_factory.mktemp("kernel"))
    yield kernel
    kernel.end()


@pytest.fixture
def notebook(shared: SharedKernel) -> Iterator[FrontEnd]:
    """The shared kernel's front end; its sandbox is up and healthy."""
    assert shared.front_end.run("import time").status == "ok"
    yield shared.front_end
    shared.check()


@pytest.fixture
def kernel(shared: SharedKernel, notebook: FrontEnd) -> KernelProcess:
    """The shared kernel's process."""
    return shared.process


@pytest.fixture
def own_kernel(tmp_path: Path) -> Iterator[KernelProcess]:
    """A fresh kernel for one test."""
    with running(tmp_path) as process:
        yield process


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    """A stand-in for E2B for all tests of a module, whose sandboxes are theirs."""
    with emulating(tmp_path_factory.mktemp("e2b")) as process:
        yield process


@pytest.fixture
def e2b_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment has the API key that the emulator takes."""
    monkeypatch.setenv("E2B_API_KEY", KEY)
