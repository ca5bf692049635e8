"""Lives of the provider ray's parts that need no cluster: actors that nobody claims, clients that are gone."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the local provider's parts are Linux's", allow_module_level=True)

from sandbox_kernel.providers.ray.host import SandboxHost
from sandbox_kernel.providers.ray.words import Order


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
