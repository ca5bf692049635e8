"""Faults that an emulator makes when it is told to: which requests they hit, how often, and what they do."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Fault:
    """One rule.

    ``kind`` is "status" (answered so, and not done), "drop" (the connection breaks, nothing is done), "drop_after"
    (done, and the connection breaks before the answer), "truncate" (the answer breaks off after so many bytes),
    "delay" (done after so many seconds), "silence" (the connection stays, nothing passes), "cut" (the connection breaks
    after so many seconds).
    """

    kind: str
    where: str = "control"
    """"control", or a port of a sandbox as text."""
    path: str = ""
    """A pattern that is looked for in the method and the path: "POST /sandboxes"."""
    times: int = 1
    """-1: always."""
    skip: int = 0
    """So many requests are left alone first."""
    status: int = 500
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    size: int = 0


class Faults:
    """The rules that are in force."""

    def __init__(self) -> None:
        self._rules: list[Fault] = []

    def add(self, fields: dict[str, Any]) -> None:
        """Put a rule in force. Raises TypeError for what no rule has."""
        self._rules.append(Fault(**fields))

    def clear(self) -> None:
        """Put all out of force."""
        self._rules.clear()

    def take(self, where: str, method: str, path: str) -> Fault | None:
        """Return the fault that hits this request."""
        for rule in self._rules:
            if rule.where != where or not re.search(rule.path, f"{method} {path}") or not rule.times:
                continue
            if rule.skip:
                rule.skip -= 1
                continue
            rule.times -= rule.times > 0
            return rule
        return None
