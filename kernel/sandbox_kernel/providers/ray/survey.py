"""What a Ray cluster has, holds and is asked for. Runs in the companion, or as a task in the cluster (`ray://`)."""

from __future__ import annotations

from typing import Any, TypedDict

_NO_RESOURCES = ("node:", "object_store_memory", "accelerator_type:")
"""How names of resources begin that nobody asks for."""
RUNNING, GONE = "ALIVE", "DEAD"
"""States of actors, in Ray's words; those before and between are of one that waits."""


class Node(TypedDict):
    """One machine of the cluster. Resources by name; memory in bytes."""

    node_id: str
    name: str
    address: str
    total: dict[str, float]
    free: dict[str, float]
    labels: dict[str, str]


class Actor(TypedDict):
    """An actor with a name that is not dead."""

    name: str
    state: str
    node_id: str


class Survey(TypedDict):
    """What was seen at one time."""

    nodes: list[Node]
    actors: list[Actor]
    others: dict[str, int]
    """Actors without a name of ours, by node."""


def survey(prefix: str) -> Survey:
    """Look at the cluster: its living nodes, and the actors whose names begin so.

    Ray's public way to this is its dashboard's server, which a cluster may not have; what is used here is what
    `ray status` itself uses.
    """
    import ray
    from ray._private import state

    free = state.available_resources_per_node()
    nodes = [_node(one, free.get(one["NodeID"], {})) for one in ray.nodes() if one["Alive"]]
    actors: list[Actor] = []
    others: dict[str, int] = {}
    for one in state.actors().values():
        if one["State"] == GONE:
            continue
        node_id = str(one["Address"]["NodeID"])
        if str(one["Name"]).startswith(prefix):
            actors.append({"name": str(one["Name"]), "state": str(one["State"]), "node_id": node_id})
        else:
            others[node_id] = others.get(node_id, 0) + 1
    return {"nodes": nodes, "actors": actors, "others": others}


def _node(one: dict[str, Any], free: dict[str, float]) -> Node:
    return {
        "node_id": str(one["NodeID"]),
        "name": str(one.get("NodeName") or one["NodeManagerHostname"]),
        "address": str(one["NodeManagerAddress"]),
        "total": _wanted(one["Resources"]),
        "free": _wanted(free),
        "labels": {str(name): str(value) for name, value in (one.get("Labels") or {}).items()},
    }


def _wanted(resources: dict[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in resources.items() if not name.startswith(_NO_RESOURCES)}
