"""JSON schemas of arguments: made from type hints, checked when a tool is registered, and applied to each call."""

from __future__ import annotations

import collections.abc
import datetime as dt
import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sandbox_kernel.errors import ToolArgumentsError, ToolRegistrationError

from .context import RuntimeContext

MAX_SCHEMA = 200_000
"""Characters of a schema as JSON."""
_PLAIN: Mapping[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    dict: "object",
    list: "array",
    tuple: "array",
    type(None): "null",
    None: "null",
}
_FORMATS: Mapping[Any, str] = {dt.datetime: "date-time", dt.date: "date", dt.time: "time"}
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_SET: Mapping[str, Any] = {"uniqueItems": True, "maxItems": 10_000}
"""Not more items: a cell can choose numbers whose hashes are all the same, and so how long a set of them takes."""
_READ: Mapping[Any, Callable[[Any], Any]] = {
    dt.datetime: dt.datetime.fromisoformat,
    dt.date: dt.date.fromisoformat,
    dt.time: dt.time.fromisoformat,
    set: set,
    frozenset: frozenset,
    tuple: tuple,
}


class Signature:
    """A function's parameters: the schema that describes them, and how JSON's values become what it takes."""

    def __init__(self, function: Callable[..., Any], owner: str) -> None:
        """Raises ToolRegistrationError where a parameter has no form in JSON; OWNER begins the message."""
        try:
            parameters = inspect.signature(function).parameters.values()
            hints = _hints(function)
        except (TypeError, ValueError, NameError) as exc:
            raise ToolRegistrationError(
                f"{owner}: its parameters cannot be read ({exc}); give input_schema=…."
            ) from exc
        self.context_name = ""
        """The parameter that takes the RuntimeContext; "" if there is none."""
        self._readers: dict[str, Callable[[Any], Any]] = {}
        properties: dict[str, Any] = {}
        required: list[str] = []
        texts = described(inspect.getdoc(function) or "")
        any_more = False
        for one in parameters:
            hint = hints.get(one.name, Any)
            if hint is RuntimeContext:
                self.context_name = one.name
                continue
            if one.kind is one.POSITIONAL_ONLY:
                raise ToolRegistrationError(
                    f"{owner}: the parameter {one.name!r} has to be one that is called by name."
                )
            if one.kind is one.VAR_POSITIONAL:
                continue
            if one.kind is one.VAR_KEYWORD:
                any_more = True
                continue
            properties[one.name] = self._property(one, hint, f"{owner}: the parameter {one.name!r}", texts)
            if one.default is one.empty:
                required.append(one.name)
        shared: dict[str, Any] = {}
        properties = {name: _share_definitions(one, shared) for name, one in properties.items()}
        self.schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": any_more}
        if shared:
            self.schema["$defs"] = shared
        if required:
            self.schema["required"] = required

    def _property(self, one: inspect.Parameter, hint: Any, place: str, described: Mapping[str, str]) -> dict[str, Any]:
        schema = schema_of(hint, place)
        if _is_of_pydantic(one.default) and type(one.default).__name__ == "FieldInfo":
            raise ToolRegistrationError(f"{place}: its Field(…) is no default; write Annotated[TYPE, Field(…)].")
        if one.name in described and "description" not in schema:
            schema = {**schema, "description": described[one.name]}
        if one.default is not one.empty:
            try:
                json.dumps(one.default, allow_nan=False)
                schema = {**schema, "default": one.default}
            except (TypeError, ValueError):
                # A default that only Python knows; the function uses it where the argument is absent.
                pass
        reader = _reader(hint)
        if reader is not None:
            self._readers[one.name] = reader
        return schema

    def read(self, arguments: dict[str, Any], context: RuntimeContext) -> dict[str, Any]:
        """Return what the function is called with. Raises ToolArgumentsError."""
        found = dict(arguments)
        for name, reader in self._readers.items():
            if found.get(name) is None:
                continue
            try:
                found[name] = reader(found[name])
            except (TypeError, ValueError, KeyError) as exc:
                raise ToolArgumentsError(f"{name}: {str(exc)[:1000]}") from exc
        if self.context_name:
            found[self.context_name] = context
        return found


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    target: Any = function
    while hasattr(target, "func"):
        # functools.partial
        target = target.func
    if not (inspect.isfunction(target) or inspect.ismethod(target) or inspect.isbuiltin(target)):
        target = type(target).__call__
    return typing.get_type_hints(target, include_extras=True)


def described(doc: str) -> dict[str, str]:
    """Return what a docstring says of parameters on lines such as ``name: text``, ``:param name: text``."""
    found = {}
    for line in doc.splitlines()[1:]:
        name, colon, text = line.strip().removeprefix(":param ").partition(":")
        name = name.partition("(")[0].strip()
        if colon and name.isidentifier() and text.strip():
            found[name] = text.strip()
    return found


def schema_of(hint: Any, place: str) -> dict[str, Any]:  # noqa: C901, PLR0911, PLR0912 - one line for each form
    """Return the schema of a type hint. Raises ToolRegistrationError for what has no form in JSON."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object or hint is inspect.Parameter.empty:
        return {}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if hint in _FORMATS:
        return {"type": "string", "format": _FORMATS[hint]}
    if hint in (set, frozenset):
        return {"type": "array", **_SET}
    if _is_constrained(hint):
        return dict(_adapter(hint, place).json_schema())
    if origin is typing.Annotated:
        schema = schema_of(inner[0], place)
        said = next((extra for extra in inner[1:] if isinstance(extra, str)), None)
        said = said or next((extra.description for extra in inner[1:] if getattr(extra, "description", None)), None)
        return {**schema, "description": said} if said else schema
    if origin is typing.Literal:
        return {"enum": list(inner)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema_of(one, place) for one in inner]}
    if origin is tuple and hint is not typing.Tuple and inner[1:] != (...,):  # noqa: UP006 - as somebody wrote it
        places = [schema_of(one, place) for one in inner if one != ()]
        fixed = {"prefixItems": places, "items": False} if places else {}
        return {"type": "array", **fixed, "minItems": len(places), "maxItems": len(places)}
    if origin in _LISTS:
        items = inner[0] if inner else Any
        unique = {} if origin not in (set, frozenset) else {"uniqueItems": True} if items is str else _SET
        return {"type": "array", "items": schema_of(items, place), **unique}
    if origin in _DICTS:
        return {"type": "object", "additionalProperties": schema_of(inner[1], place)}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [member.value for member in hint]}
    if hasattr(hint, "model_json_schema"):
        return dict(hint.model_json_schema())
    if typing.is_typeddict(hint):
        fields = typing.get_type_hints(hint)
        return {
            "type": "object",
            "properties": {name: schema_of(one, place) for name, one in fields.items()},
            "required": sorted(hint.__required_keys__),
        }
    raise ToolRegistrationError(
        f"{place} is of the type {getattr(hint, '__name__', hint)}, which has no form in JSON; give input_schema=…."
    )


def _is_constrained(hint: Any) -> bool:
    """Whether a type hint has something in it that pydantic holds, such as ``Annotated[int, Field(ge=0)]``."""
    extras = getattr(hint, "__metadata__", ()) if typing.get_origin(hint) is typing.Annotated else ()
    return any(_is_of_pydantic(extra) for extra in extras) or any(map(_is_constrained, typing.get_args(hint)))


def _is_of_pydantic(value: object) -> bool:
    return type(value).__module__.partition(".")[0] in ("pydantic", "annotated_types")


def _adapter(hint: Any, place: str) -> Any:
    try:
        import pydantic

        made = pydantic.TypeAdapter(hint)
        made.json_schema()
    except (ImportError, TypeError, RuntimeError) as exc:
        raise ToolRegistrationError(f"{place}: pydantic cannot read its type ({exc}); give input_schema=….") from exc
    return made


def _share_definitions(schema: Any, shared: dict[str, Any]) -> Any:
    """Return a schema whose definitions (`$defs`) are put among those that all parameters share.

    References begin at the root of the whole schema, so pydantic's would lead nowhere from inside of it.
    """
    if isinstance(schema, list):
        return [_share_definitions(one, shared) for one in schema]
    if not isinstance(schema, dict):
        return schema
    own = schema.get("$defs")
    if not isinstance(own, dict):
        return {key: _share_definitions(one, shared) for key, one in schema.items()}
    names: dict[str, str] = {}
    for name, one in own.items():
        names[name] = name
        while shared.get(names[name], one) != one:
            # Another class of the same name.
            names[name] += "_"
    shared.update({names[name]: _with_references(one, names) for name, one in own.items()})
    return _with_references({key: one for key, one in schema.items() if key != "$defs"}, names)


def _with_references(schema: Any, names: Mapping[str, str]) -> Any:
    """Return a schema whose references to definitions have other names."""
    if isinstance(schema, list):
        return [_with_references(one, names) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _with_references(one, names) for key, one in schema.items()}
    place, slash, name = str(schema.get("$ref", "")).rpartition("/")
    if place == "#/$defs" and name in names:
        found["$ref"] = place + slash + names[name]
    return found


def _reader(hint: Any) -> Callable[[Any], Any] | None:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if _is_constrained(hint):
        validated: Callable[[Any], Any] = _adapter(hint, "a parameter").validate_python
        return validated
    if origin is typing.Annotated:
        return _reader(inner[0])
    if origin in (typing.Union, types.UnionType):
        others = [one for one in inner if one is not type(None)]
        return _reader(others[0]) if len(others) == 1 else None
    if hasattr(hint, "model_validate"):
        validate: Callable[[Any], Any] = hint.model_validate
        return validate
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint
    return _READ.get(origin or hint)


def check_schema(schema: object, owner: str) -> dict[str, Any]:
    """Return a schema of arguments that was given. Raises ToolRegistrationError with the place of the mistake."""
    import jsonschema

    if not isinstance(schema, Mapping):
        raise ToolRegistrationError(f"{owner}: its input schema is no JSON object.")
    plain = dict(schema)
    try:
        if len(json.dumps(plain)) > MAX_SCHEMA:
            raise ToolRegistrationError(f"{owner}: its input schema has more than {MAX_SCHEMA} characters.")
        jsonschema.Draft202012Validator.check_schema(plain)
    except jsonschema.SchemaError as exc:
        raise ToolRegistrationError(
            f"{owner}: its input schema is wrong at {exc.json_path}: {exc.message[:500]}"
        ) from exc
    except (TypeError, ValueError, RecursionError) as exc:
        raise ToolRegistrationError(f"{owner}: its input schema is no JSON: {exc}") from exc
    if plain.setdefault("type", "object") != "object":
        raise ToolRegistrationError(
            f"{owner}: its input schema has the type {plain['type']!r}; arguments are an object."
        )
    return plain


Validator = Any
"""Of jsonschema's, whose classes are made at run time."""


COSTLY = frozenset(
    {
        "pattern",
        "patternProperties",
        "$ref",
        "$dynamicRef",
        "$recursiveRef",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
"""Keywords whose check can take any time, by what they say or by how they contain each other."""


def is_costly(schema: Any) -> bool:
    """Whether checking a few bytes against a schema can take long."""
    if isinstance(schema, Mapping):
        return not COSTLY.isdisjoint(schema) or any(is_costly(one) for one in schema.values())
    return isinstance(schema, (list, tuple)) and any(is_costly(one) for one in schema)


def make_validator(schema: Mapping[str, Any]) -> Validator:
    """Return what checks values against a schema."""
    import jsonschema
    import referencing

    # A registry without a way out: a `$ref` to elsewhere is no reason to fetch anything.
    registry: Any = referencing.Registry()
    extend: Any = jsonschema.validators.extend
    return extend(jsonschema.Draft202012Validator, {"uniqueItems": _unique_items})(schema, registry=registry)


def _unique_items(validator: Validator, wanted: bool, value: Any, _schema: Any) -> Iterator[Exception]:
    """Check `uniqueItems` in a time that grows as the items do; jsonschema compares each with each other."""
    import jsonschema

    # By their texts: a cell could choose numbers whose hashes are all the same.
    if wanted and validator.is_type(value, "array") and len({_text(item) for item in value}) < len(value):
        yield jsonschema.ValidationError(f"{value!r} has non-unique elements")


def _text(value: Any) -> str:
    """Return a text that equal values of JSON have in common."""
    return json.dumps(_plain_numbers(value), sort_keys=True)


def _plain_numbers(value: Any) -> Any:
    # 1 and 1.0 are the same number.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain_numbers(item) for key, item in value.items()}
    return value


def check_arguments(validator: Validator, arguments: dict[str, Any]) -> None:
    """Raise ToolArgumentsError if arguments are not what a schema describes; the message names the place.

    May take any time, see `is_costly`; what comes from cells is checked by checking.py.
    """
    import referencing.exceptions

    try:
        error = next(iter(validator.iter_errors(arguments)), None)
    except RecursionError as exc:
        raise ToolArgumentsError("the arguments are nested too deeply") from exc
    except (ArithmeticError, re.error, referencing.exceptions.Unresolvable) as exc:
        raise ToolArgumentsError(f"the tool's schema cannot be applied: {str(exc)[:500]}") from exc
    if error is not None:
        place = error.json_path.removeprefix("$").lstrip(".")
        raise ToolArgumentsError(f"{place}: {error.message[:1000]}" if place else error.message[:1000])
