"""The examples in docs/examples run as they stand there, against the emulator."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import httpx
import pytest

if sys.platform != "linux":
    pytest.skip("the emulator runs local sandboxes, on Linux", allow_module_level=True)

from tests.emulators.e2b.process import EmulatorProcess

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

# What the frameworks' own dependencies are going to change.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def environment(emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPIO_API_KEY", "sk_local")
    monkeypatch.setenv("PPIO_API_URL", emulator.url)
    monkeypatch.setenv("PPIO_SANDBOX_URL", emulator.url)


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


async def test_fastapi_answers_streams_and_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    module = load("fastapi_agents", monkeypatch)
    transport = httpx.ASGITransport(app=module.app)
    async with module.lifespan(module.app), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        first = await client.post("/users/ann/ask", json={"prompt": "hello", "x": 1}, timeout=60)
        assert first.json()["turn"] == 1
        second = (await client.post("/users/ann/ask", json={"prompt": "again"})).json()
        assert (second["turn"], second["before"]) == (2, "hello")
        other = await client.post("/users/bob/ask", json={"prompt": "hi"}, timeout=60)
        assert other.json()["turn"] == 1
        said = await client.post("/users/ann/stream", json={"prompt": "a b", "stream": "sse"})
        assert [json.loads(line)["chunk"] for line in said.text.splitlines()] == ["a", "b"]
        assert (await client.post("/users/ann/ask", json={"fail": True})).status_code == 502


def test_django_answers_and_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("django")
    module = load("django_agents", monkeypatch)
    from django.test import Client

    client = Client()
    try:
        first = client.post("/users/ann/ask", {"prompt": "hello"}, content_type="application/json")
        assert first.json()["answer"]["turn"] == 1
        second = client.post("/users/ann/ask", {"prompt": "again"}, content_type="application/json")
        assert second.json()["answer"]["before"] == "hello"
        failed = client.post("/users/ann/ask", {"fail": True}, content_type="application/json")
        assert failed.status_code == 502
    finally:
        module.agents().close()
