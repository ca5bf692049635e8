"""Kernels for the steps that VS Code's Jupyter extension takes, ipykernel's and ours side by side.

One kernel process serves most steps of a file; those that break one have their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.vscode.client import (
    KernelSpec,
    VSCodeClient,
    find_kernelspecs,
)

from .launcher import Launcher, Started, make_launcher


@pytest.fixture(scope="module", params=["python3", "sandbox"])
def spec(request: pytest.FixtureRequest) -> KernelSpec:
    """The kernelspec under test; not finding it is a failure, because then nothing here is tested."""
    specs = find_kernelspecs()
    assert request.param in specs, f"kernelspec {request.param} is not installed; found: {sorted(specs)}"
    return specs[request.param]


@pytest.fixture
def ours(spec: KernelSpec) -> KernelSpec:
    """The kernelspec of this project: for requirements that ipykernel does not meet."""
    if spec.name == "python3":
        pytest.skip("a requirement that ipykernel does not meet")
    return spec


@pytest.fixture(scope="module")
def started(spec: KernelSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """One kernel for all steps that leave it usable."""
    launcher = make_launcher(spec, tmp_path_factory.mktemp("vscode"))
    try:
        yield launcher.start()
    finally:
        launcher.close()


@pytest.fixture
def vscode(started: Started) -> VSCodeClient:
    """The client of the shared kernel."""
    return started.client


@pytest.fixture(scope="module")
def debugged(spec: KernelSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VSCodeClient]:
    """The client of a kernel that only the debugger's steps use, because it goes on tracing after them."""
    launcher = make_launcher(spec, tmp_path_factory.mktemp("debugged"))
    try:
        yield launcher.start().client
    finally:
        launcher.close()


@pytest.fixture
def launcher(spec: KernelSpec, tmp_path: Path) -> Iterator[Launcher]:
    """For steps that need a kernel of their own."""
    own = make_launcher(spec, tmp_path)
    try:
        yield own
    finally:
        own.close()
