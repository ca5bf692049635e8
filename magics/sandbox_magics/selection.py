"""Which changes are meant by the files, folders and patterns behind `diff`, `apply` and `discard`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from sandbox_kernel.errors import CommandError
from sandbox_kernel.workspace.changes import Action, Change, Kind
from sandbox_kernel.workspace.folder import shown
from sandbox_kernel.workspace.patterns import translate

_INSIDE = "/work"
"""What the folder is called in the sandbox."""
_WILD = re.compile(r"[*?\[\\]")

Matches = Callable[[str], object]


def select(changes: Sequence[Change], names: Sequence[str], folder: str) -> list[Change]:
    """Return the changes that these names mean, and those without which they cannot be made, in the same order.

    ``folder`` is the notebook's on this machine. Raises CommandError for a name that nothing matches.
    """
    if not names:
        return list(changes)
    selection = _Selection(changes)
    chosen: set[str] = set()
    for name in names:
        matches = selection.find(_relative(name, folder))
        found = {change.path for change in changes if matches(change.path)}
        if not found:
            raise CommandError(f"Cells changed nothing called {name!r}; `%sandbox diff` shows what they changed.")
        chosen |= found
    needed = {path[:end] for path in chosen for end, char in enumerate(path) if char == "/"} - chosen
    return [change for change in changes if change.path in chosen or (change.path in needed and _is_needed(change))]


def _is_needed(change: Change) -> bool:
    """Whether what lies beneath cannot be without it: a new folder, and that what was in its place goes."""
    return change.action is Action.REMOVE or (change.action is Action.ADD and change.kind is Kind.FOLDER)


def _relative(name: str, folder: str) -> str:
    """Return the path in the notebook's folder that somebody calls so; "" if it is that itself."""
    for around in (folder, _INSIDE):
        if name.rstrip("/") == around:
            return ""
        if name.startswith(f"{around}/"):
            name = name.removeprefix(f"{around}/")
            break
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name.rstrip("/") if name != "." else ""


class _Selection:
    """Knows the changes, and the folders that they are in."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._paths = {change.path for change in changes}
        self._paths |= {path[:end] for path in self._paths for end, char in enumerate(path) if char == "/"}

    def find(self, name: str) -> Matches:
        """Return what says of a path whether a name means it: as it is, as it is shown, or as a pattern."""
        if name in ("", "**"):
            return lambda _: True
        if name not in self._paths and "\\" in name:
            # As `diff` shows a name that has something unprintable in it.
            name = next((path for path in self._paths if shown(path) == name), name)
        if name in self._paths or not _WILD.search(name):
            return lambda path: path == name or path.startswith(f"{name}/")
        try:
            # With all that is in it, where it is a folder.
            return re.compile(f"(?:{translate(name)})(?:/.*)?", re.DOTALL).fullmatch
        except re.error as exc:
            raise CommandError(f"{name!r} is no pattern: {exc}.") from exc
