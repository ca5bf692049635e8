"""The certificates with which an executor listens, and where it may do without."""

from __future__ import annotations

from pathlib import Path

import grpc

from sandbox_kernel.errors import ConfigurationError
from sandbox_kernel.executor_api.addresses import is_loopback, split

from .settings import Executor


def credentials(settings: Executor) -> grpc.ServerCredentials | None:
    """Return what TLS needs; None where there is to be none. Raises ConfigurationError."""
    if bool(settings.certificate_file) != bool(settings.private_key_file):
        raise ConfigurationError("Executor.certificate_file and Executor.private_key_file belong together: set both.")
    if not settings.certificate_file:
        _check_plaintext(settings)
        return None
    pair = (_read(settings.private_key_file), _read(settings.certificate_file))
    authorities = _read(settings.client_ca_file) if settings.client_ca_file else None
    return grpc.ssl_server_credentials([pair], authorities, require_client_auth=authorities is not None)


def _check_plaintext(settings: Executor) -> None:
    if settings.client_ca_file:
        raise ConfigurationError("Executor.client_ca_file needs TLS: set Executor.certificate_file.")
    if not is_loopback(split(settings.address)[0]) and not settings.allow_plaintext:
        raise ConfigurationError(
            f"Without TLS everybody on the way to {settings.address} reads API keys and cells: set "
            "Executor.certificate_file and private_key_file, or listen on 127.0.0.1."
        )


def _read(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"A certificate or key cannot be read: {exc}") from exc
