"""`%sandbox cluster`: the nodes of the provider's cluster, and what they hold."""

from __future__ import annotations

from argparse import Namespace

from sandbox_kernel.commands import CommandContext
from sandbox_kernel.providers.base import ClusterNode, ClusterView
from sandbox_kernel.providers.local.limits import format_size

from .registry import command

_COLUMNS = ("CPU", "GPU", "memory")
"""What every node is asked for; other resources stand behind."""


@command("cluster")
async def show_cluster(context: CommandContext, arguments: Namespace) -> None:  # noqa: ARG001
    """Show the machines of the provider's cluster: what they have, what is free, and whose sandboxes they hold."""
    context.write(cluster_text(await context.session.cluster(), context.session.info.sandbox_id))


def cluster_text(view: ClusterView, own: str = "") -> str:
    """Return a table of the nodes, with the sandbox ``own`` marked."""
    rows: list[tuple[str, ...]] = [("node", "CPUs free", "GPUs free", "memory free", "other resources", "sandboxes")]
    rows += [_row(node, own) for node in sorted(view.nodes, key=lambda node: node.name)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    waiting = [*view.waiting, *([_people(view.others_waiting)] if view.others_waiting else [])]
    if waiting:
        lines.append(f"waiting for room: {', '.join(waiting)}")
    return "".join(f"{line}\n" for line in lines)


def _row(node: ClusterNode, own: str) -> tuple[str, ...]:
    further = [
        f"{name} {node.free.get(name, 0.0):g} of {total:g}"
        for name, total in sorted(node.total.items())
        if name not in _COLUMNS
    ]
    held = [f"{one} (this notebook's)" if one == own else one for one in node.sandboxes]
    held += [f"{node.others} of other people"] if node.others else []
    held += [f"{node.actors} other actor{'' if node.actors == 1 else 's'}"] if node.actors else []
    return (
        node.name,
        _of(node, "CPU"),
        _of(node, "GPU"),
        f"{format_size(node.free.get('memory', 0.0))} of {format_size(node.total.get('memory', 0.0))}",
        ", ".join(further) or "-",
        ", ".join(held) or "none",
    )


def _of(node: ClusterNode, name: str) -> str:
    return f"{node.free.get(name, 0.0):g} of {node.total.get(name, 0.0):g}"


def _people(count: int) -> str:
    return f"{count} of other people"
