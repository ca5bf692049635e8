"""Finds kinds of models by their names, and makes models by the configuration. A kind is loaded when it is needed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Union

from traitlets import TraitError
from traitlets.config import Config

from sandbox_kernel.configuration import check
from sandbox_kernel.errors import ConfigurationError

from .base import GROUP, Model

Entry = Union[str, Mapping[str, object]]
"""`"kind:model"`, or the same with options: `{"kind": …, "model": …, …}`."""

BUILT_IN = {
    "bedrock": "sandbox_kernel.generation.models.bedrock:BedrockModel",
    "openai": "sandbox_kernel.generation.models.openai:OpenAIModel",
    "strands": "sandbox_kernel.generation.models.strands:StrandsModel",
}
"""The entry points of this package; a test keeps them equal to pyproject.toml."""


def make_model(entry: Entry, config: Config) -> Model:
    """Return the model that an entry of `Generation.models` describes. Raises ConfigurationError."""
    kind, options = _read(entry)
    found = find_kind(kind)
    known = found.class_traits(config=True)
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(known))}."
            raise ConfigurationError(f"Generation.models: a model of the kind {kind!r} has no option {name}; {hint}")
    section = found.__name__
    check(Config({section: config[section]}) if section in config else Config(), [found])
    try:
        model = found(config=config, **options)
    except TraitError as exc:
        raise ConfigurationError(f"Generation.models: {exc}") from exc
    model.kind = kind
    return model


def find_kind(kind: str) -> type[Model]:
    """Return the class of the models of that kind. Raises ConfigurationError with the nearest name."""
    installed = _installed() if kind not in BUILT_IN else {}
    target = BUILT_IN.get(kind) or installed.get(kind)
    if target is None:
        known = sorted({*BUILT_IN, *installed})
        near = difflib.get_close_matches(kind, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}."
        raise ConfigurationError(f"Generation.models: there is no kind of model {kind!r}; {hint}")
    module, _, name = target.partition(":")
    try:
        found: type[Model] = getattr(import_module(module), name)
    except ImportError as exc:
        raise ConfigurationError(
            f"Generation.models: the kind {kind!r} needs a package that is not there ({exc})."
        ) from exc
    return found


def _read(entry: Entry) -> tuple[str, dict[str, object]]:
    """Return kind and options of an entry. Raises ConfigurationError."""
    if isinstance(entry, str):
        kind, colon, model = entry.partition(":")
        if not (kind and colon and model):
            raise ConfigurationError(f"Generation.models: {entry!r} is not of the form kind:model, as openai:qwen3.")
        return kind, {"model": model}
    options = dict(entry)
    kind = str(options.pop("kind", ""))
    if not kind:
        raise ConfigurationError('Generation.models: an entry says its "kind", such as "bedrock" or "openai".')
    return kind, options


def _installed() -> dict[str, str]:
    from importlib.metadata import entry_points

    return {entry.name: entry.value for entry in entry_points(group=GROUP)}
