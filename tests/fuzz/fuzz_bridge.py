"""Feeds the kernel process what a hostile bridge might send, guided by coverage, until something breaks.

Run it with `pip install atheris && python -m tests.fuzz.fuzz_bridge -max_total_time=600`.
"""

from __future__ import annotations

import asyncio
import sys

import atheris

with atheris.instrument_imports(include=["sandbox_kernel"]):
    from sandbox_kernel.link.protocol import Link, LinkError
    from tests.hostile import READY, hostile_bridge

PARTS = [
    b"",
    b"e",
    b"o",
    b"s\x00\x00\x00\x01",
    b"i\x00\x00\x00\x01",
    b"{}",
    b'{"msg_type":"status"}',
    b'{"event":"died"}',
]


def feed_bytes(data: bytes) -> None:
    """What comes before or instead of the protocol."""
    link = Link(bytes(16))
    link.connect()
    try:
        link.receive(memoryview(data))
    except LinkError:
        return


async def feed_messages(provider: atheris.FuzzedDataProvider) -> None:
    """Well-framed messages of any content."""
    async with hostile_bridge() as bridge:
        bridge.event(READY)
        await bridge.turn()
        bridge.ask()
        bridge.exchange()
        while provider.remaining_bytes():
            parts = []
            for _ in range(provider.ConsumeIntInRange(0, 7)):
                known = provider.ConsumeIntInRange(0, 2 * len(PARTS))
                parts.append(PARTS[known] if known < len(PARTS) else provider.ConsumeBytes(64))
            bridge.say(*parts, urgent=provider.ConsumeBool())
        await bridge.turn()
        if bridge.faults:
            raise AssertionError(bridge.faults)


def one_input(data: bytes) -> None:
    """What the fuzzer calls."""
    provider = atheris.FuzzedDataProvider(data)
    if provider.ConsumeBool():
        feed_bytes(provider.ConsumeBytes(len(data)))
    else:
        asyncio.run(feed_messages(provider))


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
