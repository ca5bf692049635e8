"""Makes sessions by the kernel's configuration; what the program says in its arguments wins."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from traitlets import TraitError
from traitlets.config import Config

from sandbox_kernel.configuration import Options, check, jupyter_folders, load_configuration
from sandbox_kernel.errors import ConfigurationError
from sandbox_kernel.events import EventLog
from sandbox_kernel.providers.base import Provider
from sandbox_kernel.providers.registry import (
    SECTIONS,
    create_provider,
    find_provider,
    provider_classes,
    provider_name,
)
from sandbox_kernel.recording import Recorder
from sandbox_kernel.session import SandboxSession
from sandbox_kernel.session_info import SessionListener
from sandbox_kernel.workspace.owners import PROGRAM


def make_session(
    listener: SessionListener,
    provider: str = "",
    options: Mapping[str, Any] | None = None,
    argv: Sequence[str] = (),
    directory: Path | None = None,
    config: Config | None = None,
    *,
    keep_changes: bool = True,
    private_paths: Sequence[str] = (),
) -> SandboxSession:
    """Return a session that has not started; see `Sandbox` for the arguments. Raises ConfigurationError."""
    if config is None:
        config, said = load_configuration(argv)
        if said.error is not None:
            raise said.error
    else:
        config, said = deepcopy(config), Options()
    if provider:
        config.SandboxSession.provider = provider
    name = provider_name(config)
    chosen = find_provider(name)
    _set(config, chosen, options or {})
    known = {*provider_classes(config), *SECTIONS}
    check(config, [chosen, SandboxSession, EventLog], said, names=known)
    directory = (directory or Path()).absolute()
    if not directory.is_dir():
        raise ConfigurationError(f"Sandbox(directory=…): {directory} is no folder on this machine.")
    if isinstance(private_paths, str):
        raise ConfigurationError("Sandbox(private_paths=…) is a list of paths, and this is one path.")
    try:
        log = EventLog(config=config)
        made = create_provider(name, config)
        made.directory = str(directory)
        # A notebook's own sandboxes are called otherwise (`SandboxSession.be_called`).
        made.session_name = PROGRAM
        made.keeps_changes = keep_changes
        made.private_paths = tuple(dict.fromkeys([*private_paths, *jupyter_folders()]))
        made.kernel_arguments = tuple(said.kernel_arguments)
        recorder = Recorder(log, directory=directory)
        return SandboxSession(listener, config=config, directory=directory, log=log, provider=made, recorder=recorder)
    except TraitError as exc:
        raise ConfigurationError(str(exc)) from exc


def allowed_providers(argv: Sequence[str] = ()) -> list[str]:
    """Return the names of the providers that a cell may choose, the configured one first. Raises ConfigurationError."""
    config, said = load_configuration(argv)
    if said.error is not None:
        raise said.error
    check(config, [SandboxSession], said, names={*provider_classes(config), *SECTIONS})
    own = provider_name(config)
    session = config.get("SandboxSession", Config())
    return [own, *(name for name in session.get("allowed_providers", []) if name != own)]


def _set(config: Config, provider: type[Provider], options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        for owner in (SandboxSession, provider):
            if name in owner.class_traits(config=True):
                config[owner.__name__][name] = value
                break
        else:
            known = [*SandboxSession.class_traits(config=True), *provider.class_traits(config=True)]
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(known))}."
            raise ConfigurationError(f"Sandbox(...) has no option {name}; {hint}")
