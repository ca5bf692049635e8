"""Tools in Python: their structure, their schema and what they may import, from the text alone. Nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sandbox_kernel.errors import ToolValidationError
from sandbox_kernel.tools.schema import described

_TYPES = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "list": {"type": "array"},
    "dict": {"type": "object"},
    "None": {"type": "null"},
    "Any": {},
    "object": {},
}
_IMPORTERS = frozenset({"__import__", "import_module", "run_module"})
"""Functions that import what their first argument names."""


@dataclass(frozen=True)
class Finding:
    """Something in the code that a rule does not allow, on a line of the cell's body (from 1)."""

    line: int
    rule: str
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason} ({self.rule})"


def refuse(name: str, findings: Iterable[Finding]) -> None:
    """Raise ToolValidationError if there are findings."""
    found = sorted(set(findings), key=lambda one: (one.line, one.rule))
    if found:
        lines = "\n".join(f"  {one}" for one in found)
        raise ToolValidationError(f"The code of the tool {name!r} cannot be taken:\n{lines}", found)


def parse(name: str, code: str) -> ast.Module:
    """Return the syntax tree. Raises ToolValidationError with the line of a mistake."""
    try:
        return ast.parse(code)
    except SyntaxError as exc:
        raise ToolValidationError(
            f"The code of the tool {name!r} is no Python: line {exc.lineno}: {exc.msg}.",
            [Finding(exc.lineno or 1, "syntax", exc.msg)],
        ) from exc
    except (ValueError, RecursionError, MemoryError) as exc:
        raise ToolValidationError(f"The code of the tool {name!r} cannot be read: {exc}.") from exc


def normalised(code: str) -> str:
    """Return the code as it is kept: one kind of line end, nothing at the end of lines where that changes nothing."""
    lines = code.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n").split("\n")
    plain = "\n".join(lines) + "\n"
    trimmed = "\n".join(line.rstrip() for line in lines) + "\n"
    if trimmed == plain:
        return plain
    try:
        # Inside of a string it would.
        return trimmed if ast.dump(ast.parse(plain)) == ast.dump(ast.parse(trimmed)) else plain
    except (SyntaxError, ValueError, RecursionError):
        return plain


def the_function(name: str, tree: ast.Module) -> ast.FunctionDef | ast.AsyncFunctionDef:
    """Return the function that is the tool: of its name, or the only public one. Raises ToolValidationError."""
    found = [one for one in tree.body if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))]
    public = [one for one in found if not one.name.startswith("_")]
    of_name = [one for one in found if one.name == name.replace("-", "_")]
    if of_name:
        return of_name[-1]
    if len(public) != 1:
        raise ToolValidationError(
            f"The cell has to have one function, or one that is called {name.replace('-', '_')}; it has: "
            f"{', '.join(one.name for one in public) or 'none'}.",
            [Finding(1, "structure", "not one function")],
        )
    return public[0]


def structure_findings(
    function: ast.FunctionDef | ast.AsyncFunctionDef, *, types: bool, docstring: bool
) -> Iterator[Finding]:
    """Give what of the function keeps it from being a tool."""
    arguments = function.args
    if arguments.posonlyargs or arguments.vararg:
        yield Finding(function.lineno, "structure", "parameters have to be ones that are called by name")
    if arguments.kwarg:
        yield Finding(function.lineno, "structure", "each parameter has to be named; there is no schema for **")
    if docstring and not ast.get_docstring(function):
        yield Finding(function.lineno, "structure", "a docstring is missing: it is what an agent knows of the tool")
    for one in (*arguments.args, *arguments.kwonlyargs):
        if one.annotation is None:
            if types:
                yield Finding(one.lineno, "structure", f"the parameter {one.arg!r} has no type")
        elif _schema(one.annotation) is None:
            text = ast.unparse(one.annotation)[:80]
            yield Finding(one.lineno, "structure", f"the type {text} of the parameter {one.arg!r} has no form in JSON")


def import_findings(tree: ast.Module, forbidden: Iterable[str]) -> Iterator[Finding]:
    """Give the imports that the policy forbids, also those by a function whose argument is a text."""
    names = tuple(forbidden)
    for node in ast.walk(tree):
        for module in _imported(node):
            if any(module == name or module.startswith(f"{name}.") for name in names):
                yield Finding(getattr(node, "lineno", 1), "forbidden-import", f"{module} may not be imported")
                break


def _imported(node: ast.AST) -> list[str]:
    """Return the modules that a node imports, as far as its text tells."""
    match node:
        case ast.Import(names=names):
            return [one.name for one in names]
        case ast.ImportFrom(module=str(module), level=0, names=names):
            return [module, *(f"{module}.{one.name}" for one in names)]
        case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=arguments, keywords=keywords):
            given = [*arguments[:1], *(one.value for one in keywords if one.arg == "name")]
            texts = [one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            return texts if called in _IMPORTERS else []
    return []


def schema_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, Any]:
    """Return the schema of the function's parameters."""
    arguments = function.args
    defaults = dict(zip([one.arg for one in arguments.args][::-1], arguments.defaults[::-1], strict=False))
    defaults |= {
        one.arg: default
        for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if default is not None
    }
    texts = described(ast.get_docstring(function) or "")
    properties: dict[str, Any] = {}
    required = []
    for one in (*arguments.args, *arguments.kwonlyargs):
        schema = dict((_schema(one.annotation) if one.annotation is not None else None) or {})
        if one.arg in texts:
            schema["description"] = texts[one.arg]
        if one.arg not in defaults:
            required.append(one.arg)
        else:
            schema |= _default(defaults[one.arg])
        properties[one.arg] = schema
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _default(node: ast.expr) -> dict[str, Any]:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return {}
    return {"default": value} if value is None or isinstance(value, (str, int, float, bool, list, dict)) else {}


def _schema(node: ast.expr | None) -> dict[str, Any] | None:  # noqa: PLR0911 - one line for each form
    """Return the schema of an annotation; None where there is none."""
    match node:
        case ast.Constant(value=None):
            return {"type": "null"}
        case ast.Constant(value=str(text)):
            try:
                return _schema(ast.parse(text, mode="eval").body)
            except SyntaxError:
                return None
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return dict(_TYPES[name]) if name in _TYPES else None
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return _any_of([left, right])
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            items = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
            return _generic(name, items)
    return None


def _generic(name: str, items: list[ast.expr]) -> dict[str, Any] | None:  # noqa: PLR0911 - one for each form
    if name in ("list", "List", "Sequence"):
        inner = _schema(items[0])
        return None if inner is None else {"type": "array", "items": inner}
    if name in ("dict", "Dict", "Mapping") and len(items) == 2:
        inner = _schema(items[1])
        return None if inner is None else {"type": "object", "additionalProperties": inner}
    if name == "Literal":
        values = [item.value for item in items if isinstance(item, ast.Constant)]
        return {"enum": values} if len(values) == len(items) else None
    if name == "Optional":
        return _any_of([items[0], ast.Constant(value=None)])
    if name == "Union":
        return _any_of(items)
    if name == "Annotated":
        inner = _schema(items[0])
        said = next((one.value for one in items[1:] if isinstance(one, ast.Constant) and type(one.value) is str), None)
        return inner if inner is None or said is None else {**inner, "description": said}
    return None


def _any_of(items: list[ast.expr]) -> dict[str, Any] | None:
    schemas: list[dict[str, Any]] = []
    for item in items:
        schema = _schema(item)
        if schema is None:
            return None
        schemas.extend(schema["anyOf"] if set(schema) == {"anyOf"} else [schema])
    return {"anyOf": schemas}
