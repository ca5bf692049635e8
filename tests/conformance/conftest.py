"""One test for each upstream test: collects them, runs a suite once in a process of its own, judges each result.

With `SANDBOX_CONFORMANCE_TRUSTED=1` in the environment all run with trusted output; else with the guard's default
policy, and only what that policy is about with trusted output, too. `SANDBOX_CONFORMANCE_ELSEWHERE=1` says that the
sandboxes are on another machine, which makes a few exceptions, `SANDBOX_CONFORMANCE_SLOW_START=1` that they take
seconds to start, `SANDBOX_CONFORMANCE_GATEWAY=relay` or `=bridge` that they are kernels of a gateway.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import run_kernel

from . import exceptions
from .exceptions import ABOUT_IPYKERNELS_PROCESS, AFTER_A_CELL, GUARD_DIFFERENCES, SLOW_START, reason
from .upstream import IPYKERNEL, Result, Run, Suite, collect, environment_for, fetch, kernelspec

KERNEL = os.environ.get("SANDBOX_KERNEL_UNDER_TEST", "sandbox")
TRUSTED = os.environ.get("SANDBOX_CONFORMANCE_TRUSTED", "") not in ("", "0")
ELSEWHERE = os.environ.get("SANDBOX_CONFORMANCE_ELSEWHERE", "") not in ("", "0")
GATEWAY_MODE = os.environ.get("SANDBOX_CONFORMANCE_GATEWAY", "")
EXCEPTIONS = exceptions.of_place(elsewhere=ELSEWHERE, gateway_mode=GATEWAY_MODE)
WHOLE = os.environ.get("SANDBOX_CONFORMANCE_WHOLE", "") not in ("", "0")
"""Whether kernels whose sandboxes are elsewhere are to pass all suites, which takes minutes."""
MAY_BE_SLOW = os.environ.get("SANDBOX_CONFORMANCE_SLOW_START", "") not in ("", "0")
_PARAMETER = "upstream_test"
_FIRST_CELL_SECONDS = 60


@dataclass
class Report:
    """What the closing lines tell: how the upstream tests ended, and which of them ipykernel fails too."""

    outcomes: dict[str, int] = field(default_factory=dict)
    kernels_started: int = 0
    seconds: float = 0.0
    also_ipykernels: list[str] = field(default_factory=list)

    def add(self, result: Result) -> None:
        self.outcomes[result.outcome] = self.outcomes.get(result.outcome, 0) + 1
        self.kernels_started += len(result.launched)
        self.seconds += result.seconds


_REPORTS = pytest.StashKey[dict[str, Report]]()


@pytest.fixture(scope="session")
def kernel_under_test() -> str:
    """The name of the installed kernelspec that all suites run against; it works, else no test is tried."""
    try:
        with run_kernel(kernel_name=KERNEL) as client:
            assert isinstance(client, BlockingKernelClient)
            reply = client.execute_interactive("1", timeout=_FIRST_CELL_SECONDS)
    except NoSuchKernel:
        pytest.fail(f"The kernelspec {KERNEL!r} is not installed: `jupyter kernelspec list` shows those that are.")
    except (RuntimeError, TimeoutError) as exc:
        pytest.fail(f"The kernel {KERNEL!r} does not run a first cell: {exc}")
    assert reply["content"]["status"] == "ok", reply["content"]
    return KERNEL


@cache
def upstream_names(suite: Suite, cache_folder: Path) -> tuple[str, ...]:
    """The names of all upstream tests of `suite`, those left out included."""
    return tuple(collect(suite, fetch(suite.project, cache_folder)))


@pytest.fixture
def names_of(request: pytest.FixtureRequest) -> Callable[[Suite], tuple[str, ...]]:
    """A function that gives the names of all upstream tests of a suite."""
    return lambda suite: upstream_names(suite, _cache_folder(request.config))


def _cache_folder(config: pytest.Config) -> Path:
    # pytest's cache is outside version control without any setting of ours.
    cache_plugin = getattr(config, "cache", None)
    folder = cache_plugin.mkdir("upstream") if cache_plugin else config.rootpath / "build" / "upstream"
    folder.mkdir(parents=True, exist_ok=True)
    return Path(folder)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that asks for `upstream_test` one case for each test of its module's `SUITE`."""
    if _PARAMETER not in metafunc.fixturenames:
        return
    names = upstream_names(metafunc.module.SUITE, _cache_folder(metafunc.config))
    applicable = [name for name in names if reason(ABOUT_IPYKERNELS_PROCESS, name) is None]
    metafunc.parametrize(_PARAMETER, applicable, ids=str)


@pytest.fixture(scope="module")
def suite_run(
    request: pytest.FixtureRequest, kernel_under_test: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    """The run of all selected tests of the module's suite, against the kernel under test."""
    selected = [
        str(item.callspec.params[_PARAMETER])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module and _PARAMETER in item.fixturenames
    ]
    # A test that is to fail leaves replies behind for those that share its kernel, so it is run apart from them.
    apart = {} if kernel_under_test == IPYKERNEL else EXCEPTIONS if TRUSTED else {**EXCEPTIONS, **GUARD_DIFFERENCES}
    shared = [name for name in selected if reason(apart, name) is None]
    run = _start(request, shared, kernel_under_test, tmp_path_factory, trusted=TRUSTED)
    yield run
    run.close()


@pytest.fixture
def assert_passes_as_for_ipykernel(
    request: pytest.FixtureRequest, suite_run: Run, kernel_under_test: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], None]:
    """A function that judges one upstream test: as ipykernel does, or as `EXCEPTIONS` says."""
    suite: Suite = request.module.SUITE
    report = request.config.stash.setdefault(_REPORTS, {}).setdefault(suite.project, Report())

    def result_alone(name: str, kernel: str, *, trusted: bool = TRUSTED) -> Result:
        run = _start(request, [name], kernel, tmp_path_factory, trusted=trusted)
        try:
            return run.result(name)
        finally:
            run.close()

    def passes_for_ipykernel(name: str) -> bool:
        return result_alone(name, IPYKERNEL).outcome == "passed"

    def judge(name: str) -> None:
        exception = reason(EXCEPTIONS, name) if kernel_under_test != IPYKERNEL else None
        policy = None if TRUSTED or kernel_under_test == IPYKERNEL else reason(GUARD_DIFFERENCES, name)
        if policy is not None:
            guarded = result_alone(name, kernel_under_test, trusted=False)
            assert guarded.outcome != "passed", f"{name} passes: take it out of GUARD_DIFFERENCES"
            trusted = result_alone(name, kernel_under_test, trusted=True)
            assert trusted.outcome == "passed", f"{name} fails with trusted output: {trusted.detail}"
            report.add(trusted)
            return
        result = suite_run.result(name) if exception is None else result_alone(name, kernel_under_test)
        report.add(result)
        _assert_retargeted(result, kernel_under_test)
        if exception is not None:
            assert result.outcome != "passed", f"{name} passes: take it out of EXCEPTIONS"
            pytest.xfail(exception)
        if result.outcome == "skipped":
            pytest.skip(f"upstream: {result.detail}")
        slow = reason(SLOW_START, name) if MAY_BE_SLOW else None
        if result.outcome == "failed" and slow is not None:
            pytest.xfail(slow)
        if result.outcome == "failed" and kernel_under_test != IPYKERNEL and not passes_for_ipykernel(name):
            report.also_ipykernels.append(name)
            pytest.xfail("fails for ipykernel too")
        assert result.outcome == "passed", f"{name} passes for ipykernel, not for {kernel_under_test} {result.detail}"

    return judge


def _start(
    request: pytest.FixtureRequest,
    names: list[str],
    kernel: str,
    tmp_path_factory: pytest.TempPathFactory,
    *,
    trusted: bool,
) -> Run:
    suite: Suite = request.module.SUITE
    folder = tmp_path_factory.mktemp(f"{suite.project}-{kernel}")
    upstream = fetch(suite.project, _cache_folder(request.config))
    after_a_cell = [name for name in names if reason(AFTER_A_CELL, name) is not None]
    environment = environment_for(kernel, folder, trusted=trusted)
    return Run(upstream, names, environment, folder / "log", after_a_cell=after_a_cell)


def _assert_retargeted(result: Result, kernel: str) -> None:
    for command in result.launched:
        assert command == kernelspec(kernel).argv, f"{result.name} started another kernel: {command}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was compared, and every upstream test that is left out with its reason."""
    reports = config.stash.get(_REPORTS, {})
    if not reports:
        return
    terminalreporter.section(f"conformance of the kernel {KERNEL!r}")
    for project, report in reports.items():
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in report.outcomes.items())
        terminalreporter.line(
            f"{project}: {outcomes}; {report.kernels_started} kernels started; {report.seconds:.0f} s"
        )
        for name in report.also_ipykernels:
            terminalreporter.line(f"  fails for ipykernel too: {name}")
    _print_table(terminalreporter, "About ipykernel's own process, not run:", ABOUT_IPYKERNELS_PROCESS)
    _print_table(terminalreporter, "Run once a first cell was answered:", AFTER_A_CELL)
    if KERNEL != IPYKERNEL:
        if not TRUSTED:
            _print_table(
                terminalreporter, "Run with trusted output, since it is the guard's policy:", GUARD_DIFFERENCES
            )
        most = exceptions.AT_MOST_ON_A_SERVICE if ELSEWHERE else exceptions.AT_MOST
        _print_table(terminalreporter, f"Exceptions ({len(EXCEPTIONS)} of at most {most}):", EXCEPTIONS)
        if MAY_BE_SLOW:
            _print_table(terminalreporter, f"May fail where the start is slow ({len(SLOW_START)}):", SLOW_START)


def _print_table(terminalreporter: pytest.TerminalReporter, title: str, table: dict[str, str]) -> None:
    terminalreporter.line(title)
    for name, why in table.items():
        terminalreporter.line(f"  {name}: {why}")
