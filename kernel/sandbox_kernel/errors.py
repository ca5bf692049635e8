"""Every error this project raises, as one tree.

    SandboxKernelError
    ├── ConfigurationError            what the user set cannot work; retrying will not help
    │   ├── UnknownProviderError      no provider of that name, or its extra is not installed
    │   └── IsolationUnavailableError this machine cannot isolate at the level that is asked for
    ├── StateError                    an operation that the session's state does not allow
    ├── SandboxError                  a sandbox or its provider; has .provider, .sandbox_id, .correlation_id, .retryable
    │   ├── SessionError              a session could not be created or is in no state to be used
    │   │   ├── SandboxCreationError  the provider did not make a sandbox
    │   │   └── SandboxLostError      the sandbox died, expired or was taken away; its variables are gone
    │   │       └── SandboxTakenError another kernel process uses it now
    │   ├── InvocationError           a call into a running sandbox failed
    │   ├── AuthenticationError       credentials are missing or were refused
    │   ├── NotFoundError             no such sandbox, template or file
    │   │   ├── TemplateNotFoundError no template of that name or tag
    │   │   └── SessionNotFoundError  no sandbox of that id, or no agent's session of that name
    │   ├── QuotaError                a limit of the provider or of the configuration was reached
    │   ├── RateLimitError            too many calls at a time; has .retry_after
    │   ├── SandboxTimeoutError       an operation took longer than its time-out
    │   └── SandboxConnectionError    the provider or the sandbox cannot be reached
    │       └── SandboxPausedError    it is paused, and nobody here has done that
    ├── LinkProtocolError             the other side of a link sent what no bridge sends
    ├── CommandError                  a `%sandbox` command was called wrongly
    ├── ToolError                     something about a tool; has .correlation_id
    │   ├── ToolRegistrationError     a tool cannot be registered as it is
    │   │   └── ToolValidationError   its code breaks rules; has .findings
    │   ├── ToolOwnershipError        it is somebody else's
    │   ├── ToolStorageError          a store of tools cannot be used
    │   │   └── ToolConflictError     somebody else changed it meanwhile
    │   ├── UnknownToolError          there is no such tool, or it may not be used here
    │   ├── ToolArgumentsError        the arguments are not what the tool's schema describes
    │   ├── ToolDeniedError           the configuration, or the person who was asked, does not allow the call
    │   ├── ToolTimeoutError          a call took longer than it may
    │   └── ToolExecutionError        a tool ran and failed, or what it returned cannot travel
    ├── GenerationError               no answer of a model, or none that can be used
    │   └── ModelError                one model failed; has .reason, .model
    ├── FanOutError                   a map over many inputs cannot go on
    ├── TransferError                 a variable cannot travel into a sandbox or out of it
    └── CellError                     an exception in a cell, raised where the caller asked for that

An exception in the user's cell is data; CellError carries it for who calls `raise_on_error`. Each message is one
sentence that says what to do.
"""

from __future__ import annotations

from collections.abc import Sequence


class SandboxKernelError(Exception):
    """Root of the errors of this project."""


class ConfigurationError(SandboxKernelError):
    """What the user set cannot work; retrying will not help."""


class UnknownProviderError(ConfigurationError):
    """No provider of that name is installed."""


class IsolationUnavailableError(ConfigurationError):
    """This machine cannot isolate at the level that is asked for; the message names what is missing."""


class StateError(SandboxKernelError):
    """The session's state does not allow the operation; the message names both states."""


class SandboxError(SandboxKernelError):
    """Something about a sandbox or its provider failed.

    ``retryable`` says whether the same call may succeed when it is made again.
    """

    retryable = False

    def __init__(
        self,
        message: str,
        *,
        provider: str = "",
        sandbox_id: str = "",
        correlation_id: str = "",
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.sandbox_id = sandbox_id
        self.correlation_id = correlation_id
        if retryable is not None:
            self.retryable = retryable


class SessionError(SandboxError):
    """A session could not be created, or is in no state to be used."""


class SandboxCreationError(SessionError):
    """The provider did not make a sandbox; the message says why."""


class SandboxLostError(SessionError):
    """The sandbox died, expired or was taken away; its variables are gone."""


class SandboxTakenError(SandboxLostError):
    """Another kernel process has taken the sandbox; its variables are there."""


class InvocationError(SandboxError):
    """A call into a running sandbox failed."""


class AuthenticationError(SandboxError):
    """Credentials are missing or were refused."""


class NotFoundError(SandboxError):
    """There is no such sandbox, template or file."""


class TemplateNotFoundError(NotFoundError):
    """There is no template of that name, or with that tag."""


class SessionNotFoundError(NotFoundError):
    """There is no sandbox of that id any more, or no agent's session of that name."""


class QuotaError(SandboxError):
    """A limit of the provider or of the configuration was reached."""


class RateLimitError(SandboxError):
    """The provider was called too often. ``retry_after`` is what it wants to be waited, in seconds; 0 if unknown."""

    retry_after = 0.0


class SandboxTimeoutError(SandboxError):
    """An operation took longer than its time-out."""

    retryable = True


class SandboxConnectionError(SandboxError):
    """The provider or the sandbox cannot be reached."""

    retryable = True


class SandboxPausedError(SandboxConnectionError):
    """The sandbox is paused, and nobody here has done that: its provider has, or another program."""


class LinkProtocolError(SandboxKernelError):
    """The other side of a link sent what no bridge sends; the link is of no use any more."""


class CommandError(SandboxKernelError):
    """A `%sandbox` command was called wrongly; the message says how it is called."""


class ToolError(SandboxKernelError):
    """Something about a tool failed."""

    def __init__(self, message: str, *, correlation_id: str = "") -> None:
        super().__init__(message)
        self.correlation_id = correlation_id


class ToolRegistrationError(ToolError):
    """A tool cannot be registered as it is; the message says what to change."""


class ToolValidationError(ToolRegistrationError):
    """A tool's code breaks rules. ``findings`` say which, and where."""

    def __init__(self, message: str, findings: Sequence[object] = ()) -> None:
        super().__init__(message)
        self.findings = tuple(findings)


class ToolOwnershipError(ToolError):
    """The tool is somebody else's."""


class ToolStorageError(ToolError):
    """A store of tools cannot be used; the message says why."""


class ToolConflictError(ToolStorageError):
    """Somebody else changed the tool meanwhile."""


class UnknownToolError(ToolError):
    """There is no such tool, or it may not be used here."""


class ToolArgumentsError(ToolError):
    """The arguments are not what the tool's schema describes; the message names the place."""


class ToolDeniedError(ToolError):
    """The configuration, or the person who was asked, does not allow the call."""


class ToolTimeoutError(ToolError):
    """A call took longer than it may."""


class ToolExecutionError(ToolError):
    """A tool ran and failed, or what it returned cannot travel."""


class GenerationError(SandboxKernelError):
    """There is no answer of a model, or none that can be used; the message says what to do."""


class ModelError(GenerationError):
    """One model failed. ``reason`` decides whether another one is asked; see generation/models/base.py."""

    def __init__(self, message: str, *, reason: str, model: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.model = model


class FanOutError(SandboxKernelError):
    """A map over many inputs cannot go on; the message says why, and how much was done."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.results: dict[int, object] = {}
        """What ``await map(…)`` had by then, by the inputs' numbers; a `Failure` where one failed."""


class TransferError(SandboxKernelError):
    """A variable cannot travel into a sandbox or out of it; the message says why."""


class CellError(SandboxKernelError):
    """A cell in a sandbox ended by an exception, and the caller wanted to have it raised.

    Each is of a subclass with the exception's own name, so that notebooks show that name.
    """

    def __init__(self, name: str, value: str, traceback: list[str]) -> None:
        super().__init__(value)
        self.name = name
        self.value = value
        self.traceback = traceback
        """Lines, with colours as terminals know them."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the lines of the sandbox, where the error is, and not ours."""
        return self.traceback or [f"{self.name}: {self.value}"]
