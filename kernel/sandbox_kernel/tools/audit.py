"""The audit log: what was called, by which cell, with what, and how it ended. One JSON object in a line."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sandbox_kernel.errors import ToolDeniedError
from sandbox_kernel.events import HIDDEN, without_secrets

MAX_FILE = 50 * 1024 * 1024
KEPT = 5
MAX_ARGUMENTS = 4000
"""Characters of a call's arguments that are written; of longer ones their digest, too."""
_SECRET_VALUE = re.compile(
    r"(?:sk|pk|rk)[-_][\w-]{16,}|gh[pousr]_\w{20,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|"
    r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|-----BEGIN [A-Z ]*PRIVATE KEY-----|(?i:bearer|basic)\s+[\w.+/=-]{16,}"
)


class AuditLog:
    """Appends lines to a file that only this user can read. What cannot be written down is not done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def write(self, event: str, **fields: Any) -> None:
        """Append one line. Raises ToolDeniedError where that fails: a call without a trace is not wanted."""
        moment = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"time": moment, "event": event, **fields}, default=str, separators=(",", ":"))
        try:
            os.write(self._open(), line.encode() + b"\n")
        except OSError as exc:
            reason = exc.strerror or exc
            raise ToolDeniedError(f"the audit log {self.path} cannot be written ({reason}); nothing is called") from exc

    def close(self) -> None:
        """Close the file; another line opens it again. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> int:
        """Return the descriptor of the file, which another process may have moved aside, or somebody removed."""
        if self._descriptor >= 0:
            status = os.fstat(self._descriptor)
            if status.st_nlink and status.st_size < MAX_FILE:
                return self._descriptor
            self.close()
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._rotate()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        self._descriptor = os.open(self.path, flags, 0o600)
        return self._descriptor

    def _rotate(self) -> None:
        try:
            full = self.path.stat().st_size >= MAX_FILE
        except FileNotFoundError:
            return
        if full:
            for number in range(KEPT - 1, 0, -1):
                older = self.path.with_name(f"{self.path.name}.{number}")
                if older.exists():
                    older.replace(self.path.with_name(f"{self.path.name}.{number + 1}"))
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))


def redacted(arguments: Mapping[str, Any], schema: Mapping[str, Any], secrets: frozenset[str]) -> dict[str, Any]:
    """Return what of a call's arguments may be written down: no secrets, by name, by schema or by their look."""
    properties = schema.get("properties") or {}
    hidden = {name for name, one in properties.items() if isinstance(one, Mapping) and _is_secret(one)} | secrets
    shown = {name: HIDDEN if name in hidden else _without_values(value) for name, value in arguments.items()}
    shown = without_secrets(shown)
    text = json.dumps(shown, default=str)
    if len(text) <= MAX_ARGUMENTS:
        return shown
    return {"…": text[:MAX_ARGUMENTS], "characters": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _is_secret(schema: Mapping[str, Any]) -> bool:
    return schema.get("format") == "password" or bool(schema.get("writeOnly"))


def _without_values(value: Any) -> Any:
    if isinstance(value, str):
        return _SECRET_VALUE.sub(HIDDEN, value)
    if isinstance(value, dict):
        return {key: _without_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_values(item) for item in value]
    return value
