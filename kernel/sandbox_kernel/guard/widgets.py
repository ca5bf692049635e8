"""Cleaning of comms: which targets and widgets may be opened, and what may stand in their state."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from .bundles import BundleGuard
from .json_text import Json, RefusedError

CORE_MODULES = ("@jupyter-widgets/base", "@jupyter-widgets/controls", "@jupyter-widgets/output")
"""Widgets whose code comes with ipywidgets, and whose state is known."""
WIDGET, WIDGET_CONTROL = "jupyter.widget", "jupyter.widget.control"
COMM_TARGETS = (WIDGET, WIDGET_CONTROL)
MAX_MODELS = 50_000
MAX_ID = 200
MAX_PATH = 50

HTML_MODELS = frozenset({"HTMLModel", "HTMLMathModel"})
MEDIA_MODELS = frozenset({"ImageModel", "VideoModel", "AudioModel"})
LINK_MODELS = frozenset({"LinkModel", "DirectionalLinkModel"})
LINKABLE = frozenset(
    """
    value index max min step disabled description placeholder options selected_index _options_labels bar_style
    button_style children titles show_repeat playing repeat interval readout continuous_update tooltip icon rows
    pressed
    """.split()
)
"""Attributes that a link in the front end may copy from one widget to another."""
VIEWS = {
    **dict.fromkeys(("HTMLView", "HTMLMathView"), HTML_MODELS),
    **dict.fromkeys(("ImageView", "VideoView", "AudioView"), MEDIA_MODELS),
}
"""Views that show HTML or load files, and the models whose state is cleaned for them."""
CODE = ("_esm", "_css", "_anywidget_id")
MODULES, NAMES = ("_model_module", "_view_module"), ("_model_name", "_view_name")

UNTRUSTED_HTML = "parts of a widget's HTML that could act or load from elsewhere were removed"
_NAME = re.compile(r"[A-Za-z]\w{0,99}")
_VERSION = re.compile(r"[\w.^~*<>=| -]{0,100}")
_LOADS = re.compile(r"url|image|src\s*\(|expression|\\|@", re.IGNORECASE)
_PAGE_CLASSES = re.compile(r"(?:jp|lm|p|jupyter|cm|mjx)-", re.IGNORECASE)
_FORBIDDEN_STEPS = frozenset({"__proto__", "constructor", "prototype"})

Note = Callable[[str], None]


class Model(NamedTuple):
    """What a widget was opened as."""

    module: str
    name: str


class RefusedCommError(RefusedError):
    """A comm that the policy does not allow; the message is for people."""


class CommGuard:
    """Remembers which widgets were opened, and cleans what comes for them."""

    def __init__(self, modules: Collection[str], targets: Collection[str], bundles: BundleGuard) -> None:
        self._modules = frozenset(modules)
        self._targets = frozenset(targets)
        self._bundles = bundles
        self._models: dict[str, Model] = {}
        self._refused: dict[str, None] = {}

    # ---- messages. Each cleans the content in place and returns whether it was changed.

    def open(self, content: Json, buffers: int, note: Note) -> bool:
        """Check comm_open. Raises RefusedCommError where the policy forbids it."""
        comm_id = _comm_id(content)
        target = content.get("target_name")
        changed = content.pop("target_module", None) is not None
        if target not in self._targets:
            self._refuse(comm_id)
            raise RefusedCommError(f"the comm target {_shown(target)} is not allowed (Guard.comm_targets)")
        data = _object(content.setdefault("data", {}))
        if target != WIDGET:
            return changed
        _check_paths(data, buffers)
        state = _object(data.get("state", {}))
        model = self._model_of(comm_id, state)
        _remember(self._models, comm_id, model)
        return self._clean_state(model, state, note) or changed

    def message(self, content: Json, buffers: int, note: Note) -> bool:
        """Check comm_msg."""
        comm_id = _comm_id(content)
        if comm_id in self._refused:
            raise RefusedError("the comm was refused")
        data = content.get("data", {})
        if type(data) is not dict:
            # Of another target, where anything is possible.
            return False
        _check_paths(data, buffers)
        method = data.get("method")
        if method == "update_states":
            return self._clean_states(data, note)
        if method in ("update", "echo_update") or "state" in data:
            return self._clean_state(self._models.get(comm_id), _object(data.get("state", {})), note)
        return False

    def close(self, content: Json) -> bool:
        """Check comm_close."""
        comm_id = _comm_id(content)
        self._models.pop(comm_id, None)
        if self._refused.pop(comm_id, 0) is None:
            raise RefusedError("the comm was refused")
        return False

    # ---- state

    def _model_of(self, comm_id: str, state: Json) -> Model:
        for key in MODULES:
            module = state.get(key)
            if module is not None and module not in self._modules:
                self._refuse(comm_id)
                raise RefusedCommError(f"widgets of {_shown(module)} are not allowed (Guard.widget_modules)")
        if not isinstance(state.get("_model_module"), str):
            self._refuse(comm_id)
            raise RefusedCommError("a widget that names no module is not allowed")
        return Model(state["_model_module"], str(state.get("_model_name")))

    def _refuse(self, comm_id: str) -> None:
        _remember(self._refused, comm_id, None)

    def _clean_states(self, data: Json, note: Note) -> bool:
        """Clean the states of all widgets, with which a front end that reconnects is told of them."""
        states = _object(data.get("states", {}))
        changed = False
        for model_id, value in list(states.items()):
            entry = _object(value)
            state = _object(entry.get("state", {}))
            named = {f"_{key}": entry[key] for key in ("model_module", "model_name") if key in entry}
            try:
                model = self._model_of(model_id, {**state, **named})
            except RefusedCommError as exc:
                del states[model_id]
                changed = True
                note(str(exc))
                continue
            _check_names({**state, **named})
            _remember(self._models, model_id, model)
            changed = self._clean_state(model, state, note) or changed
        return changed

    def _clean_state(self, model: Model | None, state: Json, note: Note) -> bool:
        """Clean a state, or a part of one."""
        for key in MODULES:
            if state.get(key) is not None and state[key] not in self._modules:
                raise RefusedError(f"a widget may not become one of {_shown(state[key])}")
        _check_names(state)
        _check_view(model, state)
        if model is not None and model.module not in CORE_MODULES:
            # Allowed by the configuration, and not known here.
            return False
        changed = [state.pop(key, None) is not None for key in CODE]
        if state.get("description_allow_html"):
            state["description_allow_html"] = False
            changed.append(True)
        changed.append(_clean_classes(state))
        name = "" if model is None else model.name
        if name in LINK_MODELS or ("source" in state and "target" in state):
            self._check_link(state)
        if model is None or name in HTML_MODELS:
            changed.append(_clean_html(state, note))
        if (model is None or name in MEDIA_MODELS) and state.get("format") == "url":
            state["format"] = "png"
            note("a picture or sound from elsewhere was not loaded")
            changed.append(True)
        if model is None or name.endswith(("StyleModel", "LayoutModel")):
            changed.append(_clean_styles(state))
        if "outputs" in state:
            changed.append(self._clean_outputs(state, note))
        return any(changed)

    def _check_link(self, state: Json) -> None:
        """Refuse links that would carry text into what shows HTML, past any check."""
        for end in ("source", "target"):
            value = state.get(end)
            if value is None:
                continue
            if type(value) is not list or len(value) != 2 or not all(type(one) is str for one in value):
                raise RefusedCommError("a link between widgets names no attribute")
            linked = self._models.get(value[0].removeprefix("IPY_MODEL_"))
            if value[1] not in LINKABLE or linked is None or linked.module != "@jupyter-widgets/controls":
                raise RefusedCommError(f"a link to the attribute {_shown(value[1])} of a widget is not allowed")
            if linked.name in HTML_MODELS | MEDIA_MODELS:
                raise RefusedCommError(f"a link to a widget that shows HTML or files ({linked.name}) is not allowed")

    def _clean_outputs(self, state: Json, note: Note) -> bool:
        outputs = state["outputs"]
        if type(outputs) not in (list, tuple):
            raise RefusedError("the outputs of an Output widget are a list")
        made = [cleaned for output in outputs if (cleaned := self._clean_output(output, note)) is not None]
        changed = bool(made != outputs)
        state["outputs"] = made
        return changed

    def _clean_output(self, output: object, note: Note) -> Json | None:
        if type(output) is not dict:
            return None
        kind = output.get("output_type")
        if kind == "stream" and _are_texts(output, "name", "text"):
            return {key: output[key] for key in ("output_type", "name", "text")}
        if kind == "error" and type(output.get("traceback")) is list:
            return {key: output.get(key, "") for key in ("output_type", "ename", "evalue", "traceback")}
        if kind not in ("display_data", "execute_result", "update_display_data"):
            return None
        cleaned = self._bundles.clean(output.get("data", {}), output.get("metadata", {}))
        for one in cleaned.notes:
            note(one)
        if not cleaned.changed:
            return output
        return {**output, "data": cleaned.data, "metadata": cleaned.metadata}


def _remember(known: dict[str, Any], comm_id: str, value: object) -> None:
    known[comm_id] = value
    if len(known) > MAX_MODELS:
        del known[next(iter(known))]


def _comm_id(content: Json) -> str:
    comm_id = content.get("comm_id")
    if type(comm_id) is not str or not comm_id or len(comm_id) > MAX_ID:
        raise RefusedError("a comm without an id")
    return comm_id


def _object(value: object) -> Json:
    if type(value) is not dict:
        raise RefusedError("an object is missing")
    return value


def _shown(value: object) -> str:
    return re.sub(r"[^\w@./ -]", "?", str(value))[:60]


def _check_names(state: Json) -> None:
    """Front ends put these into messages and look them up."""
    for key, value in state.items():
        if key in NAMES and value is not None and (type(value) is not str or not _NAME.fullmatch(value)):
            raise RefusedError("the name of a widget's class is no name")
        if key.endswith("_module_version") and (type(value) is not str or not _VERSION.fullmatch(value)):
            raise RefusedError("the version of a widget's module is none")


def _check_view(model: Model | None, state: Json) -> None:
    """Refuse to show a widget as what it was not opened as: its state was cleaned for that, then and since."""
    if model is None:
        return
    models = VIEWS.get(str(state.get("_view_name")))
    renamed = state.get("_model_name")
    if (models is not None and model.name not in models) or (renamed is not None and renamed != model.name):
        raise RefusedCommError(f"a widget opened as {_shown(model.name)} may not be shown as another")


def _check_paths(data: Json, buffers: int) -> None:
    """Check where binary buffers are put: each has a path of keys and indices."""
    paths = data.get("buffer_paths", [])
    if type(paths) is not list or len(paths) > buffers:
        raise RefusedError("paths without buffers")
    for path in paths:
        if type(path) is not list or not 0 < len(path) <= MAX_PATH:
            raise RefusedError("no path for a buffer")
        if any(type(step) not in (str, int) or step in _FORBIDDEN_STEPS for step in path):
            raise RefusedError("a path for a buffer that leads elsewhere")


def _are_texts(output: Json, *keys: str) -> bool:
    return all(type(output.get(key)) is str for key in keys)


def _clean_html(state: Json, note: Note) -> bool:
    value = state.get("value")
    if isinstance(value, list) and "<" in _text_of(value):
        # A browser makes a text of it, and HTML of the text.
        state["value"] = ""
        note(UNTRUSTED_HTML)
        return True
    if type(value) is not str or "<" not in value:
        return False
    from . import markup

    if markup.judge(value).verdict is markup.Verdict.SAME:
        return False
    state["value"] = markup.clean(value[: markup.MAX_CLEANED])
    if markup.judge(value).verdict is not markup.Verdict.CLEANED:
        note(UNTRUSTED_HTML)
    return True


def _clean_styles(state: Json) -> bool:
    """Drop what would make a style sheet load something."""
    loading = [key for key, value in state.items() if key[:1] != "_" and _LOADS.search(_text_of(value))]
    loading = [key for key in loading if key not in ("value", "description")]
    for key in loading:
        state[key] = None
    return bool(loading)


def _text_of(value: object) -> str:
    """Return about the text that a browser makes of a value where it needs a text."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text_of, value))
    return value if type(value) is str else ""


def _clean_classes(state: Json) -> bool:
    classes = state.get("_dom_classes")
    if type(classes) is not list:
        return False
    kept = [name for name in classes if type(name) is str and not _PAGE_CLASSES.match(name)]
    state["_dom_classes"] = kept
    return len(kept) != len(classes)
