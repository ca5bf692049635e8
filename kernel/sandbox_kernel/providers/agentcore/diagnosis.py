"""What `jupyter sandbox doctor --provider agentcore` tries: nothing that is billed."""

from __future__ import annotations

import asyncio

from sandbox_kernel.errors import AuthenticationError, ConfigurationError, NotFoundError, SandboxKernelError
from sandbox_kernel.providers.base import Diagnosis

from .api import Api


async def diagnoses(api: Api) -> list[Diagnosis]:
    """Return what works: package, region, credentials, then a call that lists sessions and needs all of them."""
    found = [await asyncio.to_thread(_package)]
    if not found[0].works:
        return found
    found += await asyncio.to_thread(_account, api)
    if all(one.works for one in found):
        found += await _service(api)
    return found


def _package() -> Diagnosis:
    subject = "boto3 is installed"
    try:
        import boto3
    except ImportError as exc:
        return Diagnosis(subject, works=False, detail=f"{exc}; pip install -U boto3")
    return Diagnosis(subject, works=True, detail=str(boto3.__version__))


def _account(api: Api) -> list[Diagnosis]:
    import boto3
    from botocore.exceptions import BotoCoreError

    settings = api.settings
    region, credentials = "a region is set", "there are AWS credentials"
    try:
        session = boto3.session.Session(profile_name=settings.profile or None, region_name=settings.region or None)
        keys = session.get_credentials()
        resolved = keys.get_frozen_credentials() if keys is not None else None
    except BotoCoreError as exc:
        return [
            Diagnosis(credentials, works=False, detail=f"{exc}; run `aws configure` or set AgentCoreProvider.profile")
        ]
    where = session.region_name
    said = [
        Diagnosis(region, works=bool(where), detail=where or "set AgentCoreProvider.region, or AWS_REGION"),
        # How they were found is for people; what they are is for nobody.
        Diagnosis(
            credentials,
            works=resolved is not None,
            detail=f"from {keys.method}"
            if keys is not None and resolved is not None
            else "run `aws configure` or `aws sso login`, or set AWS_PROFILE",
        ),
    ]
    if where and not settings.endpoint_url:
        offered = session.get_available_regions("bedrock-agentcore")
        offers = not offered or where in offered
        detail = where if offers else f"this SDK knows none in {where}; there are: {', '.join(offered)}"
        said.append(Diagnosis("AgentCore is in that region", works=offers, detail=detail))
    return said


async def _service(api: Api) -> list[Diagnosis]:
    answers = f"AgentCore in {api.where} answers"
    allowed = "the credentials are accepted and may list sessions"
    known = f"the code interpreter {api.settings.interpreter} exists"
    try:
        page = await api.call("ListCodeInterpreterSessions", status="READY", maxResults=100)
    except AuthenticationError as exc:
        return [Diagnosis(answers, works=True, detail=""), Diagnosis(allowed, works=False, detail=str(exc))]
    except NotFoundError as exc:
        return [
            Diagnosis(answers, works=True, detail=""),
            Diagnosis(allowed, works=True, detail=""),
            Diagnosis(known, works=False, detail=f"{exc} Set AgentCoreProvider.code_interpreter_identifier."),
        ]
    except (SandboxKernelError, ConfigurationError) as exc:
        return [Diagnosis(answers, works=False, detail=str(exc))]
    count = len(page.get("items") or [])
    return [
        Diagnosis(answers, works=True, detail=""),
        Diagnosis(allowed, works=True, detail=f"{count} sessions run now"),
        Diagnosis(known, works=True, detail=""),
        Diagnosis(
            "starting sessions is permitted",
            works=True,
            detail="not tried, since it is billed; the policy needs bedrock-agentcore:StartCodeInterpreterSession, "
            "InvokeCodeInterpreter, GetCodeInterpreterSession and StopCodeInterpreterSession",
        ),
    ]
