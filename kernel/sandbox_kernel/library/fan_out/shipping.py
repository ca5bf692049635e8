"""How a function travels into a sandbox: as source where that is all it needs, else by cloudpickle.

Only into it: nothing that comes out of a sandbox is unpickled.
"""

from __future__ import annotations

import ast
import builtins
import dis
import importlib
import inspect
import pickle
import textwrap
import types
from collections.abc import Callable, Iterator
from typing import Any

from sandbox_kernel.errors import TransferError
from sandbox_kernel.library import values
from sandbox_kernel.link.protocol import Buffer

MAX_CONSTANT = 64 * 1024
"""Bytes that a global variable of a function may have to go along with its source."""
HINT = (
    "pass it with each input, define it in the function, or install cloudpickle here and in the sandbox's environment "
    "(pip install 'sandbox-kernel[fan-out]')"
)

_ELSEWHERE = object()
"""The meaning of a name that is no global variable: a builtin, or one that is there only when the function runs."""

Json = dict[str, Any]


class _NotAsSourceError(Exception):
    """A function needs what its source does not say; the message says what."""


def of_source(name: str, source: str) -> tuple[Json, list[Buffer]]:
    """Return header and buffers of the function NAME that this source defines."""
    return {"kind": "source", "name": name}, [source.encode()]


def of_function(function: Callable[[Any], Any]) -> tuple[Json, list[Buffer]]:
    """Return header and buffers of a function. Raises TransferError where it cannot travel."""
    if not callable(function):
        raise TransferError(f"map takes a function, and this is {type(function).__name__}.")
    if hasattr(function, "cache_parameters"):
        name = getattr(function, "__name__", "function")
        raise TransferError(f"a cached function does not travel: pass {name}.__wrapped__, the one below its cache.")
    if inspect.iscoroutinefunction(function):
        raise TransferError("map takes a plain function, and this is a coroutine function.")
    try:
        source = _Source(function).text
    except _NotAsSourceError as exc:
        pickled = _cloudpickled(function)
        if pickled is None:
            name = getattr(function, "__name__", type(function).__name__)
            raise TransferError(f"{name} cannot travel into a sandbox: {exc}; {HINT}.") from None
        return {"kind": "pickle"}, [pickled]
    return of_source(function.__name__, source)


def of_input(value: Any) -> tuple[Json, list[Buffer]]:
    """Return header and buffers of an input. Raises TransferError where it cannot travel."""
    try:
        return values.encode(value)
    except values.TransferError as exc:
        pickled = _cloudpickled(value)
        if pickled is None:
            raise TransferError(f"the input does not travel: {exc}") from None
    return {"kind": "pickle"}, [pickled]


def _cloudpickled(value: Any) -> bytes | None:
    """Return a value as cloudpickle writes it; None where that is not installed. Raises TransferError."""
    try:
        cloudpickle = importlib.import_module("cloudpickle")
    except ImportError:
        return None
    try:
        return bytes(cloudpickle.dumps(value))
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError) as exc:
        raise TransferError(f"cloudpickle cannot carry it: {exc}") from None


class _Source:
    """A function's source, and that of what it uses by name: modules, other functions, small data."""

    def __init__(self, function: Any) -> None:
        self._parts: dict[str, str] = {}
        self._meanings: dict[str, Any] = {}
        """What each name means. All of them are in one space there, and may come from several modules here."""
        self._annotated = False
        name = function.__name__ if isinstance(function, types.FunctionType) else ""
        self._meanings[name] = function
        self._add(name, function)
        # So annotations are not looked at, and the names in them need not be there.
        first = ["from __future__ import annotations"] if self._annotated else []
        self.text = "\n".join([*first, *self._parts.values()])

    def _add(self, name: str, function: Any) -> None:
        source = _source_of(name, function)
        # In its place before what it uses is looked at: it may use itself.
        self._parts[name] = source
        self._annotated = self._annotated or _is_annotated(source)
        for used in _globals_of(function.__code__):
            self._use(used, function.__globals__.get(used, _ELSEWHERE))

    def _use(self, name: str, value: Any) -> None:
        if name in self._meanings:
            self._require_same(name, value)
            return
        self._meanings[name] = value
        if value is _ELSEWHERE:
            return
        if isinstance(value, types.ModuleType):
            self._parts[name] = f"import {value.__name__} as {name}"
        elif (origin := _importable(value)) is not None:
            self._parts[name] = f"from {origin[0]} import {origin[1]} as {name}"
        elif isinstance(value, types.FunctionType) and value.__name__ == name:
            self._add(name, value)
        else:
            self._parts[name] = _constant(name, value)

    def _require_same(self, name: str, value: Any) -> None:
        known = self._meanings[name]
        if known is not value and not _are_same_data(known, value):
            raise _NotAsSourceError(f"the name {name} means one thing in one function and another in the next")


def _source_of(name: str, function: Any) -> str:
    if not isinstance(function, types.FunctionType):
        raise _NotAsSourceError(f"it is no function that was written in Python, but {type(function).__name__}")
    if name == "<lambda>":
        raise _NotAsSourceError("a lambda has no source of its own, so define it with def")
    if function.__code__.co_freevars:
        names = ", ".join(function.__code__.co_freevars)
        raise _NotAsSourceError(f"it is a closure over {names}")
    if hasattr(function, "__wrapped__"):
        raise _NotAsSourceError("it is decorated")
    if function.__defaults__ or function.__kwdefaults__:
        # They are computed where the function is defined, and may have been changed since: here they are plain data.
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            _constant("a default value", value)
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        raise _NotAsSourceError("its source is not to be had") from None
    if not source.lstrip().startswith("def "):
        raise _NotAsSourceError("it is decorated, or part of something else")
    if not _has_literal_defaults(source, function):
        raise _NotAsSourceError("a default value of its arguments is computed where it is defined")
    return source


def _is_annotated(source: str) -> bool:
    return any(
        getattr(node, "annotation", None) or getattr(node, "returns", None) for node in ast.walk(ast.parse(source))
    )


def _has_literal_defaults(source: str, function: types.FunctionType) -> bool:
    """Whether the source says the default values as they are, without a name of anything."""
    try:
        (definition,) = ast.parse(source).body
        assert isinstance(definition, ast.FunctionDef)
        arguments = definition.args
        defaults = tuple(ast.literal_eval(one) for one in arguments.defaults)
        named = {
            argument.arg: ast.literal_eval(default)
            for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            if default is not None
        }
    except (ValueError, SyntaxError):
        return False
    return defaults == (function.__defaults__ or ()) and named == (function.__kwdefaults__ or {})


def _globals_of(code: types.CodeType) -> Iterator[str]:
    """Give the global names that a function uses, also in the functions inside of it."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals_of(constant)


def _importable(value: Any) -> tuple[str, str] | None:
    """Return module and name by which a function or class can be imported; None for what was defined in a program."""
    module, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return None
    if isinstance(value, types.FunctionType) and not _is_installed(module):
        # It lies in a file of the user's, which a sandbox need not have.
        return None
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    return (module, name) if found is value and module != builtins.__name__ else None


def _is_installed(module: str) -> bool:
    """Whether a module belongs to Python or to an installed package."""
    import sys
    import sysconfig

    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return True
    file = str(getattr(sys.modules.get(module), "__file__", "") or "")
    paths = sysconfig.get_paths()
    return any(file.startswith(paths[kind]) for kind in ("purelib", "platlib"))


def _are_same_data(one: Any, other: Any) -> bool:
    try:
        return _constant("", one) == _constant("", other)
    except _NotAsSourceError:
        return False


def _constant(name: str, value: Any) -> str:
    """Return what gives a name its value again, for data that Python writes as it reads them."""
    try:
        header, buffers = values.encode(value)
    except values.TransferError:
        raise _NotAsSourceError(f"{name} is a {type(value).__name__}") from None
    if header["kind"] not in ("json", "bytes", "bytearray") or sum(len(one) for one in buffers) > MAX_CONSTANT:
        raise _NotAsSourceError(f"{name} is a {type(value).__name__}, or too large to go along")
    return f"{name} = _decode({header!r}, [{bytes(buffers[0])!r}])"
