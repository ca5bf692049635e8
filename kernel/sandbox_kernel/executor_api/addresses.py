"""Addresses as people write them: host:port, or [IPv6]:port."""

from __future__ import annotations

import ipaddress

from sandbox_kernel.errors import ConfigurationError

from . import DEFAULT_PORT


def split(address: str) -> tuple[str, int]:
    """Return host and port; the port may be left out. Raises ConfigurationError."""
    host, colon, port = address.strip().rpartition(":")
    if not colon or port.endswith("]"):
        host, port = address.strip(), str(DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or "/" in host or not port.isdecimal() or int(port) > 65535:
        raise ConfigurationError(f"{address!r} is no address of an executor; write host:port.")
    return host, int(port)


def join(host: str, port: int) -> str:
    """Return the address of host and port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
