"""The errors of this project as gRPC statuses, one table for both ends."""

from __future__ import annotations

import grpc

from sandbox_kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    InvocationError,
    NotFoundError,
    QuotaError,
    SandboxConnectionError,
    SandboxError,
    SandboxKernelError,
    SandboxLostError,
    SandboxTimeoutError,
)

STATUSES: dict[type[SandboxKernelError], grpc.StatusCode] = {
    AuthenticationError: grpc.StatusCode.UNAUTHENTICATED,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    QuotaError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    SandboxLostError: grpc.StatusCode.ABORTED,
    InvocationError: grpc.StatusCode.FAILED_PRECONDITION,
    SandboxTimeoutError: grpc.StatusCode.DEADLINE_EXCEEDED,
    SandboxConnectionError: grpc.StatusCode.UNAVAILABLE,
    ConfigurationError: grpc.StatusCode.UNIMPLEMENTED,
    SandboxError: grpc.StatusCode.UNKNOWN,
}
"""The code that an error travels with. The most special classes come first."""

BROKEN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
"""What gRPC itself says of a connection that is not there, or broke in the middle of a call: no executor sends these
without the name of an error."""

RETRIED = {
    *BROKEN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""After which a call is made again under its number."""

_BY_NAME = {kind.__name__: kind for kind in STATUSES}
_BY_CODE = {
    **{code: kind for kind, code in STATUSES.items()},
    grpc.StatusCode.PERMISSION_DENIED: AuthenticationError,
    grpc.StatusCode.INVALID_ARGUMENT: InvocationError,
    grpc.StatusCode.OUT_OF_RANGE: InvocationError,
    grpc.StatusCode.ALREADY_EXISTS: InvocationError,
    grpc.StatusCode.CANCELLED: SandboxConnectionError,
}


def status_of(error: SandboxKernelError) -> tuple[grpc.StatusCode, str]:
    """Return code and name that an error travels with."""
    kind = next((kind for kind in STATUSES if isinstance(error, kind)), SandboxError)
    return STATUSES[kind], kind.__name__


def error_class(code: grpc.StatusCode, name: str) -> type[SandboxKernelError]:
    """Return the class of the error that came with this code, and with this name where an executor sent it."""
    return _BY_NAME.get(name) or _BY_CODE.get(code, SandboxError)
