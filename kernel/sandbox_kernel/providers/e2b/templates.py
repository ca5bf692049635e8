"""Templates as the control plane lists them."""

from __future__ import annotations

import json
from typing import Any

from sandbox_kernel.providers.base import Template


def read_templates(said: Any) -> list[Template]:
    """Read a list of templates; what is no template is left out."""
    listed = said.get("templates", []) if isinstance(said, dict) else said
    entries = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    return [_read(one) for one in entries if isinstance(one.get("templateID") or one.get("id"), str)]


def _read(said: dict[str, Any]) -> Template:
    metadata = said.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    return Template(
        template_id=str(said.get("templateID") or said.get("id")),
        names=_texts(said.get("aliases")) or _texts(said.get("names")),
        tags=_texts(said.get("tags")),
        description=str(said.get("description") or ""),
        cpus=_number(said.get("cpuCount")),
        memory=int(_number(said.get("memoryMB"))),
        updated=str(said.get("updatedAt") or ""),
        entrypoint=_entrypoint(metadata.get("agent_runtime")),
        metadata=metadata,
    )


def _texts(value: object) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _entrypoint(said: object) -> str:
    """Return the entry point in an agent's description, which is JSON in a text."""
    if isinstance(said, str):
        try:
            said = json.loads(said)
        except (ValueError, RecursionError):
            return ""
    spec = said.get("spec") if isinstance(said, dict) else None
    found = spec.get("entrypoint") if isinstance(spec, dict) else None
    return found if isinstance(found, str) else ""
