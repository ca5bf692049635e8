"""The guard's rules for comms: targets, modules of widgets, and what stands in a widget's state."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox_kernel.guard import Guard

from .test_guard_messages import PARENT, content_of, frames_of, header_of, pass_on

Json = dict[str, Any]
CONTROLS, BASE, OUTPUT = (f"@jupyter-widgets/{name}" for name in ("controls", "base", "output"))


def state_of(name: str, module: str = CONTROLS, **fields: Any) -> Json:
    return {"_model_module": module, "_model_name": name, "_view_module": module, "_view_name": "View", **fields}


def opening(state: Json, comm_id: str = "c", **fields: Any) -> Json:
    data = {"state": state, "buffer_paths": fields.pop("buffer_paths", [])}
    return {"comm_id": comm_id, "target_name": "jupyter.widget", "data": data, **fields}


def update(state: Json, comm_id: str = "c", **fields: Any) -> Json:
    return {"comm_id": comm_id, "data": {"method": "update", "state": state, "buffer_paths": [], **fields}}


def opened(guard: Guard, state: Json, comm_id: str = "c", *buffers: bytes, **fields: Any) -> Json | None:
    passed = pass_on(guard, "comm_open", opening(state, comm_id, **fields), *buffers)
    return None if passed is None else content_of(passed)["data"]["state"]


def updated(guard: Guard, state: Json, comm_id: str = "c") -> Json | None:
    passed = pass_on(guard, "comm_msg", update(state, comm_id))
    return None if passed is None else content_of(passed)["data"]["state"]


def test_ordinary_widget_passes_byte_for_byte_with_its_buffers() -> None:
    state = state_of("TextModel", value="<b>no HTML</b>", description="a<b")
    frames = frames_of("comm_open", opening(state, buffer_paths=[["value"]]), b"\x00\x01")
    assert Guard().output(frames, header_of("comm_open"), PARENT) is frames


@pytest.mark.parametrize("name", ["HTMLModel", "HTMLMathModel"])
def test_html_of_a_widget_is_cleaned_at_creation_and_by_update(name: str) -> None:
    guard, notices = Guard(), []
    guard.on_notice = lambda text, parent: notices.append(text)
    state = opened(guard, state_of(name, value="<b>x</b><img src=x onerror=y>"))
    assert state is not None
    assert state["value"] == "<b>x</b><img>"
    assert updated(guard, {"value": "<i onclick=x>y</i>"}) == {"value": "<i>y</i>"}
    assert updated(guard, {"value": "<i>y</i>"}) == {"value": "<i>y</i>"}
    assert len(notices) == 1


def test_update_of_a_widget_that_was_not_seen_is_cleaned_as_if_it_showed_html() -> None:
    assert updated(Guard(), {"value": "<i onclick=x>y</i>"}, "unknown") == {"value": "<i>y</i>"}


@pytest.mark.parametrize("value", [["<img src=x onerror=y>"], [["<img src=x", "onerror=y>"]]])
def test_html_in_a_list_is_html_too(value: Any) -> None:
    state = opened(Guard(), state_of("HTMLModel", value=value))
    assert state is not None
    assert state["value"] == ""
    assert updated(Guard(), {"value": value}, "unknown") == {"value": ""}
    # A slider's ends, and tags.
    assert updated(Guard(), {"value": [1, 5]}, "unknown") == {"value": [1, 5]}


def test_a_style_in_a_list_loads_nothing() -> None:
    state = opened(Guard(), state_of("LabelStyleModel", background=[["url(https://e.example)"]], font_size="9px"))
    assert state is not None
    assert (state["background"], state["font_size"]) == (None, "9px")


def test_text_of_other_widgets_stays() -> None:
    guard = Guard()
    opened(guard, state_of("TextareaModel"))
    assert updated(guard, {"value": "<i onclick=x>"}) == {"value": "<i onclick=x>"}


def test_description_is_never_html() -> None:
    state = opened(
        Guard(), state_of("IntSliderModel", description="<img src=x onerror=y>", description_allow_html=True)
    )
    assert state is not None
    assert state["description_allow_html"] is False


@pytest.mark.parametrize("module", ["anywidget", "evil", None, "@jupyter-widgets/controls/../evil"])
def test_widgets_of_other_modules_are_refused_with_a_notice(module: Any) -> None:
    guard, notices = Guard(), []
    guard.on_notice = lambda text, parent: notices.append(text)
    assert opened(guard, state_of("AnyModel", module, _esm="export default {}")) is None
    assert updated(guard, {"_esm": "x"}) is None
    (notice,) = notices
    assert "not allowed" in notice


def test_widget_cannot_become_one_of_another_module() -> None:
    guard = Guard()
    assert opened(guard, state_of("TextModel")) is not None
    assert updated(guard, {"_view_module": "evil"}) is None
    assert updated(guard, {"_view_name": "<img>"}) is None
    assert updated(guard, {"_esm": "x", "value": "y"}) == {"value": "y"}


def test_module_that_is_allowed_passes_with_its_code() -> None:
    guard = Guard(widget_modules=[CONTROLS, "anywidget"])
    state = state_of("AnyModel", "anywidget", _esm="export default {}", _css="b{}")
    assert opened(guard, state) == state


def test_comms_of_other_targets_are_refused_unless_allowed() -> None:
    content = {"comm_id": "c", "target_name": "mine", "data": {}}
    guard, notices = Guard(), []
    guard.on_notice = lambda text, parent: notices.append(text)
    assert pass_on(guard, "comm_open", content) is None
    assert pass_on(guard, "comm_msg", {"comm_id": "c", "data": {}}) is None
    assert notices == ["sandbox: the comm target mine is not allowed (Guard.comm_targets)"]
    assert pass_on(Guard(comm_targets=["mine"]), "comm_open", content) is not None


def test_comm_names_no_module_to_load() -> None:
    passed = pass_on(Guard(), "comm_open", opening(state_of("TextModel"), target_module="https://e.example/x.js"))
    assert "target_module" not in content_of(passed)


def test_states_of_all_widgets_are_checked_when_a_front_end_reconnects() -> None:
    states = {
        "a": {
            "model_name": "HTMLModel",
            "model_module": CONTROLS,
            "state": state_of("HTMLModel", value="<b onclick=x>y</b>"),
        },
        "b": {"model_name": "AnyModel", "model_module": "anywidget", "state": state_of("AnyModel", "anywidget")},
        "c": {"model_name": "AnyModel", "model_module": "anywidget", "state": state_of("TextModel")},
    }
    data = {"method": "update_states", "states": states, "buffer_paths": []}
    content = content_of(pass_on(Guard(), "comm_msg", {"comm_id": "control", "data": data}))
    assert list(content["data"]["states"]) == ["a"]
    assert content["data"]["states"]["a"]["state"]["value"] == "<b>y</b>"


def test_outputs_in_an_output_widget_are_cleaned() -> None:
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": "<b>"},
        {"output_type": "display_data", "data": {"text/html": "<img src=x onerror=y>"}, "metadata": {}},
        {"output_type": "display_data", "data": {"application/javascript": "x"}, "metadata": {}},
        {"output_type": "other", "data": {}},
    ]
    guard = Guard()
    state = opened(guard, state_of("OutputModel", OUTPUT, outputs=outputs))
    assert state is not None
    stream, *displays = state["outputs"]
    assert stream == outputs[0]
    assert len(displays) == 2
    for display in displays:
        assert "srcdoc" in display["data"]["text/html"]
        assert "application/javascript" not in display["data"]
    assert updated(guard, {"outputs": outputs[:1]}) == {"outputs": outputs[:1]}


@pytest.mark.parametrize("path", [["__proto__", "x"], ["constructor"], [], "value", [None], [["a"]]])
def test_buffers_are_put_nowhere_else(path: Any) -> None:
    assert opened(Guard(), state_of("ImageModel"), "c", b"x", buffer_paths=[path]) is None


def test_path_without_a_buffer_is_refused() -> None:
    assert opened(Guard(), state_of("ImageModel"), buffer_paths=[["value"]]) is None


def test_pictures_are_not_loaded_from_elsewhere() -> None:
    guard = Guard()
    state = opened(guard, state_of("ImageModel", format="url"), "c", b"https://e.example", buffer_paths=[["value"]])
    assert state is not None
    assert state["format"] == "png"
    assert updated(guard, {"format": "url"}) == {"format": "png"}


def test_styles_load_nothing() -> None:
    guard = Guard()
    background = "url(https://e.example)"
    state = opened(guard, state_of("HTMLStyleModel", background=background, text_color="red"))
    assert state is not None
    assert (state["background"], state["text_color"]) == (None, "red")
    assert updated(guard, {"background": r"\75rl(https://e.example)"}) == {"background": None}
    assert opened(guard, state_of("LayoutModel", BASE, width="50%", grid_area="a"), "l") is not None


def test_classes_of_the_page_are_not_taken() -> None:
    state = opened(Guard(), state_of("TextModel", _dom_classes=["jp-Cell", "widget-interact", "mine"]))
    assert state is not None
    assert state["_dom_classes"] == ["widget-interact", "mine"]


@pytest.mark.parametrize("name", ["LinkModel", "DirectionalLinkModel"])
def test_links_carry_no_text_into_html(name: str) -> None:
    guard = Guard()
    for comm_id, model in (("text", "TextModel"), ("label", "LabelModel"), ("html", "HTMLModel")):
        opened(guard, state_of(model), comm_id)
    links = {
        ("text", "value", "label", "value"): True,
        ("text", "value", "html", "value"): False,
        ("html", "value", "text", "value"): False,
        ("text", "value", "label", "_view_module"): False,
        ("text", "value", "unknown", "value"): False,
    }
    for (source, attribute, target, other), allowed in links.items():
        ends = {"source": [f"IPY_MODEL_{source}", attribute], "target": [f"IPY_MODEL_{target}", other]}
        assert (opened(guard, state_of(name, **ends), "link") is not None) is allowed
