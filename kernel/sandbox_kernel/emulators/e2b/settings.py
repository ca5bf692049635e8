"""What an emulator is told when it is started: values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Times in seconds."""

    host: str = "127.0.0.1"
    port: int = 0
    domain: str = "sandbox.test"
    """Hosts `PORT-ID.DOMAIN` lead to sandboxes, whatever follows the domain."""
    certificate_file: str = ""
    private_key_file: str = ""
    """With both it speaks TLS."""
    keys: tuple[str, ...] = ()
    """The API keys that it takes; none: all but those that begin with "bad"."""
    latency: float = 0.0
    """For a message to a sandbox and back, besides what it takes anyway."""
    max_sandboxes: int = 20
    rate: float = 0.0
    """Calls of the control plane per second from which on they are refused; 0: none are."""
    memory: str = "2 GiB"
    public_domain: str = ""
    """The domain with the port, as clients are told it; none where sandboxes are told apart by headers."""


@dataclass(frozen=True)
class Template:
    """A template as the control plane lists it."""

    template_id: str
    aliases: tuple[str, ...]
    tags: tuple[str, ...] = ()
    description: str = ""
    interpreter: bool = False
    agent: str = ""
    """The file of the agent in its /app, if it is one."""
    environment: dict[str, str] = field(default_factory=dict)
    files: bytes = b""
    """An archive of the home folder: the template is a snapshot."""

    def describe(self) -> dict[str, Any]:
        """Return what the control plane says of it."""
        described: dict[str, Any] = {
            "templateID": self.template_id,
            "buildID": f"build-{self.template_id}",
            "aliases": list(self.aliases),
            "names": list(self.aliases),
            "tags": list(self.tags),
            "description": self.description,
            "public": True,
            "cpuCount": 2,
            "memoryMB": 512,
            "diskSizeMB": 1024,
            "envdVersion": ENVD_VERSION,
            "buildCount": 1,
            "buildStatus": "ready",
            "spawnCount": 0,
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": "2026-01-02T00:00:00Z",
            "lastSpawnedAt": None,
            "createdBy": {"id": "00000000-0000-0000-0000-000000000000", "email": "ann@example.com"},
            "version": "1.0.0",
        }
        if self.agent:
            described["metadata"] = {"agent_runtime": _agent_metadata(self.aliases[0], self.agent)}
        return described


ENVD_VERSION = "0.5.7"


def _agent_metadata(name: str, entrypoint: str) -> str:
    import json

    # A text in JSON, not an object: that is how the vendor's tool writes it.
    return json.dumps(
        {"apiVersion": "v1", "kind": "Agent", "metadata": {"name": name}, "spec": {"entrypoint": entrypoint}}
    )


TEMPLATES = (
    Template("tpl0base", ("base",), ("default",), "Debian with Python"),
    Template(
        "tpl1code", ("code-interpreter-v1", "code-interpreter"), ("default", "python"), "The code interpreter", True
    ),
    Template("tpl2echo", ("echo-agent",), ("agent", "demo"), "An agent that answers what it was told", agent="app.py"),
    Template(
        "tpl3shout",
        ("second-agent",),
        ("agent",),
        "The same agent, configured otherwise",
        agent="app.py",
        environment={"AGENT_MODE": "second"},
    ),
)
