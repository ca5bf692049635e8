"""The classes whose traits can be set, and the configuration as a kernel would have it."""

from __future__ import annotations

from traitlets.config import Config
from traitlets.config.configurable import Configurable

from sandbox_kernel.configuration import Options, check, load_configuration, parse_arguments
from sandbox_kernel.errors import UnknownProviderError
from sandbox_kernel.events import EventLog
from sandbox_kernel.guard import Guard
from sandbox_kernel.providers.registry import find_provider, provider_classes, provider_names
from sandbox_kernel.session import SandboxSession


def kernel_configuration(arguments: list[str]) -> Config:
    """Return the configuration of a kernel that gets these ARGUMENTS. Raises ConfigurationError."""
    config, options = load_configuration(arguments)
    _check(config, options)
    return config


def check_arguments(arguments: list[str]) -> None:
    """Raise ConfigurationError if a kernel could not be started with these ARGUMENTS."""
    config, options = parse_arguments(arguments)
    _check(config, options)
    if "provider" in config.SandboxSession:
        find_provider(str(config.SandboxSession.provider))


def _check(config: Config, options: Options) -> None:
    if options.error is not None:
        raise options.error
    classes: list[type[Configurable]] = [SandboxSession, EventLog, Guard]
    for name in provider_names():
        try:
            classes.append(find_provider(name))
        except UnknownProviderError:
            # Its extra is not installed, so its options are known to exist and no more.
            continue
    check(config, classes, options, names=provider_classes(config))
