"""Ray's errors become ours, in this one table; only the companion process has Ray."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray import exceptions

from sandbox_kernel.errors import (
    ConfigurationError,
    SandboxConnectionError,
    SandboxCreationError,
    SandboxError,
    SandboxKernelError,
    SandboxLostError,
)

_MISSING = "No module named 'sandbox_kernel"
_CAUSES = (
    ("node has died", "the node that it ran on left the Ray cluster"),
    ("node died", "the node that it ran on left the Ray cluster"),
    ("ray.kill", "somebody ended its actor in the Ray cluster"),
    ("exit_actor", "its actor ended itself"),
    ("connection error code", "its process on the node was ended, and Ray does not know by what"),
    ("owner has died", "the Ray job that it belonged to ended"),
)
"""Parts of what Ray says of an actor that has died, and what that means, as a clause.

Where a process is gone without a word, Ray lists what that may have been, the OOM killer first: that is no cause.
"""
_DETAIL = re.compile(r"Worker exit detail: (.+?)\.?$", re.MULTILINE)


@contextmanager
def ours() -> Iterator[None]:
    """Raise our errors for Ray's."""
    try:
        yield
    except SandboxKernelError:
        raise
    except Exception as exc:
        # A Ray client that was cut off raises ConnectionError; other errors of the system's are no words of Ray's.
        if isinstance(exc, OSError) and not isinstance(exc, ConnectionError):
            raise
        raise error_of(exc) from exc


def error_of(exc: BaseException) -> SandboxKernelError:  # noqa: PLR0911 - it is a table
    """Return what an error of Ray's means."""
    text = str(exc)
    if _MISSING in text:
        return ConfigurationError(
            "The nodes of the Ray cluster have no package sandbox-kernel: install it in their image, or set "
            'c.RayProvider.runtime_env = {"pip": ["sandbox-kernel"]}.'
        )
    match exc:
        case exceptions.RuntimeEnvSetupError():
            return ConfigurationError(f"Ray could not set RayProvider.runtime_env up on a node: {last_line(text)}")
        case exceptions.ActorUnavailableError():
            return SandboxConnectionError("The sandbox's node does not answer now; this is tried again.")
        case exceptions.ActorDiedError() | exceptions.NodeDiedError() | exceptions.OutOfMemoryError():
            return SandboxLostError(f"The sandbox ended: {why_died(exc)}.")
        case exceptions.AuthenticationError():
            return ConfigurationError(
                f"The Ray cluster wants another token: see RAY_AUTH_TOKEN in Ray's manual. {last_line(text)}"
            )
        case exceptions.GetTimeoutError() | exceptions.RpcError() | ConnectionError():
            return SandboxConnectionError(f"The Ray cluster does not answer: {last_line(text)}")
        case exceptions.ObjectStoreFullError() | exceptions.OutOfDiskError():
            return SandboxError(f"The Ray cluster has no room for what was said: {last_line(text)}")
        case ValueError() | TypeError():
            return ConfigurationError(f"Ray does not take an option of RayProvider: {last_line(text)}")
    return SandboxCreationError(f"Ray has failed at this: {type(exc).__name__}: {last_line(text)}")


def why_died(exc: BaseException) -> str:
    """Return why an actor has died, as a clause."""
    if isinstance(exc, exceptions.OutOfMemoryError):
        # Where an actor was called: Ray's memory monitor has ended that one.
        return "its node ran low on memory, and Ray ended its process there"
    if isinstance(exc, exceptions.NodeDiedError):
        return "the node that it ran on left the Ray cluster"
    text = str(exc)
    said = next((clause for part, clause in _CAUSES if part in text), "")
    if said:
        return said
    detail = _DETAIL.search(text)
    if detail is not None:
        return f"its process on the node was ended ({detail[1][:500]})"
    return f"its actor died ({last_line(text)})"


def last_line(text: str) -> str:
    """Return the last line that says something, without colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "no reason is told"


def result_of(answer: Any) -> Any:
    """Return what an actor answered. Raises the error that it told."""
    from .words import error_of as told

    if "failure" in answer:
        raise told(answer["failure"])
    return answer["result"]
