"""Sandboxes that lie about their files: nothing of this machine is written elsewhere, filled up, or kept waiting."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("layers are those of Linux's overlays", allow_module_level=True)

from sandbox_kernel.errors import CommandError, InvocationError, SandboxError, SandboxTimeoutError
from sandbox_kernel.link.protocol import Buffer
from sandbox_kernel.mirror import transfers
from sandbox_kernel.mirror.claims import Claims
from sandbox_kernel.mirror.transfers import CREDIT, Sending, Sent, Transfers
from sandbox_kernel.operations import Operations
from sandbox_kernel.providers.local.folders import try_lock
from sandbox_kernel.workspace.entries import FILE, Entry
from sandbox_kernel.workspace.layers import Layer, LayerStore
from sandbox_kernel.workspace.owners import Owner
from sandbox_kernel.workspace.staging import Staging

DIGEST = "0" * 64
Said = tuple[dict[str, Any], bytes]


class Liar:
    """A bridge that answers the beginning of an operation with what it was told to say, whatever else it hears."""

    def __init__(self, *answers: Said, forever: Callable[[], Said] | None = None) -> None:
        self.heard: list[tuple[dict[str, Any], Buffer | None]] = []
        self._answers, self._forever = answers, forever
        self._numbers = 0
        self.operations = Operations(self._send, lambda: 0, self._next, lambda: {"sandbox_id": "liar"})

    def _next(self) -> int:
        self._numbers += 1
        return self._numbers

    def _send(self, fields: dict[str, Any], data: Buffer | None, *, begins: bool) -> None:
        self.heard.append((fields, data))
        loop = asyncio.get_running_loop()
        if begins:
            for event, content in self._answers:
                loop.call_soon(self.operations.on_event, {"id": fields["id"], **event}, content)
            if self._forever is not None:
                loop.call_soon(self._go_on, fields["id"])

    def _go_on(self, number: int) -> None:
        assert self._forever is not None
        event, content = self._forever()
        self.operations.on_event({"id": number, **event}, content)
        # Until it is not listened to any more.
        if not any(fields.get("op") == "file-cancel" for fields, _ in self.heard):
            asyncio.get_running_loop().call_soon(self._go_on, number)


@pytest.fixture
def layer(tmp_path: Path) -> Iterator[Layer]:
    made = LayerStore(str(tmp_path / "layers"), try_lock).open(Owner("/project"))
    yield made
    made.close()


def entry(path: object, kind: object = "file", said: object = DIGEST, **numbers: object) -> list[object]:
    """Return an entry as a bridge tells it."""
    return [
        path,
        kind,
        numbers.get("size", 1),
        numbers.get("mode", 0o644),
        numbers.get("modified", 1),
        said,
    ]


def names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def content(layer: Layer, name: str) -> bytes:
    """Return what a file of a layer holds; it is no link."""
    path = Path(layer.upper, name)
    assert not path.is_symlink()
    return path.read_bytes()


def link(layer: Layer, name: str, target: Path) -> None:
    Path(layer.upper, name).symlink_to(target)


async def fetch(liar: Liar, layer: Layer, sizes: dict[str, int]) -> Sent:
    """Fetch files, of the sizes that were told before."""
    fetched = Sent()
    wanted = {name: Entry(FILE, size, said=DIGEST) for name, size in sizes.items()}
    await Transfers(liar.operations).fetch(wanted, Staging(layer), fetched)
    return fetched


def listed(*entries: object) -> Said:
    return {}, json.dumps(list(entries)).encode()


# ---- lists


@pytest.mark.parametrize(
    "one",
    [
        entry("../outside"),
        entry("/etc/passwd"),
        entry("a/../../b"),
        entry("a//b"),
        entry("./a"),
        entry(""),
        entry("a/"),
        entry("a\0b"),
        entry("x" * 256),
        entry("/".join(["x" * 200] * 30)),
        entry(5),
        entry(None),
        entry("a", "device"),
        entry("a", "removed"),
        entry("a", ["file"]),
        entry("a", said="not a digest"),
        entry("a", said=None),
        entry("a", "link", ""),
        entry("a", "link", "x" * 5000),
        entry("a", size=-1),
        entry("a", size=1 << 70),
        entry("a", size=1.5),
        entry("a", size=True),
        entry("a", mode="x"),
        entry("a", modified=float("nan")),
        ["a"],
        "text",
        7,
    ],
)
async def test_an_entry_that_makes_no_sense_ends_the_list(one: object) -> None:
    with pytest.raises(InvocationError, match="makes no sense"):
        await Transfers(Liar(listed(one), ({"end": True}, b"")).operations).contents(1000)


@pytest.mark.parametrize("data", [b"[" * 100_000, b"\xff", b"{", b"9" * 10_000, b'{"a": 1}'])
async def test_what_is_no_list_ends_it(data: bytes) -> None:
    with pytest.raises(InvocationError, match="makes no sense"):
        await Transfers(Liar(({}, data), ({"end": True}, b"")).operations).contents(1000)


@pytest.mark.parametrize(
    "entries",
    [
        [entry("a/b")],
        [entry("a"), entry("a/b")],
        [entry("a", "link", "/etc"), entry("a/passwd")],
        [entry("a", "special", ""), entry("a/b")],
        [entry("a"), entry("a")],
    ],
)
async def test_entries_that_are_no_tree_are_refused(entries: list[object]) -> None:
    with pytest.raises(InvocationError, match="makes no sense"):
        await Transfers(Liar(listed(*entries), ({"end": True}, b"")).operations).contents(1000)


async def test_a_list_without_end_is_cut() -> None:
    numbers = iter(range(10**9))
    liar = Liar(forever=lambda: listed(*[entry(f"{next(numbers)}") for _ in range(500)]))
    with pytest.raises(CommandError, match="more than 100000 files"):
        await Transfers(liar.operations).contents(1000)


async def test_a_bridge_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch, layer: Layer) -> None:
    monkeypatch.setattr(transfers, "SILENCE", 0.05)
    with pytest.raises(SandboxTimeoutError):
        await Transfers(Liar().operations).contents(1000)
    with pytest.raises(SandboxTimeoutError):
        await Transfers(Liar().operations).send([])
    with pytest.raises(SandboxTimeoutError):
        await fetch(Liar(), layer, {"a": 1})


def test_names_that_are_odd_but_possible_are_taken() -> None:
    claims = Claims()
    claims.take(json.dumps([entry("new\nline"), entry("\udcff"), entry(" "), entry("...")]).encode())
    assert set(claims.checked()) == {"new\nline", "\udcff", " ", "..."}


# ---- files


async def test_a_file_has_no_more_bytes_than_was_said(layer: Layer) -> None:
    answers: list[Said] = [({}, b""), ({"file": 0}, b"more than one"), ({"file": 0, "whole": True}, b"")]
    fetched = await fetch(Liar(*answers, ({"end": True}, b"")), layer, {"a": 1})
    assert fetched.refused == {"a": "it grew while it was read"}
    assert names(layer.upper) == []


async def test_a_file_without_end_is_given_up_and_nothing_is_left(layer: Layer) -> None:
    liar = Liar(({}, b""), forever=lambda: ({"file": 0}, bytes(100_000)))
    with pytest.raises(SandboxError, match=r"does not stop growing|more than it was asked for"):
        await fetch(liar, layer, {"a": CREDIT})
    assert names(layer.upper) == []
    assert not [name for name in names(layer.data) if name.startswith("incoming")]


@pytest.mark.parametrize(
    "event",
    [{"file": 1}, {"file": -1}, {"file": "0"}, {"file": None}, {}, {"end": True}, {"file": [0]}],
)
async def test_what_was_not_asked_for_is_not_taken(event: dict[str, Any], layer: Layer) -> None:
    liar = Liar(({}, b""), (event, b"x"), ({"file": 0, "whole": True}, b""))
    with pytest.raises(InvocationError, match="makes no sense"):
        await fetch(liar, layer, {"a": 1})
    assert names(layer.upper) == []


async def test_a_file_that_is_another_one_counts_as_what_came(layer: Layer) -> None:
    liar = Liar(({}, b""), ({"file": 0}, b"x"), ({"file": 0, "whole": True}, b""), ({"end": True}, b""))
    fetched = await fetch(liar, layer, {"a": 1})
    assert fetched.entries["a"].said != DIGEST
    assert content(layer, "a") == b"x"


async def test_links_in_a_layer_are_not_followed(layer: Layer, tmp_path: Path) -> None:
    # As a cell of a local sandbox may have left them.
    (tmp_path / "outside").mkdir()
    link(layer, "way", tmp_path / "outside")
    link(layer, "file", tmp_path / "outside/file")
    answers: list[Said] = [({}, b"")]
    for number in range(2):
        answers += [({"file": number}, b"x"), ({"file": number, "whole": True}, b"")]
    await fetch(Liar(*answers), layer, {"way/in": 1, "file": 1})
    assert list((tmp_path / "outside").iterdir()) == []
    assert content(layer, "way/in") == content(layer, "file") == b"x"


# ---- there


@pytest.mark.parametrize(
    "event",
    [
        {"taken": -5},
        {"taken": "many"},
        {"taken": 1 << 80},
        {"refused": [["other", "why"]]},
        {"refused": ["text"]},
        {"refused": [[1, 2]]},
        {"refused": [["a", "why", "more"]]},
    ],
)
async def test_odd_reports_change_nothing(event: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    liar = Liar(({}, b""), (event, b""), ({"end": True}, b""))

    def opened() -> int:
        return os.open(tmp_path / "a", os.O_RDONLY)

    sent = await Transfers(liar.operations).send([Sending("a", Entry(FILE, 1, said=DIGEST), "absent", opened)])
    assert set(sent.entries) == {"a"}
    assert sent.refused == {}


async def test_a_file_that_got_shorter_is_not_sent_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    liar = Liar(({}, b""), ({"end": True}, b""))

    def opened() -> int:
        return os.open(tmp_path / "a", os.O_RDONLY)

    sent = await Transfers(liar.operations).send([Sending("a", Entry(FILE, 500_000), "absent", opened)])
    assert sent.refused == {"a": "it got shorter while it was sent"}
    assert liar.heard[-2][0]["abort"]
