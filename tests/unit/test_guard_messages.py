"""The guard's rules for messages: types, form, sizes, replies, questions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox_kernel.errors import ConfigurationError
from sandbox_kernel.guard import Guard
from sandbox_kernel.guard.messages import OUTPUTS, SEARCHED, is_stream

Json = dict[str, Any]
PARENT = {"msg_id": "request", "msg_type": "execute_request", "session": "front end"}
REQUEST = json.dumps(PARENT).encode()


def header_of(msg_type: str, **fields: Any) -> Json:
    return {
        "msg_id": "m",
        "msg_type": msg_type,
        "username": "u",
        "session": "s",
        "date": "d",
        "version": "5.4",
        **fields,
    }


def frames_of(msg_type: str, content: Any, *buffers: bytes, parent: Json = PARENT, **fields: Any) -> list[Any]:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return [json.dumps(header_of(msg_type, **fields)).encode(), json.dumps(parent).encode(), b"{}", raw, *buffers]


def pass_on(guard: Guard, msg_type: str, content: Any, *buffers: bytes, parent: Json = PARENT, **fields: Any) -> Any:
    """Return the frames that pass; None if the message is dropped."""
    frames = frames_of(msg_type, content, *buffers, parent=parent, **fields)
    return guard.output(frames, header_of(msg_type, **fields), parent)


def content_of(frames: list[Any]) -> Json:
    content: Json = json.loads(frames[3])
    return content


@pytest.mark.parametrize(
    ("msg_type", "content"),
    [
        ("stream", {"name": "stdout", "text": "plain"}),
        ("stream", {"name": "stderr", "text": 'with "quotes", \\ and \x1b[31mcolour\n'}),
        ("status", {"execution_state": "busy"}),
        ("execute_input", {"code": "1", "execution_count": 1}),
        ("error", {"ename": "E", "evalue": "<b>", "traceback": ["\x1b[0;31m<script>"]}),
        ("clear_output", {"wait": True}),
        ("debug_event", {"type": "event", "event": "stopped"}),
        ("execute_result", {"data": {"text/plain": "1"}, "metadata": {}, "execution_count": 1}),
        ("display_data", {"data": {"image/png": "iVBORw0KGgo="}, "metadata": {}, "transient": {"display_id": "d"}}),
        ("update_display_data", {"data": {"text/html": "<b>x</b>"}, "metadata": {}, "transient": {"display_id": "d"}}),
        ("comm_msg", {"comm_id": "c", "data": {"method": "custom", "content": {}}}),
        ("comm_close", {"comm_id": "c", "data": {}}),
    ],
)
def test_ordinary_output_passes_byte_for_byte(msg_type: str, content: Json) -> None:
    frames = frames_of(msg_type, content)
    assert Guard().output(frames, header_of(msg_type), PARENT) is frames


@pytest.mark.parametrize(
    ("msg_type", "content"),
    [
        ("shutdown_reply", {"status": "ok", "restart": True}),
        ("iopub_welcome", {"subscription": ""}),
        ("execute_reply", {"status": "ok"}),
        ("input_request", {"prompt": ""}),
        ("stream", {"name": "stdout", "text": {"no": "text"}}),
        ("stream", {"name": "other", "text": ""}),
        ("status", {"execution_state": "dead"}),
        ("status", {"execution_state": "restarting"}),
        ("error", {"ename": "E", "evalue": "v", "traceback": "text"}),
        ("clear_output", {"wait": "yes"}),
        ("execute_input", {"code": 1, "execution_count": 1}),
        ("execute_result", {"data": {"text/plain": "1"}, "metadata": {}, "execution_count": "1"}),
        ("display_data", {"data": [], "metadata": {}}),
        ("display_data", {"data": {}, "metadata": {}, "transient": {"display_id": 1}}),
        ("display_data", b'{"data": {"text/plain": NaN}, "metadata": {}}'),
        ("display_data", '{"data": {}, "metadata": {}}'.encode("utf-16")),
        ("stream", b"[1]"),
        ("stream", b"[" * 100_000),
    ],
)
def test_what_no_kernel_publishes_is_dropped_and_counted(msg_type: str, content: Any) -> None:
    guard = Guard()
    assert pass_on(guard, msg_type, content) is None
    assert guard.dropped == 1


@pytest.mark.parametrize("fields", [{"msg_id": 1}, {"msg_id": ""}, {"session": {}}, {"msg_id": "x" * 2000}])
def test_message_with_a_broken_header_is_dropped(fields: Json) -> None:
    assert pass_on(Guard(), "stream", {"name": "stdout", "text": ""}, **fields) is None


def test_metadata_has_to_be_an_object() -> None:
    frames = frames_of("stream", {"name": "stdout", "text": ""})
    frames[2] = b"[]"
    assert Guard().output(frames, header_of("stream"), PARENT) is None


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (rb'{"name": "stdout", "text": "a"}', True),
        (rb'{"name":"stderr","text":""}', True),
        (rb'{"name": "stdout", "text": "a\"b\\"}', True),
        (rb'{"name": "stdout", "text": "a\\\"b"}', True),
        (rb'{"name": "stdout", "text": "a", "x": "b"}', False),
        (rb'{"name": "stdout", "text": "a\\", "x": "b"}', False),
        (rb'{"name": "stdout", "text": "a\"}', False),
        (rb'{"name": "stdout", "text": "a\\\"}', False),
        (rb'{"name": "stdin", "text": "a"}', False),
        (rb'{"name": "stdout", "text": "}', False),
    ],
)
def test_streams_are_recognised_exactly(raw: bytes, expected: bool) -> None:
    assert is_stream(raw) is expected
    assert is_stream(memoryview(raw)) is expected


@pytest.mark.parametrize("offset", range(-4, 2))
@pytest.mark.parametrize("piece", ["", "\\", '"', '\\"', "\\\\", '\\\\"', '\\\\\\"', "\\\\\\", "\\n"])
def test_large_stream_is_judged_as_a_parser_does(piece: str, offset: int) -> None:
    # Where one part that is searched ends and the next begins.
    text = "x" * (SEARCHED + offset) + piece
    for whole in (text, text + "y" * SEARCHED, text + '\\"' + "\\\\" * SEARCHED):
        raw = f'{{"name": "stdout", "text": "{whole}"}}'
        try:
            is_one = set(json.loads(raw)) == {"name", "text"}
        except ValueError as exc:
            # What is escaped wrongly is still inside the string.
            is_one = "escape" in str(exc)
        for content in (raw.encode(), bytearray(raw.encode()), memoryview(raw.encode())):
            assert is_stream(content) is is_one


def test_key_that_changes_an_objects_prototype_is_taken_out() -> None:
    raw = b'{"data": {"text/plain": "x", "__proto__": {"text/html": "<script>"}}, "metadata": {}}'
    for spelling in (raw, raw.replace(b"__proto__", rb"\u005f_proto__")):
        frames = pass_on(Guard(), "display_data", spelling)
        assert content_of(frames)["data"] == {"text/plain": "x"}
        assert b"script" not in frames[3]


def test_last_of_equal_keys_counts_as_in_a_browser() -> None:
    raw = b'{"data": {"text/plain": "x"}, "data": {"text/html": "<img src=x onerror=y>"}, "metadata": {}}'
    assert b'"<img src=x onerror' not in pass_on(Guard(), "display_data", raw)[3]


def test_large_picture_is_not_parsed_but_what_stands_beside_it_is() -> None:
    picture = "A" * 200_000
    raw = json.dumps({"data": {"text/plain": "<Figure>", "image/png": picture}, "metadata": {}}).encode()
    frames = frames_of("display_data", raw)
    assert Guard().output(frames, header_of("display_data"), PARENT) is frames
    hidden = raw.replace(b'"}, "metadata"', b'", "text/html": "<img src=x onerror=y>"}, "metadata"')
    content = content_of(pass_on(Guard(), "display_data", hidden))
    assert content["data"]["image/png"] == picture
    assert "onerror" not in content["data"]["text/html"].partition("srcdoc")[0]
    # In each of the pieces in which it is searched, and where two of them meet.
    first = raw.index(b"AAAA")
    for place in (first, first + SEARCHED - 1, first + SEARCHED, first + len(picture) - 2):
        for sign in (b"<", b"'", b">", b"&"):
            breaking = raw[:place] + sign + raw[place + 1 :]
            assert "image/png" not in content_of(pass_on(Guard(), "display_data", breaking))["data"]
        escaped = raw[:place] + b"\\u003c" + raw[place + 6 :] if place < first + SEARCHED + 1 else raw
        shown = content_of(pass_on(Guard(), "display_data", escaped))["data"]
        assert ("image/png" in shown) == (escaped is raw)
        ended = raw[:place] + b'"' + raw[place + 1 :]
        assert pass_on(Guard(), "display_data", ended) is None


def test_output_is_cut_at_the_cells_bound_with_one_notice() -> None:
    guard, notices = Guard(max_cell_output=2000), []
    guard.on_notice = lambda text, parent: notices.append((text, parent["msg_id"]))
    passed = [pass_on(guard, "stream", {"name": "stdout", "text": "x" * 300}) for _ in range(10)]
    assert 0 < sum(one is not None for one in passed) < 6
    assert passed[-1] is None
    assert notices == [("sandbox: the output was cut after 2 KB (Guard.max_cell_output)", "request")]
    assert pass_on(guard, "status", {"execution_state": "idle"}) is not None
    assert pass_on(guard, "stream", {"name": "stdout", "text": "x"}, parent={**PARENT, "msg_id": "next"}) is not None


def test_message_that_is_too_large_is_dropped_with_a_notice() -> None:
    guard, notices = Guard(max_message_size=1000), []
    guard.on_notice = lambda text, parent: notices.append(text)
    assert pass_on(guard, "stream", {"name": "stdout", "text": "x" * 2000}) is None
    assert pass_on(guard, "stream", {"name": "stdout", "text": "x"}) is not None
    (notice,) = notices
    assert "Guard.max_message_size" in notice


def test_flood_of_messages_is_thinned_with_a_notice() -> None:
    guard, notices = Guard(max_message_rate=1000), []
    guard.on_notice = lambda text, parent: notices.append(text)
    passed = [pass_on(guard, "stream", {"name": "stdout", "text": "x"}) for _ in range(3000)]
    assert passed.count(None) > 0
    assert passed[0] is not None
    (notice,) = notices
    assert "Guard.max_message_rate" in notice


def reply(guard: Guard, request: str, content: Json, *, header: Json | None = None) -> Any:
    frames = frames_of("", content, parent={"forged": "parent"})
    frames[0] = json.dumps(header or header_of(request.removesuffix("_request") + "_reply")).encode()
    passed = guard.reply(request, REQUEST, frames)
    if passed is None:
        return None
    assert passed[1] == REQUEST
    return content_of(passed)


def execution(**fields: Any) -> Json:
    return {"status": "ok", "execution_count": 1, "payload": [], "user_expressions": {}, **fields}


def test_reply_has_the_type_and_the_parent_of_its_request() -> None:
    assert reply(Guard(), "execute_request", execution()) == execution()
    assert reply(Guard(), "inspect_request", execution(), header=header_of("execute_reply")) is None
    assert reply(Guard(), "history_request", {"status": "ok", "history": []}) == {"status": "ok", "history": []}


def test_pager_shows_no_active_content() -> None:
    page = {"source": "page", "data": {"text/plain": "doc", "text/html": "<img src=x onerror=y>"}, "start": 0}
    (payload,) = reply(Guard(), "execute_request", execution(payload=[page]))["payload"]
    assert payload["data"]["text/plain"] == "doc"
    assert "onerror" not in payload["data"]["text/html"].partition("srcdoc")[0]


@pytest.mark.parametrize(
    "text",
    [
        "%sandbox apply",
        "\n\n  %sandbox apply\nx",
        "# a comment\n%sandbox apply",
        "%%sandbox e2b\nx",
        "%sandbox\n%sandbox",
    ],
)
def test_cell_put_into_the_notebook_is_marked_and_cannot_command(text: str) -> None:
    from sandbox_kernel.requests import leading_commands

    payload = {"source": "set_next_input", "text": text, "replace": False}
    (passed,) = reply(Guard(), "execute_request", execution(payload=[payload]))["payload"]
    assert passed["text"].startswith("# This cell was written by the sandbox.\n")
    assert leading_commands(passed["text"]) == []
    assert leading_commands(passed["text"].partition("\n")[2]) == []


def test_loaded_code_stays_as_it_is_behind_the_mark() -> None:
    payload = {"source": "set_next_input", "text": "# %load x.py\nprint('a')", "replace": True}
    (passed,) = reply(Guard(), "execute_request", execution(payload=[payload]))["payload"]
    assert passed["text"].endswith("\n# %load x.py\nprint('a')")
    assert passed["replace"] is True


def test_other_payloads_are_dropped_and_exit_passes() -> None:
    payloads = [{"source": "edit_magic", "filename": "/etc/passwd"}, {"source": "ask_exit", "keepkernel": False}, 1]
    content = reply(Guard(), "execute_request", execution(payload=payloads))
    assert content["payload"] == [{"source": "ask_exit", "keepkernel": False}]


def test_bundles_in_replies_are_cleaned() -> None:
    bundle = {"status": "ok", "data": {"text/plain": "x", "text/html": "<img src=x onerror=y>"}, "metadata": {}}
    for content in (
        reply(Guard(), "execute_request", execution(user_expressions={"a": bundle}))["user_expressions"]["a"],
        reply(Guard(), "inspect_request", {**bundle, "found": True}),
        reply(Guard(), "debug_request", {"type": "response", "body": bundle})["body"],
    ):
        assert content["data"]["text/plain"] == "x"
        assert "onerror" not in content["data"]["text/html"].partition("srcdoc")[0]


def test_question_is_bounded_and_nothing_else_comes_on_stdin() -> None:
    guard = Guard()
    asked = guard.question(REQUEST, frames_of("input_request", {"prompt": "?" * 20_000, "password": True, "x": 1}))
    assert asked is not None
    assert asked[1] == REQUEST
    assert content_of(asked) == {"prompt": "?" * 10_000, "password": True}
    assert guard.question(REQUEST, frames_of("execute_reply", {"prompt": ""})) is None
    assert guard.question(REQUEST, frames_of("input_request", {"prompt": ["x"]})) is None


def test_trusted_output_passes_as_it_was() -> None:
    guard = Guard(trusted_output=True)
    for msg_type in (*OUTPUTS, "anything"):
        frames = frames_of(msg_type, b"no json")
        assert guard.output(frames, header_of(msg_type), {"x": 1}) is frames
        assert guard.reply(msg_type, REQUEST, frames) is frames
        assert guard.question(REQUEST, frames) is frames


def test_options_may_differ_by_provider() -> None:
    options = {"e2b": {"trusted_output": True}}
    assert Guard("e2b", providers=options).trusted_output
    assert not Guard("local", providers=options).trusted_output
    with pytest.raises(ConfigurationError, match=r"there is no option trusted\."):
        Guard("e2b", providers={"e2b": {"trusted": True}})
    with pytest.raises(ConfigurationError, match="mime_types"):
        Guard("e2b", providers={"e2b": {"mime_types": 1}})


def test_policy_is_described() -> None:
    assert Guard().description == "on"
    assert Guard(trusted_output=True).description == "off: output is trusted"
    assert (
        Guard(script_hosts=["https://cdn.plot.ly"]).description == "on; also allowed: scripts from: https://cdn.plot.ly"
    )


def test_dictionaries_are_checked_like_frames() -> None:
    guard = Guard()
    content = {"data": {"text/html": "<b onclick=x>y</b>"}, "metadata": {}, "transient": {}}
    message = {"header": header_of("display_data"), "parent_header": PARENT, "metadata": {}, "content": content}
    passed = guard.message(message)
    assert passed is not None
    assert "srcdoc" in passed["content"]["data"]["text/html"]
    assert guard.message({**message, "header": header_of("shutdown_reply")}) is None
    plain = {**message, "content": {"data": {"text/plain": "x"}, "metadata": {}}}
    assert guard.message(plain) is plain
