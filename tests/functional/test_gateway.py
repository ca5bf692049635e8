"""Tools are published at a gateway (moto's server), and whoever reads only what it stores can call them."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from sandbox_kernel.errors import ToolRegistrationError, ToolStorageError, UnknownToolError
from sandbox_kernel.tools.workshop import Workshop, WorkshopSettings
from sandbox_kernel.tools.workshop.gateway import from_openapi, inline_schema, target_name

if sys.platform != "linux":
    pytest.skip("the local provider needs bubblewrap, which only Linux has", allow_module_level=True)

REGION = "us-east-1"
KEY = "a-key-for-tests"
ADD = 'def add_two(a: int, b: int | None = None) -> int:\n    """Add two numbers."""\n    return a + (b or 0)\n'


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SANDBOX_KERNEL_MCP_KEY", KEY)


@pytest.fixture
def port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
async def workshop(aws: str, port: int) -> AsyncIterator[Workshop]:
    client: Any = boto3.Session().client("bedrock-agentcore-control", region_name=REGION, endpoint_url=aws)
    gateway = client.create_gateway(
        name=f"tools-{port}",
        roleArn="arn:aws:iam::123456789012:role/gateway",
        authorizerType="NONE",
        protocolType="MCP",
    )
    settings = WorkshopSettings(
        owner="ada",
        gateway=gateway["gatewayId"],
        region=REGION,
        endpoint_url=aws,
        server_url=f"http://127.0.0.1:{port}",
        use_gateway=True,
    )
    made = Workshop(settings)
    yield made
    await made.close()


@contextmanager
def serving(folder: Path, port: int) -> Iterator[None]:
    """Serve the tools as a user does."""
    config = folder / "config"
    config.mkdir()
    (config / "jupyter_sandbox_config.py").write_text('c.WorkshopSettings.owner = "ada"\n')
    command = [sys.executable, "-m", "sandbox_kernel.cli", "mcp", "--http", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as sock:
                if not sock.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(20)


def posted(url: str, body: object) -> Any:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    asked = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - the server is ours
    with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310
        return json.load(answer)


async def test_a_tool_is_published_found_and_called_by_what_the_gateway_stored(
    workshop: Workshop, port: int, tmp_path: Path
) -> None:
    await workshop.register("add_two", ADD)
    document = await workshop.publish("add_two")
    target = await workshop.gateway.target(document.published[workshop.gateway.identifier])
    stored = json.loads(target["targetConfiguration"]["mcp"]["openApiSchema"]["inlinePayload"])
    pytest.importorskip("openapi_spec_validator").validate(stored)
    assert target["name"] == "add-two"
    assert await workshop.gateway.health() == {"gateway": "READY", "add-two": "READY"}
    # The same target is brought up to date.
    await workshop.update("add_two", ADD.replace("Add two", "Add exactly two"))
    assert (await workshop.publish("add_two")).published == document.published
    assert len(await workshop.gateway.targets()) == 1

    with serving(tmp_path, port):
        # Whoever knows the stored document, and the key.
        (path,) = stored["paths"]
        assert await asyncio.to_thread(posted, stored["servers"][0]["url"] + path, {"a": 40, "b": 2}) == {"value": 42}
        # And so does somebody else's notebook, whose configuration names the gateway.
        (found,) = await workshop.gateway.discover()
        assert (found.name, found.policy.value) == ("add_two", "ask")
        assert found.input_schema["properties"]["b"]["anyOf"] == [
            {"type": "integer", "default": None},
            {"type": "null"},
        ]
        call: Any = found.call
        assert await call({"a": 1, "b": 2}, None) == 3
    await workshop.unpublish("add_two")
    assert await workshop.gateway.targets() == []
    with pytest.raises(UnknownToolError, match="is not published"):
        await workshop.unpublish("add_two")


async def test_names_that_cross_are_refused_and_nothing_is_left(workshop: Workshop) -> None:
    await workshop.register("add_two", ADD)
    await workshop.register("add-two", ADD)
    await workshop.publish("add_two")
    with pytest.raises(ToolRegistrationError, match="has a target 'add-two' already"):
        await workshop.publish("add-two")
    assert len(await workshop.gateway.targets()) == 1
    assert (await workshop.show("add-two"))[0].published == {}
    # The removal of a tool withdraws it.
    assert await workshop.remove("add_two", artifact=False) == []
    assert await workshop.gateway.targets() == []


async def test_a_gateway_that_is_down_changes_nothing_and_keeps_nothing_from_removal(workshop: Workshop) -> None:
    await workshop.register("add_two", ADD)
    await workshop.publish("add_two")
    workshop.settings.endpoint_url = "http://127.0.0.1:9"
    down = Workshop(workshop.settings, store=workshop.store)
    down.gateway._client.meta.config.retries["total_max_attempts"] = 1
    await down.register("other", ADD)
    with pytest.raises(ToolStorageError, match="cannot be used"):
        await down.publish("other")
    assert (await down.show("other"))[0].published == {}
    (left,) = await down.remove("add_two")
    assert left.startswith("what was published: The gateway")
    assert [one.name for one in await workshop.documents()] == ["other"]


async def test_without_a_gateway_or_an_address_that_is_said() -> None:
    workshop = Workshop(WorkshopSettings(owner="ada"))
    with pytest.raises(ToolRegistrationError, match=r"WorkshopSettings\.gateway"):
        _ = workshop.gateway
    await workshop.close()


async def test_synchronising_is_asked_for_as_the_service_model_says(workshop: Workshop) -> None:
    # moto has no such call.
    gateway = workshop.gateway
    with Stubber(gateway._client) as stub:
        expected = {"gatewayIdentifier": gateway.identifier, "targetIdList": ["ABCDEFGHIJ"]}
        stub.add_client_error("synchronize_gateway_targets", "ThrottlingException", "slow down", 429)
        with pytest.raises(ToolStorageError, match="slow down"):
            await gateway.synchronise(["ABCDEFGHIJ"])
        stub.add_response("synchronize_gateway_targets", {"targets": []}, expected)
        await gateway.synchronise(["ABCDEFGHIJ"])


def test_schemas_in_the_gateways_own_words() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"type": "string", "description": "x"}}},
        "required": ["a"],
        "additionalProperties": False,
    }
    assert inline_schema(schema) == {key: value for key, value in schema.items() if key != "additionalProperties"}
    with pytest.raises(ToolRegistrationError, match=r"\$\.properties\.a\.items: 'enum' has no form"):
        inline_schema({**schema, "properties": {"a": {"type": "array", "items": {"enum": [1]}}}})
    with pytest.raises(ToolRegistrationError, match=r"\$\.properties\.a: 'anyOf' has no form"):
        inline_schema({"type": "object", "properties": {"a": {"anyOf": []}}})
    assert from_openapi({"type": "string", "nullable": True}) == {"anyOf": [{"type": "string"}, {"type": "null"}]}


@pytest.mark.parametrize(("name", "made"), [("a_b", "a-b"), ("_a__b-", "a-b"), ("a" * 64, "a" * 64), ("_", "")])
def test_names_of_targets(name: str, made: str) -> None:
    if made:
        assert target_name(name) == made
    else:
        with pytest.raises(ToolRegistrationError):
            target_name(name)
