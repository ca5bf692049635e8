"""What tools are in OpenAPI 3.0: one operation each, `POST /tools/NAME/execute`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sandbox_kernel.tools.tool import Tool

VERSION = "3.0.3"
_KEPT = {
    "description",
    "enum",
    "default",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "required",
}


def document(tools: Iterable[Tool], url: str, *, secured: bool) -> dict[str, Any]:
    """Return the document that describes the tools at an address."""
    paths = {f"/tools/{tool.name}/execute": {"post": _operation(tool)} for tool in tools}
    made: dict[str, Any] = {
        "openapi": VERSION,
        "info": {"title": "Tools in sandboxes", "version": "1"},
        "servers": [{"url": url}],
        "paths": paths,
    }
    if secured:
        made["components"] = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}}
        made["security"] = [{"key": []}]
    return made


def _operation(tool: Tool) -> dict[str, Any]:
    value = {"type": "object", "properties": {"value": {"nullable": True}, "stdout": {"type": "string"}}}
    error = {"type": "object", "properties": {"error": {"type": "string"}, "message": {"type": "string"}}}
    return {
        "operationId": f"execute_{tool.name}",
        "summary": tool.description.partition("\n")[0][:120],
        "description": tool.description,
        "requestBody": {"required": True, "content": {"application/json": {"schema": convert(tool.input_schema)}}},
        "responses": {
            "200": {"description": "what it returned", "content": {"application/json": {"schema": value}}},
            "default": {"description": "why it did not", "content": {"application/json": {"schema": error}}},
        },
    }


def convert(schema: Mapping[str, Any]) -> dict[str, Any]:  # noqa: C901 - one step for each keyword
    """Return a JSON schema in the words of OpenAPI 3.0, which has no type null and no lists of types."""
    made = {key: value for key, value in schema.items() if key in _KEPT}
    if not made.get("required", True):
        del made["required"]
    kinds = schema.get("type")
    if isinstance(kinds, list):
        return convert({**schema, "type": None, "anyOf": [{"type": kind} for kind in kinds]})
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        others = [one for one in choices if one.get("type") != "null"]
        if len(others) < len(choices):
            made["nullable"] = True
        if len(others) == 1:
            return {**convert(others[0]), **made}
        return {**made, "anyOf": [convert(one) for one in others]}
    if kinds == "null":
        return {**made, "nullable": True}
    if kinds:
        made["type"] = kinds
    if "properties" in schema:
        made["properties"] = {name: convert(one) for name, one in schema["properties"].items()}
    if kinds == "array":
        made["items"] = convert(schema.get("items") or {})
    more = schema.get("additionalProperties")
    if more is not None:
        made["additionalProperties"] = convert(more) if isinstance(more, Mapping) else more
    return made
