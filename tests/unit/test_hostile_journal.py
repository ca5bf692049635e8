"""What a sandbox says of cells before this kernel process is treated as an attacker's, like all that it says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_kernel.bridge_events import MAX_OPEN
from sandbox_kernel.link import envelope
from tests.hostile import READY, HostileBridge, hostile_bridge

Json = dict[str, Any]
TOKEN = b"\x01\x02\x03\x04"
OPEN = [[TOKEN.hex(), "before", False]]


def against(attack: Callable[[HostileBridge, str], Awaitable[None] | None], **ready: object) -> HostileBridge:
    """Attack a kernel that shows past outputs in the cell with the given id; it has to run that cell afterwards."""

    async def run() -> HostileBridge:
        async with hostile_bridge(attached=True) as bridge:
            bridge.event({**READY, "missed": 1, "count": 4, "open": [], **ready})
            await bridge.turn()
            host = bridge.ask()
            await bridge.turn()
            waiting = attack(bridge, host)
            if waiting is not None:
                await waiting
            answer_journal(bridge)
            await bridge.turn()
            bridge.exchange()
            (cell,) = [parts for parts in bridge.received if parts[0][:1] == b"s" and of(parts[1]) == host]
            bridge.answer(cell)
            await bridge.turn()
            assert [reply["status"] for reply in bridge.replies_to(host) if "status" in reply] == ["ok"]
            assert bridge.faults == []
            return bridge

    return asyncio.run(run())


def of(header: bytes) -> str:
    return str(json.loads(header)["msg_id"])


def journal_request(bridge: HostileBridge) -> Json:
    """The kernel process's last command for the journal."""
    bridge.exchange()
    commands = [json.loads(parts[1]) for parts in bridge.received if parts[0] == envelope.COMMAND]
    found: Json = [command for command in commands if command["op"] == "journal"][-1]
    return found


def answer_journal(bridge: HostileBridge) -> None:
    bridge.event({"event": "replayed", "id": journal_request(bridge)["id"], "cells": 1, "whole": True})


def past(bridge: HostileBridge, msg_type: str, content: Json, *, parent: str = "before") -> None:
    """Send an output as one from the journal."""
    header = json.dumps({"msg_id": "m", "msg_type": msg_type, "version": "5.4"}).encode()
    parts = [b"topic", header, json.dumps({"msg_id": parent}).encode(), b"{}", json.dumps(content).encode()]
    bridge.say(envelope.JOURNAL, envelope.IOPUB, *parts)


def shown(bridge: HostileBridge, msg_id: str) -> list[tuple[str, Json]]:
    """Type and content of what was published for a request."""
    return [
        (json.loads(message[0])["msg_type"], json.loads(message[3]))
        for message in bridge.frontend.outputs
        if json.loads(message[1]).get("msg_id") == msg_id
    ]


def test_past_output_is_cleaned_and_becomes_the_hosts() -> None:
    page = "<b>x</b><script>alert(1)</script><img src=x onerror=alert(1)>"

    def attack(bridge: HostileBridge, host: str) -> None:
        past(bridge, "execute_input", {"code": "<script>1", "execution_count": 4})
        past(bridge, "display_data", {"data": {"text/html": page}, "metadata": {}, "transient": {}})
        past(bridge, "shutdown_reply", {"status": "ok"})
        past(bridge, "status", {"execution_state": "idle"})
        past(bridge, "stream", {"name": "stdout", "text": "said"})
        past(bridge, "stream", {"name": "stdin", "text": "never"})

    bridge = against(attack)
    outputs = [(kind, content) for kind, content in shown(bridge, "request-1") if kind != "status"]
    assert [kind for kind, _ in outputs] == ["display_data", "display_data", "display_data", "stream"]
    (_, told), (_, title), (_, html), (_, said) = outputs
    assert told["data"]["text/plain"].startswith("One cell ran")
    assert title["data"]["text/plain"] == "In [4]: <script>1"
    assert "<script>" not in title["data"]["text/html"]
    assert '<iframe sandbox="allow-scripts"' in html["data"]["text/html"]
    assert said["text"] == "said"
    assert shown(bridge, "before") == []


def test_past_output_that_nobody_asked_for_is_dropped() -> None:
    async def run() -> None:
        async with hostile_bridge(attached=True) as bridge:
            bridge.event({**READY, "missed": 1})
            await bridge.turn()
            before = len(bridge.frontend.outputs)
            past(bridge, "stream", {"name": "stdout", "text": "said"})
            assert len(bridge.frontend.outputs) == before
            assert bridge.session.dropped == 1

    asyncio.run(run())


def test_bridge_of_a_new_sandbox_has_no_past() -> None:
    async def run() -> None:
        async with hostile_bridge() as bridge:
            bridge.event({**READY, "missed": 7, "count": 9, "open": OPEN})
            await bridge.turn()
            assert bridge.session.attached is None
            assert await bridge.is_alive()

    asyncio.run(run())


def test_too_many_cells_of_before_are_no_cells() -> None:
    async def run() -> None:
        async with hostile_bridge(attached=True) as bridge:
            bridge.event({**READY, "open": OPEN * (MAX_OPEN + 1)})
            bridge.event({**READY, "open": [["zz", "x", False]]})
            bridge.event({**READY, "open": [[TOKEN.hex(), "x" * 1000, False]]})
            await bridge.turn()
            assert not bridge.session.ready
            assert bridge.session.dropped == 3

    asyncio.run(run())


def test_questions_of_a_cell_of_before_are_bounded() -> None:
    def attack(bridge: HostileBridge, host: str) -> None:
        header = json.dumps({"msg_id": "q", "msg_type": "input_request", "version": "5.4"}).encode()
        question = [header, b'{"msg_id": "before"}', b"{}", b'{"prompt":"","password":false}']
        for _ in range(1000):
            bridge.say(envelope.JOURNAL, envelope.STDIN + TOKEN, *question)
            bridge.say(envelope.STDIN + TOKEN, *question)
        asked = [message for channel, message in bridge.frontend.replies if channel == "stdin"]
        assert 1 <= len(asked) <= 100
        assert {json.loads(message[1])["msg_id"] for message in asked} == {host}

    against(attack, open=OPEN)


def test_interrupt_ends_a_past_that_does_not_end() -> None:
    async def run() -> None:
        async with hostile_bridge(attached=True) as bridge:
            bridge.event({**READY, "missed": 1})
            await bridge.turn()
            host = bridge.ask()
            await bridge.turn()
            past(bridge, "stream", {"name": "stdout", "text": "said"})
            bridge.ask("interrupt_request", "control")
            await bridge.turn()
            assert [reply["ename"] for reply in bridge.replies_to(host)] == ["KeyboardInterrupt"]
            assert await bridge.is_alive()

    asyncio.run(run())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from([b"o", b"i" + TOKEN, b"s" + TOKEN, b"e", b"{}", b'{"msg_type":"stream"}', b"[" * 10_000]),
        ),
        max_size=8,
    )
)
def test_no_message_of_the_past_does_harm(parts: list[bytes]) -> None:
    against(lambda bridge, host: bridge.say(envelope.JOURNAL, *parts), open=OPEN)
