"""Makes tools of what people have: functions, objects with `run`, and the tools of LangChain and CrewAI by their shape.

None of those packages is imported here; an object shows by its attributes what it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from sandbox_kernel.errors import ToolRegistrationError

from .context import RuntimeContext
from .schema import Signature, check_schema
from .tool import MAX_DESCRIPTION, Arguments, Policy, Tool

Described = tuple[str, Mapping[str, Any], Callable[[Arguments, RuntimeContext], Any], bool]
"""Description, schema, what is called, and whether it waits."""


def make_tool(
    name: str,
    live: Any,
    *,
    kind: str = "tool",
    input_schema: Mapping[str, Any] | None = None,
    description: str = "",
    policy: Policy = Policy.ALLOW,
    timeout: float = 60.0,
    source: str = "",
    secrets: frozenset[str] = frozenset(),
) -> Tool:
    """Return a tool that calls LIVE. Raises ToolRegistrationError with what to change."""
    owner = f"The {kind} {name!r}"
    if isinstance(live, Tool):
        said, schema, call, blocking = live.description, live.input_schema, live.call, live.blocking
    else:
        said, schema, call, blocking = _describe(live, owner, given=input_schema is not None)
    checked = check_schema(schema if input_schema is None else input_schema, owner)
    text = (description or said or name).strip()[:MAX_DESCRIPTION]
    return Tool(name, text, checked, call, blocking, kind, policy, timeout, source or _origin(live), secrets)


def _origin(live: Any) -> str:
    kind = live if inspect.isroutine(live) else type(live)
    return f"{getattr(kind, '__module__', '')}:{getattr(kind, '__qualname__', '')}"


def _describe(live: Any, owner: str, *, given: bool) -> Described:
    if inspect.isclass(live):
        raise ToolRegistrationError(f"{owner} is a class; register an object of it.")
    if _has(live, "name", "description") and (_has(live, "args_schema") or _has(live, "tool_call_schema")):
        return _describe_framework_tool(live, owner)
    if callable(getattr(live, "arun", None)) or callable(getattr(live, "run", None)):
        return _describe_runner(live, owner, given=given)
    if callable(live):
        return _describe_function(live, owner, inspect.getdoc(live) if inspect.isroutine(live) else "", given=given)
    raise ToolRegistrationError(
        f"{owner} is a {type(live).__name__}: it can neither be called nor has it a method run."
    )


def _has(live: Any, *names: str) -> bool:
    return all(hasattr(live, name) for name in names)


def _describe_framework_tool(live: Any, owner: str) -> Described:
    model = getattr(live, "tool_call_schema", None) or live.args_schema
    if isinstance(model, Mapping):
        schema = dict(model)
    elif hasattr(model, "model_json_schema"):
        schema = dict(model.model_json_schema())
    else:
        raise ToolRegistrationError(f"{owner}: its args_schema is no pydantic model and no JSON schema.")
    description = str(live.description)
    if callable(getattr(live, "invoke", None)):
        # LangChain. One that has a coroutine only can be awaited only.
        if getattr(live, "coroutine", None) is not None and getattr(live, "func", None) is None:
            return description, schema, lambda arguments, _: live.ainvoke(arguments), False
        return description, schema, lambda arguments, _: live.invoke(arguments), True
    run = getattr(live, "run", None)
    if callable(run):
        # CrewAI.
        return description, schema, lambda arguments, _: run(**arguments), True
    raise ToolRegistrationError(f"{owner} looks like a tool of a framework, and has neither invoke nor run.")


def _describe_runner(live: Any, owner: str, *, given: bool) -> Described:
    """Return what an object with `run`, or with a coroutine function `arun`, is."""
    function = getattr(live, "arun", None)
    if not (callable(function) and inspect.iscoroutinefunction(function)):
        function = live.run
    said = getattr(live, "description", None) or inspect.getdoc(type(live)) or ""
    own = getattr(live, "input_schema", None)
    text, schema, call, blocking = _describe_function(function, owner, str(said), given=given or own is not None)
    return text, schema if own is None else own, call, blocking


def _describe_function(function: Any, owner: str, said: str | None, *, given: bool) -> Described:
    target = function
    while hasattr(target, "func"):
        target = target.func
    asynchronous = inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(getattr(target, "__call__", None))  # noqa: B004 - its kind is asked for, not whether it is there
    try:
        signature = Signature(function, owner)
    except ToolRegistrationError:
        if not given:
            raise
        return said or "", {}, lambda arguments, _: function(**arguments), not asynchronous

    def call(arguments: Arguments, context: RuntimeContext) -> Any:
        return function(**signature.read(arguments, context))

    return said or inspect.getdoc(target) or "", signature.schema, call, not asynchronous
