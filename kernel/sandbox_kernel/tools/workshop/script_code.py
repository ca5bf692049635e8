"""Tools in JavaScript and TypeScript: the function, its parameters and their types, from the text alone.

A tool is a function that is exported or stands at the beginning of a line: `export function add(a: number, b = 1) {…}`.
Types come from TypeScript's annotations, or from JSDoc (`@param {number} a - text`). The syntax itself is checked by
Node, when the tool is registered with a sandbox at hand, and else with its first run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from sandbox_kernel.errors import ToolValidationError

from .python_code import Finding

_FUNCTION = re.compile(
    r"^(?:export\s+)?(?:default\s+)?(?:async\s+)?function\s+([A-Za-z_$][\w$]*)\s*(?:<[^>]*>)?\s*\(", re.MULTILINE
)
_DOC = re.compile(r"/\*\*(.*?)\*/\s*$", re.DOTALL)
_PARAMETER = re.compile(r"^([A-Za-z_$][\w$]*)(\?)?\s*(?::\s*(.+?))?\s*(?:=\s*(.+))?$", re.DOTALL)
_JSDOC = re.compile(r"@param\s+\{([^}]*)\}\s+\[?([A-Za-z_$][\w$]*)(?:=[^\]]*)?\]?\s*-?\s*(.*)")
_TYPES = {
    "string": {"type": "string"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "undefined": {"type": "null"},
    "object": {"type": "object"},
    "any": {},
    "unknown": {},
}
FORBIDDEN = {
    r"\beval\s*\(": "eval runs text as code",
    r"\bnew\s+Function\s*\(": "new Function runs text as code",
    r"['\"](?:node:)?child_process['\"]": "child_process starts programs",
    r"['\"](?:node:)?vm['\"]": "vm runs text as code",
    r"\bprocess\s*\.\s*(?:binding|dlopen)\b": "process.binding and dlopen load machine code",
    r"\bDeno\s*\.\s*(?:Command|run|dlopen)\b": "Deno.Command starts programs",
}


def normalised(code: str) -> str:
    """Return the code as it is kept: one kind of line end. What ends a line may stand in a template."""
    return code.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n") + "\n"


def policy_findings(code: str) -> Iterator[Finding]:
    """Give what the policy forbids."""
    for pattern, reason in FORBIDDEN.items():
        for found in re.finditer(pattern, code):
            yield Finding(code.count("\n", 0, found.start()) + 1, "forbidden", reason)


def describe(name: str, code: str, *, types: bool) -> tuple[str, dict[str, Any], str]:
    """Return the function's name, its schema and its description. Raises ToolValidationError."""
    wanted = name.replace("-", "_")
    found = {one[1]: one for one in _FUNCTION.finditer(code)}
    exported = [key for key, one in found.items() if one[0].startswith("export")]
    function = wanted if wanted in found else exported[0] if len(exported) == 1 else next(iter(found), "")
    if not function or (wanted not in found and len(exported) != 1 and len(found) != 1):
        names = ", ".join(found) or "none"
        raise ToolValidationError(
            f"The cell has to have one function, or one that is called {wanted}; it has: {names}.",
            [Finding(1, "structure", "not one function")],
        )
    start = found[function].end()
    line = code.count("\n", 0, start) + 1
    doc = _DOC.search(code[: found[function].start()])
    text = re.sub(r"^[ \t]*\*+ ?", "", doc[1], flags=re.MULTILINE) if doc else ""
    described = {one[2]: (one[1], one[3].strip()) for one in _JSDOC.finditer(text)}
    schema: dict[str, Any] = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    for parameter in _split(_inside(code, start), ","):
        _add_parameter(schema, parameter, described, function, line, types=types)
    description = " ".join(text.partition("@")[0].split())
    return function, schema, description


def _add_parameter(
    schema: dict[str, Any], text: str, described: dict[str, tuple[str, str]], function: str, line: int, *, types: bool
) -> None:
    found = _PARAMETER.match(text)
    if found is None:
        raise ToolValidationError(
            f"line {line}: the parameter {text[:60]!r} of {function} has to be a name, with a type and a default.",
            [Finding(line, "structure", "a parameter that is no name")],
        )
    name, optional, annotation, default = found.groups()
    kind, said = described.get(name, ("", ""))
    value = type_schema(annotation or kind)
    if value is None or (types and not (annotation or kind)):
        reason = "has no type" if value is not None else f"has the type {annotation or kind}, which has no form in JSON"
        raise ToolValidationError(
            f"line {line}: the parameter {name!r} of {function} {reason}; TypeScript's annotations and JSDoc's "
            "@param {type} are read.",
            [Finding(line, "structure", f"the parameter {name!r} {reason}")],
        )
    if said:
        value["description"] = said
    if default is not None:
        # One that is no JSON is computed when the function is called.
        with suppress(ValueError):
            value["default"] = json.loads(default.strip().replace("'", '"'))
    elif not optional:
        schema["required"].append(name)
    schema["properties"][name] = value


def type_schema(text: str) -> dict[str, Any] | None:  # noqa: PLR0911 - one for each form
    """Return the schema of a type in TypeScript's or JSDoc's words; None where there is none."""
    text = text.strip()
    if not text or text in ("*", "?"):
        return {}
    parts = _split(text, "|")
    if len(parts) > 1:
        if all(re.fullmatch(r"""(['"]).*\1|-?\d+(\.\d+)?""", part) for part in parts):
            return {"enum": [json.loads(part.replace("'", '"')) for part in parts]}
        schemas = [type_schema(part) for part in parts]
        return None if None in schemas else {"anyOf": schemas}
    if text.endswith("[]"):
        inner = type_schema(text[:-2].strip("()"))
        return None if inner is None else {"type": "array", "items": inner}
    generic = re.fullmatch(r"(Array|Record|Object)\s*\.?<(.+)>", text, re.DOTALL)
    if generic:
        inner = type_schema(_split(generic[2], ",")[-1])
        if inner is None:
            return None
        return (
            {"type": "array", "items": inner}
            if generic[1] == "Array"
            else {
                "type": "object",
                "additionalProperties": inner,
            }
        )
    known = _TYPES.get(text.lower() if text[0].isupper() else text)
    return None if known is None else dict(known)


def _inside(code: str, start: int) -> str:
    """Return what stands between the parenthesis before START and its partner."""
    depth, index = 1, start
    while index < len(code) and depth:
        depth += {"(": 1, ")": -1}.get(code[index], 0)
        index += 1
    return code[start : index - 1]


def _split(text: str, separator: str) -> list[str]:
    """Split where no bracket is open."""
    found, depth, last = [], 0, 0
    for index, letter in enumerate(text):
        if letter in "([{<":
            depth += 1
        elif letter in ")]}>" and text[index - 1 : index + 1] != "=>":
            depth -= 1
        elif letter == separator and not depth:
            found.append(text[last:index])
            last = index + 1
    return [part.strip() for part in (*found, text[last:]) if part.strip()]
