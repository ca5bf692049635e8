"""Addresses of services as people may see them: a user's name, a password and a query's values are none of that."""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

MIN_SECRET = 4
"""Characters: what is shorter stands in messages for something else."""


def shown_address(address: str) -> str:
    """Return an address without who logs in, and without its query."""
    parts = _split(address)
    if parts is None:
        return "an address that cannot be read"
    return parts._replace(netloc=_host(parts), query="", fragment="").geturl()


def below_address(address: str, path: str) -> str:
    """Return the address of a path below another one, whose query stays behind it."""
    before, mark, query = address.partition("?")
    return f"{before.rstrip('/')}/{path}{mark}{query}"


def without_secrets_of(address: str, text: str) -> str:
    """Return what others say, without the secrets of an address."""
    if not address:
        return text
    text = text.replace(address, shown_address(address))
    for secret in sorted(_secrets(address), key=len, reverse=True):
        text = text.replace(secret, "…")
    return text


def _split(address: str) -> SplitResult | None:
    try:
        return urlsplit(address)
    except ValueError:
        return None


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _secrets(address: str) -> set[str]:
    parts = _split(address)
    if parts is None:
        return {address}
    login = parts.netloc.rpartition("@")[0]
    raw = {login, login.partition(":")[2], parts.query, *(value.partition("=")[2] for value in parts.query.split("&"))}
    read = {unquote(one) for one in raw} | {value for _, value in parse_qsl(parts.query)}
    return {one for one in raw | read if len(one) >= MIN_SECRET}
