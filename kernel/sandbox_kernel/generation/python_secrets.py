"""Which texts of Python code may be secrets: those that stand in a statement, or a part of one, with such a name."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from .redaction import is_secret_column, is_secret_name

Literal = ast.Constant | ast.JoinedStr
_FURTHER = frozenset({"auth", "pw", "environ"})
"""Names that columns of tables do not have for secrets, and code has."""
_PROMPTS = frozenset({"getpass", "input"})
"""Functions whose texts people read."""
_LOOKUPS = frozenset({"get", "getenv", "open", "Path", "get_password"})
"""Functions whose first text says where something is."""
_ENVIRONMENT = frozenset({"putenv", "setenv"})
_SCHEMES = frozenset({"", "bearer", "basic", "token"})
"""What stands before a secret that comes from elsewhere."""


def is_secret_in_code(name: str) -> bool:
    """Whether code may give a secret to this name."""
    return name.lower() in _FURTHER or is_secret_column(name)


def secret_literals(tree: ast.AST) -> list[Literal]:
    """Return the texts that may be secrets, none inside of another. Raises RecursionError for code of great depth."""
    found: dict[int, Literal] = {}
    for node in ast.walk(tree):
        for part in _given(node):
            found |= {id(one): one for one in _literals(part)}
        for part in _given_to_constant(node):
            found |= {id(one): one for one in _literals(part) if _has_digit(one)}
    for node in ast.walk(tree):
        # Where a text stands inside of an f-string is not known before Python 3.12.
        if isinstance(node, ast.JoinedStr):
            inner = {id(one) for one in ast.walk(node) if one is not node} & set(found)
            for one in inner:
                del found[one]
            if inner:
                found[id(node)] = node
    return list(found.values())


def _given(node: ast.AST) -> Iterator[ast.AST]:  # noqa: C901, PLR0912 - one case for each form
    """Yield what is given to a name that may stand for a secret, or stands with one."""
    match node:
        case ast.Assign(targets=targets, value=value) if any(map(_names, targets)):
            yield value
        case ast.AnnAssign(target=target, value=ast.expr() as value) if _names(target):
            yield value
        case ast.AugAssign(target=target, value=value) | ast.NamedExpr(target=target, value=value) if _names(target):
            yield value
        case ast.For(target=target, iter=value) | ast.AsyncFor(target=target, iter=value) if _names(target):
            yield value
        case ast.comprehension(target=target, iter=value) if _names(target):
            yield value
        case ast.withitem(context_expr=value, optional_vars=ast.expr() as target) if _names(target):
            yield value
        case ast.keyword(arg=str(name), value=value) if is_secret_in_code(name):
            yield value
        case ast.arguments():
            yield from _defaults(node)
        case ast.Dict(keys=keys, values=values):
            yield from (value for key, value in zip(keys, values, strict=True) if _is_key(key) or _names(key))
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            yield from (part for one in items for part in _second(one))
        case ast.Compare(left=left, comparators=others) if any(map(_names, (left, *others))):
            yield from (one for one in (left, *others) if not _names(one))
        case ast.BoolOp(values=values) if any(map(_names, values)):
            yield from (one for one in values if not _names(one))
        case ast.IfExp(body=body, orelse=orelse) if _names(body) or _names(orelse):
            yield from (body, orelse)
        case ast.Call():
            yield from _arguments(node)
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if is_secret_in_code(name):
            yield from (one.value for one in ast.walk(node) if isinstance(one, ast.Return) and one.value)
        case ast.ClassDef(name=name, body=body) if is_secret_in_code(name):
            yield from (one.value for one in body if isinstance(one, (ast.Assign, ast.AnnAssign)) and one.value)
        case ast.Match(subject=subject, cases=cases):
            patterns = [part for case in cases for part in ast.walk(case.pattern)]
            if _names(subject) or any(isinstance(one, ast.MatchAs) and _is_name(one.name) for one in patterns):
                yield subject
                yield from (one.value for one in patterns if isinstance(one, ast.MatchValue))


def _given_to_constant(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is given to a constant as OPENAI_KEY; many others of such names are no secrets."""
    if isinstance(node, ast.Assign):
        names = [one.id for target in node.targets for one in ast.walk(target) if isinstance(one, ast.Name)]
        if any(name.isupper() and is_secret_name(name) for name in names):
            yield node.value


def _has_digit(literal: Literal) -> bool:
    return any(character.isdigit() for character in _content(literal))


def _names(node: ast.AST | None) -> bool:  # noqa: PLR0911 - one line for each form
    """Whether a target, or an operand, is one whose name may be a secret's."""
    match node:
        case ast.Name(id=name):
            return is_secret_in_code(name)
        case ast.Attribute(value=value, attr=name):
            return is_secret_in_code(name) or _names(value)
        case ast.Subscript(value=value, slice=key):
            return _is_key(key) or _names(value)
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return any(map(_names, items))
        case ast.Starred(value=value):
            return _names(value)
        case ast.Call(func=function):
            return _is_of_secret(function)
    return False


def _is_name(name: str | None) -> bool:
    return name is not None and is_secret_in_code(name)


def _is_key(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and is_secret_in_code(node.value)


def _second(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what stands in a pair behind a secret's name."""
    if isinstance(node, (ast.Tuple, ast.List)) and len(node.elts) == 2 and _is_key(node.elts[0]):
        yield node.elts[1]


def _defaults(arguments: ast.arguments) -> Iterator[ast.AST]:
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = [
        *zip(reversed(positional), reversed(arguments.defaults), strict=False),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    yield from (default for one, default in pairs if default is not None and is_secret_in_code(one.arg))


def _arguments(call: ast.Call) -> Iterator[ast.AST]:
    """Yield the arguments of a function of secrets, and those behind a secret's name, as in setattr."""
    everything: Iterable[ast.AST] = (*call.args, *(one.value for one in call.keywords))
    name = _last_name(call.func)
    if name in _PROMPTS:
        return
    if name in _ENVIRONMENT or (name == "setdefault" and _is_of_secret(call.func)):
        yield from call.args[1:]
    elif _is_of_secret(call.func):
        yield from call.args[1:] if name in _LOOKUPS else everything
    for index, one in enumerate(call.args):
        if _is_key(one):
            yield from call.args[index + 1 :]
            return


def _is_of_secret(function: ast.AST) -> bool:
    """Whether a function, or what it is a method of, has such a name; columns' names do not count here."""
    match function:
        case ast.Name(id=name):
            return is_secret_in_code(name)
        case ast.Attribute(value=value, attr=name):
            return is_secret_in_code(name) or _is_of_secret(value)
        case ast.Subscript(value=value):
            return _is_of_secret(value)
    return False


def _last_name(function: ast.AST) -> str:
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _literals(part: ast.AST) -> Iterator[Literal]:
    """Yield the texts in an expression, without those by which something is looked up."""
    waiting: list[ast.AST] = [part]
    while waiting:
        node = waiting.pop()
        match node:
            case ast.Constant() | ast.JoinedStr():
                if _content(node).strip().lower() not in _SCHEMES:
                    yield node
            case ast.Subscript(value=value, slice=key):
                waiting += [value] if isinstance(key, ast.Constant) else [value, key]
            case ast.Call(func=function) if _last_name(function) in _PROMPTS:
                continue
            case ast.Call(func=function, args=arguments, keywords=keywords) if _last_name(function) in _LOOKUPS:
                first = [one for one in arguments[:1] if not isinstance(one, ast.Constant)]
                waiting += [function, *first, *arguments[1:], *keywords]
            case _:
                waiting += ast.iter_child_nodes(node)


def _content(literal: Literal) -> str:
    """Return what a text says, of an f-string all texts in it; "" for a number."""
    parts = (one.value for one in ast.walk(literal) if isinstance(one, ast.Constant))
    texts = (one.decode("latin-1") if isinstance(one, bytes) else one for one in parts)
    return "".join(one for one in texts if isinstance(one, str))
