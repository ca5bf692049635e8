"""Stands in for a provider that cannot be made, so that the notebook shows why instead of a dead kernel."""

from __future__ import annotations

from collections.abc import Sequence

from sandbox_kernel.errors import SandboxKernelError

from .base import Capabilities, Diagnosis, Provider, Sandbox, SandboxRecord, SandboxSpec


class BrokenProvider(Provider):
    """Raises the error that it was made with whenever a sandbox is asked for."""

    name = "none"
    capabilities = Capabilities()

    def __init__(self, error: SandboxKernelError) -> None:
        super().__init__()
        self._error = error

    async def create(self, spec: SandboxSpec) -> Sandbox:
        raise self._error

    async def connect(self, sandbox_id: str) -> Sandbox:
        raise self._error

    async def list(self) -> Sequence[SandboxRecord]:
        return []

    def diagnose(self) -> Sequence[Diagnosis]:
        return [Diagnosis("configuration", works=False, detail=str(self._error))]
