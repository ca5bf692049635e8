"""Finds a provider by name and makes it. A provider's module is imported when it is asked for, not before."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from sandbox_kernel.errors import UnknownProviderError

if TYPE_CHECKING:
    from traitlets.config import Config

    from .base import Provider

GROUP = "sandbox_kernel.providers"

# The entry points of this package, so that the usual start does not search all installed packages.
# A test keeps them equal to pyproject.toml.
BUILT_IN = {
    "executor": "sandbox_kernel.providers.executor.provider:ExecutorProvider",
    "local": "sandbox_kernel.providers.local.provider:LocalProvider",
}

SECTIONS = {"SandboxSession", "EventLog", "Executor", "Generation", "Guard", "Tools", "WorkshopSettings", "Workspace"}
"""The configuration's sections that no provider reads."""

MODELS = {"BedrockModel", "OpenAIModel", "StrandsModel"}
"""Those of models, which are loaded with the first request; a test keeps them equal to pyproject.toml."""
MODEL_GROUP = "sandbox_kernel.models"


def provider_name(config: Config) -> str:
    """Return the name of the provider that is configured (trait `SandboxSession.provider`)."""
    configured = config.SandboxSession.get("provider") if "SandboxSession" in config else None
    return str(configured or os.environ.get("SANDBOX_KERNEL_PROVIDER") or "local")


def create_provider(name: str, config: Config) -> Provider:
    """Return the provider of that name with the user's configuration.

    Raises UnknownProviderError with the nearest name, or with what to install.
    """
    provider_class = find_provider(name)
    return provider_class(config=config)


def find_provider(name: str) -> type[Provider]:
    """Return the class of the provider of that name. Raises UnknownProviderError."""
    target = BUILT_IN.get(name) or _installed().get(name)
    if target is None:
        import difflib

        known = sorted({*BUILT_IN, *_installed()})
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}."
        raise UnknownProviderError(f"There is no provider {name!r}; {hint}")
    module, _, attribute = target.partition(":")
    try:
        provider: type[Provider] = getattr(import_module(module), attribute)
    except ImportError as exc:
        raise UnknownProviderError(
            f"The provider {name!r} needs a package that is not installed ({exc}); "
            f"try `pip install 'sandbox-kernel[{name}]'`."
        ) from exc
    return provider


def provider_names() -> list[str]:
    """Return the names of all installed providers."""
    return sorted({*BUILT_IN, *_installed()})


def provider_classes(config: Config) -> set[str]:
    """Return the names of classes of providers and models: options of those that are not used may stand there, too.

    All installed packages are searched only where the configuration has a section that none of this package knows.
    """
    names = {target.rpartition(":")[2] for target in BUILT_IN.values()} | MODELS
    if set(config) - names - SECTIONS:
        names |= {target.rpartition(":")[2] for group in (GROUP, MODEL_GROUP) for target in _installed(group).values()}
    return names


def _installed(group: str = GROUP) -> dict[str, str]:
    from importlib.metadata import entry_points

    return {entry.name: entry.value for entry in entry_points(group=group)}
