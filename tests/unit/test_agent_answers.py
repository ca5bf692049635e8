"""What goes to an agent, and what comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_kernel.agents.answers import (
    MAX_LINE,
    Pieces,
    is_stream,
    looks_like_stream,
    request_body,
    text_of,
    whole_answer,
)
from sandbox_kernel.errors import InvocationError


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        ("hello", {"prompt": "hello"}),
        ('{"a": [1, null]}', {"a": [1, None]}),
        ("[1]", {"prompt": "[1]"}),
        ("5", {"prompt": "5"}),
        ({"any": {"thing": 1}}, {"any": {"thing": 1}}),
        ("", {"prompt": ""}),
        pytest.param("[" * 65536, {"prompt": "[" * 65536}, id="nested"),
    ],
)
def test_text_is_a_prompt_and_objects_stay_as_they_are(request_: Any, body: dict[str, Any]) -> None:
    assert request_body(request_) == body


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text().filter(lambda name: name != "error"), inner),
    max_leaves=8,
)


@given(
    st.lists(VALUES, max_size=6),
    st.sampled_from(["data: {}\n\n", "data:{}\r\n\r\n", ": ping\ndata: {}\n\n"]),
    st.integers(1, 40),
)
def test_events_arrive_whole_however_they_are_cut(values: list[Any], form: str, size: int) -> None:
    text = "".join(form.replace("{}", json.dumps(value)) for value in values)
    assert collected(text, size) == values


@given(st.lists(VALUES, max_size=6), st.integers(1, 40))
def test_lines_arrive_whole_however_they_are_cut(values: list[Any], size: int) -> None:
    assert collected("".join(json.dumps(value) + "\n" for value in values), size) == values


def collected(text: str, size: int) -> list[Any]:
    pieces = Pieces()
    found = [piece for start in range(0, len(text), size) for piece in pieces.feed(text[start : start + size])]
    return [*found, *pieces.end()]


def test_an_event_of_several_lines_is_one_piece_and_text_stays_text() -> None:
    assert collected("data: one\ndata: two\n\ndata: three", 3) == ["one\ntwo", "three"]
    assert collected("event: message\nid: 7\ndata: {}\n\ndata: [DONE]\n\n", 100) == [{}]


def test_a_piece_that_nests_without_an_end_stays_text() -> None:
    assert collected(f"data: {'[' * 65536}\n\n", 1 << 20) == ["[" * 65536]


@pytest.mark.parametrize("line", ["x" * 65536, f"data: {'x' * 65536}\n", "data:\n" * 10_000])
def test_a_piece_without_an_end_is_refused(line: str) -> None:
    with pytest.raises(InvocationError, match="more than"):
        collected(line * (2 * MAX_LINE // len(line)), 1 << 20)


def test_an_error_in_the_stream_is_one() -> None:
    with pytest.raises(InvocationError, match="no tokens left"):
        collected('data: {"a": 1}\n\ndata: {"error": "no tokens left"}\n\n', 100)


def test_answers_in_one_piece() -> None:
    assert whole_answer(' {"a": 1}') == {"a": 1}
    with pytest.raises(InvocationError, match="nothing"):
        whole_answer("  ")
    with pytest.raises(InvocationError, match="no JSON"):
        whole_answer("<html>")


def test_streams_are_known_by_their_type_or_their_beginning() -> None:
    assert is_stream("text/event-stream; charset=utf-8")
    assert is_stream("Application/X-NDJSON")
    assert not is_stream("application/json")
    assert looks_like_stream("data: {}")
    assert not looks_like_stream('{"data": 1}')


def test_people_see_the_text_in_a_piece() -> None:
    assert [text_of(piece) for piece in ("x", {"chunk": "y", "n": 1}, {"n": 1}, [1])] == ["x", "y", '{"n": 1}', "[1]"]
