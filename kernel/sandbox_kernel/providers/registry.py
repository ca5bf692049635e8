"""Finds a provider by name and makes it. A provider's module is imported when it is asked for, not before."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandbox_kernel.entry_points import Registered
from sandbox_kernel.errors import UnknownProviderError

if TYPE_CHECKING:
    from traitlets.config import Config

    from .base import Provider

GROUP = "sandbox_kernel.providers"

# The entry points of this package; a test keeps them equal to pyproject.toml.
BUILT_IN = {
    "agentcore": "sandbox_kernel.providers.agentcore.provider:AgentCoreProvider",
    "e2b": "sandbox_kernel.providers.e2b.provider:E2BProvider",
    "executor": "sandbox_kernel.providers.executor.provider:ExecutorProvider",
    "gateway": "sandbox_kernel.providers.gateway.provider:GatewayProvider",
    "local": "sandbox_kernel.providers.local.provider:LocalProvider",
    "novita": "sandbox_kernel.providers.e2b.provider:NovitaProvider",
    "ppio": "sandbox_kernel.providers.e2b.provider:PPIOProvider",
    "ray": "sandbox_kernel.providers.ray.provider:RayProvider",
}
PROVIDERS = Registered(GROUP, BUILT_IN, "provider", "SandboxSession.provider", UnknownProviderError)

SECTIONS = {
    "Agents",
    "SandboxSession",
    "EventLog",
    "Executor",
    "Generation",
    "Guard",
    "Tools",
    "WorkshopSettings",
    "Workspace",
}
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
    provider: type[Provider] = PROVIDERS.find(name)
    return provider


def provider_names() -> list[str]:
    """Return the names of all installed providers."""
    return PROVIDERS.names()


def provider_classes(config: Config) -> set[str]:
    """Return the names of classes of providers and models: options of those that are not used may stand there, too.

    All installed packages are searched only where the configuration has a section that none of this package knows.
    """
    names = {target.rpartition(":")[2] for target in BUILT_IN.values()} | MODELS
    if set(config) - names - SECTIONS:
        models = Registered(MODEL_GROUP, {}, "kind of model", "Generation.models")
        names |= {target.rpartition(":")[2] for one in (PROVIDERS, models) for target in one.installed().values()}
    return names
