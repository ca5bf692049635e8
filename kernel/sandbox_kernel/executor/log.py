"""The executor's log: the lines of events.py on standard error, which systemd and containers collect."""

from __future__ import annotations

import sys

from sandbox_kernel.events import EventLog


class ServerLog(EventLog):
    """Writes to standard error unless `EventLog.path` names a file."""

    def _open(self) -> int:
        return super()._open() if self.path else sys.stderr.fileno()

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self.path:
            super().close()
