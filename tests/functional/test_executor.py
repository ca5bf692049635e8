"""The executor: who may use it and what of, how sandboxes outlive their clients, and how all of it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

if sys.platform != "linux":
    pytest.skip("an executor's sandboxes need bubblewrap, which only Linux has", allow_module_level=True)
pytest.importorskip("grpc")

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from traitlets.config import Config

from sandbox_kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    InvocationError,
    NotFoundError,
    QuotaError,
    SandboxConnectionError,
    SandboxError,
    SandboxLostError,
)
from sandbox_kernel.executor.server import ExecutorServer
from sandbox_kernel.executor_api import executor_pb2 as pb
from sandbox_kernel.executor_api.protocol import METHODS, PROTOCOL, SERVICE
from sandbox_kernel.providers.base import SandboxSpec
from sandbox_kernel.providers.executor.provider import ExecutorProvider
from sandbox_kernel.providers.executor.sandbox import ExecutorSandbox
from tests.certificates import Authority
from tests.executor_process import ExecutorProcess, serving
from tests.ports import free_port
from tests.provider_suite.notebook import PATIENCE, opened
from tests.provider_suite.suite import pieces

SPEC = SandboxSpec("sk-test")
MIB = 1024**2


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExecutorProcess]:
    """An executor for tests that change nothing about it."""
    options = {
        "max_sandboxes": 3,
        "upload_size": "10 MiB",
        "owners": {"busy": {"max_sandboxes": 0, "upload_size": 0}},
        "metrics_address": f"127.0.0.1:{free_port()}",
    }
    with serving(tmp_path_factory.mktemp("executor"), Executor=options) as running:
        for owner in ("bob", "busy", "watcher"):
            running.add_key(owner)
        running.metrics = str(options["metrics_address"])  # type: ignore[attr-defined]
        yield running


def provider(executor: ExecutorProcess, owner: str = "ann", **options: Any) -> ExecutorProvider:
    """Return the provider as this owner has it."""
    return ExecutorProvider(config=executor.config(owner, **options))


@asynccontextmanager
async def sandbox_of(made_by: ExecutorProvider) -> AsyncIterator[ExecutorSandbox]:
    """Give a sandbox that is closed at the end."""
    sandbox = await made_by.create(SPEC)
    assert isinstance(sandbox, ExecutorSandbox)
    try:
        yield sandbox
    finally:
        await sandbox.close()


async def output(sandbox: ExecutorSandbox, command: str) -> str:
    """Run a command and return what it printed."""
    return b"".join([chunk async for chunk in sandbox.run(command)]).decode()


async def eventually(condition: Callable[[], Any]) -> Any:
    """Wait until something holds; return what it says."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)
    return found


async def state_of(sandbox: ExecutorSandbox, owner: ExecutorProvider) -> str:
    """Return what the executor says of a sandbox; "" if it is gone."""
    return next((one.state for one in await owner.list() if one.sandbox_id == sandbox.sandbox_id), "")


# ---- who may use it


async def test_another_key_is_refused(executor: ExecutorProcess) -> None:
    with pytest.raises(AuthenticationError, match="does not know this API key"):
        await wrong_key(executor).create(SPEC)


def wrong_key(executor: ExecutorProcess) -> ExecutorProvider:
    """Return a provider with a key that nobody has."""
    executor.keys["nobody"] = "sbx_" + "x" * 43
    return provider(executor, "nobody")


async def test_a_call_without_a_key_is_refused(executor: ExecutorProcess) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw(executor, "List", pb.ListRequest(), {})
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_key_that_is_removed_is_refused_at_once(executor: ExecutorProcess) -> None:
    executor.add_key("eve")
    eve = provider(executor, "eve")
    assert await eve.list() == []
    command = [sys.executable, "-m", "sandbox_kernel.cli", "key", "remove", "--config"]
    command += [str(executor.folder / "executor.json"), "eve"]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=60)
    with pytest.raises(AuthenticationError):
        await eve.list()


async def test_another_owners_sandbox_and_none_are_the_same(executor: ExecutorProcess) -> None:
    bob = provider(executor, "bob")
    async with sandbox_of(provider(executor)) as sandbox:
        assert await bob.list() == []
        texts = []
        for sandbox_id in (sandbox.sandbox_id, "executor-000000000000"):
            with pytest.raises(NotFoundError) as caught:
                await bob.connect(sandbox_id)
            texts.append(str(caught.value).replace(sandbox_id, "ID"))
        assert texts[0] == texts[1]
        foreign = ExecutorSandbox((await bob_calls(bob)), pb.SandboxInfo(sandbox_id=sandbox.sandbox_id))
        for attempt in (foreign.pause(), foreign.files.remove("x"), anext(foreign.files.read("x"))):
            with pytest.raises(NotFoundError):
                await attempt
        for losing in (foreign.open_link(), foreign.resume()):
            with pytest.raises(SandboxLostError):
                await losing
        with pytest.raises(NotFoundError):
            await output(foreign, "touch /work/bob")
        with pytest.raises(NotFoundError):
            await foreign.files.write("bob", pieces(b"x"))
        await foreign.close()
        assert "does not know it" in await foreign.loss_reason()
        assert await state_of(sandbox, provider(executor)) == "running"
        assert await output(sandbox, "ls") == ""


async def test_an_error_with_a_long_text_arrives_as_what_it_is(executor: ExecutorProcess) -> None:
    for name in ("\N{SNAKE}" * 2000, "long" * 25_000):
        with pytest.raises(NotFoundError, match="There is no sandbox"):
            await provider(executor).connect(name)


async def bob_calls(owner: ExecutorProvider) -> Any:
    """Return what an owner's calls go through."""
    return owner._connected()._calls


async def raw(executor: ExecutorProcess, name: str, request: Any, metadata: dict[str, str]) -> Any:
    """Make a call with this metadata and no other."""
    method = METHODS[name]
    async with grpc.aio.insecure_channel(executor.address) as channel:
        call = channel.unary_unary(method.path, method.request.SerializeToString, method.reply.FromString)
        return await call(request, metadata=tuple(metadata.items()), timeout=PATIENCE)


@pytest.mark.parametrize("name", ["Create", "ListFiles", "Link"])
async def test_a_request_that_is_no_message_is_the_clients_fault(executor: ExecutorProcess, name: str) -> None:
    metadata = {"authorization": f"Bearer {executor.keys['ann']}", "sandbox-protocol": str(PROTOCOL)}
    method = METHODS[name]
    async with grpc.aio.insecure_channel(executor.address) as channel:
        call = channel.stream_stream(method.path)(
            iter([b"\xff\xff\xff"]), metadata=(*metadata.items(), ("sandbox-call", "unreadable")), timeout=PATIENCE
        )
        with pytest.raises(grpc.aio.AioRpcError, match="no message of this method") as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_executor_of_another_version_says_so(tmp_path: Path, executor: ExecutorProcess) -> None:
    config = Config(
        Executor={"address": "127.0.0.1:0", "keys_file": str(executor.folder / "keys")},
        EventLog={"path": str(tmp_path / "log")},
    )
    server = ExecutorServer(config, version=99)
    port = await server.start()
    try:
        with pytest.raises(ConfigurationError, match=r"version 99 .* version 2: install the same version"):
            await provider(executor, address=f"localhost:{port}").create(SPEC)
    finally:
        await server.stop()


async def test_what_answers_and_is_no_executor_is_told(executor: ExecutorProcess) -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with pytest.raises(ConfigurationError, match="no executor of this version"):
            await provider(executor, address=f"localhost:{port}").create(SPEC)
    finally:
        await server.stop(0)


async def test_where_nobody_listens_another_try_may_help(executor: ExecutorProcess) -> None:
    with pytest.raises(SandboxConnectionError, match="nothing listens there") as caught:
        await provider(executor, address=f"localhost:{free_port()}").create(SPEC)
    assert caught.value.retryable


async def test_an_executor_that_says_nothing_is_given_up(executor: ExecutorProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"localhost:{silent.getsockname()[1]}"
        with pytest.raises(SandboxError) as caught:
            await provider(executor, address=address, request_timeout=0.3).list()
        assert caught.value.retryable


# ---- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs this module's certificates."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[ExecutorProcess]:
    """An executor with TLS."""
    with serving(tmp_path_factory.mktemp("tls"), Executor=authority.server()) as running:
        yield running


async def test_cells_run_over_tls(secured: ExecutorProcess, authority: Authority, tmp_path: Path) -> None:
    async with opened(provider(secured, ca_file=str(authority.file)), tmp_path) as notebook:
        assert (await notebook.run("1 + 1")).value == "2"


async def test_plaintext_to_a_tls_port_is_told(secured: ExecutorProcess) -> None:
    with pytest.raises(ConfigurationError, match="it speaks TLS"):
        await provider(secured, plaintext=True).create(SPEC)


async def test_tls_to_a_plaintext_port_is_told(executor: ExecutorProcess, authority: Authority) -> None:
    with pytest.raises(ConfigurationError, match="does not speak TLS"):
        await provider(executor, ca_file=str(authority.file)).create(SPEC)


async def test_an_unknown_authority_is_told(secured: ExecutorProcess, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="its certificate is not accepted"):
        await provider(secured, ca_file=str(Authority(tmp_path).file)).create(SPEC)


async def test_a_certificate_of_another_name_is_told(secured: ExecutorProcess, authority: Authority) -> None:
    address = f"127.0.0.1:{secured.port}"
    with pytest.raises(ConfigurationError, match="its certificate is not accepted"):
        await provider(secured, address=address, ca_file=str(authority.file)).create(SPEC)


async def test_an_expired_certificate_is_told(tmp_path: Path, authority: Authority) -> None:
    with serving(tmp_path, Executor=authority.server(expired=True)) as running:
        made_by = provider(running, ca_file=str(authority.file))
        with pytest.raises(ConfigurationError, match="certificate has expired"):
            await made_by.create(SPEC)


async def test_clients_show_their_certificates_where_that_is_asked_for(tmp_path: Path, authority: Authority) -> None:
    options = {**authority.server(), "client_ca_file": str(authority.file)}
    with serving(tmp_path, Executor=options) as running:
        with pytest.raises(ConfigurationError, match="it wants a client certificate"):
            await provider(running, ca_file=str(authority.file)).create(SPEC)
        chain, key = authority.issue("ann")
        pair = {"certificate_file": chain, "private_key_file": key}
        assert await provider(running, ca_file=str(authority.file), **pair).list() == []
        chain, key = Authority(tmp_path / "other").issue("ann")
        pair = {"certificate_file": chain, "private_key_file": key}
        with pytest.raises(ConfigurationError, match="another client certificate"):
            await provider(running, ca_file=str(authority.file), **pair).list()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": "0.0.0.0:0"}, "Without TLS everybody"),
        ({"certificate_file": "x"}, "belong together"),
        ({"certificate_file": "/absent", "private_key_file": "/absent"}, "cannot be read"),
        ({"client_ca_file": "/absent"}, "needs TLS"),
        ({"address": "nonsense:port"}, "host:port"),
        ({"keys_file": "/absent/keys"}, "jupyter sandbox key add"),
        ({"owners": {"ann": {"upload": 1}}}, "there is no quota"),
    ],
)
def test_what_cannot_be_served_is_refused(
    executor: ExecutorProcess, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"Executor": {"keys_file": str(executor.folder / "keys"), **options}}))
    command = [sys.executable, "-m", "sandbox_kernel.cli", "serve", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_port_that_is_taken_is_told(executor: ExecutorProcess) -> None:
    command = [sys.executable, "-m", "sandbox_kernel.cli", "serve", "--config", str(executor.folder / "executor.json")]
    command += ["--address", f"127.0.0.1:{executor.port}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "cannot listen" in done.stderr


# ---- quotas


async def test_no_more_sandboxes_than_allowed_and_each_owner_has_its_own(executor: ExecutorProcess) -> None:
    ann = provider(executor)
    made = await asyncio.gather(*(ann.create(SPEC) for _ in range(5)), return_exceptions=True)
    sandboxes = [one for one in made if isinstance(one, ExecutorSandbox)]
    assert len(sandboxes) == 3
    assert all(isinstance(one, (ExecutorSandbox, QuotaError)) for one in made)
    async with sandbox_of(provider(executor, "bob")):
        await sandboxes.pop().close()
        sandboxes.append(await ann.create(SPEC))  # type: ignore[arg-type]
        with pytest.raises(QuotaError, match="3 sandboxes"):
            await ann.create(SPEC)
    await asyncio.gather(*(sandbox.close() for sandbox in sandboxes))


async def test_an_upload_over_the_quota_ends_early_and_the_sandbox_is_as_it_was(
    executor: ExecutorProcess, tmp_path: Path
) -> None:
    given = 0

    async def gigabyte() -> AsyncIterator[bytes]:
        nonlocal given
        while given < 1024 * MIB:
            given += MIB
            yield bytes(MIB)

    async with opened(provider(executor), tmp_path) as notebook:
        with pytest.raises(QuotaError, match="large"):
            await notebook.session.files.write("large", gigabyte())
        assert given <= 11 * MIB
        # What had come is removed when the executor hears of it.
        await notebook.run("import os, time\nwhile os.listdir('.'): time.sleep(0.01)")
        # What was not kept does not count.
        assert await notebook.session.files.write("small", pieces(bytes(9 * MIB))) == 9 * MIB
        with pytest.raises(QuotaError):
            await notebook.session.files.write("more", pieces(bytes(2 * MIB)))
        await notebook.run("while any(name.endswith('.part') for name in os.listdir('.')): time.sleep(0.01)")
        assert (await notebook.run("os.listdir('.')")).value == "['small']"


# ---- calls


async def test_a_call_takes_effect_once_however_often_it_is_sent(executor: ExecutorProcess) -> None:
    ann = provider(executor)
    metadata = dict((await bob_calls(ann)).metadata())
    made = [await raw(executor, "Create", pb.CreateRequest(), metadata) for _ in range(3)]
    assert len({one.sandbox_id for one in made}) == 1
    assert len(await ann.list()) == 1
    await (await ann.connect(made[0].sandbox_id)).close()


async def test_a_command_is_not_run_again(executor: ExecutorProcess) -> None:
    async with sandbox_of(provider(executor)) as sandbox:
        calls, method = sandbox._calls, METHODS["Run"]
        run = calls._channel.unary_stream(method.path, method.request.SerializeToString, method.reply.FromString)
        request, metadata = pb.RunRequest(sandbox_id=sandbox.sandbox_id, command="echo x >> file"), calls.metadata()
        assert [one async for one in run(request, metadata=metadata)][-1].exit_code == 0
        with pytest.raises(grpc.aio.AioRpcError, match="not begun again"):
            await run(request, metadata=metadata).read()
        assert await output(sandbox, "cat file") == "x\n"


async def test_a_command_that_nobody_listens_to_ends(executor: ExecutorProcess) -> None:
    async with sandbox_of(provider(executor)) as sandbox:
        running = sandbox.run("touch going; echo begun; sleep 0.5; while sleep 0.1; do touch again; done")
        assert await anext(running) == b"begun\n"
        await running.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(1)
        assert await output(sandbox, "ls; pgrep -c sleep || true") == "going\n0\n"


async def test_a_flood_of_a_command_is_whole(executor: ExecutorProcess) -> None:
    async with sandbox_of(provider(executor)) as sandbox:
        size = 0
        async for chunk in sandbox.run("head -c 50000000 /dev/zero"):
            size += len(chunk)
            await asyncio.sleep(0)
        assert size == 50_000_000


async def test_no_more_files_at_one_time_than_the_executor_holds(executor: ExecutorProcess) -> None:
    async with sandbox_of(provider(executor)) as sandbox:
        await output(sandbox, "head -c 50000000 /dev/zero > large")
        reading = [sandbox.files.read("large") for _ in range(16)]
        await asyncio.gather(*(anext(one) for one in reading))
        with pytest.raises(InvocationError, match="wait until one of them is done"):
            await output(sandbox, "true")
        with pytest.raises(InvocationError, match="wait until one of them is done"):
            await sandbox.files.write("more", pieces(bytes(MIB)))
        await asyncio.gather(*(one.aclose() for one in reading))
        await until_it_runs(sandbox)
        assert await output(sandbox, "ls") == "large\n"


async def until_it_runs(sandbox: ExecutorSandbox) -> None:
    """Wait until the executor has noticed that others do not listen any more."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(InvocationError):
            await output(sandbox, "true")
            return
        await asyncio.sleep(0.02)


async def test_health_is_told_without_a_key_and_reflection_not_at_all(executor: ExecutorProcess) -> None:
    async with grpc.aio.insecure_channel(executor.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.stream_stream(path)(iter([b""])).read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_metrics_count_and_name_nobody(executor: ExecutorProcess, tmp_path: Path) -> None:
    async with opened(provider(executor, "watcher"), tmp_path) as notebook:
        await notebook.run("1")
        text = await asyncio.to_thread(fetch, f"http://{executor.metrics}/metrics")  # type: ignore[attr-defined]
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}
    assert values['sandbox_executor_sandboxes{state="running"}'] >= 1
    assert values["sandbox_executor_links"] >= 1
    assert values['sandbox_executor_link_bytes_total{direction="out"}'] > 0
    assert values['sandbox_executor_call_seconds_count{method="Create",status="OK"}'] >= 1
    assert "watcher" not in text


def fetch(url: str) -> str:
    """Return what is at this address."""
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:  # noqa: S310 - it is ours
        text: str = response.read().decode()
        return text


async def test_the_log_has_correlation_ids_and_no_keys(executor: ExecutorProcess, tmp_path: Path) -> None:
    async with opened(provider(executor), tmp_path) as notebook:
        info = notebook.session.info
    (created,) = [one for one in executor.events("sandbox_created") if one["sandbox_id"] == info.sandbox_id]
    assert created["correlation_id"] == info.correlation_id
    assert created["owner"] == "ann"
    text = executor.log.read_text()
    assert not [key for key in executor.keys.values() if key in text or key[4:] in text]
    assert executor.events("call_failed") == []


def test_programs_use_it_like_any_other_provider(executor: ExecutorProcess) -> None:
    from sandbox_kernel import BlockingSandbox

    with BlockingSandbox("executor", address=executor.address, key_file=executor.key_file()) as sandbox:
        assert sandbox.run("1 + 1").text == "2"
        text = "large" * 1_000_000
        sandbox.push(text=text)
        assert sandbox.pull("text") == text
    assert executor.events("sandbox_closed")[-1]["reason"] == "a client has closed it"


# ---- sandboxes outlive their clients


async def test_another_client_finds_variables_and_files(executor: ExecutorProcess, tmp_path: Path) -> None:
    ann = provider(executor)
    sandbox = await ann.create(SPEC)
    await sandbox.files.write("note", pieces(b"here"))  # type: ignore[union-attr]
    found = await provider(executor).connect(sandbox.sandbox_id)
    assert found.isolation is sandbox.isolation
    assert await output(found, "cat note") == "here"  # type: ignore[arg-type]
    await found.close()
    with pytest.raises(SandboxLostError, match="a client has closed it"):
        await sandbox.open_link()


async def test_names_of_files_that_are_no_text_travel_as_they_are(executor: ExecutorProcess) -> None:
    sandbox = await provider(executor).create(SPEC)
    assert isinstance(sandbox, ExecutorSandbox)
    assert sandbox.files is not None
    name = os.fsdecode(b"\xff \xc3\xa4.txt")
    await sandbox.files.write(name, pieces(b"here"))
    assert await output(sandbox, "printf %s * | od -An -tx1") == " ff 20 c3 a4 2e 74 78 74\n"
    assert [one.path async for one in sandbox.files.list("*")] == [name]
    assert [one.path async for one in sandbox.files.list(name)] == [name]
    assert [data async for data in sandbox.files.read(name)] == [b"here"]
    await sandbox.files.remove(name)
    for missing in (name, "\ud800"):
        with pytest.raises(SandboxError, match="cannot be removed"):
            await sandbox.files.remove(missing)
    await sandbox.close()


async def test_idle_sandboxes_are_paused_then_closed_and_computing_is_not_idle(tmp_path: Path) -> None:
    options = {"idle_timeout": 1.0, "paused_timeout": 2.0}
    with serving(tmp_path, Executor=options) as running:
        ann = provider(running)
        idle, busy = await ann.create(SPEC), await ann.create(SPEC)
        assert isinstance(idle, ExecutorSandbox)
        assert isinstance(busy, ExecutorSandbox)
        command = "(while :; do :; done) > /dev/null 2>&1 & echo $! > pid"
        await output(busy, command)
        # The shell's child went on: it is in no group that ended with the command.
        (paused,) = await eventually(lambda: running.events("sandbox_paused"))
        assert paused["sandbox_id"] == idle.sandbox_id
        (closed,) = await eventually(lambda: running.events("sandbox_closed"))
        assert closed["sandbox_id"] == idle.sandbox_id
        assert "paused for 2 s" in await idle.loss_reason()
        assert await state_of(busy, ann) == "running"
        await output(busy, "kill $(cat pid)")
        await eventually(lambda: len(running.events("sandbox_paused")) == 2)


async def test_a_sandbox_in_which_a_command_is_silent_is_neither_paused_nor_drained(tmp_path: Path) -> None:
    with serving(tmp_path, Executor={"idle_timeout": 0.5, "quiet_timeout": 0.5, "drain_timeout": 60}) as running:
        ann = provider(running)
        sandbox = await ann.create(SPEC)
        assert isinstance(sandbox, ExecutorSandbox)
        assert await output(sandbox, "sleep 2; echo done") == "done\n"
        assert running.events("sandbox_paused") == []
        await eventually(lambda: running.events("sandbox_paused"))
        await sandbox.resume()
        command = sandbox.run("echo begun; sleep 2; echo done")
        assert await anext(command) == b"begun\n"
        assert running.process is not None
        running.process.send_signal(signal.SIGTERM)
        assert [chunk async for chunk in command] == [b"done\n"]
        assert await asyncio.to_thread(running.process.wait, PATIENCE) == 0


async def test_a_client_that_comes_back_wakes_its_sandbox(tmp_path: Path) -> None:
    with serving(tmp_path, Executor={"quiet_timeout": 1.0, "idle_timeout": 1.0}) as running:
        ann = provider(running)
        async with opened(ann, tmp_path) as notebook:
            await notebook.run("x = 1")
            await eventually(lambda: running.events("sandbox_paused"))
            # The client is still there, and knows nothing of it.
            assert (await notebook.run("x")).value == "1"
            sandbox = notebook.session._sandbox
            assert isinstance(sandbox, ExecutorSandbox)
            assert await state_of(sandbox, ann) == "running"


async def test_what_a_client_has_paused_stays_so_until_it_resumes_it(executor: ExecutorProcess) -> None:
    ann = provider(executor)
    async with sandbox_of(ann) as sandbox:
        await sandbox.pause()
        await sandbox.pause()
        assert await state_of(sandbox, ann) == "paused"
        with pytest.raises(InvocationError, match="resume it first"):
            await output(sandbox, "true")
        await sandbox.resume()
        await sandbox.resume()
        assert await output(sandbox, "echo on") == "on\n"


async def test_the_lifetime_is_absolute_and_told(tmp_path: Path) -> None:
    with serving(tmp_path, Executor={"lifetime": 2.0}) as running:
        async with opened(provider(running), tmp_path) as notebook:
            await notebook.run("x = 1")
            await notebook.until(lambda: bool(notebook.ended))
            assert "its lifetime of 2 s was over" in str(notebook.ended[0])


async def test_draining_refuses_new_sandboxes_and_waits_for_those_in_use(tmp_path: Path) -> None:
    with serving(tmp_path / "executor", Executor={"drain_timeout": 60}) as running:
        ann = provider(running)
        unused = await ann.create(SPEC)
        async with opened(ann, tmp_path) as notebook:
            assert running.process is not None
            running.process.send_signal(signal.SIGTERM)
            await eventually(lambda: running.events("sandbox_closed"))
            assert "shut down" in await unused.loss_reason()
            with pytest.raises(SandboxConnectionError, match="shutting down"):
                await ann.create(SPEC)
            assert (await notebook.run("1")).value == "1"
        assert await asyncio.to_thread(running.process.wait, PATIENCE) == 0
        assert running.events("stopped")


async def test_a_second_signal_ends_it_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    with serving(tmp_path / "executor", Executor={"drain_timeout": 600}) as running:
        async with opened(provider(running), tmp_path) as notebook:
            assert running.process is not None
            children = psutil.Process(running.process.pid).children(recursive=True)
            assert children
            running.process.send_signal(signal.SIGTERM)
            await eventually(lambda: running.events("draining"))
            running.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(running.process.wait, PATIENCE) == 0
            await notebook.until(lambda: bool(notebook.ended))
        assert psutil.wait_procs(children, timeout=PATIENCE)[1] == []
        assert [path for path in (tmp_path / "executor").iterdir() if path.name.startswith("sandbox-kernel-")] == []


async def test_an_executor_that_is_killed_takes_its_sandboxes_along_and_its_successor_says_so(tmp_path: Path) -> None:
    with serving(tmp_path / "executor") as running:
        sandbox = await provider(running).create(SPEC)
        assert running.process is not None
        children = psutil.Process(running.process.pid).children(recursive=True)
        running.kill()
        assert psutil.wait_procs(children, timeout=PATIENCE)[1] == []
        running.start()
        with pytest.raises(SandboxLostError, match="if it was restarted, its sandboxes ended"):
            await sandbox.open_link()
        assert "restarted" in await sandbox.loss_reason()
        async with sandbox_of(provider(running)) as fresh:
            assert await output(fresh, "echo fresh") == "fresh\n"


async def test_memory_used_up_is_told_from_afar(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("without control groups the watchdog ends the whole sandbox")
    with serving(tmp_path / "executor", LocalProvider={"memory": "300 MiB", "memory_per_process": "4 GiB"}) as running:
        async with opened(provider(running), tmp_path) as notebook:
            notebook.send("x = [b'x' * 10_000_000 + bytes([n % 256]) for n in range(1000)]")
            await notebook.until(lambda: bool(notebook.ended))
            assert "memory" in str(notebook.ended[0])
