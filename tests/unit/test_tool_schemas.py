"""Tools are made of functions, objects and the tools of frameworks; their arguments are described and checked."""

from __future__ import annotations

import datetime as dt
import enum
import functools
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import pydantic
import pytest

from sandbox_kernel.errors import ToolArgumentsError, ToolRegistrationError
from sandbox_kernel.tools import RuntimeContext, Tool
from sandbox_kernel.tools.adapters import make_tool
from sandbox_kernel.tools.schema import check_arguments, check_schema


class Colour(enum.Enum):
    RED = "red"


class Place(pydantic.BaseModel):
    lat: float
    lon: float = 0.0


class Point(TypedDict):
    x: int


def call(tool: Tool, context: RuntimeContext | None = None, **arguments: Any) -> Any:
    check_arguments(tool.validator, arguments)
    return tool.call(arguments, context or RuntimeContext())


def everything(
    text: str,
    number: Annotated[float, "how much"],
    colour: Colour,
    place: Place,
    when: dt.date,
    choice: Literal["a", 2] = "a",
    names: list[str] | None = None,
    tags: set[int] = frozenset(),  # type: ignore[assignment]
    point: Point | None = None,
    more: dict[str, int] | None = None,
    anything: Any = 1,
) -> Any:
    """Take everything.

    text: a text
    """
    return text, number, colour, place, when, choice, names, tags, point, more, anything


def test_type_hints_become_a_schema_and_values_what_the_hints_say() -> None:
    tool = make_tool("everything", everything)
    properties = tool.input_schema["properties"]
    assert tool.description.startswith("Take everything.")
    assert tool.input_schema["required"] == ["text", "number", "colour", "place", "when"]
    assert tool.input_schema["additionalProperties"] is False
    assert properties["text"] == {"type": "string", "description": "a text"}
    assert properties["number"] == {"type": "number", "description": "how much"}
    assert properties["colour"] == {"enum": ["red"]}
    assert properties["choice"] == {"enum": ["a", 2], "default": "a"}
    assert properties["names"]["anyOf"] == [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]
    assert properties["point"]["anyOf"][0]["required"] == ["x"]
    found = call(tool, text="t", number=1, colour="red", place={"lat": 1}, when="2026-01-02", tags=[1, 2], names=["n"])
    assert found[2:5] == (Colour.RED, Place(lat=1), dt.date(2026, 1, 2))
    assert found[6:8] == (["n"], {1, 2})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "required property"),
        ({"text": 1}, "text: 1 is not of type 'string'"),
        ({"other": 1}, "'other' was unexpected"),
        ({"names": ["a", 1]}, "names: ['a', 1] is not valid"),
        ({"place": {"lon": 1}}, "'lat' is a required property"),
        ({"when": "yesterday"}, "when: Invalid isoformat"),
        ({"choice": "b"}, "choice: 'b' is not one of"),
    ],
)
def test_wrong_arguments_are_named_by_their_place(arguments: dict[str, Any], said: str) -> None:
    tool = make_tool("everything", everything)
    good = {"text": "t", "number": 1, "colour": "red", "place": {"lat": 1}, "when": "2026-01-02"}
    with pytest.raises(ToolArgumentsError) as raised:
        call(tool, **({} if not arguments else {**good, **arguments}))
    assert said in str(raised.value)


def test_a_function_may_want_the_context() -> None:
    def look(name: str, context: RuntimeContext) -> Any:
        return context.get(name)

    tool = make_tool("look", look)
    assert list(tool.input_schema["properties"]) == ["name"]
    assert call(tool, RuntimeContext({"a": 1}), name="a") == 1


def test_partial_functions_and_objects_that_are_called() -> None:
    class Adder:
        """Adds."""

        def __call__(self, a: int, b: int) -> int:
            return a + b

    assert call(make_tool("adder", Adder()), a=1, b=2) == 3
    partial = make_tool("partial", functools.partial(Adder().__call__, b=5))
    assert call(partial, a=1) == 6


@pytest.mark.parametrize(
    ("live", "said"),
    [
        (lambda a: a, None),
        (lambda path=Path(): path, None),
        (Colour, "is a class; register an object of it"),
        (3, "can neither be called nor has it a method run"),
    ],
)
def test_what_cannot_be_a_tool_is_refused(live: Any, said: str | None) -> None:
    if said is None:
        make_tool("fine", live)
        return
    with pytest.raises(ToolRegistrationError, match=said):
        make_tool("odd", live)


def test_types_without_a_form_in_json_need_a_schema() -> None:
    def read(path: Path) -> str:
        return str(path)

    def only(a: int, /) -> int:
        return a

    with pytest.raises(ToolRegistrationError, match="'path' is of the type Path, which has no form in JSON"):
        make_tool("read", read)
    with pytest.raises(ToolRegistrationError, match="'a' has to be one that is called by name"):
        make_tool("only", only)
    tool = make_tool("read", read, input_schema={"properties": {"path": {"type": "string"}}})
    assert call(tool, path="x") == "x"


def test_schemas_that_are_given_are_checked() -> None:
    for schema, said in [
        ({"properties": {"n": {"type": "numbr"}}}, "wrong at $.properties.n.type"),
        ({"type": "array"}, "has the type 'array'"),
        ([], "is no JSON object"),
        ({"description": "x" * 300_000}, "more than 200000 characters"),
        ({"default": {1, 2}}, "no JSON"),
    ]:
        with pytest.raises(ToolRegistrationError) as raised:
            check_schema(schema, "The tool 'x'")
        assert said in str(raised.value)


def test_a_schema_that_points_elsewhere_fetches_nothing() -> None:
    tool = make_tool("x", lambda a: a, input_schema={"properties": {"a": {"$ref": "http://127.0.0.1:9/schema"}}})
    with pytest.raises(Exception, match="Unresolvable"):
        call(tool, a=1)


class LangChainShape:
    """As LangChain's tools look."""

    name = "search"
    description = "Search."
    args_schema = Place
    func = None
    coroutine = None

    def invoke(self, arguments: dict[str, Any]) -> str:
        return f"invoked {arguments}"

    async def ainvoke(self, arguments: dict[str, Any]) -> str:
        return f"awaited {arguments}"


class CrewShape:
    """As CrewAI's tools look."""

    name = "search"
    description = "Search."
    args_schema = Place

    def run(self, **arguments: Any) -> str:
        return f"ran {arguments}"


async def test_tools_of_frameworks_are_known_by_their_shape() -> None:
    assert call(make_tool("a", LangChainShape()), lat=1) == "invoked {'lat': 1}"
    assert call(make_tool("b", CrewShape()), lat=1) == "ran {'lat': 1}"
    asynchronous = LangChainShape()
    asynchronous.coroutine = asynchronous.ainvoke  # type: ignore[assignment]
    tool = make_tool("c", asynchronous)
    assert not tool.blocking
    assert await call(tool, lat=2) == "awaited {'lat': 2}"
    assert tool.input_schema["properties"]["lat"]["type"] == "number"


Small = Annotated[int, pydantic.Field(ge=0, lt=10, description="how many")]


def even(n: int) -> int:
    if n % 2:
        raise ValueError("not even")
    return n


class Unknown:
    """Has no form in JSON."""


def bounded(a: Small, many: list[Small] = [], maybe: Small | None = None) -> Any:  # noqa: B006 - nobody changes it
    return a, many, maybe


def test_limits_of_annotated_types_hold() -> None:
    tool = make_tool("bounded", bounded)
    first = {"type": "integer", "minimum": 0, "exclusiveMaximum": 10, "description": "how many"}
    assert tool.input_schema["properties"]["a"] == first
    assert call(tool, a=1, many=[2], maybe=3) == (1, [2], 3)
    for wrong in ({"a": -5}, {"a": 10}, {"a": 1, "many": [-1]}, {"a": 1, "maybe": -1}):
        with pytest.raises(ToolArgumentsError):
            call(tool, **wrong)


def test_what_no_schema_can_say_of_a_type_holds_too() -> None:
    def take(numbers: list[Annotated[int, pydantic.AfterValidator(even)]]) -> Any:
        return numbers

    tool = make_tool("take", take)
    assert call(tool, numbers=[2]) == [2]
    with pytest.raises(ToolArgumentsError, match="not even"):
        call(tool, numbers=[1])


def test_a_limit_that_would_be_lost_is_refused() -> None:
    def take(a: int = pydantic.Field(ge=0)) -> int:
        return a

    with pytest.raises(ToolRegistrationError, match=r"write Annotated\[TYPE, Field"):
        make_tool("take", take)

    def unknown(a: Annotated[Unknown, pydantic.Field(description="what")]) -> Any:
        return a

    with pytest.raises(ToolRegistrationError, match="pydantic cannot read its type"):
        make_tool("unknown", unknown)


class Inner(pydantic.BaseModel):
    x: int


class Outer(pydantic.BaseModel):
    inner: Inner


Namesake = pydantic.create_model("Inner", y=(str, ...))
Other = pydantic.create_model("Other", inner=(Namesake, ...))


def test_models_within_models_are_found_also_of_the_same_name() -> None:
    def take(a: Outer, b: list[Other] | None = None) -> Any:  # type: ignore[valid-type]
        return a, b

    tool = make_tool("take", take)
    assert set(tool.input_schema["$defs"]) == {"Inner", "Inner_"}
    assert call(tool, a={"inner": {"x": 1}})[0] == Outer(inner=Inner(x=1))
    assert call(tool, a={"inner": {"x": 1}}, b=[{"inner": {"y": "z"}}])[1] == [{"inner": {"y": "z"}}]
    for wrong in ({"a": {"inner": {"x": "z"}}}, {"a": {"inner": {"x": 1}}, "b": [{"inner": {"y": 1}}]}):
        with pytest.raises(ToolArgumentsError):
            call(tool, **wrong)


def test_tuples_have_a_type_for_each_place() -> None:
    def take(pair: tuple[int, str], many: tuple[int, ...] = (), none: tuple[()] = ()) -> Any:
        return pair, many, none

    tool = make_tool("take", take)
    assert call(tool, pair=[1, "x"], many=[1, 2], none=[]) == ((1, "x"), (1, 2), ())
    for wrong in ({"pair": ["x", 1]}, {"pair": [1]}, {"pair": [1, "x", 2]}, {"pair": [1, "x"], "none": [1]}):
        with pytest.raises(ToolArgumentsError):
            call(tool, **wrong)
