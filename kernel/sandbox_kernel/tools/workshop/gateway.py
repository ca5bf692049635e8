"""Publishes tools as targets of an AgentCore gateway, and finds those that are published there.

A target holds an OpenAPI document of one tool, which points to where `jupyter sandbox mcp --http` serves it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sandbox_kernel.errors import ToolExecutionError, ToolRegistrationError, ToolStorageError
from sandbox_kernel.tools.context import RuntimeContext
from sandbox_kernel.tools.schema import check_schema
from sandbox_kernel.tools.tool import Policy, Tool

from . import openapi

READY_TIMEOUT = 60.0
UPDATE_TIMEOUT = 5.0
"""Seconds that a refusal of an update is waited for; it may take longer until it holds."""
POLL = 0.2
MAX_INLINE = 1_000_000
"""Bytes of a schema that the service takes inline."""
_NAME = re.compile(r"([0-9a-zA-Z]-?){1,100}")

T = TypeVar("T")
Target = dict[str, Any]


class Gateway:
    """One gateway. It works with boto3 in threads; throttled calls are made again."""

    def __init__(
        self,
        identifier: str,
        *,
        server_url: str,
        server_key: str = "",
        credentials: Sequence[Mapping[str, Any]] = (),
        region: str = "",
        endpoint_url: str = "",
    ) -> None:
        """``credentials`` are the service's credentialProviderConfigurations, by which it reaches ``server_url``."""
        import boto3
        from botocore.config import Config

        self.identifier = identifier
        self._url, self._key = server_url.rstrip("/"), server_key
        self._credentials = [dict(one) for one in credentials]
        retries: Any = {"mode": "adaptive", "total_max_attempts": 6}
        config = Config(retries=retries, connect_timeout=5, read_timeout=30)
        self._client: Any = boto3.Session().client(
            "bedrock-agentcore-control",
            region_name=region or None,
            endpoint_url=endpoint_url or None,
            config=config,
        )

    async def publish(self, tool: Tool, target_id: str = "") -> str:
        """Make a target of a tool, or bring its target up to date; return the target's id when it is ready.

        Raises ToolRegistrationError where another target has the name, ToolStorageError where the service refuses.
        """
        if not self._url:
            raise ToolRegistrationError("WorkshopSettings.server_url does not say where published tools are served.")
        name = target_name(tool.name)
        payload = json.dumps(openapi.document([tool], self._url, secured=bool(self._key)))
        if len(payload) > MAX_INLINE:
            raise ToolRegistrationError(f"The schema of {tool.name!r} has {len(payload)} bytes, at most {MAX_INLINE}.")
        content: dict[str, Any] = {
            "name": name,
            "description": tool.description[:200],
            "targetConfiguration": {"mcp": {"openApiSchema": {"inlinePayload": payload}}},
        }
        if self._credentials:
            content["credentialProviderConfigurations"] = self._credentials
        # The service's emulators take a name twice.
        others = [one for one in await self.targets() if one["name"] == name and one["targetId"] != target_id]
        if others:
            raise ToolRegistrationError(
                f"The gateway {self.identifier} has a target {name!r} already, of another tool."
            )
        if target_id:
            await self._do(lambda client: client.update_gateway_target(**self._id(target_id), **content))
            await self._until_ready(target_id, UPDATE_TIMEOUT)
            return target_id
        made = await self._do(lambda client: client.create_gateway_target(**self._id(), **content))
        try:
            if not await self._until_ready(made["targetId"], READY_TIMEOUT):
                raise ToolStorageError(  # noqa: TRY301 - what was made is removed for it, too
                    f"The gateway {self.identifier} did not make the target ready in {READY_TIMEOUT:g} s."
                )
        except BaseException:
            await self.unpublish(made["targetId"])
            raise
        return str(made["targetId"])

    async def _until_ready(self, target_id: str, timeout: float) -> bool:
        """Return whether a target is ready in that time. Raises ToolStorageError where the service refuses it."""
        for _ in range(int(timeout / POLL)):
            target = await self.target(target_id)
            if target["status"] == "READY":
                return True
            if "FAILED" in target["status"] or "UNSUCCESSFUL" in target["status"]:
                reasons = "; ".join(target.get("statusReasons") or ()) or target["status"]
                raise ToolStorageError(f"The gateway {self.identifier} refused the tool: {reasons}")
            await asyncio.sleep(POLL)
        return False

    async def unpublish(self, target_id: str) -> None:
        """Remove a target; one that is gone is gone."""

        def work(client: Any) -> None:
            try:
                client.delete_gateway_target(**self._id(target_id))
            except client.exceptions.ResourceNotFoundException:
                return

        await self._do(work)

    async def target(self, target_id: str) -> Target:
        """Return a target as the service describes it."""
        found: Target = await self._do(lambda client: client.get_gateway_target(**self._id(target_id)))
        return found

    async def targets(self) -> list[Target]:
        """Return a summary of each target."""

        def work(client: Any) -> list[Target]:
            pages = client.get_paginator("list_gateway_targets").paginate(**self._id())
            return [item for page in pages for item in page["items"]]

        return await self._do(work)

    async def synchronise(self, target_ids: Sequence[str]) -> None:
        """Let the service look again at what targets offer."""
        ids = list(target_ids)
        await self._do(lambda client: client.synchronize_gateway_targets(**self._id(), targetIdList=ids))

    async def health(self) -> dict[str, str]:
        """Return the gateway's status, and that of each target by its name."""
        gateway = await self._do(lambda client: client.get_gateway(**self._id()))
        return {"gateway": str(gateway["status"]), **{one["name"]: one["status"] for one in await self.targets()}}

    async def discover(self) -> list[Tool]:
        """Return the tools that OpenAPI targets describe; they are called where the documents say."""
        found: list[Tool] = []
        for summary in await self.targets():
            configuration = (await self.target(summary["targetId"]))["targetConfiguration"].get("mcp", {})
            payload = configuration.get("openApiSchema", {}).get("inlinePayload")
            if payload:
                found += self._tools_of(payload)
        return found

    def _tools_of(self, payload: str) -> list[Tool]:
        document = json.loads(payload)
        url = str(document["servers"][0]["url"]).rstrip("/")
        found = []
        for path, item in document["paths"].items():
            operation = item["post"]
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            name = str(operation["operationId"]).removeprefix("execute_")
            found.append(
                Tool(
                    name,
                    str(operation.get("description", name)),
                    check_schema(from_openapi(schema), f"The published tool {name!r}"),
                    self._caller(url + path),
                    blocking=False,
                    policy=Policy.ASK,
                    source=f"gateway:{self.identifier}",
                )
            )
        return found

    def _caller(self, address: str) -> Callable[[dict[str, Any], RuntimeContext], Any]:
        async def call(arguments: dict[str, Any], _: RuntimeContext) -> Any:
            import httpx

            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            try:
                async with httpx.AsyncClient(timeout=None) as client:  # noqa: S113 - the call's own time is limited
                    answer = await client.post(address, json=arguments, headers=headers)
                said = answer.json()
            except (httpx.HTTPError, ValueError) as exc:
                raise ToolExecutionError(f"the published tool cannot be reached: {exc}") from exc
            if answer.status_code != 200 or "value" not in said:
                raise ToolExecutionError(str(said.get("message", answer.status_code)))
            return said["value"]

        return call

    def _id(self, target_id: str = "") -> dict[str, str]:
        return {"gatewayIdentifier": self.identifier, **({"targetId": target_id} if target_id else {})}

    async def _do(self, work: Callable[[Any], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError

        def done() -> T:
            try:
                return work(self._client)
            except (BotoCoreError, ClientError) as exc:
                raise ToolStorageError(f"The gateway {self.identifier} cannot be used: {exc}") from exc

        return await asyncio.to_thread(done)

    async def close(self) -> None:
        """Let go of its connections. Idempotent."""
        await asyncio.to_thread(self._client.close)


def target_name(name: str) -> str:
    """Return what a tool's target is called. Raises ToolRegistrationError where the service has no such name."""
    made = re.sub(r"[_-]+", "-", name).strip("-")
    if not _NAME.fullmatch(made):
        raise ToolRegistrationError(f"A gateway's target cannot be called {name!r}: letters, digits and single dashes.")
    return made


def from_openapi(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema of OpenAPI 3.0 as JSON schema: what is nullable has another form there."""
    made = {key: value for key, value in schema.items() if key != "nullable"}
    if "properties" in made:
        made["properties"] = {name: from_openapi(one) for name, one in made["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), Mapping):
            made[key] = from_openapi(made[key])
    if "anyOf" in made:
        made["anyOf"] = [from_openapi(one) for one in made["anyOf"]]
    if schema.get("nullable") and made:
        return {
            "anyOf": [made, {"type": "null"}],
            **{key: made[key] for key in ("description", "default") if key in made},
        }
    return made


_INLINE = {"type", "properties", "required", "items", "description"}


def inline_schema(schema: Mapping[str, Any], path: str = "$") -> dict[str, Any]:
    """Return a schema in the gateway's own words, for targets that hold one inline.

    Raises ToolRegistrationError with the path of what has no form there.
    """
    odd = sorted(key for key in schema if key not in _INLINE and (key, schema[key]) != ("additionalProperties", False))
    if odd or not isinstance(schema.get("type"), str):
        said = f"{odd[0]!r} has no form" if odd else "there is no single type"
        raise ToolRegistrationError(f"{path}: {said} in a gateway's inline schema; publish it by OpenAPI.")
    made = {key: schema[key] for key in ("type", "description", "required") if schema.get(key)}
    if "properties" in schema:
        made["properties"] = {
            name: inline_schema(one, f"{path}.properties.{name}") for name, one in schema["properties"].items()
        }
    if "items" in schema:
        made["items"] = inline_schema(schema["items"], f"{path}.items")
    return made
