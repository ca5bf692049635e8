"""Where an API key comes from: an argument, the environment, the system's key ring. It is never an option."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec

from sandbox_kernel.errors import AuthenticationError

from .brands import Brand

SERVICE = "sandbox-kernel"
"""The name under which `keyring set sandbox-kernel e2b` keeps a key."""


def find_key(brand: Brand, given: str = "") -> str:
    """Return the brand's API key. Raises AuthenticationError with where to put it."""
    key = (given or os.environ.get(brand.key_variable, "") or _from_key_ring(brand.name)).strip()
    if not key:
        raise AuthenticationError(
            f"{brand.title} wants an API key: set {brand.key_variable} before the kernel starts, or keep it in the "
            f"system's key ring (`pip install keyring`, then `keyring set {SERVICE} {brand.name}`).",
            provider=brand.name,
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise AuthenticationError(
            f"The API key in {brand.key_variable} has characters that no key has; copy it again.", provider=brand.name
        )
    return key


def _from_key_ring(name: str) -> str:
    if find_spec("keyring") is None:
        return ""
    keyring = import_module("keyring")
    errors = import_module("keyring.errors")
    try:
        return str(keyring.get_password(SERVICE, name) or "")
    except errors.KeyringError as exc:
        raise AuthenticationError(f"The system's key ring cannot be read: {exc}", provider=name) from exc
