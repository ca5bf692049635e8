"""How an executor is reached: values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sandbox_kernel.executor_api.addresses import join


@dataclass(frozen=True)
class Connection:
    """What ExecutorProvider's options come to. Times in seconds."""

    host: str
    port: int
    key: str = field(repr=False)
    plaintext: bool
    ca_file: Path | None
    certificate_file: Path | None
    private_key_file: Path | None
    request_timeout: float
    keepalive: float
    keepalive_timeout: float

    @property
    def address(self) -> str:
        """host:port."""
        return join(self.host, self.port)
