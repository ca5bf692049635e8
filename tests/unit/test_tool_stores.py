"""Stores of tools: both keep their contract, and no death of a process, at whatever step, leaves them inconsistent."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from sandbox_kernel.errors import ToolConflictError, ToolStorageError
from sandbox_kernel.tools.workshop import Workshop, WorkshopSettings, aws_store
from sandbox_kernel.tools.workshop.aws_store import AwsStore, create_table
from sandbox_kernel.tools.workshop.documents import Document, Version
from sandbox_kernel.tools.workshop.sqlite_store import SqliteStore
from sandbox_kernel.tools.workshop.store import ToolStore

REGION = "eu-central-1"
ONE, TWO = "1" * 64, "2" * 64
CODE = 'def f() -> int:\n    """x"""\n    return {}\n'


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    """The address of moto's server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))


Place = dict[str, Any]


@pytest.fixture(params=["sqlite", "aws"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """The settings of an empty store."""
    if request.param == "sqlite":
        return {"store": "sqlite", "folder": str(tmp_path / "tools")}
    address = request.getfixturevalue("aws")
    name = f"tools-{uuid.uuid4().hex[:12]}"
    create_table(boto3.Session().client("dynamodb", endpoint_url=address, region_name=REGION), name)
    boto3.Session().client("s3", endpoint_url=address, region_name=REGION).create_bucket(
        Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    return {"store": "aws", "table": name, "bucket": name, "region": REGION, "endpoint_url": address}


@pytest.fixture
def store(place: Place) -> ToolStore:
    return WorkshopSettings(**place).make_store()


def document(name: str = "f", *digests: str, owner: str = "ada", revision: int = 1) -> Document:
    versions = tuple(Version(number, digest, 1.5) for number, digest in enumerate(digests or (ONE,), 1))
    return Document(owner, name, versions, 1, revision=revision)


async def test_documents_are_kept_by_owner_and_name(store: ToolStore) -> None:
    assert await store.documents() == []
    assert await store.load("ada", "f") is None
    await store.put_artifact(ONE, b"{}")
    for one in (document("b"), document("a"), document("a", owner="bob")):
        await store.save(one, 0)
    assert await store.load("ada", "a") == document("a")
    assert [(one.owner, one.name) for one in await store.documents()] == [("ada", "a"), ("ada", "b"), ("bob", "a")]
    assert [one.name for one in await store.documents("ada")] == ["a", "b"]
    assert await store.users(ONE) == [("ada", "a"), ("ada", "b"), ("bob", "a")]
    await store.close()


async def test_a_change_that_another_one_crosses_is_refused(store: ToolStore) -> None:
    await store.put_artifact(ONE, b"{}")
    await store.save(document(), 0)
    with pytest.raises(ToolConflictError):
        await store.save(document(), 0)
    await store.save(document(revision=2), 1)
    with pytest.raises(ToolConflictError):
        await store.save(document(revision=2), 1)
    with pytest.raises(ToolConflictError):
        await store.delete(document())
    await store.delete(document(revision=2))
    with pytest.raises(ToolConflictError):
        await store.delete(document(revision=2))
    assert await store.documents() == []
    await store.close()


async def test_an_artifact_stays_while_a_document_names_it(store: ToolStore) -> None:
    with pytest.raises(ToolConflictError):
        await store.save(document(), 0)
    assert await store.put_artifact(ONE, b"one")
    assert not await store.put_artifact(ONE, b"one")
    assert await store.put_artifact(TWO, b"two")
    await store.save(document("f", ONE, TWO), 0)
    assert not await store.drop_artifact(ONE)
    await store.count_use(ONE)
    await store.count_use(ONE)
    assert (await store.uses(ONE), await store.uses(TWO)) == (3, 1)
    await store.save(document("f", TWO, revision=2), 1)
    assert await store.users(ONE) == []
    assert await store.drop_artifact(ONE)
    assert await store.get_artifact(ONE) is None
    assert await store.get_artifact(TWO) == b"two"
    assert await store.artifacts() == [TWO]
    assert await store.uses(ONE) == 0
    await store.close()


async def test_registering_and_dropping_the_same_artifact_at_once(store: ToolStore) -> None:
    async def register(number: int) -> None:
        while True:
            await store.put_artifact(ONE, b"one")
            try:
                await store.save(document(f"f{number}"), 0)
            except ToolConflictError:
                continue
            return

    async def drop() -> None:
        for _ in range(8):
            await store.drop_artifact(ONE)

    await asyncio.gather(*(register(number) for number in range(6)), drop(), drop())
    assert len(await store.users(ONE)) == 6
    assert await store.get_artifact(ONE) == b"one"
    await store.close()


async def test_a_store_that_cannot_be_reached_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolStorageError, match="cannot be used"):
        await SqliteStore(tmp_path / "file").load("ada", "f")
    broken = AwsStore("none", "none", region=REGION, endpoint_url="http://127.0.0.1:9")
    broken._dynamo.meta.config.retries["total_max_attempts"] = 1
    with pytest.raises(ToolStorageError, match="cannot be used"):
        await broken.load("ada", "f")
    await broken.close()


async def test_the_owner_is_who_aws_says(place: Place) -> None:
    if place["store"] == "aws":
        workshop = Workshop(WorkshopSettings(**place))
        assert (await workshop.owner()).startswith("arn:aws:")
        await workshop.close()


# ---- deaths

CHILD = """
import asyncio, json, os, signal, sys
from sandbox_kernel.tools.workshop import Workshop, WorkshopSettings

settings, action, limit = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
workshop = Workshop(WorkshopSettings(owner="ada", **settings))
CODE = 'def f() -> int:\\n    \"\"\"x\"\"\"\\n    return {}\\n'
seen = 0
armed = False
STEPS = {"open", "os.rename", "os.remove", "os.replace", "sqlite3.connect", "http.client.send", "os.mkdir"}

def on_event(name, args):
    global seen
    if not armed or name not in STEPS:
        return
    if name == "open" and (not isinstance(args[0], str) or settings.get("folder", "?") not in args[0]):
        return
    step()

def step():
    global seen
    seen += 1
    if seen == limit:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(on_event)

async def main():
    global armed
    if settings["store"] == "sqlite":
        # Each statement is a step, too: the file may have been written, and the transaction not.
        database = await workshop.store._do(lambda database: database)
        database.set_trace_callback(lambda _: step() if armed else None)
    armed = True
    if action == "register":
        await workshop.register("g", CODE.format(7))
    elif action == "update":
        await workshop.update("f", CODE.format(8))
    else:
        await workshop.remove("f", artifact=True)
    armed = False
    print(seen)

asyncio.run(main())
"""


async def consistent(store: ToolStore) -> list[Document]:
    """Check that what documents name is there, and what uses say is so; return the documents."""
    documents = list(await store.documents())
    for one in documents:
        for digest in one.digests:
            assert await store.get_artifact(digest) is not None
            assert (one.owner, one.name) in await store.users(digest)
    named = {digest for one in documents for digest in one.digests}
    for digest in await store.artifacts():
        users = await store.users(digest)
        assert bool(users) == (digest in named)
    return documents


Check = Callable[[list[Document]], Awaitable[None]]


@pytest.mark.parametrize("action", ["register", "update", "remove"])
async def test_a_process_that_is_killed_at_any_step_leaves_all_or_nothing(
    place: Place, action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a process that died had begun to delete belongs to the next one at once.
    monkeypatch.setattr(aws_store, "LEASE", 0.0)
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    killed = outcomes = 0
    for limit in range(1, 200):
        workshop = Workshop(WorkshopSettings(owner="ada", **place))
        for one in await workshop.documents():
            await workshop.remove(one.name, artifact=True)
        await workshop.collect()
        await workshop.register("f", CODE.format(1))
        command = [sys.executable, str(script), json.dumps(place), action, str(limit)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
        documents = {one.name: one for one in await consistent(workshop.store)}
        if action == "register":
            assert set(documents) - {"g"} == {"f"}
            happened = "g" in documents
        elif action == "update":
            assert documents["f"].current in (1, 2)
            happened = documents["f"].current == 2
        else:
            happened = "f" not in documents
        outcomes += happened
        # What is left over goes, and the same can be done again.
        await workshop.collect()
        assert set(await workshop.store.artifacts()) == {digest for one in documents.values() for digest in one.digests}
        if done.returncode == -signal.SIGKILL:
            killed += 1
            if not happened:
                await {
                    "register": lambda work: work.register("g", CODE.format(7)),
                    "update": lambda work: work.update("f", CODE.format(8)),
                    "remove": lambda work: work.remove("f", artifact=True),
                }[action](workshop)
            await workshop.close()
            continue
        assert done.returncode == 0, done.stderr
        await workshop.close()
        break
    assert killed >= 4
    assert outcomes >= 1
