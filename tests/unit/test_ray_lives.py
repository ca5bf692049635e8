"""Lives of the provider ray's parts that need no cluster: actors that nobody claims, clients that are gone."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the local provider's parts are Linux's", allow_module_level=True)

from sandbox_kernel.connection import Connection
from sandbox_kernel.errors import ConfigurationError, SandboxConnectionError
from sandbox_kernel.link.protocol import Link
from sandbox_kernel.link.stream import SocketTransport
from sandbox_kernel.link.transport import Transport
from sandbox_kernel.providers.ray import host as hosting
from sandbox_kernel.providers.ray.companion import Companion
from sandbox_kernel.providers.ray.driver import Server
from sandbox_kernel.providers.ray.host import SandboxHost
from sandbox_kernel.providers.ray.node_link import HELD, PATIENCE, NodeLink
from sandbox_kernel.providers.ray.provider import RayProvider
from sandbox_kernel.providers.ray.sandbox import RaySandbox
from sandbox_kernel.providers.ray.words import Order
from sandbox_kernel.retry import RetryPolicy

INFO = {
    "sandbox_id": "ray-ann-0000000003e8-00000000",
    "isolation": "process",
    "state": "running",
    "node": "a",
    "details": {},
}
"""What is known of a sandbox."""


def ordered(**local: Any) -> Order:
    """Return an order for a sandbox; ``local`` are options of the local provider."""
    return Order(
        sandbox_id="ray-ann-0000000003e8-00000000",
        version="0",
        label="",
        kernel_arguments=[],
        local=local,
        unused_timeout=60.0,
        correlation_id="",
    )


# ---- starts that come to nothing


def test_an_actor_that_nobody_claims_ends() -> None:
    ended = threading.Event()
    SandboxHost(ordered(), claimed_within=0.01, end_actor=ended.set)
    assert ended.wait(30)


async def test_an_actor_whose_sandbox_cannot_be_made_ends() -> None:
    ended = threading.Event()
    host = SandboxHost(ordered(), claimed_within=0.2, end_actor=ended.set)
    assert (await host.start("another version"))["failure"]["kind"] == "ConfigurationError"
    assert await asyncio.to_thread(ended.wait, 30)


class Actors:
    """Stands for Ray: makes an actor when it is let, and notes which one is ended."""

    def __init__(self) -> None:
        self.begun, self.let = threading.Event(), threading.Event()
        self.killed: list[object] = []

    def remote(self, kind: object) -> Actors:
        """Take the actor's class, as Ray does."""
        return Actors.Kind(self)  # type: ignore[return-value]

    def kill(self, handle: object) -> None:
        """End an actor."""
        self.killed.append(handle)

    class Kind:
        """The class of an actor."""

        def __init__(self, actors: Actors) -> None:
            self._actors = actors

        def options(self, **options: object) -> Actors.Kind:
            """Take Ray's options."""
            return self

        def remote(self, order: Order) -> str:
            """Register the actor, which takes a while."""
            self._actors.begun.set()
            assert self._actors.let.wait(30)
            return "the actor"


async def test_a_start_that_is_cancelled_while_the_actor_is_made_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    from sandbox_kernel.providers.ray import cluster

    actors = Actors()
    monkeypatch.setattr(cluster, "ray", actors)
    made = cluster.Cluster("space", "ann", through_client=False)
    creating = asyncio.ensure_future(made.create(ordered(), {}, lambda text: None))
    assert await asyncio.to_thread(actors.begun.wait, 30)
    creating.cancel()
    await asyncio.sleep(0)
    actors.let.set()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert actors.killed == ["the actor"]


async def test_a_look_at_the_queue_that_fails_costs_no_place_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    from sandbox_kernel.providers.ray import cluster

    starting: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class Cloudy(cluster.Cluster):
        looks = 0

        async def survey(self) -> Any:
            self.looks += 1
            if self.looks == 1:
                raise SandboxConnectionError("The Ray cluster does not answer.")
            return {"nodes": [], "actors": [], "others": {}}

    def take(text: str) -> None:
        told.append(text)
        starting.set_result(None)

    for name in ("SHOWN_AFTER", "LOOK"):
        monkeypatch.setattr(cluster, name, 0.01)
    told: list[str] = []
    made = Cloudy("space", "ann", through_client=False)
    await asyncio.wait_for(made._tell_queue(starting, ordered()["sandbox_id"], {"CPU": 1.0}, take), 30)
    assert "asked for 1 CPU" in told[0]
    assert made.looks == 2


def test_an_option_of_the_local_provider_that_is_spelt_wrong_is_refused() -> None:
    host = SandboxHost(ordered(proceses=5), claimed_within=600)
    host._unclaimed.cancel()
    with pytest.raises(ConfigurationError, match=r"RayProvider\.local .*: proceses\."):
        host._provider()


async def test_what_does_not_fit_any_more_ends_a_reconnection_with_an_error_of_the_sandbox() -> None:
    async def gone(start: bool) -> Companion:
        raise ConfigurationError("This environment does not fit the Ray cluster's.")

    sandbox = RaySandbox(gone, INFO, "")
    with pytest.raises(SandboxConnectionError, match="does not fit") as told:
        await sandbox.open_link()
    assert not told.value.retryable
    assert await sandbox.loss_reason() == "the Ray cluster cannot be reached"


async def test_a_connection_to_a_cluster_that_is_away_is_tried_until_it_is_too_late() -> None:
    tries: list[str] = []
    ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    ours, theirs = socket.socketpair()

    class Away(RaySandbox):
        """Had a link once; then its companions, which are real ones, find nobody at the address."""

        async def open_link(self) -> Transport:
            return await super().open_link() if tries else SocketTransport(ours)

    def report(name: str, level: str, fields: dict[str, Any]) -> None:
        tries.append(str(fields.get("error", name)))
        if len(tries) == 4:
            # From now on it is too late.
            connection._patience = 0.001

    provider = RayProvider(address="127.0.0.1:9")
    connection = Connection(
        Away(provider.companion, INFO, ""),
        Link(b"0" * 16, max_received=1000),
        lambda parts: None,
        lambda parts, size: None,
        lambda reason, error: ended.set_result(error),
        policy=RetryPolicy(first_delay=0.01, longest_delay=0.01),
        report=report,
    )
    await connection.open()
    theirs.close()
    error = await asyncio.wait_for(ended, 60)
    assert tries[0] == "connection_lost"
    assert [text[:36] for text in tries[1:]] == ["No Ray cluster answers at 127.0.0.1:"] * 3
    assert str(error).startswith("No Ray cluster answers at 127.0.0.1:9")
    connection.close()
    await provider.disconnect()


# ---- links


async def test_a_stream_sends_no_more_than_its_client_says_it_has() -> None:
    ours, theirs = socket.socketpair()
    link = NodeLink(ours)
    theirs.setblocking(False)
    flood = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(theirs, bytes(4 * HELD)))
    came, told, held_up, stream = 0, 0, 0, link.stream()
    while came < HELD:
        came += len(await stream.__anext__())
    # The bridge is held up as long as the client says nothing.
    more = asyncio.ensure_future(stream.__anext__())
    while came < 4 * HELD:
        done, _ = await asyncio.wait([more], timeout=0.3)
        if not done:
            held_up += 1
            assert came - told < 2 * HELD
            told = came
            await link.push(0, b"", told)
        came += len(await more)
        if came < 4 * HELD:
            more = asyncio.ensure_future(stream.__anext__())
    assert held_up >= 2
    await flood
    theirs.close()
    assert [data async for data in stream] == []
    await link.close()


async def test_a_stream_is_no_sign_of_life_of_its_client() -> None:
    now = [0.0]
    ours, theirs = socket.socketpair()
    link = NodeLink(ours, lambda: now[0])
    stream = link.stream()
    now[0] = PATIENCE + 1
    theirs.send(b"news")
    assert await stream.__anext__() == b"news"
    assert link.silent
    await link.push(0, b"", 4)
    assert not link.silent
    theirs.close()
    await link.close()


async def test_a_link_is_closed_though_its_bridge_does_not_read() -> None:
    ours, theirs = socket.socketpair()
    link = NodeLink(ours)
    pushing = asyncio.ensure_future(link.push(0, bytes(HELD)))
    await asyncio.sleep(0)
    # That a client is there can be heard meanwhile.
    assert await asyncio.wait_for(link.push(HELD, b""), 30) == HELD
    assert not pushing.done()
    await asyncio.wait_for(link.close(), 30)
    await pushing
    theirs.close()


class Frail:
    """A sandbox that has ended, and fails at being closed."""

    alive = False

    async def loss_reason(self) -> str:
        """Tell why."""
        raise OSError("no such process")


async def test_an_actor_ends_though_its_watch_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WATCH", "KEPT", "FAILS"):
        monkeypatch.setattr(hosting, name, 0.01)
    ended = threading.Event()
    host = SandboxHost(ordered(), claimed_within=600, end_actor=ended.set)
    host._sandbox = Frail()  # type: ignore[assignment]
    await asyncio.wait_for(host._watch(), 30)
    assert ended.is_set()
    assert "no such process" in (await host.explain(None))["result"]
    host._unclaimed.cancel()


# ---- companions

LATE = """
import socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
sys.stdin.read()
print("waiting", flush=True)
if sock.recv(100):
    sock.sendall(b'{"connected": true}\\n')
sock.recv(100)
"""
"""A companion that connects when it is told so."""


async def test_who_stops_waiting_for_a_connection_takes_it_from_nobody() -> None:
    companion = Companion({}, 600, (sys.executable, "-c", LATE))
    impatient, patient = (asyncio.ensure_future(companion.connected()) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    companion.give_up()
    assert companion.alive
    companion._sock.send(b"connect")
    await asyncio.wait_for(patient, 30)
    companion.give_up()
    assert companion.alive
    await companion.close()


async def test_a_connection_that_nobody_waits_for_is_given_up() -> None:
    companion = Companion({}, 600, (sys.executable, "-c", LATE))
    waiting = asyncio.ensure_future(companion.connected())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert companion.alive
    companion.give_up()
    assert not companion.alive


async def test_a_cluster_that_lets_nobody_in_is_told() -> None:
    companion = Companion({}, 0.1, (sys.executable, "-c", LATE))
    with pytest.raises(SandboxConnectionError, match=r"within 0\.1 s: see RayProvider\.connect_timeout"):
        await companion.connected()
    assert not companion.alive


class CutOff:
    """A cluster whose client Ray has given up."""

    connected = False

    async def list(self) -> list[Any]:
        """Fail in Ray's way."""
        raise RuntimeError("Ray has not been started yet.")

    info = close = survey = ask = list  # noqa: A003 - the names are those of a cluster


async def test_a_companion_that_ray_has_given_up_says_so_and_ends() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        serving = asyncio.ensure_future(Server(theirs, CutOff()).run())
        ours.sendall(b'{"number": 1, "method": "list", "arguments": {}}\n')
        await asyncio.wait_for(serving, 30)
        said = json.loads(ours.recv(10_000))
    assert said["failure"]["kind"] == "SandboxConnectionError"
    assert said["failure"]["retryable"]


async def test_a_connection_over_which_no_sandbox_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    exceptions = pytest.importorskip("ray.exceptions", reason="ray is not installed")
    from sandbox_kernel.providers.ray import cluster

    class Actor:
        """Answers only while it is to."""

        answers = False

        @property
        def info(self) -> Actor:
            return self

        async def remote(self) -> dict[str, Any]:
            """Fail as Ray does where a cluster knows nothing of an actor."""
            if self.answers:
                return {"result": {}}
            raise exceptions.ActorUnavailableError("Socket closed", b"0" * 16)

    actor, sandbox_id = Actor(), ordered()["sandbox_id"]
    made = cluster.Cluster("space", "ann", through_client=False)
    made._handles[sandbox_id] = actor
    with pytest.raises(SandboxConnectionError):
        await made.info(sandbox_id)
    assert made.connected
    monkeypatch.setattr(cluster, "GIVEN_UP_AFTER", 0.0)
    with pytest.raises(SandboxConnectionError):
        await made.info(sandbox_id)
    assert not made.connected
    actor.answers = True
    assert await made.info(sandbox_id) == {}
    assert made.connected


def test_a_lost_connection_is_told_as_one() -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    from sandbox_kernel.providers.ray.failures import ours

    with pytest.raises(SandboxConnectionError, match="does not answer: it was given up"), ours():
        raise ConnectionError("it was given up")
    with pytest.raises(FileNotFoundError), ours():
        raise FileNotFoundError
