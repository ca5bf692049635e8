"""What the kernel process, its companion and the actor on a node say to each other: errors as words, ids, orders."""

from __future__ import annotations

import os
import re
import time
from importlib.metadata import version
from typing import Any, TypedDict

from sandbox_kernel.errors import (
    ConfigurationError,
    InvocationError,
    IsolationUnavailableError,
    NotFoundError,
    QuotaError,
    SandboxConnectionError,
    SandboxCreationError,
    SandboxError,
    SandboxKernelError,
    SandboxLostError,
    SandboxTimeoutError,
    SessionNotFoundError,
)

PROVIDER = "ray"
PREFIX = "ray"
ERRORS: dict[str, type[SandboxKernelError]] = {
    kind.__name__: kind
    for kind in (
        ConfigurationError,
        InvocationError,
        IsolationUnavailableError,
        NotFoundError,
        QuotaError,
        SandboxConnectionError,
        SandboxCreationError,
        SandboxError,
        SandboxLostError,
        SandboxTimeoutError,
        SessionNotFoundError,
    )
}
"""Errors that travel, by their names."""


class Failure(TypedDict):
    """An error on its way."""

    kind: str
    text: str
    retryable: bool


class Order(TypedDict):
    """What the actor of a sandbox is told when it is made."""

    sandbox_id: str
    version: str
    """Of this package, in the kernel process."""
    label: str
    kernel_arguments: list[str]
    local: dict[str, Any]
    """Options of the local provider on the node."""
    unused_timeout: float
    correlation_id: str


def failure_of(error: Exception) -> Failure:
    """Return an error as it travels. One that is not ours keeps its text."""
    kind = next((one.__name__ for one in type(error).__mro__ if one.__name__ in ERRORS), "SandboxError")
    text = str(error) if isinstance(error, SandboxKernelError) else f"{type(error).__name__}: {error}"
    return Failure(kind=kind, text=text, retryable=bool(getattr(error, "retryable", False)))


def error_of(failure: Failure, **ids: Any) -> SandboxKernelError:
    """Return the error that has travelled."""
    kind = ERRORS.get(failure["kind"], SandboxError)
    if issubclass(kind, SandboxError):
        return kind(failure["text"], provider=PROVIDER, retryable=failure["retryable"], **ids)
    return kind(failure["text"])


def owner_mark(name: str) -> str:
    """Return a person's name as it stands in ids."""
    return re.sub(r"[^a-z0-9]+", "", name.lower())[:32] or "nobody"


def new_id(owner: str) -> str:
    """Return an id for a new sandbox: whose it is, when it was asked for, and a random end."""
    return f"{PREFIX}-{owner}-{int(time.time() * 1000):012x}-{os.urandom(4).hex()}"


def parse_id(sandbox_id: str) -> tuple[str, float] | None:
    """Return whose sandbox an id names and when it was asked for, in seconds since the epoch; None for another text."""
    found = re.fullmatch(rf"{PREFIX}-([a-z0-9]+)-([0-9a-f]{{12}})-[0-9a-f]{{8}}", sandbox_id)
    return (found[1], int(found[2], 16) / 1000) if found else None


def package_version() -> str:
    """Return the version of this package where this runs."""
    return version("sandbox-kernel")
