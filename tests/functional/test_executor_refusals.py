"""What an executor refuses is one clear error in the cell, and when it is mended the next cell works."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("an executor's sandboxes need bubblewrap, which only Linux has", allow_module_level=True)
pytest.importorskip("grpc")

from traitlets.config import Config

from sandbox_kernel.executor.server import ExecutorServer
from tests.certificates import Authority
from tests.executor_process import ExecutorProcess, serving

from .client import FrontEnd, Json, running

GIB = 1024**3


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExecutorProcess]:
    """One executor for all tests that change nothing about it."""
    with serving(tmp_path_factory.mktemp("executor"), Executor={"upload_size": "5 MiB"}) as made:
        made.add_key("bob")
        yield made


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Who signs certificates."""
    return Authority(tmp_path / "authority")


def refused(front_end: FrontEnd, code: str = "1") -> Json:
    """Run a cell that fails; return its only error, of which no line is a secret or one of our own code."""
    cell = front_end.run(code)
    cell.assert_ended_once()
    # A progress bar may have been shown before.
    assert [kind for kind in cell.outputs if "display" not in kind] == ["error"]
    said = str(cell.messages)
    assert "sbx_" not in said
    assert "site-packages" not in said
    assert "sandbox_kernel/" not in said
    return cell.error


def test_a_wrong_key_is_told_and_the_next_cell_reads_it_again(executor: ExecutorProcess, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text("sbx_" + "x" * 43)
    with running(tmp_path / "kernel", *executor.arguments(key_file=str(key))) as kernel:
        front_end = kernel.front_end()
        error = refused(front_end)
        assert error["ename"] == "AuthenticationError"
        assert "does not know this API key" in error["evalue"]
        assert front_end.run("%sandbox status").status == "ok"
        key.write_text(executor.keys["ann"])
        assert front_end.run("1").result == "1"


def test_an_expired_certificate_is_told_and_a_new_one_is_taken(tmp_path: Path, authority: Authority) -> None:
    with ExitStack() as stack:
        executor = stack.enter_context(serving(tmp_path / "executor", Executor=authority.server(expired=True)))
        kernel = stack.enter_context(running(tmp_path / "kernel", *executor.arguments(ca_file=authority.file)))
        front_end = kernel.front_end()
        error = refused(front_end)
        assert (error["ename"], "certificate has expired" in error["evalue"]) == ("ConfigurationError", True)
        executor.terminate()
        executor.configure(authority.server())
        executor.start()
        assert front_end.run("1").result == "1"


def test_plaintext_to_a_port_with_tls_is_told(tmp_path: Path, authority: Authority) -> None:
    with ExitStack() as stack:
        executor = stack.enter_context(serving(tmp_path / "executor", Executor=authority.server()))
        kernel = stack.enter_context(running(tmp_path / "kernel", *executor.arguments(plaintext=True)))
        front_end = kernel.front_end()
        for _ in range(2):
            error = refused(front_end)
            assert error["ename"] == "ConfigurationError"
            assert "it speaks TLS" in error["evalue"]
        executor.terminate()
        executor.configure({"certificate_file": "", "private_key_file": ""})
        executor.start()
        assert front_end.run("1").result == "1"


def test_files_of_the_client_that_cannot_be_used_are_named(tmp_path: Path, authority: Authority) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate\n")
    certificate, _ = authority.issue("client")
    _, key = authority.issue("other")
    wrong = {
        "holds no certificates": {"ca_file": str(empty)},
        "private_key_file, .*is not that of the certificate": {
            "ca_file": authority.file,
            "certificate_file": certificate,
            "private_key_file": key,
        },
        "are no certificate": {
            "ca_file": authority.file,
            "certificate_file": certificate,
            "private_key_file": str(empty),
        },
    }
    with serving(tmp_path / "executor", Executor=authority.server()) as executor:
        for number, (message, options) in enumerate(wrong.items()):
            with running(tmp_path / f"kernel-{number}", *executor.arguments(**options)) as kernel:
                error = refused(kernel.front_end())
                assert error["ename"] == "ConfigurationError"
                assert re.search(message, error["evalue"])


@pytest.mark.parametrize(
    ("answer", "name", "message"),
    [
        (b"", "SandboxConnectionError", "does not answer"),
        (b"500 what do you want?\n", "ConfigurationError", "another service, which does not speak gRPC"),
    ],
)
def test_a_port_that_is_no_executors_is_told(
    executor: ExecutorProcess, tmp_path: Path, answer: bytes, name: str, message: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            # Kept open till the end: who is silent does not close the connection.
            with ExitStack() as clients, suppress(OSError):
                while True:
                    client = clients.enter_context(listener.accept()[0])
                    with suppress(OSError):
                        client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with running(tmp_path, *executor.arguments(address=address)) as kernel:
            error = refused(kernel.front_end())
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert error["ename"] == name
    assert message in error["evalue"]


def test_sandboxes_of_others_and_unknown_ones_are_the_same(executor: ExecutorProcess, tmp_path: Path) -> None:
    with (
        running(tmp_path / "ann", *executor.arguments()) as ann,
        running(tmp_path / "bob", *executor.arguments(key_file=executor.key_file("bob"))) as bob,
    ):
        front_end, other = ann.front_end(), bob.front_end()
        other.run("x = 'kept'")
        (sandbox_id,) = {event["sandbox_id"] for event in executor.events("sandbox_created") if event["owner"] == "bob"}
        texts = []
        for name in (sandbox_id, "executor-000000000000"):
            error = refused(front_end, f"%sandbox attach {name}")
            assert error["ename"] == "NotFoundError"
            texts.append(error["evalue"].replace(name, "ID"))
        assert texts[0] == texts[1]
        assert front_end.run("1").result == "1"
        assert other.run("x").result == "'kept'"


def test_a_large_file_over_the_quota_is_told_and_leaves_nothing(executor: ExecutorProcess, tmp_path: Path) -> None:
    # Without a copy of the folder the work folder is empty.
    with running(tmp_path, "--Workspace.mode=private", *executor.arguments()) as kernel:
        with (tmp_path / "large.bin").open("wb") as file:
            file.truncate(GIB)
        front_end = kernel.front_end()
        front_end.run("import os\nx = 'kept'")
        error = refused(front_end, "%sandbox upload large.bin")
        assert error["ename"] == "QuotaError"
        assert "the executor takes only" in error["evalue"]
        # What had come is removed behind the refusal.
        front_end.run("import time\nwhile os.listdir('.'): time.sleep(0.02)")
        assert front_end.run("x").result == "'kept'"


@pytest.fixture
async def newer(executor: ExecutorProcess, tmp_path: Path) -> AsyncIterator[str]:
    """The address of an executor of another version."""
    config = Config(
        Executor={"address": "127.0.0.1:0", "keys_file": str(executor.folder / "keys")},
        EventLog={"path": str(tmp_path / "newer.log")},
    )
    server = ExecutorServer(config, version=99)
    port = await server.start()
    yield f"localhost:{port}"
    await server.stop()


async def test_an_executor_of_another_version_is_told(newer: str, executor: ExecutorProcess, tmp_path: Path) -> None:
    def use() -> None:
        with running(tmp_path / "kernel", *executor.arguments(address=newer)) as kernel:
            front_end = kernel.front_end()
            for _ in range(2):
                error = refused(front_end)
                assert error["ename"] == "ConfigurationError"
                assert "install the same version of sandbox-kernel" in error["evalue"]
            assert front_end.run("%sandbox status").status == "ok"

    await asyncio.to_thread(use)
