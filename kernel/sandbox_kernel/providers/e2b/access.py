"""Where a brand's API and sandboxes are, and who is told which secret: values only."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from sandbox_kernel.errors import ConfigurationError, InvocationError

from .brands import BRANDS, ENVD, INTERPRETER, Brand

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,199}", re.ASCII)
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")


@dataclass(frozen=True)
class Place:
    """A brand's API, as the configuration has it."""

    brand: Brand
    api_key: str = field(repr=False)
    domain: str = ""
    """Where it is not the brand's own: HOST or HOST:PORT."""
    api_url: str = ""
    """Where it is not https://api.DOMAIN."""
    sandbox_url: str = ""
    """One address for all sandboxes, which are told apart by headers."""

    @property
    def owner(self) -> str:
        """Whose sandboxes are found: a mark of the key, from which the key cannot be told."""
        return f"key-{hashlib.sha256(f'{self.brand.name} {self.api_key}'.encode()).hexdigest()[:8]}"

    @property
    def base(self) -> str:
        """The address of the API."""
        return (self.api_url or f"https://api.{self.domain or self.brand.domain}").rstrip("/")

    @property
    def is_legacy(self) -> bool:
        """Whether request bodies are those of the brand's older domains."""
        return (self.domain or self.brand.domain) in self.brand.legacy_domains

    def takes_key(self, url: str) -> bool:
        """Whether the API key may be sent there: to the API's own origin and nowhere else."""
        asked, own = urlsplit(url), urlsplit(self.base)
        return (asked.scheme, asked.netloc) == (own.scheme, own.netloc)

    def check(self) -> None:
        """Raise ConfigurationError for addresses that cannot be."""
        for name, url in (("api_url", self.api_url), ("sandbox_url", self.sandbox_url)):
            parts = urlsplit(url)
            if url and (parts.scheme not in ("http", "https") or not parts.netloc or parts.username is not None):
                raise ConfigurationError(f"{url!r} is no address for {name}: it is like https://api.example.com.")
        host = urlsplit(self.base).hostname or ""
        for other in BRANDS.values():
            if other is not self.brand and _is_under(host, other.known_domains):
                raise ConfigurationError(
                    f"{host} is {other.title}'s, and the API key is {self.brand.title}'s: it is not sent there. "
                    f"Set SandboxSession.provider to {other.name!r}, or correct the address."
                )
        if self.domain and (urlsplit(f"//{self.domain}").netloc != self.domain or "@" in self.domain):
            raise ConfigurationError(f"{self.domain!r} is no domain: it is like example.com.")

    def domain_of(self, said: str) -> str:
        """Return the domain of a sandbox that the API names. Raises InvocationError where it is none of the brand's.

        What is said may be anybody's, and tokens go there.
        """
        own = self.domain or self.brand.domain
        if not said:
            return own
        allowed = (own, *self.brand.known_domains)
        if _is_under(said, allowed) and urlsplit(f"//{said}").netloc == said:
            return said
        raise InvocationError(
            f"{self.brand.title} says that a sandbox is at {said[:100]!r}, which is not under {', '.join(allowed)}: "
            "nothing was sent there. If it is right, set E2BProvider.domain (or PPIO's, Novita's) to it.",
            provider=self.brand.name,
        )


@dataclass(frozen=True)
class Access:
    """How one sandbox is reached."""

    place: Place
    sandbox_id: str
    template_id: str = ""
    domain: str = ""
    envd_token: str = field(default="", repr=False)
    traffic_token: str = field(default="", repr=False)

    def url(self, port: int) -> str:
        """Return the address of a port, without a slash at its end."""
        if self.place.sandbox_url:
            return self.place.sandbox_url.rstrip("/")
        if port in (ENVD, INTERPRETER) and self.domain in self.place.brand.routed_domains:
            return f"https://sandbox.{self.domain}"
        return f"https://{port}-{self.sandbox_id}.{self.domain}"

    def headers(self, port: int) -> dict[str, str]:
        """Return what a request to a port says; the API key is never among it."""
        headers = {"E2b-Sandbox-Id": self.sandbox_id, "E2b-Sandbox-Port": str(port)}
        if self.envd_token:
            headers["X-Access-Token"] = self.envd_token
        if self.traffic_token:
            headers["E2B-Traffic-Access-Token"] = self.traffic_token
        return headers


def read_access(place: Place, said: Any) -> Access:
    """Read what the API says of a sandbox that it has made, or is connected. Raises InvocationError."""
    if not isinstance(said, dict):
        raise InvocationError(f"{place.brand.title} did not say what sandbox it made.", provider=place.brand.name)
    sandbox_id = _id_in(place, said)
    if not _ID.fullmatch(sandbox_id):
        raise InvocationError(
            f"{place.brand.title} gave a sandbox an id that cannot be one: {sandbox_id[:50]!r}.",
            provider=place.brand.name,
        )
    tokens = [_text(said, name) for name in ("envdAccessToken", "trafficAccessToken")]
    if any(token and not _TOKEN.fullmatch(token) for token in tokens):
        raise InvocationError(f"{place.brand.title} gave a sandbox no usable token.", provider=place.brand.name)
    domain = place.domain_of(_text(said, "domain"))
    return Access(place, sandbox_id, _text(said, "templateID"), domain, *tokens)


def ids_in(place: Place, said: Any) -> list[str]:
    """Return what may be the id of a sandbox that the API names, whatever else is wrong with what it says."""
    if not isinstance(said, dict):
        return []
    return [one for one in dict.fromkeys((_id_in(place, said), _text(said, "sandboxID"))) if _ID.fullmatch(one)]


def _id_in(place: Place, said: dict[str, Any]) -> str:
    sandbox_id = _text(said, "sandboxID")
    if place.is_legacy and said.get("clientID"):
        return f"{sandbox_id}-{_text(said, 'clientID')}"
    return sandbox_id


def _is_under(host: str, domains: tuple[str, ...]) -> bool:
    return any(host == one or host.endswith(f".{one}") for one in domains)


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    return value if isinstance(value, str) else ""
