"""A comm message to the kernel and back, which is what a widget's slider costs."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence

from kernel_bench.plan import Effort, interleaved_blocks
from kernel_bench.process import Contender, Kernel, running
from kernel_bench.results import Row

BLOCK = 10
TARGET = "benchmark-echo"
REGISTER = f"""
def _echo(comm, opened):
    @comm.on_msg
    def _(message):
        comm.send(message["content"]["data"])
get_ipython().kernel.comm_manager.register_target({TARGET!r}, _echo)
"""


def echoes(contenders: Sequence[Contender], effort: Effort) -> Iterator[Row]:
    """Send comm messages to a target that sends each back."""
    with running(contenders) as kernels:
        comms = [(kernel, _open(kernel)) for kernel in kernels]
        interleaved_blocks(2, comms, _block)
        samples = interleaved_blocks(effort.count(20, 5), comms, _block)
    yield Row("comm echo, p50", "ms", samples)


def _open(kernel: Kernel) -> str:
    kernel.wire.run(REGISTER)
    comm_id = uuid.uuid4().hex
    kernel.wire.send("shell", "comm_open", {"comm_id": comm_id, "target_name": TARGET, "data": {}})
    return comm_id


def _block(comm: tuple[Kernel, str]) -> Iterable[float]:
    return [_echo(*comm, number) for number in range(BLOCK)]


def _echo(kernel: Kernel, comm_id: str, number: int) -> float:
    began = time.perf_counter()
    msg_id = kernel.wire.send("shell", "comm_msg", {"comm_id": comm_id, "data": {"value": number}})
    seconds: float | None = None
    for message in kernel.wire.messages(timeout=30):
        if message.kind == "comm_msg" and message.content["comm_id"] == comm_id:
            seconds = message.received - began
        # The idle status is awaited too, or it would be counted into the next round.
        if message.ends(msg_id):
            break
    if seconds is None:
        raise RuntimeError(f"{kernel.contender.name} ended the comm message without an echo")
    return seconds * 1000
