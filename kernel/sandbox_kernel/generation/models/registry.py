"""Finds kinds of models by their names, and makes models by the configuration. A kind is loaded when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Union

from traitlets import TraitError
from traitlets.config import Config

from sandbox_kernel.configuration import check
from sandbox_kernel.entry_points import Registered, nearest
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
KINDS = Registered(GROUP, BUILT_IN, "kind of model", "Generation.models")


def make_model(entry: Entry, config: Config) -> Model:
    """Return the model that an entry of `Generation.models` describes. Raises ConfigurationError."""
    kind, options = _read(entry)
    found = find_kind(kind)
    known = found.class_traits(config=True)
    for name in options:
        if name not in known:
            hint = nearest(name, sorted(known))
            raise ConfigurationError(f"Generation.models: a model of the kind {kind!r} has no option {name!r}; {hint}")
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
    found: type[Model] = KINDS.find(kind)
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
