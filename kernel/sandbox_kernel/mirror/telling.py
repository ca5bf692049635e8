"""What people are told of a copy."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from sandbox_kernel.workspace.folder import NotebookFolder, shown
from sandbox_kernel.workspace.host_files import Found

_NAMED = 3


def names(paths: Sequence[str]) -> str:
    """Return the first of some paths, and how many more there are."""
    text = ", ".join(shown(path) for path in paths[:_NAMED])
    return text if len(paths) <= _NAMED else f"{text} and {len(paths) - _NAMED} more"


def reasons(paths: Mapping[str, str]) -> str:
    """Return paths with the clauses that belong to them, those with the same clause together."""
    by_reason: dict[str, list[str]] = {}
    for path, why in paths.items():
        by_reason.setdefault(why, []).append(path)
    return "; ".join(f"{names(paths)} ({why})" for why, paths in by_reason.items())


def lost(kept: float | None) -> str:
    """Return what became of changes with a sandbox that ended; ``kept`` is when they were last fetched."""
    if kept is None:
        return " What its cells changed in the notebook's folder and was not applied is gone, too."
    when = time.strftime("%H:%M:%S", time.localtime(kept))
    return (
        f" What its cells had changed in the notebook's folder by {when} is kept; what they changed later, and was "
        "not applied, is gone."
    )


def news(odd: Mapping[str, str], missing: Mapping[str, str]) -> str:
    """Return what was not kept of the sandbox before this one, and what this one has not got, as lines."""
    text = f"Not kept of what cells made in the sandbox before this one: {reasons(odd)}.\n" if odd else ""
    return f"{text}Not copied to the sandbox: {reasons(missing)}.\n" if missing else text


def describe(notebook: NotebookFolder, count: int, found: Found) -> dict[str, str]:
    """Return rows for the status table; ``count`` is how many entries folder and copy have in common."""
    if notebook.mode == "private" or notebook.secrets is None:
        return {"workspace": notebook.describe()}
    end = "what cells write there goes with the sandbox"
    if notebook.layer is not None:
        end = "changes stay there until `%sandbox apply`"
    why = f"; {notebook.reason}" if notebook.reason else ""
    rows = {"workspace": f"{shown(notebook.folder)}, copied to the sandbox: {count} entries; {end}{why}"}
    rows["hidden"] = notebook.describe_hidden()
    left_out = {**found.left_out, **dict.fromkeys(found.skipped, "Workspace.sync_skipped")}
    if left_out:
        rows["not copied"] = reasons(left_out)
    return rows
