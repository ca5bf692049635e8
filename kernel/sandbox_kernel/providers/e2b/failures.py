"""What an answer that is none, or a refusal, means: one table from HTTP and httpx to our errors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from sandbox_kernel.errors import (
    AuthenticationError,
    InvocationError,
    QuotaError,
    RateLimitError,
    SandboxConnectionError,
    SandboxError,
    SandboxTimeoutError,
    SessionNotFoundError,
)

from .brands import Brand

TOO_MANY, SERVERS_OWN, MULTIPLE_CHOICES, BAD_REQUEST, BAD_GATEWAY = 429, 500, 300, 400, 502
FORBIDDEN = (401, 403)
REPEATED = (429, 502, 503, 504)
"""Statuses after which the same call may succeed."""
_QUOTA = re.compile(r"quota|maximum number|concurrent|limit of your (plan|team)|insufficient|balance", re.IGNORECASE)
MAX_SAID = 300
"""Characters of what a service says that are shown."""


class Refusal(Exception):  # noqa: N818 - becomes an error of ours where it is known what was asked for
    """An answer with a status that is none of those that were expected."""

    def __init__(self, status: int, said: str, retry_after: float = 0.0, fields: dict[str, Any] | None = None) -> None:
        """``fields`` are those of the answer, where it is an object."""
        super().__init__(f"{status}: {said}")
        self.status, self.said, self.retry_after = status, said, retry_after
        self.fields = fields or {}

    @property
    def is_of_stopped(self) -> bool:
        """Whether the ingress says that the sandbox does not run, so that what was asked for has not reached it.

        Gateways before the ingress answer 502, too, and may have passed it on; of a port that is closed it names it.
        """
        return self.status == BAD_GATEWAY and "sandboxId" in self.fields and "port" not in self.fields


def refusal_of(response: httpx.Response) -> Refusal:
    """Return what a response, whose body was read, refuses; people are told so in one line."""
    fields = fields_in(response.text)
    told = (fields.get(name) for name in ("message", "error", "detail"))
    said = next((one for one in told if one and isinstance(one, str)), response.text)
    return Refusal(response.status_code, " ".join(said.split())[:MAX_SAID], retry_after_of(response), fields)


def fields_in(body: str) -> dict[str, Any]:
    """Return the fields of an answer that is an object in JSON; none of another one."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def is_quota(refusal: Refusal) -> bool:
    """Whether a refusal speaks of a limit of the account, which waiting does not change."""
    return refusal.status == TOO_MANY and bool(_QUOTA.search(refusal.said))


def retry_after_of(response: httpx.Response) -> float:
    """Return the seconds that a service wants to be waited; 0 where it does not say."""
    text = response.headers.get("retry-after", "")
    if text.isdigit():
        return float(text)
    try:
        from email.utils import parsedate_to_datetime

        wanted = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return 0.0
    from datetime import datetime, timezone

    if wanted.tzinfo is None:
        wanted = wanted.replace(tzinfo=timezone.utc)
    return max(0.0, (wanted - datetime.now(timezone.utc)).total_seconds())


def error_of(brand: Brand, refusal: Refusal, doing: str, **ids: Any) -> SandboxError:
    """Return our error for a refusal; ``doing`` is a clause: "create a sandbox"."""
    kind, advice = _kind(brand, refusal)
    error = kind(
        f"{brand.title} refused to {doing} ({refusal.status}: {refusal.said or 'no reason given'}){advice}",
        provider=brand.name,
        # It was tried again already, where that might help.
        retryable=False,
        **ids,
    )
    if isinstance(error, RateLimitError):
        error.retry_after = refusal.retry_after
    return error


_KINDS: dict[int, tuple[type[SandboxError], str]] = {
    401: (AuthenticationError, "; is {variable} right, and valid for this?"),
    402: (QuotaError, "; look at your account."),
    403: (AuthenticationError, "; is {variable} right, and valid for this?"),
    404: (SessionNotFoundError, "; it ended, or never was."),
    429: (RateLimitError, "; try again {when}."),
    507: (QuotaError, "; there is no room in the sandbox."),
}
_REDIRECTS = "; it redirects elsewhere, which is not followed, since the API key would go there."


def _kind(brand: Brand, refusal: Refusal) -> tuple[type[SandboxError], str]:
    if is_quota(refusal):
        return QuotaError, "; `%sandbox stop --all` or `jupyter sandbox list` may help, or another plan."
    if refusal.status in _KINDS:
        kind, advice = _KINDS[refusal.status]
        when = f"in {refusal.retry_after:g} s" if refusal.retry_after else "later"
        return kind, advice.format(variable=brand.key_variable, when=when)
    if refusal.status >= SERVERS_OWN:
        return SandboxConnectionError, "; try again later."
    return InvocationError, _REDIRECTS if MULTIPLE_CHOICES <= refusal.status < BAD_REQUEST else "."


@contextmanager
def translated(brand: Brand, doing: str, **ids: Any) -> Iterator[None]:
    """Turn httpx's errors into ours. Those are worth another try."""
    where = f"{brand.title} could not be reached to {doing}"
    try:
        yield
    except httpx.TimeoutException as exc:
        raise SandboxTimeoutError(
            f"{brand.title} did not answer in time when it was asked to {doing}.", provider=brand.name, **ids
        ) from exc
    except httpx.HTTPError as exc:
        raise SandboxConnectionError(f"{where}: {exc or type(exc).__name__}.", provider=brand.name, **ids) from exc
    except (httpx.InvalidURL, UnicodeError) as exc:
        raise InvocationError(f"{where}: {exc}.", provider=brand.name, **ids) from exc
