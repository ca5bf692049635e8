"""The log: one structured line per life-cycle event, in a file of its own, never in the notebook."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

from traitlets import Bool, CaselessStrEnum, Unicode, default
from traitlets.config.configurable import Configurable

LEVELS = ("debug", "info", "warning", "error")
KEPT_FILES = 20
"""Log files of other kernels, and the own one, that stay in the runtime directory."""
TAIL_BYTES = 256 * 1024
HIDDEN = "***"

_SECRET = re.compile(r"key|token|secret|passw|credential|authori[sz]ation|cookie", re.IGNORECASE)
_PLAIN = re.compile(r"[\w./:@+-]+", re.ASCII)


class EventLog(Configurable):
    """Writes events. A log that cannot be written must not disturb the kernel, so nothing here raises but a bad trait.

    A value whose name looks like a secret's is written as ``***``; messages must not contain secrets to begin with.
    """

    level = CaselessStrEnum(LEVELS, help="The least level that is written. Environment: SANDBOX_KERNEL_LOG_LEVEL.").tag(
        config=True
    )
    json = Bool(
        help="Write each event as a JSON object; else as text. Environment: SANDBOX_KERNEL_LOG_JSON (0 or 1)."
    ).tag(config=True)
    path = Unicode(help="The log file; by default sandbox-kernel-PID.log in Jupyter's runtime directory.").tag(
        config=True
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._fd = -1
        # Read once, so that a mistake in the environment is found where the log is made, not at the first event.
        self._least, self._as_json = LEVELS.index(self.level), self.json

    @default("level")
    def _level_from_environment(self) -> str:
        return os.environ.get("SANDBOX_KERNEL_LOG_LEVEL", "info")

    @default("json")
    def _json_from_environment(self) -> bool:
        return os.environ.get("SANDBOX_KERNEL_LOG_JSON", "1").lower() not in ("0", "false", "no", "off")

    @property
    def file(self) -> Path:
        """Where the lines go; the file exists after the first event."""
        return Path(self.path).expanduser() if self.path else _runtime_directory() / f"sandbox-kernel-{os.getpid()}.log"

    def write(self, name: str, /, *, level: str = "info", correlation_id: str = "", **fields: Any) -> None:
        """Write one line, if LEVEL is one that is wanted. The fields are what JSON can hold, else their ``str``."""
        if LEVELS.index(level) < self._least:
            return
        try:
            line = self._line(name, level, correlation_id, fields).encode()
            os.write(self._open(), line + b"\n")
        except Exception:  # noqa: BLE001, S110 - a full disk, or a field that has no text, is not the user's trouble
            pass

    def tail(self, count: int) -> list[str]:
        """Return the last COUNT lines; fewer, or none, where there are not so many."""
        try:
            with self.file.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return []
        return lines[-count:] if count > 0 else []

    def close(self) -> None:
        """Close the file. Idempotent; another event opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _line(self, name: str, level: str, correlation_id: str, fields: dict[str, Any]) -> str:
        record = {"time": _timestamp(time.time()), "level": level, "event": name, "correlation_id": correlation_id}
        record = {**record, **without_secrets(fields), **record}
        if self._as_json:
            return json.dumps(record, default=str)
        words = [record.pop("time"), record.pop("level").upper(), record.pop("event")]
        return " ".join([*words, *(f"{key}={_text(value)}" for key, value in record.items() if value != "")])

    def _open(self) -> int:
        # A file that somebody removed takes no more lines that anyone could read.
        if self._fd >= 0 and os.fstat(self._fd).st_nlink == 0:
            self.close()
        if self._fd < 0:
            file = self.file
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
            self._fd = os.open(file, flags, 0o600)
            if not self.path:
                _drop_old(file)
        return self._fd


def _runtime_directory() -> Path:
    from jupyter_core.paths import jupyter_runtime_dir

    return Path(jupyter_runtime_dir())


def _timestamp(seconds: float) -> str:
    milliseconds = int(seconds * 1000)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return f"{whole}.{milliseconds % 1000:03}Z"


def without_secrets(fields: dict[Any, Any]) -> dict[str, Any]:
    """Return the fields with stars in place of the values whose names look like a secret's."""
    return {str(name): _without_secret(str(name), value) for name, value in fields.items()}


def _without_secret(name: str, value: Any) -> Any:
    if _SECRET.search(name):
        return HIDDEN
    if isinstance(value, dict):
        return without_secrets(value)
    if isinstance(value, (list, tuple)):
        return [_without_secret("", item) for item in value]
    return value


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    # Quoted, because a line end or an escape sequence in a value would forge what the log shows.
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _drop_old(own: Path) -> None:
    """Remove the oldest log files but KEPT_FILES; several kernels may do so at once."""
    ages: list[tuple[float, Path]] = []
    for path in own.parent.glob("sandbox-kernel-*.log"):
        try:
            ages.append((path.stat().st_mtime, path))
        except OSError:
            continue
    others = sorted(pair for pair in ages if pair[1] != own)
    for _, path in others[: max(0, len(others) - KEPT_FILES + 1)]:
        try:
            path.unlink()
        except OSError:
            continue
