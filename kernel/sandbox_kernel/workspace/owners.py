"""Whose a layer is: that of a notebook, or, where nobody says which one it is, of a folder; and of one of its sessions.

Names change: a notebook or a folder that was renamed or moved is known by its device and number.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Identity = tuple[int, int]
"""Device and number."""

PROGRAM = "*program"
"""The session of all sandboxes that programs made: what they change is not a notebook's. No other has that name."""


@dataclass(frozen=True)
class Owner:
    """What a layer belongs to; paths are absolute."""

    folder: str
    """The notebook's folder."""
    notebook: str = ""
    """The notebook's file; "" if nobody said."""
    session: str = ""
    """Which of a notebook's sandboxes it is, where one has several; "" for the ordinary one."""
    folder_identity: Identity | None = None
    notebook_identity: Identity | None = None

    @classmethod
    def now(cls, folder: str, notebook: str, session: str) -> Owner:
        """Return an owner with what its paths are at this moment."""
        return cls(folder, notebook, session, _identity(folder), _identity(notebook))

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Owner:
        """Return what `write` gave."""
        return cls(
            str(content["folder"]),
            str(content.get("notebook", "")),
            str(content.get("session", "")),
            *(_pair(content.get(name)) for name in ("folder_identity", "notebook_identity")),
        )

    def write(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return dict(vars(self))

    def is_now(self, other: Owner) -> bool:
        """Whether it is another one now, perhaps after it was renamed or moved."""
        if self.session != other.session or not self._is_folder(other):
            return False
        return self.notebook == other.notebook or _has_moved(
            self.notebook, self.notebook_identity, other.notebook_identity
        )

    def may_be(self, other: Owner) -> bool:
        """Whether somebody may say that it is another one now: of the same folder, or of one that is gone."""
        return self._is_folder(other) or not os.path.exists(self.folder)

    def _is_folder(self, other: Owner) -> bool:
        return self.folder == other.folder or _has_moved(self.folder, self.folder_identity, other.folder_identity)

    def is_gone(self) -> bool:
        """Whether its notebook is not there any more; what consoles are called is no file anyway."""
        return self.notebook.endswith(".ipynb") and os.path.isabs(self.notebook) and not os.path.exists(self.notebook)


def describe_owner(owner: Owner) -> str:
    """Return whose a layer is, for people."""
    session = f", session {owner.session}" if owner.session else ""
    if owner.session == PROGRAM:
        session = ", by a program"
    return f"{owner.notebook or owner.folder}{session}"


def _pair(content: Any) -> Identity | None:
    return (content[0], content[1]) if content else None


def _has_moved(path: str, before: Identity | None, now: Identity | None) -> bool:
    return bool(path) and before is not None and before == now and not os.path.exists(path)


def _identity(path: str) -> Identity | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
