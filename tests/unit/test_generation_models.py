"""Models against emulators of their services: pieces, usage, faults, and that nobody reads on when nobody listens."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from importlib.metadata import entry_points
from typing import Any

import pytest
from traitlets.config import Config

from sandbox_kernel.errors import ConfigurationError, ModelError
from sandbox_kernel.generation.models import registry
from sandbox_kernel.generation.models.addresses import below_address, shown_address, without_secrets_of
from sandbox_kernel.generation.models.base import (
    GROUP,
    End,
    Message,
    Model,
    ModelRequest,
    Piece,
    Reason,
    Text,
    reason_of,
)
from sandbox_kernel.generation.models.openai import OpenAIModel
from sandbox_kernel.generation.models.registry import make_model
from sandbox_kernel.providers.registry import MODELS
from tests.emulators.bedrock import KEYS, bedrock
from tests.emulators.openai import openai
from tests.emulators.server import Emulator, Hang, Refuse, Say

KEY = "sk-test-0123456789abcdef"
SECRET = "aws-secret-of-this-test"  # noqa: S105 - of the emulator
REQUEST = ModelRequest("Write code.", (Message("user", "# The request\n\nplot"),), 500)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["bedrock", "openai", "strands"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def emulator(kind: str) -> Iterator[Emulator]:
    with openai() if kind == "openai" else bedrock() as running:
        yield running


@pytest.fixture
def model(kind: str, emulator: Emulator) -> Model:
    return made(kind, emulator)


def made(kind: str, emulator: Emulator, **options: Any) -> Model:
    """Return a model of a kind behind an emulator."""
    if kind == "strands":
        pytest.importorskip("strands")
        own = {"model_id": "m", "region_name": "us-east-1", "endpoint_url": emulator.url}
        entry = {"kind": kind, "model_class": "strands.models.bedrock:BedrockModel", "options": own}
    elif kind == "bedrock":
        entry = {"kind": kind, "model": "m", "endpoint_url": emulator.url, "region": "us-east-1"}
    else:
        entry = {"kind": kind, "model": "m", "endpoint_url": f"{emulator.url}/v1"}
    return make_model({**entry, **options}, Config())


async def answer(model: Model) -> tuple[str, End]:
    """Return a whole answer and its end."""
    *pieces, end = [piece async for piece in model.stream(REQUEST)]
    assert isinstance(end, End)
    assert all(isinstance(piece, Text) for piece in pieces)
    return "".join(piece.text for piece in pieces if isinstance(piece, Text)), end


async def listen(model: Model, pieces: list[Piece]) -> None:
    """Put an answer's pieces into a list, for who wants those before an error."""
    async with aclosing(model.stream(REQUEST)) as stream:
        async for piece in stream:
            pieces.append(piece)  # noqa: PERF401 - a comprehension would lose them with the error


def until(condition: Callable[[], object]) -> None:
    """Wait until something holds; the test's own time-out is the limit."""
    while not condition():
        time.sleep(0.01)


async def failure(model: Model) -> ModelError:
    """Return what a model fails of."""
    with pytest.raises(ModelError) as caught:
        await answer(model)
    return caught.value


async def test_answer_comes_in_pieces_with_its_usage(model: Model, emulator: Emulator) -> None:
    emulator.plan("m", Say("Ünicode: 日本語, and\nlines" * 20))
    text, end = await answer(model)
    assert text == "Ünicode: 日本語, and\nlines" * 20
    assert (end.cut, bool(end.input_tokens), bool(end.output_tokens)) == ("", True, True)
    (question,) = emulator.questions
    assert (question.system, question.messages) == ("Write code.", (("user", "# The request\n\nplot"),))


async def test_conversation_is_sent_in_its_order(model: Model, emulator: Emulator) -> None:
    turns = (Message("user", "one"), Message("assistant", "two"), Message("user", "three"))
    async for _ in model.stream(ModelRequest("s", turns, 100)):
        pass
    assert emulator.questions[0].messages == (("user", "one"), ("assistant", "two"), ("user", "three"))


async def test_answer_that_reached_its_limit_says_so(model: Model, emulator: Emulator) -> None:
    emulator.plan("m", Say("half", then="max_tokens"))
    assert (await answer(model))[1].cut == "it reached the most tokens that it may have"


async def test_answer_that_a_filter_ended_says_so(model: Model, emulator: Emulator) -> None:
    emulator.plan("m", Say("half", then="content_filter"))
    assert (await answer(model))[1].cut == "a content filter ended it"


@pytest.mark.parametrize("kind", ["openai"], indirect=True)
async def test_service_that_does_not_stream_is_understood(model: Model, emulator: Emulator, kind: str) -> None:
    emulator.plan("m", Say("a whole answer\n", whole=True), Say("half", whole=True, then="max_tokens"))
    text, end = await answer(model)
    assert (text, end.cut, bool(end.output_tokens)) == ("a whole answer\n", "", True)
    assert (await answer(model))[1].cut == "it reached the most tokens that it may have"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("ThrottlingException", Reason.THROTTLED),
        ("ServiceUnavailableException", Reason.UNAVAILABLE),
        ("InternalServerException", Reason.UNAVAILABLE),
        ("ResourceNotFoundException", Reason.UNKNOWN),
        ("AccessDeniedException", Reason.DENIED),
        ("UnrecognizedClientException", Reason.CREDENTIALS),
        ("ValidationException", Reason.REFUSED),
    ],
)
@pytest.mark.parametrize("kind", ["bedrock", "openai"], indirect=True)
async def test_refusals_have_their_reasons_and_are_not_tried_again(
    model: Model, emulator: Emulator, code: str, reason: Reason
) -> None:
    emulator.plan("m", Refuse(code, "because\n of \x1b[31mthat"))
    error = await failure(model)
    assert (reason_of(error), error.model) == (reason, model.name)
    assert "because of" in str(error)
    assert len(emulator.questions) == 1


@pytest.mark.parametrize(
    ("then", "reasons"),
    [
        ("drop", {Reason.BROKEN}),
        ("ThrottlingException", {Reason.THROTTLED}),
        ("InternalServerException", {Reason.UNAVAILABLE}),
    ],
)
@pytest.mark.parametrize("kind", ["bedrock", "openai"], indirect=True)
async def test_fault_in_the_middle_of_a_stream_is_an_error(
    model: Model, emulator: Emulator, then: str, reasons: set[Reason]
) -> None:
    emulator.plan("m", Say("some words", then=then))
    pieces: list[Piece] = []
    with pytest.raises(ModelError) as caught:
        await listen(model, pieces)
    assert reason_of(caught.value) in reasons
    assert pieces == [Text("some words")]


# Strands reads in threads that it does not end; they wait for the service's own time-outs.
@pytest.mark.parametrize("kind", ["bedrock", "openai"], indirect=True)
@pytest.mark.parametrize("act", [Hang(), Say("words", then="hang"), Say("on and on", repeat=True)])
async def test_who_leaves_ends_the_request(model: Model, emulator: Emulator, act: Any) -> None:
    emulator.plan("m", act)
    listening = asyncio.create_task(listen(model, []))
    await asyncio.to_thread(until, lambda: emulator.questions and (isinstance(act, Hang) or emulator.sent))
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    if not isinstance(act, Hang):
        assert await asyncio.to_thread(emulator.left.wait, 10)


@pytest.mark.parametrize("kind", ["bedrock", "openai"], indirect=True)
async def test_server_that_says_nothing_is_given_up(emulator: Emulator, kind: str) -> None:
    emulator.plan("m", Hang())
    assert reason_of(await failure(made(kind, emulator, request_timeout=0.2))) is Reason.TIMEOUT


async def test_server_that_is_not_there_is_unavailable(emulator: Emulator, kind: str) -> None:
    model = made(kind, emulator)
    emulator.close()
    assert reason_of(await failure(model)) is Reason.UNAVAILABLE


@pytest.mark.parametrize("kind", ["bedrock"], indirect=True)
async def test_answer_of_converse_comes_in_one_piece(emulator: Emulator, kind: str) -> None:
    emulator.plan("m", Say("a whole answer"))
    model = made(kind, emulator, streaming=False)
    assert await answer(model) == ("a whole answer", End(7, 3))


@pytest.mark.parametrize("kind", ["bedrock"], indirect=True)
async def test_missing_credentials_and_region_are_told(
    emulator: Emulator, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    assert reason_of(await failure(made(kind, emulator))) is Reason.CREDENTIALS
    assert reason_of(await failure(make_model("bedrock:m", Config()))) is Reason.CREDENTIALS
    assert reason_of(await failure(made(kind, emulator, profile="absent"))) is Reason.CREDENTIALS


@pytest.mark.parametrize("kind", ["openai"], indirect=True)
async def test_key_goes_only_to_an_address_that_was_set(emulator: Emulator, model: Model, kind: str) -> None:
    await answer(model)
    assert emulator.questions[0].headers["Authorization"] == f"Bearer {KEY}"
    assert make_model("openai:m", Config()).api_key == ""  # type: ignore[attr-defined]
    other = made(kind, emulator, api_key_variable="NO_SUCH_KEY")
    await answer(other)
    assert "Authorization" not in emulator.questions[1].headers


@pytest.mark.parametrize("kind", ["bedrock", "openai"], indirect=True)
async def test_login_and_query_of_an_address_are_not_told(emulator: Emulator, kind: str) -> None:
    model = made(kind, emulator, endpoint_url="http://bob:in-address@localhost:9/v1?key=in-query")
    said = " ".join([model.name, model.place, model.account, repr(model), repr(await failure(model))])
    assert not [secret for secret in ("bob", "in-address", "in-query") if secret in said]
    assert model.place.endswith("http://localhost:9/v1")
    echoed = model.error(Reason.REFUSED, "http://bob:in-address@localhost:9/v1/x?key=in-query: in-address is wrong")
    assert not [secret for secret in ("in-address", "in-query") if secret in str(echoed)]


def test_path_stands_before_the_query_of_an_address() -> None:
    assert below_address("https://x/v1/?key=a", "chat") == "https://x/v1/chat?key=a"
    assert below_address("https://x/v1", "chat") == "https://x/v1/chat"


def test_address_that_is_none_is_not_told() -> None:
    assert "pass" not in shown_address("http://[me:password@x")
    assert "password" not in without_secrets_of("http://[me:password@x", "no: http://[me:password@x")


@pytest.mark.parametrize("kind", ["openai"], indirect=True)
@pytest.mark.parametrize("line", [b"data: {nonsense}\n\n", b"data: [1]\n\n", b"data: " + b"x" * 2_000_000])
async def test_events_that_are_none_break_the_answer(emulator: Emulator, model: Model, line: bytes) -> None:
    emulator.plan("m", Say("words", then="hang"))
    handler = emulator._server.RequestHandlerClass
    emulator._server.RequestHandlerClass = type("Broken", (handler,), {"hang": lambda self: self.send_chunk(line)})
    assert reason_of(await failure(model)) is Reason.BROKEN


async def test_credentials_are_in_no_text_about_a_model(
    model: Model, emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    emulator.plan("m", Refuse("AccessDeniedException"))
    error = await failure(model)
    said = " ".join([repr(model), str(model), model.name, model.place, repr(error), caplog.text])
    assert not [secret for secret in (KEY, SECRET, KEYS) if secret in said]


def test_boto3_itself_reads_the_emulator() -> None:
    boto3 = pytest.importorskip("boto3")
    with bedrock() as emulator:
        client = boto3.Session().client("bedrock-runtime", region_name="us-east-1", endpoint_url=emulator.url)
        asked = {"modelId": "us.some.model-v1:0", "messages": [{"role": "user", "content": [{"text": "plot"}]}]}
        whole = client.converse(**asked)
        assert whole["stopReason"] == "end_turn"
        events = list(client.converse_stream(**asked)["stream"])
        assert [next(iter(event)) for event in (events[0], *events[-3:])] == [
            "messageStart",
            "contentBlockStop",
            "messageStop",
            "metadata",
        ]
        text = "".join(event["contentBlockDelta"]["delta"]["text"] for event in events[1:-3])
        assert text == whole["output"]["message"]["content"][0]["text"]
        emulator.plan("us.some.model-v1:0", Refuse("AccessDeniedException"))
        with pytest.raises(client.exceptions.AccessDeniedException):
            client.converse(**asked)
        emulator.plan("us.some.model-v1:0", Say("x", then="ThrottlingException"))
        with pytest.raises(Exception, match="throttlingException"):
            list(client.converse_stream(**asked)["stream"])


def test_openai_itself_reads_the_emulator() -> None:
    library = pytest.importorskip("openai")
    with openai() as emulator, library.OpenAI(base_url=f"{emulator.url}/v1", api_key=KEY, max_retries=0) as client:
        messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "plot"}]
        whole = client.chat.completions.create(model="m", messages=messages)
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = list(client.chat.completions.create(model="m", messages=messages, **options))
        assert (
            "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
            == whole.choices[0].message.content
        )
        assert chunks[-1].usage.completion_tokens > 0
        emulator.plan("m", Refuse("ThrottlingException"))
        with pytest.raises(library.RateLimitError):
            client.chat.completions.create(model="m", messages=messages)


# ---- the configuration


def test_built_in_kinds_are_the_installed_entry_points() -> None:
    installed = {entry.name: entry.value for entry in entry_points(group=GROUP)}
    assert {name: installed[name] for name in registry.BUILT_IN} == registry.BUILT_IN
    assert {target.rpartition(":")[2] for target in registry.BUILT_IN.values()} == MODELS


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        ("gpt-4", "is not of the form kind:model"),
        ("bedrok:x", "no kind of model 'bedrok'; did you mean 'bedrock'?"),
        ({"model": "x"}, 'says its "kind"'),
        ({"kind": "openai", "endpoint": "x"}, "no option 'endpoint'; did you mean 'endpoint_url'?"),
        ({"kind": "openai", "max_tokens": "many"}, "max_tokens"),
    ],
)
def test_mistakes_in_the_configuration_are_told(entry: Any, part: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_model(entry, Config())
    assert part in str(caught.value)


def test_options_of_an_entry_win_over_those_of_the_section() -> None:
    config = Config({"OpenAIModel": {"endpoint_url": "http://a/v1", "max_tokens": 7}})
    model = make_model({"kind": "openai", "model": "x", "max_tokens": 9}, config)
    assert (model.place, model.max_tokens, model.name) == ("http://a/v1", 9, "openai:x")
    with pytest.raises(ConfigurationError, match="no option endpoint"):
        make_model("openai:x", Config({"OpenAIModel": {"endpoint": 1}}))


async def test_strands_class_that_is_not_there_is_told() -> None:
    model = make_model({"kind": "strands", "model_class": "no.such:Model"}, Config())
    with pytest.raises(ConfigurationError, match=r"no\.such:Model.*pip install 'sandbox-kernel\[strands\]'"):
        await answer(model)


def test_a_service_that_repeats_its_key_does_not_show_it() -> None:
    model = OpenAIModel()
    model.api_key = "sk-key-of-the-tests"
    assert "sk-key" not in str(model.error(Reason.UNAVAILABLE, "the key sk-key-of-the-tests is bad"))
