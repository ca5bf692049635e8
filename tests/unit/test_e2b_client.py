"""The control plane's client: whom the key is sent to, what is repeated, what answers mean. Over real sockets."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox_kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    InvocationError,
    QuotaError,
    RateLimitError,
    SandboxConnectionError,
    SandboxCreationError,
    SessionNotFoundError,
    TemplateNotFoundError,
)
from sandbox_kernel.providers.e2b.access import Access, Place, read_access
from sandbox_kernel.providers.e2b.brands import BRANDS, E2B, PPIO, Brand
from sandbox_kernel.providers.e2b.client import ControlClient, Creation
from sandbox_kernel.providers.e2b.envd import Envd
from sandbox_kernel.providers.e2b.keys import find_key
from sandbox_kernel.providers.e2b.life import Life
from sandbox_kernel.providers.e2b.templates import read_templates

KEY = "e2b_secret_key"
MADE = {"sandboxID": "abc123", "templateID": "t", "clientID": "c", "envdVersion": "0.5.7"}
MINE: dict[str, Any] = {**MADE, "state": "running", "metadata": {"sandbox-kernel": "mine"}}
"""As it is listed, with the mark of the call that has made it."""
OTHERS = {**MINE, "sandboxID": "others", "metadata": {"sandbox-kernel": "theirs"}}
Answer = tuple[int, Any, dict[str, str]]


class Server:
    """Answers each request as it is told, and keeps what it was sent."""

    def __init__(self, answers: Callable[[str, str], Answer | None]) -> None:
        self._answers = answers
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def seen(self) -> str:
        """All that it was sent, as text."""
        return json.dumps([[method, path, headers, body.decode()] for method, path, headers, body in self.requests])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            writer.close()
            return
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        method, path, _ = first.split(" ")
        self.requests.append((method, path, headers, body))
        answer = self._answers(method, path)
        if answer is not None:
            status, value, extra = answer
            data = json.dumps(value).encode()
            fields = {"content-length": str(len(data)), "connection": "close", **extra}
            said = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            writer.write(f"HTTP/1.1 {status} x\r\n{said}\r\n".encode() + data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def serving(answers: Callable[[str, str], Answer | None]) -> AsyncIterator[Server]:
    server = Server(answers)
    running = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = running.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        running.close()
        await running.wait_closed()


@asynccontextmanager
async def client_of(
    server: Server, brand: Brand = E2B, **place: str
) -> AsyncIterator[tuple[ControlClient, list[float]]]:
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    async with ControlClient(Place(brand, KEY, api_url=server.url, **place), sleep=wait) as client:
        yield client, waited


# ---- the key


async def test_the_key_does_not_follow_a_redirect() -> None:
    async with serving(lambda *_: (200, [], {})) as elsewhere:
        redirect = {"location": f"{elsewhere.url}/v2/sandboxes"}
        async with serving(lambda *_: (307, {}, redirect)) as server, client_of(server) as (client, _):
            with pytest.raises(InvocationError, match="redirects"):
                _ = [one async for one in client.sandboxes()]
            with pytest.raises(SandboxCreationError, match="redirects"):
                await client.create(Creation("t"))
            assert KEY in server.seen
        assert elsewhere.requests == []


@pytest.mark.parametrize(
    "domain",
    [
        "evil.example",
        "e2b.app.evil.example",
        "evil-e2b.app",
        "e2b.app@evil.example",
        "e2b.app/../x",
        "127.0.0.1:1",
        "e2b.app:99x",
    ],
)
async def test_a_sandbox_at_a_strange_domain_is_not_talked_to(domain: str) -> None:
    answer = {**MADE, "domain": domain, "envdAccessToken": "token-of-envd"}
    async with serving(lambda *_: (201, answer, {})) as server, client_of(server) as (client, _):
        with pytest.raises(InvocationError, match="not under"):
            await client.create(Creation("t"))


@pytest.mark.parametrize("sandbox_id", ["x.evil.example/", "", "../y", "a b", "x" * 300, "a\r\nb"])
def test_an_id_that_would_lead_elsewhere_is_refused(sandbox_id: str) -> None:
    with pytest.raises(InvocationError, match="id"):
        read_access(Place(E2B, KEY), {**MADE, "sandboxID": sandbox_id})


async def test_services_in_a_sandbox_get_its_tokens_and_not_the_key() -> None:
    async with serving(lambda *_: (200, {"entries": []}, {})) as server:
        place = Place(E2B, KEY, api_url=server.url, sandbox_url=server.url)
        access = Access(place, "abc", envd_token="token-of-envd", traffic_token="token-of-traffic")
        async with ControlClient(place) as client:
            assert await Envd(client.rest, access).list_folder(".") == []
        assert "token-of-envd" in server.seen
        assert "token-of-traffic" in server.seen
        assert KEY not in server.seen


@pytest.mark.parametrize("brand", list(BRANDS))
def test_an_address_of_another_brand_is_refused(brand: str) -> None:
    for other in BRANDS.values():
        place = Place(BRANDS[brand], KEY, api_url=f"https://api.{other.domain}")
        if other.name == brand:
            place.check()
        else:
            with pytest.raises(ConfigurationError, match=r"not sent"):
                place.check()


@pytest.mark.parametrize("url", ["ftp://x", "api.example.com", "https://user:pw@example.com", "https://"])
def test_addresses_that_cannot_be_are_named(url: str) -> None:
    with pytest.raises(ConfigurationError, match="api_url"):
        Place(E2B, KEY, api_url=url).check()


def test_the_key_is_in_no_repr() -> None:
    place = Place(E2B, KEY)
    assert KEY not in repr(place) + repr(Access(place, "abc", envd_token="token-of-envd"))
    assert "token-of-envd" not in repr(Access(place, "abc", envd_token="token-of-envd"))


def test_owners_are_told_apart_by_what_does_not_give_their_keys_away() -> None:
    assert Place(E2B, KEY).owner == Place(E2B, KEY, domain="other.example").owner
    assert len({Place(brand, key).owner for brand in (E2B, PPIO) for key in (KEY, "other")}) == 4
    assert KEY not in Place(E2B, KEY).owner


def test_a_key_comes_from_the_argument_the_environment_or_the_key_ring(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("E2B_API_KEY", raising=False)
    with pytest.raises(AuthenticationError, match="keyring set sandbox-kernel e2b"):
        find_key(E2B)
    (tmp_path / "keyring").mkdir()
    (tmp_path / "keyring/__init__.py").write_text("def get_password(service, name): return f'{service}/{name}'")
    (tmp_path / "keyring/errors.py").write_text("class KeyringError(Exception): pass")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_key(E2B) == "sandbox-kernel/e2b"
    monkeypatch.setenv("E2B_API_KEY", "from the environment".replace(" ", "-"))
    assert find_key(E2B) == "from-the-environment"
    assert find_key(E2B, "given") == "given"
    with pytest.raises(AuthenticationError, match="characters"):
        find_key(E2B, "two words")
    for name in [name for name in sys.modules if name.partition(".")[0] == "keyring"]:
        # Not by monkeypatch, which would bring it back.
        del sys.modules[name]


# ---- what is sent


async def test_creating_says_what_each_brand_wants() -> None:
    wanted = Creation(
        "t", timeout=60, metadata={"a": "b"}, environment={"X": "1"}, network=False, auto_pause=True, auto_resume=True
    )
    async with serving(lambda *_: (201, MADE, {})) as server:
        async with client_of(server) as (client, _):
            await client.create(wanted)
        async with client_of(server, PPIO) as (client, _):
            with pytest.raises(ConfigurationError, match="not resumed by traffic"):
                await client.create(wanted)
            access = await client.create(replace(wanted, auto_resume=False))
    (method, path, headers, body), (_, older_path, _, older_body) = server.requests
    assert (method, path) == ("POST", "/v2/sandboxes")
    assert headers["x-api-key"] == KEY
    assert headers["idempotency-key"]
    said, older = json.loads(body), json.loads(older_body)
    assert said["metadata"].pop("sandbox-kernel")
    assert said == {
        "templateID": "t",
        "timeout": 60,
        "metadata": {"a": "b"},
        "envVars": {"X": "1"},
        "secure": True,
        "autoPause": True,
        "autoResume": {"enabled": True},
        "allow_internet_access": False,
        "network": {"allowPublicTraffic": False},
    }
    assert older_path == "/sandboxes"
    assert older["allowInternetAccess"] is False
    assert "network" not in older
    assert access.sandbox_id == "abc123-c", "on older domains the client's id belongs to the sandbox's"
    assert access.url(8080) == "https://8080-abc123-c.sandbox.ppio.cn"


async def test_lists_are_paged_and_filtered() -> None:
    def answer(method: str, path: str) -> Answer:
        token = "nextToken=2" in path
        one = {
            **MADE,
            "sandboxID": "second" if token else "first",
            "state": "running",
            "startedAt": "2026-01-01T00:00:00Z",
        }
        return 200, [one], {} if token else {"x-next-token": "2"}

    async with serving(answer) as server, client_of(server) as (client, _):
        found = [one async for one in client.sandboxes(states=("running", "paused"), metadata={"a b": "c&d"})]
    assert [one.sandbox_id for one in found] == ["first", "second"]
    assert found[0].started == 1767225600
    assert "state=running%2Cpaused" in server.requests[0][1]
    assert "metadata=a%2Bb%3Dc%2526d" in server.requests[0][1]


# ---- what is repeated


async def test_a_create_whose_answer_is_lost_is_found_and_not_made_again() -> None:
    def answer(method: str, path: str) -> Answer | None:
        if path == "/v2/sandboxes" and method == "POST":
            return None
        if "connect" in path:
            return 200, {**MADE, "sandboxID": path.split("/")[-2]}, {}
        return 200, [OTHERS, MINE], {}

    async with serving(answer) as server, client_of(server) as (client, _):
        access = await client.create(Creation("t", correlation_id="mine"))
        assert access.sandbox_id == "abc123", "another call's is listed, too"
    assert [method for method, path, *_ in server.requests if path == "/v2/sandboxes"] == ["POST"]
    assert "sandbox-kernel%3Dmine" in server.requests[1][1]


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_create_that_a_gateway_answers_is_found_if_it_was_made(status: int) -> None:
    async with serving(gateway(status, [MINE])) as server, client_of(server) as (client, _):
        assert (await client.create(Creation("t", correlation_id="mine"))).sandbox_id == "abc123"
    assert [method for method, path, *_ in server.requests if path == "/v2/sandboxes"] == ["POST"]


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_create_that_a_gateway_answers_and_that_was_not_made_is_an_error(status: int) -> None:
    async with serving(gateway(status, [OTHERS])) as server, client_of(server) as (client, _):
        with pytest.raises(SandboxCreationError, match="gateway"):
            await client.create(Creation("t", correlation_id="mine"))
    assert [method for method, path, *_ in server.requests if path == "/v2/sandboxes"] == ["POST"]


def gateway(status: int, listed: list[dict[str, Any]]) -> Callable[[str, str], Answer | None]:
    """Answer who makes a sandbox in the service's place; these are there then."""

    def answer(method: str, path: str) -> Answer | None:
        if path == "/v2/sandboxes" and method == "POST":
            return status, {"message": "gateway"}, {}
        return 200, MADE if "connect" in path else listed, {}

    return answer


WRONG = [
    ({"domain": "evil.example"}, E2B, ["abc123"]),
    ({"envdAccessToken": "a b"}, E2B, ["abc123"]),
    ({"envdAccessToken": "a b"}, PPIO, ["abc123-c"]),
    ({"clientID": "../c", "domain": "x"}, PPIO, ["abc123"]),
    ({"sandboxID": "../x"}, E2B, ["listed"]),
    (None, E2B, ["listed"]),
]


@pytest.mark.parametrize(("wrong", "brand", "ended"), WRONG)
async def test_what_was_made_and_cannot_be_used_is_ended(
    wrong: dict[str, str] | None, brand: Brand, ended: list[str]
) -> None:
    def answer(method: str, path: str) -> Answer | None:
        if method == "POST":
            return 201, None if wrong is None else {**MADE, **wrong}, {}
        if method == "DELETE":
            return 204, None, {"content-length": "0"}
        return 200, [OTHERS, {**MINE, "sandboxID": "listed"}], {}

    async with serving(answer) as server, client_of(server, brand) as (client, _):
        with pytest.raises(InvocationError):
            await client.create(Creation("t", correlation_id="mine"))
    killed = [path for method, path, *_ in server.requests if method == "DELETE"]
    assert killed == [f"/sandboxes/{one}" for one in ended]


async def test_an_answer_that_is_no_json_and_one_that_cannot_be_connected_leave_nothing() -> None:
    def answer(method: str, path: str) -> Answer | None:
        if method == "DELETE":
            return 204, None, {"content-length": "0"}
        if "connect" in path:
            return 200, {**MADE, "domain": "evil.example"}, {}
        if method == "POST":
            # Cut short by its length: `{"sand`.
            return 201, MADE, {"content-length": "6"}
        return 200, [MINE], {}

    async with serving(answer) as server, client_of(server) as (client, _):
        with pytest.raises(SandboxCreationError, match="can be read"):
            await client.create(Creation("t", correlation_id="mine"))
    assert [path for method, path, *_ in server.requests if method == "DELETE"] == ["/sandboxes/abc123"]


async def test_a_create_that_was_not_made_is_an_error_that_is_worth_another_try() -> None:
    async with (
        serving(lambda method, path: None if method == "POST" else (200, [], {})) as server,
        client_of(server) as (client, _),
    ):
        with pytest.raises(SandboxConnectionError) as caught:
            await client.create(Creation("t"))
        assert caught.value.retryable


async def test_reading_is_repeated_and_told_when_it_does_not_help() -> None:
    answers: list[Answer | None] = [(503, {}, {}), None, (200, {**MADE, "state": "paused"}, {})]
    async with serving(lambda *_: answers.pop(0)) as server, client_of(server) as (client, waited):
        assert (await client.get("abc123")).state == "paused"
        assert len(waited) == 2
    async with serving(lambda *_: (502, {"message": "no"}, {})) as server, client_of(server) as (client, waited):
        with pytest.raises(SandboxConnectionError, match="502: no") as caught:
            await client.get("abc123")
        assert len(waited) == 3
        assert not caught.value.retryable, "it was tried often enough"


async def test_who_is_to_wait_too_long_is_told_instead() -> None:
    async with serving(lambda *_: (429, {}, {"retry-after": "500"})) as server, client_of(server) as (client, waited):
        with pytest.raises(RateLimitError, match="500 s") as caught:
            await client.get("abc123")
        assert caught.value.retry_after == 500
        assert waited == []


# ---- what answers mean


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        (401, "Invalid API key", AuthenticationError),
        (403, "no", AuthenticationError),
        (404, "gone", SessionNotFoundError),
        (402, "pay", QuotaError),
        (429, "maximum number of concurrent sandboxes", QuotaError),
        (429, "slow down", RateLimitError),
        (400, "what?", InvocationError),
    ],
)
async def test_refusals_are_errors_of_ours(status: int, message: str, error: type[Exception]) -> None:
    async with serving(lambda *_: (status, {"message": message}, {})) as server, client_of(server) as (client, _):
        with pytest.raises(error, match=message.replace("?", r"\?")):
            await client.get("abc123")


async def test_pausing_twice_and_ending_twice_are_no_errors() -> None:
    async with serving(lambda *_: (409, {"message": "paused"}, {})) as server, client_of(server) as (client, _):
        assert not await client.pause("abc123")
    async with serving(lambda *_: (404, {}, {})) as server, client_of(server) as (client, _):
        assert not await client.kill("abc123")
        with pytest.raises(TemplateNotFoundError, match="'t'"):
            await client.create(Creation("t"))


async def test_nobody_there_is_told_with_the_brands_name() -> None:
    async with serving(lambda *_: (200, [], {})) as server:
        pass
    async with client_of(server) as (client, waited):
        with pytest.raises(SandboxConnectionError, match="E2B could not be reached"):
            await client.templates()
        assert len(waited) == 3


def test_a_life_counts_the_time_in_which_it_runs() -> None:
    now = 1000.0
    life = Life(60.0, 990.0, auto_pause=True, now=lambda: now)
    assert (life.ran, life.left, life.is_fresh) == (10, 60, True)
    now = 1020.0
    assert (life.ran, life.left, life.is_fresh) == (30, 40, False)
    life.prolonged()
    assert (life.left, life.is_fresh) == (60, True)
    life.paused()
    now = 5000.0
    assert life.ran == 30
    life.resumed()
    now = 5100.0
    assert (life.ran, life.left) == (90, 0), "its time was over after a minute"
    life.resumed()
    assert (life.ran, life.left) == (90, 60)
    now = 9000.0
    life.prolonged()
    assert (life.ran, life.left) == (150, 60), "the service had paused it"


@pytest.mark.parametrize("said", [[], "text", 5, None, {"sandboxID": 7}])
def test_what_is_no_sandbox_is_refused(said: Any) -> None:
    with pytest.raises(InvocationError):
        read_access(Place(E2B, KEY), said)


def test_templates_are_read_as_far_as_they_are_templates() -> None:
    agent = json.dumps({"spec": {"entrypoint": "main.py"}})
    said = [
        {
            "templateID": "a",
            "aliases": ["one"],
            "tags": ["x", 5],
            "metadata": {"agent_runtime": agent},
            "memoryMB": 512,
        },
        {"no": "template"},
        {"templateID": "b", "metadata": {"agent_runtime": "no json"}},
        {"templateID": "c", "metadata": {"agent_runtime": "[" * 65536}},
        7,
    ]
    first, second, third = read_templates(said)
    assert (first.name, first.tags, first.entrypoint, first.memory) == ("one", ("x",), "main.py", 512)
    assert (second.name, second.entrypoint) == ("b", "")
    assert (third.name, third.entrypoint) == ("c", "")
    assert first.matches(["x"], "on")
    assert not first.matches(["y"])
    assert read_templates({"templates": said}) == [first, second, third]
    assert read_templates("nonsense") == []
