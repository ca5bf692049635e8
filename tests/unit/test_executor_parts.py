"""Parts of an executor that need neither network nor sandbox: keys, quotas, timeouts, numbers, addresses."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("an executor's sandboxes need bubblewrap, which only Linux has", allow_module_level=True)
pytest.importorskip("grpc")

import grpc

from sandbox_kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    InvocationError,
    QuotaError,
    SandboxConnectionError,
)
from sandbox_kernel.executor.calls import MAX_DETAILS, details
from sandbox_kernel.executor.keys import KeyFile
from sandbox_kernel.executor.numbers import MAX_KEPT, Numbers, OnceOnly
from sandbox_kernel.executor.quotas import PERIOD, Quota, Quotas
from sandbox_kernel.executor.timeouts import Timeouts, Times, Verdict, judge
from sandbox_kernel.executor_api import DEFAULT_PORT, executor_pb2
from sandbox_kernel.executor_api.addresses import is_loopback, join, split
from sandbox_kernel.executor_api.names import printable
from sandbox_kernel.executor_api.protocol import METHODS
from sandbox_kernel.executor_api.statuses import STATUSES, error_class, status_of
from sandbox_kernel.providers.executor.calls import Calls
from sandbox_kernel.providers.executor.connection import Connection

REPOSITORY = Path(__file__).parents[2]


# ---- keys


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "sandbox" / "keys")


def test_a_key_has_one_owner_and_an_owner_may_have_several(keys: KeyFile) -> None:
    first, second, other = keys.add("ann"), keys.add("ann"), keys.add("bob@example.org")
    assert len({first, second, other}) == 3
    assert [keys.owner_of(key) for key in (first, second, other)] == ["ann", "ann", "bob@example.org"]
    assert keys.owners() == ["ann", "ann", "bob@example.org"]


def test_the_file_has_hashes_and_is_its_owners_alone(keys: KeyFile) -> None:
    key = keys.add("ann")
    assert key not in keys.path.read_text()
    assert key.removeprefix("sbx_") not in keys.path.read_text()
    assert keys.path.stat().st_mode & 0o777 == 0o600
    assert keys.path.parent.stat().st_mode & 0o077 == 0
    assert [path.name for path in keys.path.parent.iterdir()] == ["keys"]


def test_a_key_that_is_removed_opens_nothing_from_then_on(keys: KeyFile, tmp_path: Path) -> None:
    key, other = keys.add("ann"), keys.add("bob")
    assert keys.owner_of(key) == "ann"
    assert KeyFile(keys.path).remove("ann") == 1
    with pytest.raises(AuthenticationError):
        keys.owner_of(key)
    assert keys.owner_of(other) == "bob"
    assert keys.remove("ann") == 0


@pytest.mark.parametrize("key", ["", "sbx_", "x" * 1000, "Bearer x", "ü\udcff"])
def test_other_texts_are_no_keys(keys: KeyFile, key: str) -> None:
    keys.add("ann")
    with pytest.raises(AuthenticationError):
        keys.owner_of(key)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_can_get_at_is_not_used(keys: KeyFile, mode: int) -> None:
    key = keys.add("ann")
    keys.path.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        keys.owner_of(key)


def test_a_file_that_is_absent_or_broken_is_told(keys: KeyFile) -> None:
    with pytest.raises(ConfigurationError, match="jupyter sandbox key add"):
        keys.owner_of("x")
    keys.add("ann")
    keys.path.write_text("# mine\n\nann sha256:12\n")
    with pytest.raises(ConfigurationError, match="line 3"):
        keys.owners()


@pytest.mark.parametrize("owner", ["", "a b", "a\nb", "-a", "x" * 65, "ü"])
def test_bad_names_of_owners_are_refused(keys: KeyFile, owner: str) -> None:
    with pytest.raises(ConfigurationError):
        keys.add(owner)


# ---- quotas


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_quotas_are_each_owners_own() -> None:
    quotas = Quotas(Quota(2, 1000), {"ann": {"max_sandboxes": 1, "upload_size": "2 KiB"}, "bob": {}}, Clock())
    assert quotas.of("ann") == Quota(1, 2048)
    assert quotas.of("bob") == quotas.of("eve") == Quota(2, 1000)
    quotas.check_sandboxes("bob", 1)
    with pytest.raises(QuotaError, match="1 sandboxes"):
        quotas.check_sandboxes("ann", 1)
    quotas.count_upload("ann", 1500)
    assert (quotas.upload_left("ann"), quotas.upload_left("bob")) == (548, 1000)


def test_what_is_too_much_is_not_counted_and_a_day_later_there_is_room_again() -> None:
    clock = Clock()
    quotas = Quotas(Quota(0, 1000), {}, clock)
    quotas.count_upload("ann", 900)
    with pytest.raises(QuotaError, match="100 bytes are left"):
        quotas.count_upload("ann", 101)
    quotas.count_upload("ann", 100)
    quotas.count_upload("ann", -500)
    assert quotas.upload_left("ann") == 500
    clock.now = PERIOD
    assert quotas.upload_left("ann") == 1000


def test_no_limit_is_none() -> None:
    quotas = Quotas(Quota(0, 0), {}, Clock())
    quotas.check_sandboxes("ann", 10**6)
    quotas.count_upload("ann", 10**15)
    assert quotas.upload_left("ann") is None


@pytest.mark.parametrize("values", [{"sandboxes": 1}, {"upload_size": "much"}])
def test_a_quota_that_there_is_not_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="ann"):
        Quotas(Quota(0, 0), {"ann": values}, Clock())


# ---- timeouts

TIMEOUTS = Timeouts(idle=10, quiet=100, paused=50, lifetime=1000)


@pytest.mark.parametrize(
    ("times", "now", "verdict"),
    [
        (Times(created=0, used=0, paused=None, linked=False), 9.9, Verdict.KEEP),
        (Times(created=0, used=0, paused=None, linked=False), 10, Verdict.PAUSE),
        (Times(created=0, used=5, paused=None, linked=False), 14.9, Verdict.KEEP),
        (Times(created=0, used=0, paused=None, linked=True), 99, Verdict.KEEP),
        (Times(created=0, used=0, paused=None, linked=True), 100, Verdict.PAUSE),
        (Times(created=0, used=0, paused=10, linked=False), 59, Verdict.KEEP),
        (Times(created=0, used=0, paused=10, linked=False), 60, Verdict.CLOSE),
        (Times(created=0, used=999, paused=None, linked=True), 1000, Verdict.CLOSE),
    ],
)
def test_a_sandbox_is_paused_first_and_closed_later(times: Times, now: float, verdict: Verdict) -> None:
    assert judge(times, TIMEOUTS, now)[0] is verdict


def test_without_timeouts_a_sandbox_stays() -> None:
    never = Timeouts(idle=0, quiet=0, paused=0, lifetime=0)
    for linked in (True, False):
        for paused in (None, 0.0):
            assert judge(Times(0, 0, paused, linked), never, 1e9) == (Verdict.KEEP, "")


# ---- numbers


async def test_a_number_takes_effect_once_also_when_nobody_waits_any_more() -> None:
    numbers, begun, going_on = Numbers(), [], asyncio.Event()

    async def work() -> str:
        begun.append(1)
        await going_on.wait()
        return "done"

    first = asyncio.ensure_future(numbers.run(("ann", "Create", "1"), work))
    await asyncio.sleep(0)
    first.cancel()
    second = asyncio.ensure_future(numbers.run(("ann", "Create", "1"), work))
    await asyncio.sleep(0)
    going_on.set()
    assert await second == "done"
    assert await numbers.run(("ann", "Create", "1"), work) == "done"
    assert len(begun) == 1
    await numbers.run(("bob", "Create", "1"), work)
    await numbers.run(("ann", "Create", "2"), work)
    assert len(begun) == 3


async def test_what_failed_may_be_tried_again() -> None:
    numbers, attempts = Numbers(), []

    async def work() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise QuotaError("not now")
        return "done"

    with pytest.raises(QuotaError):
        await numbers.run(("ann", "Create", "1"), work)
    assert await numbers.run(("ann", "Create", "1"), work) == "done"


def test_what_cannot_be_answered_again_is_refused() -> None:
    once = OnceOnly()
    once.use("ann", "1")
    once.use("bob", "1")
    with pytest.raises(InvocationError, match="not begun again"):
        once.use("ann", "1")


async def test_no_call_is_forgotten_for_anothers_or_while_it_is_under_way() -> None:
    numbers, going_on = Numbers(), asyncio.Event()

    async def work() -> object:
        return object()

    async def slow_work() -> object:
        await going_on.wait()
        return object()

    bobs = await numbers.run(("bob", "Create", "1"), work)
    slow = asyncio.ensure_future(numbers.run(("ann", "Create", "slow"), slow_work))
    oldest = await numbers.run(("ann", "Create", "0"), work)
    for number in range(1, MAX_KEPT):
        latest = await numbers.run(("ann", "Create", str(number)), work)
    assert await numbers.run(("bob", "Create", "1"), work) is bobs
    again = asyncio.ensure_future(numbers.run(("ann", "Create", "slow"), work))
    await asyncio.sleep(0)
    going_on.set()
    assert await slow is await again
    assert await numbers.run(("ann", "Create", str(MAX_KEPT - 1)), work) is latest
    assert await numbers.run(("ann", "Create", "0"), work) is not oldest


def test_what_cannot_be_answered_again_is_refused_however_much_others_ask() -> None:
    once = OnceOnly()
    once.use("bob", "1")
    for number in range(MAX_KEPT + 1):
        once.use("ann", str(number))
    once.use("ann", "0")
    with pytest.raises(InvocationError, match="not begun again"):
        once.use("bob", "1")


# ---- addresses


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("host:1", ("host", 1)),
        ("host", ("host", DEFAULT_PORT)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:8733", ("::1", 8733)),
        ("[::1]", ("::1", DEFAULT_PORT)),
    ],
)
def test_addresses_are_read(text: str, parts: tuple[str, int]) -> None:
    assert split(text) == parts
    assert split(join(*parts)) == parts


@pytest.mark.parametrize("text", ["", ":1", "host:x", "host:99999", "http://host:1", "host:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="host:port"):
        split(text)


@pytest.mark.parametrize(
    ("host", "is_it"),
    [("localhost", True), ("127.3.2.1", True), ("::1", True), ("0.0.0.0", False), ("example.org", False)],
)
def test_loopback_is_known(host: str, is_it: bool) -> None:
    assert is_loopback(host) is is_it


# ---- the protocol


def test_errors_travel_and_arrive_as_what_they_were() -> None:
    for kind in STATUSES:
        code, name = status_of(kind("text"))
        assert error_class(code, name) is kind
        assert error_class(code, "") is kind


def test_messages_of_errors_are_one_line_that_a_header_takes() -> None:
    assert details(SandboxConnectionError("100 % of ä\n\x1b[31m")) == "100 % of ä  [31m"
    for char, size in {"x": 1, "%": 3, "ä": 6, "\N{SNAKE}": 12, "\udcff": 6}.items():
        kept = details(SandboxConnectionError(char * 10_000))
        assert MAX_DETAILS - 12 < len(kept) * size / len(printable(char)) <= MAX_DETAILS


def test_every_method_is_in_the_table() -> None:
    assert set(METHODS) == set(executor_pb2.DESCRIPTOR.services_by_name["Executor"].methods_by_name)
    assert METHODS["Link"].streams_requests
    assert METHODS["Link"].streams_replies


def test_generated_modules_are_those_of_the_definition(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    name = "sandbox_kernel/executor_api/executor"
    command = [sys.executable, "-m", "grpc_tools.protoc", "--proto_path", str(REPOSITORY / "kernel")]
    command += ["--python_out", str(tmp_path), "--pyi_out", str(tmp_path)]
    subprocess.run([*command, str(REPOSITORY / f"kernel/{name}.proto")], check=True, timeout=60)
    for suffix in ("_pb2.py", "_pb2.pyi"):
        made = (tmp_path / f"{name}{suffix}").read_text()
        assert (REPOSITORY / f"kernel/{name}{suffix}").read_text() == made, "run `make proto`"


async def test_connection_that_breaks_in_a_call_is_no_error_of_the_executors() -> None:
    """As gRPC tells it when the other end resets the connection at a bad moment."""
    files = {"ca_file": None, "certificate_file": None, "private_key_file": None}
    times = {"request_timeout": 1.0, "keepalive": 1.0, "keepalive_timeout": 1.0}
    calls = Calls(Connection("127.0.0.1", 1, "key", plaintext=True, **files, **times))  # type: ignore[arg-type]
    broken = grpc.aio.AioRpcError(
        grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata(), "Internal error from Core."
    )
    error = await calls.error(broken)
    assert isinstance(error, SandboxConnectionError)
    assert error.retryable
