"""Where a gateway is, and who is told which secret: values only."""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

from sandbox_kernel.errors import ConfigurationError

TOKEN_VARIABLE = "SANDBOX_KERNEL_GATEWAY_TOKEN"  # noqa: S105 - where the token is, not one
MARK = "5a9db0c5e11e"
"""Ends the id of each kernel that is made here, where the server lets its clients choose ids."""
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,199}", re.ASCII)
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_VALUE = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True)
class Place:
    """A gateway, as the configuration has it."""

    url: str
    token: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Further ones for each request, such as those that a proxy before the gateway wants."""
    ca_file: str = ""
    certificate_file: str = ""
    private_key_file: str = ""

    @property
    def base(self) -> str:
        """The address without a slash at its end."""
        return self.url.rstrip("/")

    @property
    def is_secure(self) -> bool:
        """Whether it is reached over TLS."""
        return urlsplit(self.url).scheme == "https"

    def check(self) -> None:
        """Raise ConfigurationError for what cannot be."""
        if not self.url:
            raise ConfigurationError(
                "GatewayProvider.url is not set: it is the gateway's address, such as https://gateway.example.com."
            )
        try:
            parts = urlsplit(self.url)
            found = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            found = False
        if not found or parts.username is not None or parts.query or parts.fragment or not self.url.isascii():
            raise ConfigurationError(
                f"{_without_secrets(self.url)!r} is no address for GatewayProvider.url: it is like "
                f"https://gateway.example.com/base, without user, password or token, which goes into {TOKEN_VARIABLE}."
            )
        if not _VALUE.fullmatch(self.token) or " " in self.token:
            raise ConfigurationError(f"The token in {TOKEN_VARIABLE} has characters that no token has; copy it again.")
        for name, value in self.headers.items():
            if not _HEADER.fullmatch(name) or not _VALUE.fullmatch(value):
                raise ConfigurationError(f"GatewayProvider.headers: {name!r}, or its value, cannot be in a request.")
        self._check_files()

    def _check_files(self) -> None:
        files = {
            "ca_file": self.ca_file,
            "certificate_file": self.certificate_file,
            "private_key_file": self.private_key_file,
        }
        for name, file in files.items():
            if file and not Path(file).expanduser().is_file():
                raise ConfigurationError(f"GatewayProvider.{name}: there is no file {file}.")
            if file and not self.is_secure:
                raise ConfigurationError(f"GatewayProvider.{name} is set, and the address begins with http, not https.")
        if self.private_key_file and not self.certificate_file:
            raise ConfigurationError("GatewayProvider.private_key_file is set, and certificate_file is not.")

    @property
    def request_headers(self) -> dict[str, str]:
        """What each request says."""
        own = {"Authorization": f"token {self.token}"} if self.token else {}
        return {"User-Agent": "sandbox-kernel", **own, **self.headers}

    def kernel_path(self, kernel_id: str) -> str:
        """Return the path of a kernel in the API."""
        return f"/api/kernels/{quote(kernel_id, safe='')}"

    def channels_url(self, kernel_id: str, session: str) -> str:
        """Return the address of a kernel's WebSocket, as http or https."""
        return f"{self.base}{self.kernel_path(kernel_id)}/channels?{urlencode({'session_id': session})}"


def new_kernel_id() -> str:
    """Return an id for a kernel of ours: a UUID of version 4 that ends in `MARK`."""
    return str(uuid.UUID(bytes=secrets.token_bytes(10) + bytes.fromhex(MARK), version=4))


def is_ours(kernel_id: str) -> bool:
    """Whether a kernel was made by this package, on whatever machine."""
    return kernel_id.endswith(f"-{MARK}")


def is_kernel_id(text: object) -> bool:
    """Whether this can be a kernel's id, which becomes part of an address."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def _without_secrets(url: str) -> str:
    """Return an address without what may be a password or a token."""
    head, at, tail = url.partition("?")[0].partition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if at else head
