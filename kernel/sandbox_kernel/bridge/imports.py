"""Which modules code imports, and which of these it could not do without. Part of describing.py, in the sandbox."""

from __future__ import annotations

import ast
import sys

CATCHING = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
"""What an exception handler names that goes on where a module is not there."""


def missing_modules(tree: ast.AST) -> list[str]:
    """Return the modules that are not there and that code needs: not those for whose absence it provides."""
    found: dict[str, None] = {}
    _look(tree, found)
    return list(found)


def is_there(name: str) -> bool:
    """Whether a module of that name could be imported."""
    from importlib.util import find_spec

    try:
        return name in sys.modules or find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def _look(node: ast.AST, found: dict[str, None]) -> None:
    """Note what is missing in a node, and in what it holds; it may be nested as deep as the parser lets it."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        found.update((name, None) for name in _imported(one) if not is_there(name))
        waiting += reversed(_needed(one))


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level and node.module:
        return [node.module.partition(".")[0]]
    return []


def _needed(node: ast.AST) -> list[ast.AST]:
    """Return the parts of a node whose imports must succeed."""
    if isinstance(node, ast.Try):
        handlers = [handler for handler in node.handlers if _catches(handler.type)]
        if handlers:
            attempted: dict[str, None] = {}
            for part in node.body:
                _look(part, attempted)
            # The way out is taken only if the attempt fails.
            return [*(handlers if attempted else node.orelse), *node.finalbody]
    if isinstance(node, (ast.With, ast.AsyncWith)) and any(_suppresses(item.context_expr) for item in node.items):
        return []
    if isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING":
        return list(node.orelse)
    return list(ast.iter_child_nodes(node))


def _catches(kind: ast.AST | None) -> bool:
    if kind is None:
        return True
    return any(_name(one) in CATCHING for one in (kind.elts if isinstance(kind, ast.Tuple) else [kind]))


def _suppresses(call: ast.AST) -> bool:
    return isinstance(call, ast.Call) and _name(call.func) == "suppress" and any(_catches(one) for one in call.args)


def _name(node: ast.AST) -> str:
    """Return a name, or what stands behind its last dot; "" for anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
