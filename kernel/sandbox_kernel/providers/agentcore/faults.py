"""The service's errors, and its SDK's, as ours: one table."""

from __future__ import annotations

import re
from typing import Any

from sandbox_kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    InvocationError,
    NotFoundError,
    QuotaError,
    SandboxConnectionError,
    SandboxError,
    SandboxKernelError,
)

PROVIDER = "agentcore"
PERMISSIONS = "docs/agentcore.md has the IAM policy"
CREDENTIALS = {
    "expiredtokenexception",
    "expiredtoken",
    "unrecognizedclientexception",
    "invalidsignatureexception",
    "invalidclienttokenid",
    "missingauthenticationtoken",
    "missingauthenticationtokenexception",
    "incompletesignatureexception",
}
THROTTLED = {"throttlingexception", "throttling", "toomanyrequestsexception", "requestlimitexceeded"}
FAILING = {"internalserverexception", "internalservererror", "serviceunavailableexception", "serviceunavailable"}
NO_CREDENTIALS = (
    "NoCredentialsError PartialCredentialsError CredentialRetrievalError TokenRetrievalError SSOTokenLoadError "
    "UnauthorizedSSOTokenError SSOError InfoNotFoundError"
).split()
_WAIT = re.compile(r"\b(\d+) ?(?:s\b|sec)", re.IGNORECASE)
_ACTION = re.compile(r"bedrock-agentcore[\w-]*:\w+")


def is_ours(exc: BaseException) -> bool:
    """Whether an exception is the SDK's, or comes from its connection."""
    return type(exc).__module__.split(".")[0] in ("botocore", "boto3", "urllib3") or isinstance(exc, OSError)


def translated(exc: BaseException, operation: str, where: str, **ids: Any) -> SandboxKernelError:
    """Return our error for one of the SDK's. ``where`` names the region or the endpoint; ``ids`` go into it."""
    response = getattr(exc, "response", None)
    ids = {"provider": PROVIDER, **ids}
    if isinstance(response, dict) and "Error" in response:
        return _refused(response, operation, where, **ids)
    name, text = type(exc).__name__, " ".join(str(exc).split())
    if name in NO_CREDENTIALS:
        return AuthenticationError(
            f"There are no AWS credentials that can be used ({text}); run `aws configure` or `aws sso login`, or set "
            "AWS_PROFILE.",
            **ids,
        )
    if name == "NoRegionError":
        return ConfigurationError("No AWS region is set: set AgentCoreProvider.region, or AWS_REGION.")
    if name in (
        "ProfileNotFound",
        "InvalidRegionError",
        "UnknownRegionError",
        "InvalidConfigError",
        "ConfigParseError",
    ):
        return ConfigurationError(f"The AWS configuration cannot be used: {text}.")
    if name in ("ParamValidationError", "UnknownServiceError", "DataNotFoundError"):
        return ConfigurationError(f"{operation} cannot be called: {text}; `pip install -U boto3` may help.")
    return SandboxConnectionError(f"AgentCore in {where} cannot be reached ({text}).", **ids)


def _refused(response: dict[str, Any], operation: str, where: str, **ids: Any) -> SandboxError:
    error = response["Error"]
    code, message = str(error.get("Code", "")), str(error.get("Message", "") or "no reason given").rstrip(".")
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)
    kind = code.lower()
    made: SandboxError | None = None
    if kind in THROTTLED or status == 429:
        made = QuotaError(f"AgentCore throttles calls ({message}); try again in some seconds.", retryable=True, **ids)
    elif kind == "servicequotaexceededexception":
        found = _WAIT.search(message)
        wait = f"wait {found[1]} s" if found else "wait until others have ended"
        made = QuotaError(f"A quota of AgentCore is used up ({message}): {wait}, or have it raised.", **ids)
    elif kind in CREDENTIALS or status == 401:
        made = AuthenticationError(f"AWS does not accept the credentials ({message}); log in again.", **ids)
    elif kind == "accessdeniedexception" or status == 403:
        missing = _ACTION.search(message)
        action = missing[0] if missing else f"bedrock-agentcore:{operation}"
        made = AuthenticationError(f"AWS denies {action} ({message}); {PERMISSIONS}.", **ids)
    elif kind == "resourcenotfoundexception" or status == 404:
        made = NotFoundError(f"AgentCore in {where} does not know it: {message}.", **ids)
    elif kind in FAILING or status >= 500:
        made = SandboxConnectionError(f"AgentCore failed at {operation} ({message or code}).", **ids)
    if made is not None:
        return made
    fields = [str(one.get("name")) for one in response.get("fieldList") or [] if isinstance(one, dict)]
    about = f" of {', '.join(fields)}" if fields else ""
    return InvocationError(f"AgentCore refused {operation}{about}: {code}: {message}.", **ids)
