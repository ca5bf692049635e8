"""The AgentCore provider: its options. What needs boto3 is imported when a sandbox is asked for."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from traitlets import Enum, Float, Int, TraitError, Unicode, validate

from sandbox_kernel.errors import ConfigurationError, NotFoundError, SandboxError
from sandbox_kernel.events import EventLog
from sandbox_kernel.providers.base import Capabilities, Diagnosis, Provider, Sandbox, SandboxRecord, SandboxSpec

if TYPE_CHECKING:
    from .api import Api
    from .life import Life
    from .sandbox import AgentCoreSandbox

SYSTEM_INTERPRETER = "aws.codeinterpreter.v1"
HOURLY_RATE = 0.2546
"""US dollars: 2 vCPU at $0.0895 and 8 GB at $0.00945 an hour, as AWS's price list had them; AWS bills what is used."""
RATES_OF = "2025-10"
MAX_NAME = 100
INTERPRETER = re.compile(r"[\w.-]{1,100}")
"""What an id may look like: the service's own are "aws.codeinterpreter.v1" and NAME-XXXXXXXXXX."""


class AgentCoreProvider(Provider):
    """Sandboxes of Amazon Bedrock AgentCore's Code Interpreter. Credentials come from the AWS SDK's own chain."""

    name = "agentcore"

    region = Unicode(config=True, help="The AWS region. Default: the SDK's own chain (AWS_REGION, the profile).")
    profile = Unicode(config=True, help="The profile of the AWS configuration. Default: AWS_PROFILE, else the default.")
    endpoint_url = Unicode(
        config=True,
        help="Address of the service, for private endpoints and emulators. Default: "
        "AWS_ENDPOINT_URL_BEDROCK_AGENTCORE, else the region's.",
    )
    code_interpreter_identifier = Unicode(
        SYSTEM_INTERPRETER, config=True, help="Which code interpreter: AWS's own, or the id of one that you have made."
    )
    service_session_name = Unicode(
        config=True, help="Name of the sessions, as AWS lists them. Default: the notebook's."
    )
    session_timeout = Int(
        900, min=1, max=28800, config=True, help="Lifetime of a session in seconds; nothing extends it. 1 to 28800."
    )
    request_timeout = Float(60.0, config=True, help="Seconds in which a call that runs no code must be answered.")
    mode = Enum(
        ("auto", "bridge", "basic"),
        "auto",
        config=True,
        help="bridge: an ipykernel of our own runs in the session, and everything works. basic: the service's own "
        "interpreter runs the cells. auto: bridge, and basic where that cannot be had.",
    )
    language = Enum(
        ("python", "javascript", "typescript"),
        "python",
        config=True,
        help="The language of cells; others than Python run in basic mode.",
    )
    wheels = Unicode(
        config=True,
        help="Folder on this machine with wheels of ipykernel and what it needs, for code interpreters that have none "
        "and no network.",
    )
    hourly_rate = Float(
        HOURLY_RATE,
        min=0.0,
        config=True,
        help="US dollars for an hour of a session, for what is shown as its cost. With 0, as for an emulator, a "
        "session starts with the kernel; else with the first cell that a person runs.",
    )
    rates_of = Unicode(RATES_OF, config=True, help="When hourly_rate was looked up, as people are told.")

    @validate("code_interpreter_identifier")
    def _check_interpreter(self, proposal: dict[str, Any]) -> str:
        text = str(proposal["value"])
        if not INTERPRETER.fullmatch(text):
            raise TraitError(
                f"AgentCoreProvider.code_interpreter_identifier is {SYSTEM_INTERPRETER}, or an id such as "
                f"mine-Ab12Cd34Ef, as `aws bedrock-agentcore-control list-code-interpreters` tells it, not {text!r}."
            )
        return text

    @validate("service_session_name")
    def _check_name(self, proposal: dict[str, Any]) -> str:
        text = str(proposal["value"])
        if len(text) > MAX_NAME:
            raise TraitError(
                f"AgentCoreProvider.service_session_name has {len(text)} characters; AgentCore takes {MAX_NAME}."
            )
        return text

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.capabilities = Capabilities(
            outlives_kernel=True,
            billed=self.hourly_rate > 0,
            distant=True,
            languages=("python", "javascript", "typescript"),
        )
        self.hourly_cost = self.hourly_rate
        own = self.code_interpreter_identifier if self.code_interpreter_identifier != SYSTEM_INTERPRETER else ""
        # Only a session's own interpreter lists it.
        self.place = " ".join(filter(None, [self.endpoint_url or self.region, own]))
        self.instead_of_pause = (
            "`%sandbox snapshot` saves its variables and files, and `%sandbox restore` brings them to another sandbox."
        )
        self._api: Api | None = None
        self._log = EventLog(parent=self)

    # ---- sandboxes

    async def create(self, spec: SandboxSpec) -> Sandbox:
        api = self._connected()
        name = self.service_session_name or (spec.notebook.stem if spec.notebook else spec.directory.name) or "notebook"
        # The same for each attempt of one start, so that one whose answer is lost makes no second session.
        token = f"{spec.correlation_id}-{uuid.uuid5(uuid.NAMESPACE_OID, spec.correlation_id)}"
        started = await api.call(
            "StartCodeInterpreterSession",
            correlation_id=spec.correlation_id,
            name=name[:MAX_NAME],
            sessionTimeoutSeconds=self.session_timeout,
            clientToken=token,
        )
        session_id, created = str(started["sessionId"]), _seconds(started.get("createdAt"), api)
        try:
            return await self._sandbox(api, session_id, created, float(self.session_timeout), spec.correlation_id)
        except SandboxError as exc:
            # Another attempt gets this session again.
            if not exc.retryable:
                await self._give_back(api, session_id)
            raise
        except BaseException:
            await self._give_back(api, session_id)
            raise

    async def _give_back(self, api: Api, session_id: str) -> None:
        try:
            await api.call("StopCodeInterpreterSession", sessionId=session_id)
        except (SandboxError, ConfigurationError) as exc:
            self._report("not_given_back", "error", {"sandbox_id": session_id, "error": str(exc)})

    async def connect(self, sandbox_id: str) -> Sandbox:
        api = self._connected()
        found = await api.call("GetCodeInterpreterSession", sessionId=sandbox_id)
        if found.get("status") != "READY":
            raise NotFoundError(
                f"The session {sandbox_id} has ended; AgentCore cannot start it again.",
                provider=self.name,
                sandbox_id=sandbox_id,
            )
        lifetime = float(found.get("sessionTimeoutSeconds") or self.session_timeout)
        return await self._sandbox(api, sandbox_id, _seconds(found.get("createdAt"), api), lifetime, "")

    async def _sandbox(
        self, api: Api, session_id: str, created: float, lifetime: float, correlation_id: str
    ) -> AgentCoreSandbox:
        from .life import Life

        life = Life(created, lifetime, api.now, self.hourly_rate, self.rates_of)
        sandbox = await self._in_mode(api, session_id, life, correlation_id)
        sandbox.owner = await api.identity()
        return sandbox

    async def _in_mode(self, api: Api, session_id: str, life: Life, correlation_id: str) -> AgentCoreSandbox:
        from .boot import Boot, NoBridgeError
        from .sandbox import BridgeSandbox

        wanted = self.mode if self.language == "python" else "basic"
        reason = "" if self.language == "python" else f"cells are in {self.language}"
        if wanted != "basic":
            boot = Boot(
                api,
                session_id,
                self.kernel_arguments,
                correlation_id,
                wheels=self.wheels,
                report=self._report,
            )
            try:
                booted = await boot.run()
            except NoBridgeError as exc:
                reason = str(exc)
                if wanted == "bridge":
                    raise SandboxError(
                        f"The bridge cannot run in this session: {reason}; AgentCoreProvider.mode = 'auto' does "
                        "without it.",
                        provider=self.name,
                        sandbox_id=session_id,
                        correlation_id=correlation_id,
                    ) from exc
            else:
                return BridgeSandbox(api, session_id, life, correlation_id, booted)
        from .basic import BasicSandbox

        return BasicSandbox(api, session_id, life, correlation_id, self.language, reason)

    async def owner(self) -> str:
        return await self._connected().identity()

    async def list(self) -> Sequence[SandboxRecord]:
        api = self._connected()
        records: list[SandboxRecord] = []
        token = ""
        while True:
            more = {"nextToken": token} if token else {}
            page = await api.call("ListCodeInterpreterSessions", status="READY", maxResults=100, **more)
            records += [
                SandboxRecord(str(item["sessionId"]), "running", _seconds(item.get("createdAt"), api))
                for item in page.get("items") or []
            ]
            token = str(page.get("nextToken") or "")
            if not token:
                return records

    def close(self) -> None:
        if self._api is not None:
            self._api.close()

    def diagnose(self) -> Sequence[Diagnosis]:
        from .diagnosis import diagnoses

        return asyncio.run(diagnoses(self._connected()))

    # ---- parts

    def _connected(self) -> Api:
        from .api import Api, Settings

        if self._api is None:
            self._api = Api(
                Settings(
                    interpreter=self.code_interpreter_identifier,
                    region=self.region,
                    profile=self.profile,
                    endpoint_url=self.endpoint_url,
                    session_timeout=self.session_timeout,
                    request_timeout=self.request_timeout,
                ),
                self._report,
            )
        return self._api

    def _report(self, name: str, level: str, fields: dict[str, Any]) -> None:
        self._log.write(name, level=level, provider=self.name, **fields)


def _seconds(moment: object, api: Api) -> float:
    return moment.timestamp() if isinstance(moment, datetime) else api.now()
