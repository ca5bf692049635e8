"""The fallback chain: each fault at each position, who answered, what was said, and that nobody is asked twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence

import pytest
from traitlets.config import Config

from sandbox_kernel.errors import CommandError, GenerationError, ModelError
from sandbox_kernel.generation.chain import Answered, Asked, Chain, Failed, Step
from sandbox_kernel.generation.models.base import End, Message, Model, ModelRequest, Piece, Text
from sandbox_kernel.generation.models.registry import make_model
from sandbox_kernel.generation.settings import Generation
from tests.emulators.bedrock import KEYS, bedrock
from tests.emulators.openai import openai
from tests.emulators.server import Act, Emulator, Hang, Refuse, Say

NAMES = ("first", "second", "third")
REQUEST = ModelRequest("s", (Message("user", "q"),), 100)
INVALID, LONG = "The provided model identifier is invalid.", "Input is too long for requested model."
PROFILE = "Invocation of model ID m with on-demand throughput isn't supported. Retry with an inference profile."
FAULTS: dict[str, tuple[Act, str, bool]] = {
    "throttled": (Refuse("ThrottlingException"), "too many requests", False),
    "unavailable": (Refuse("ServiceUnavailableException"), "unavailable", False),
    "broken service": (Refuse("InternalServerException"), "unavailable", False),
    "not there": (Refuse("ResourceNotFoundException"), "no model is to be had by this name", False),
    "unknown model": (Refuse("ValidationException", INVALID), "no model is to be had by this name", False),
    "profile needed": (Refuse("ValidationException", PROFILE), "no model is to be had by this name", False),
    "too long": (Refuse("ValidationException", LONG), "the request is too long for this model", False),
    "refused": (Refuse("ValidationException", "Malformed input."), "the request was refused: Malformed input", False),
    "a code of its own": (Refuse("TeapotException", "short and stout"), "the request was refused", False),
    "leads elsewhere": (Refuse("302"), "unavailable", False),
    "empty": (Say(""), "the answer is empty", False),
    "blank": (Say(" \n"), "the answer is empty", False),
    "all tokens for thoughts": (Say("", then="max_tokens"), "the answer is empty: it reached the most tokens", False),
    "filtered": (Say("", then="content_filter"), "its content filter let no answer through", False),
    "denied": (Refuse("AccessDeniedException"), "access denied to this model", False),
    "no first token": (Hang(), "no answer in time", False),
    "dropped": (Say("spoilt words", then="drop"), "the answer broke off", True),
    "throttled in the middle": (Say("spoilt words", then="ThrottlingException"), "too many requests", True),
    "silent in the middle": (Say("spoilt words", then="hang"), "no answer in time", True),
}
"""What a model does, why another one is asked then, and whether it had said something."""
OPENAI_FAULTS: dict[str, tuple[Act, str, bool]] = {
    "leads elsewhere": (Refuse("302"), "unavailable: the address leads on to https://elsewhere.example/v2; set", False),
    "no content": (Refuse("204"), "unavailable: No Content (HTTP 204)", False),
    "refused": (Refuse("400", "bad"), "the request was refused: bad (HTTP 400)", False),
    "no such model": (Refuse("400", "invalid model name"), "no model is to be had by this name", False),
    "too many tokens": (Refuse("400", "the maximum context length is 8192"), "the request is too long for", False),
    "content": (Refuse("400", "by Azure's content management policy"), "its content filter let no answer", False),
    "no credit": (Refuse("402", "Insufficient Balance"), "no credit is left: Insufficient Balance", False),
    "denied": (Refuse("403"), "access denied to this model", False),
    "not there": (Refuse("404", 'model "m" not found, try pulling it first'), "no model is to be had by this", False),
    "no such method": (Refuse("405"), "unavailable", False),
    "conflict": (Refuse("409"), "unavailable: as the test wants it (HTTP 409)", False),
    "gone": (Refuse("410"), "no model is to be had by this name", False),
    "too large": (Refuse("413"), "the request is too long for this model", False),
    "another kind": (Refuse("415"), "unavailable", False),
    "not understood": (Refuse("422"), "the request was refused: as the test wants it (HTTP 422)", False),
    "throttled": (Refuse("429"), "too many requests", False),
    "quota": (Refuse("429", "You exceeded your current quota"), "no credit is left", False),
    "broken service": (Refuse("500"), "unavailable", False),
    "no gateway": (Refuse("502"), "unavailable", False),
    "no first token": (Hang(), "no answer in time", False),
    "empty": (Say(""), "the answer is empty", False),
    "empty and whole": (Say("", whole=True), "the answer is empty", False),
    "filtered": (Say("", then="content_filter"), "its content filter let no answer through", False),
    "dropped": (Say("spoilt words", then="drop"), "the answer broke off", True),
    "throttled in the middle": (Say("spoilt words", then="ThrottlingException"), "too many requests", True),
    "silent in the middle": (Say("spoilt words", then="hang"), "no answer in time", True),
}
MATRIX = [("bedrock", fault) for fault in FAULTS] + [("openai", fault) for fault in OPENAI_FAULTS]


@pytest.fixture
def kind() -> str:
    """The service of the models, where a test does not say another."""
    return "bedrock"


@pytest.fixture(scope="module")
def emulators() -> Iterator[dict[str, Emulator]]:
    with bedrock() as first, openai() as second:
        yield {"bedrock": first, "openai": second}


@pytest.fixture
def emulator(emulators: dict[str, Emulator], kind: str) -> Emulator:
    return emulators[kind]


@pytest.fixture(scope="module")
def made(emulators: dict[str, Emulator]) -> dict[str, Sequence[Model]]:
    """Three models of each service; their clients are made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", KEYS)
        patch.setenv("AWS_SECRET_ACCESS_KEY", "x" * 20)
        own = {"endpoint_url": emulators["bedrock"].url, "region": "us-east-1"}
        config = Config({"BedrockModel": own, "OpenAIModel": {"endpoint_url": f"{emulators['openai'].url}/v1"}})
        found = {kind: [make_model(f"{kind}:{name}", config) for name in NAMES] for kind in emulators}
        for model in found["bedrock"]:
            model._connected()  # type: ignore[attr-defined]
    return found


@pytest.fixture
def models(made: dict[str, Sequence[Model]], kind: str) -> Sequence[Model]:
    return made[kind]


@pytest.fixture
def chain(emulator: Emulator, models: Sequence[Model]) -> Chain:
    emulator.questions.clear()
    emulator.acts.clear()
    return Chain(models, Generation())


IMPATIENT = Generation(first_token_timeout=2.0, next_token_timeout=2.0)
"""For models that hang. A busy machine may take a second for a connection, and those behind are to be reached."""


async def steps_of(chain: Chain, name: str = "") -> tuple[list[Step], str]:
    """Return what happened, and the error of the whole."""
    steps: list[Step] = []
    try:
        async for step in chain.ask(REQUEST, name):
            steps.append(step)  # noqa: PERF401 - a comprehension would lose them with the error
    except GenerationError as exc:
        return steps, str(exc)
    return steps, ""


def asked(emulator: Emulator) -> list[str]:
    return [question.model for question in emulator.questions]


@pytest.mark.parametrize("position", range(3))
@pytest.mark.parametrize(("kind", "fault"), MATRIX)
async def test_each_fault_at_each_position(
    chain: Chain, models: Sequence[Model], emulator: Emulator, kind: str, fault: str, position: int
) -> None:
    act, reason, had_spoken = (FAULTS if kind == "bedrock" else OPENAI_FAULTS)[fault]
    if isinstance(act, Hang) or (isinstance(act, Say) and act.then == "hang"):
        chain = Chain(models, IMPATIENT)
    for name in NAMES[:position]:
        emulator.plan(name, Refuse("ThrottlingException"))
    emulator.plan(NAMES[position], act)
    if position + 1 < len(NAMES):
        emulator.plan(NAMES[position + 1], Say("the answer"))
    steps, error = await steps_of(chain)
    failures = [step for step in steps if isinstance(step, Failed)]
    # Nobody is asked twice, and no failure is silent.
    assert asked(emulator) == list(NAMES[: position + 2])
    assert [step.model for step in failures] == [f"{kind}:{name}" for name in NAMES[: position + 1]]
    assert reason in failures[-1].reason
    assert failures[-1].dropped == (len("spoilt words") if had_spoken else 0)
    assert all(step.seconds > 0 for step in failures)
    if position + 1 < len(NAMES):
        behind = steps[steps.index(failures[-1]) + 1 :]
        assert "".join(step.text for step in behind if isinstance(step, Text)) == "the answer"
        answered = steps[-1]
        assert isinstance(answered, Answered)
        assert (answered.model, answered.cut) == (f"{kind}:{NAMES[position + 1]}", "")
        assert 0 < answered.first <= answered.seconds
        assert error == ""
    else:
        assert all(f"{kind}:{name}: " in error for name in NAMES)
        assert "%sandbox models" in error
        assert ".." not in error


async def test_first_model_that_answers_is_the_only_one_asked(chain: Chain, emulator: Emulator) -> None:
    steps, _ = await steps_of(chain)
    assert isinstance(steps[0], Asked)
    assert asked(emulator) == ["first"]


async def test_refused_credentials_are_not_tried_with_others_of_their_kind(
    models: Sequence[Model], emulator: Emulator, chain: Chain
) -> None:
    emulator.plan("first", Refuse("ExpiredTokenException"))
    other = Scripted("other", [Text("from elsewhere"), End()])
    steps, _ = await steps_of(Chain([*models, other], Generation()))
    assert asked(emulator) == ["first"]
    # Those that were left out are told, too; they took no time.
    left_out = [step for step in steps if isinstance(step, Failed)][1:]
    assert [(step.model, step.seconds) for step in left_out] == [("bedrock:second", 0.0), ("bedrock:third", 0.0)]
    assert all("not asked, its credentials are those of bedrock:first" in step.reason for step in left_out)
    assert isinstance(steps[-1], Answered)
    assert steps[-1].model == "scripted:other"


async def test_refused_credentials_say_nothing_of_another_service(emulators: dict[str, Emulator]) -> None:
    with openai() as other:
        emulators["openai"].acts.clear()
        emulators["openai"].plan("m", Refuse("401"))
        entries = [
            {"kind": "openai", "model": "m", "endpoint_url": f"{one.url}/v1"} for one in (emulators["openai"], other)
        ]
        steps, _ = await steps_of(Chain([make_model(entry, Config()) for entry in entries], Generation()))
        assert isinstance(steps[-1], Answered)
        assert asked(other) == ["m"]


async def test_answer_that_a_filter_ends_is_told_to_be_cut(chain: Chain, emulator: Emulator) -> None:
    emulator.plan("first", Say("some words", then="content_filter"))
    steps, _ = await steps_of(chain)
    assert isinstance(steps[-1], Answered)
    assert steps[-1].cut == "a content filter ended it"


async def test_named_model_is_the_only_one_asked(chain: Chain, emulator: Emulator) -> None:
    emulator.plan("second", Refuse("ThrottlingException"))
    _, error = await steps_of(chain, "second")
    assert asked(emulator) == ["second"]
    assert "bedrock:second" in error


@pytest.mark.parametrize(("name", "part"), [("fourth", "is not configured"), ("bedrock", "could be several")])
async def test_wrong_name_is_told(chain: Chain, name: str, part: str) -> None:
    with pytest.raises(CommandError, match=rf"{part}.*bedrock:first, bedrock:second, bedrock:third"):
        await steps_of(chain, name)


async def test_health_is_that_of_the_last_attempt(chain: Chain, emulator: Emulator) -> None:
    emulator.plan("first", Refuse("ThrottlingException"))
    await steps_of(chain)
    first, second, third = (chain.health[f"bedrock:{name}"] for name in NAMES)
    assert (first.well, first.failures, first.answers) == (False, 1, 0)
    assert "too many requests" in first.last_failure
    assert (second.well, second.answers, third.last_time) == (True, 1, 0.0)
    await steps_of(chain)
    assert (first.well, first.failures, first.answers) == (True, 1, 1)


async def test_no_model_is_an_error() -> None:
    _, error = await steps_of(Chain([], Generation()))
    assert "Generation.models" in error


# ---- answers without end, and models that do not keep to the contract


class Scripted(Model):
    """A model of a third party's, that yields what it is given, again and again if it is told so."""

    kind = "scripted"

    def __init__(self, name: str, pieces: Sequence[Piece | Exception], *, endless: bool = False) -> None:
        super().__init__(model=name)
        self._pieces, self._endless = pieces, endless
        self.closed = False

    @property
    def place(self) -> str:
        return "here"

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece, None]:
        try:
            while True:
                for piece in self._pieces:
                    if isinstance(piece, Exception):
                        raise piece
                    yield piece
                    await asyncio.sleep(0)
                if not self._endless:
                    return
        finally:
            self.closed = True


class OddError(ModelError):
    """An error with a reason of a third party's own."""

    def __init__(self) -> None:
        super().__init__("odd:m: it is Sunday.", reason="SUNDAY")


async def test_endless_answer_is_cut_and_its_stream_closed() -> None:
    model = Scripted("endless", [Text("x" * 60)], endless=True)
    steps, _ = await steps_of(Chain([model], Generation(max_answer=1000)))
    assert len("".join(step.text for step in steps if isinstance(step, Text))) == 1000
    assert isinstance(steps[-1], Answered)
    assert steps[-1].cut == "it is longer than 1000 characters"
    assert model.closed


async def test_piece_of_any_size_is_cut() -> None:
    steps, _ = await steps_of(Chain([Scripted("large", [Text("x" * 10_000_000), End()])], Generation()))
    assert sum(len(step.text) for step in steps if isinstance(step, Text)) == 200_000


async def test_answer_that_goes_on_too_long_is_given_up() -> None:
    model = Scripted("slow", [Text("")], endless=True)
    _, error = await steps_of(Chain([model], Generation(answer_timeout=0.2)))
    assert "no answer in time" in error
    assert model.closed


@pytest.mark.parametrize(
    ("pieces", "part"),
    [
        ([OddError()], "it is Sunday"),
        ([GenerationError("no model's own")], "no model's own"),
        ([Text("no end")], "broke off"),
        ([ValueError("its own fault")], "ValueError: its own fault"),
        ([], "broke off"),
    ],
)
async def test_model_that_breaks_the_contract_is_replaced(pieces: list[Piece | Exception], part: str) -> None:
    steps, _ = await steps_of(Chain([Scripted("odd", pieces), Scripted("good", [Text("ok"), End(1, 2)])], Generation()))
    (failed,) = (step for step in steps if isinstance(step, Failed))
    assert part in failed.reason
    assert isinstance(steps[-1], Answered)
    assert (steps[-1].input_tokens, steps[-1].output_tokens) == (1, 2)


async def test_cancelled_question_closes_its_stream() -> None:
    model = Scripted("endless", [Text("")], endless=True)
    task = asyncio.create_task(steps_of(Chain([model], Generation())))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.closed
