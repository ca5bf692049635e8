"""What an answer that is none, or a refusal, means: one table from HTTP, TLS and httpx to our errors."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from sandbox_kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    InvocationError,
    QuotaError,
    RateLimitError,
    SandboxConnectionError,
    SandboxError,
    SandboxKernelError,
    SandboxTimeoutError,
    SessionNotFoundError,
)

from .place import TOKEN_VARIABLE, Place

PROVIDER = "gateway"
MAX_SAID = 300
"""Characters of what a gateway says that are shown."""
NOT_FOUND = 404
NOT_STARTED = 424
_OF_HUB = "/hub/user/"
"""Where a hub sends those who ask for a user's server that does not run."""
_NOT_LET_IN = (
    f"the token in {TOKEN_VARIABLE} is wrong, has expired or may not do this; set a valid one before the kernel starts."
)
_KINDS: dict[int, tuple[type[SandboxError], str]] = {
    401: (AuthenticationError, _NOT_LET_IN),
    403: (AuthenticationError, _NOT_LET_IN),
    404: (SessionNotFoundError, "there is no such thing, or not any more."),
    405: (InvocationError, "it does not offer this."),
    NOT_STARTED: (SandboxConnectionError, "the user's server is not running; start it at the hub."),
    429: (RateLimitError, "try again later."),
}


class Refusal(Exception):  # noqa: N818 - becomes an error of ours where it is known what was asked for
    """An answer with a status that is none of those that were expected."""

    def __init__(self, status: int, said: str, location: str = "") -> None:
        """``location`` is where it wants to send us."""
        super().__init__(f"{status}: {said}")
        self.status, self.said, self.location = status, said, location


def refusal_of(status: int, body: bytes, location: str = "") -> Refusal:
    """Return what an answer refuses; people are told so in one line."""
    text = body.decode(errors="replace")
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict):
        told = (said.get(name) for name in ("message", "reason", "error"))
        text = next((one for one in told if one and isinstance(one, str)), "")
    elif "<html" in text.lower():
        text = ""
    shown = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return Refusal(status, shown[:MAX_SAID], location)


def error_of(place: Place, refusal: Refusal, doing: str, **ids: Any) -> SandboxError:
    """Return our error for a refusal; ``doing`` is a clause: "start a kernel"."""
    said = f"{refusal.status}: {refusal.said}" if refusal.said else str(refusal.status)
    status = refusal.status
    if 300 <= status < 400 and _OF_HUB in refusal.location:
        status = NOT_STARTED
    if 300 <= status < 400:
        return AuthenticationError(
            f"The gateway at {place.base} sends us elsewhere instead of letting us {doing} ({said}), as one does that "
            f"wants a login, and that is not followed: {_NOT_LET_IN}",
            provider=PROVIDER,
            **ids,
        )
    if status == 403 and "limit" in refusal.said.lower():
        kind: type[SandboxError] = QuotaError
        advice = "it runs as many kernels as it may; `%sandbox list` shows those that are yours."
    elif status in _KINDS:
        kind, advice = _KINDS[status]
    elif status >= 500:
        kind, advice = SandboxConnectionError, "its log has more."
    else:
        kind, advice = InvocationError, "its log has more."
    return kind(f"The gateway at {place.base} refused to {doing} ({said}): {advice}", provider=PROVIDER, **ids)


@contextmanager
def translated(place: Place, doing: str, **ids: Any) -> Iterator[None]:
    """Turn errors of the network and of TLS into ours."""
    try:
        yield
    except httpx.TimeoutException as exc:
        raise SandboxTimeoutError(
            f"The gateway at {place.base} did not answer in time when it was asked to {doing}.",
            provider=PROVIDER,
            **ids,
        ) from exc
    except (httpx.HTTPError, OSError) as exc:
        raise unreachable(place, exc, doing, **ids) from exc
    except (httpx.InvalidURL, UnicodeError) as exc:
        raise ConfigurationError(f"GatewayProvider.url, {place.base}, cannot be asked to {doing}: {exc}.") from exc


def unreachable(place: Place, exc: BaseException, doing: str, **ids: Any) -> SandboxKernelError:
    """Return our error for one of the network; what is wrong with a certificate no other attempt mends."""
    cause: BaseException | None = exc
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        advice = "renew it" if "expired" in cause.verify_message else "or name its authority in GatewayProvider.ca_file"
        return ConfigurationError(
            f"The certificate of the gateway at {place.base} cannot be trusted ({cause.verify_message}): {advice}. "
            "Nothing was sent."
        )
    if isinstance(cause, ssl.SSLError):
        reason = str(cause.reason or cause).replace("_", " ").lower()
        if "alert" in reason or "required" in reason:
            return AuthenticationError(
                f"The gateway at {place.base} does not take our certificate ({reason}): "
                "GatewayProvider.certificate_file and private_key_file have to be those that it knows, and valid.",
                provider=PROVIDER,
                **ids,
            )
        return ConfigurationError(f"At {place.base} nobody speaks TLS as we do ({reason}): is it http, not https?")
    what = str(exc) or type(exc).__name__
    # With TLS 1.3 who is not let in may hear no more than that the connection has ended.
    hint = ""
    if place.is_secure and not place.certificate_file and not isinstance(exc, httpx.ConnectError):
        hint = " It may want a certificate of ours (GatewayProvider.certificate_file)."
    return SandboxConnectionError(
        f"The gateway at {place.base} could not be reached to {doing} ({what}): does it run, and is "
        f"GatewayProvider.url right?{hint}",
        provider=PROVIDER,
        **ids,
    )
