"""Parts of the provider ray that need no cluster: order of pieces, GPUs, what is told of a wait, Ray's errors."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

if sys.platform != "linux":
    pytest.skip("the local provider's parts are Linux's", allow_module_level=True)

import itertools

from sandbox_kernel.errors import (
    ConfigurationError,
    QuotaError,
    SandboxConnectionError,
    SandboxKernelError,
    SandboxLostError,
)
from sandbox_kernel.providers.base import ClusterNode, ClusterView, Resources
from sandbox_kernel.providers.local.provider import LocalProvider
from sandbox_kernel.providers.ray import gpus, words
from sandbox_kernel.providers.ray.node_link import HELD, NodeLink
from sandbox_kernel.providers.ray.ordered import LARGEST_GAP, Incoming, Outgoing
from sandbox_kernel.providers.ray.provider import RayProvider
from sandbox_kernel.providers.ray.survey import Node, Survey
from sandbox_kernel.providers.ray.waiting import waiting_text
from sandbox_magics.cluster import cluster_text

GIB = 1024**3


# ---- bytes in order


@given(st.binary(max_size=200), st.lists(st.integers(0, 40), max_size=20), st.randoms())
def test_pieces_in_any_order_and_number_make_the_stream(data: bytes, cuts: list[int], chance: object) -> None:
    edges = sorted({0, len(data), *(min(cut * 5, len(data)) for cut in cuts)})
    pieces = [(start, data[start:end]) for start, end in itertools.pairwise(edges)]
    # Each twice, and one that covers others, as where a call is made again with more.
    sent = [*pieces, *pieces, (0, data)]
    chance.shuffle(sent)  # type: ignore[attr-defined]
    incoming, got = Incoming(), b""
    for offset, piece in sent:
        incoming.hold(offset, piece)
        while more := incoming.next():
            got += more
    assert got == data
    assert incoming.position == len(data)


def test_a_piece_that_can_be_none_of_the_stream_is_refused() -> None:
    incoming = Incoming()
    for offset in (-1, LARGEST_GAP + 1):
        with pytest.raises(ValueError, match="a piece at"):
            incoming.hold(offset, b"x")


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=20), st.data())
def test_what_is_not_acknowledged_is_given_again(pieces: list[bytes], data: st.DataObject) -> None:
    whole, outgoing = b"".join(pieces), Outgoing(100)
    for piece in pieces:
        outgoing.add(piece)
    done = 0
    while done < len(whole):
        most = data.draw(st.integers(1, 40))
        assert outgoing.read(most) == outgoing.read(most) == whole[done : done + most]
        done = data.draw(st.integers(done, min(len(whole), done + most)))
        outgoing.acknowledge(done)
    assert outgoing.read(10) == b""
    with pytest.raises(ValueError, match="acknowledged"):
        outgoing.acknowledge(len(whole) + 1)


async def test_a_link_waits_for_its_client_and_gives_again_what_was_not_acknowledged() -> None:
    ours, theirs = socket.socketpair()
    link = NodeLink(ours)
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    # What comes second is held until the first is there; what was there is not written twice.
    assert await link.push(3, b"def") == 0
    assert await link.push(0, b"abc") == 6
    assert await link.push(0, b"abc") == 6
    assert await loop.sock_recv(theirs, 100) == b"abcdef"
    flood = asyncio.ensure_future(loop.sock_sendall(theirs, bytes(2 * HELD)))
    first, _ = await link.pull(0)
    again, _ = await link.pull(0)
    assert first
    assert again[: len(first)] == first
    _, pending = await asyncio.wait([flood], timeout=0.2)
    assert pending
    got = 0
    while got < 2 * HELD:
        data, reason = await link.pull(got)
        got += len(data)
        assert reason == ""
    await flood
    theirs.close()
    assert await link.pull(got) == (b"", "the bridge has closed it")
    await link.close()


# ---- GPUs


@pytest.fixture
def machine(tmp_path: Path) -> tuple[Path, Path]:
    """Two GPUs whose numbers on the bus and in /dev differ; files stand for the device nodes."""
    cards, devices = tmp_path / "gpus", tmp_path / "dev"
    devices.mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (devices / name).touch()
    for place, minor, uuid in (("0000:01:00.0", 1, "GPU-aaaa-1"), ("0000:41:00.0", 0, "GPU-bbbb-2")):
        (cards / place).mkdir(parents=True)
        (cards / place / "information").write_text(f"Model: \t X\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n")
    return cards, devices


def test_only_the_granted_gpu_is_inside(machine: tuple[Path, Path]) -> None:
    cards, devices = machine
    found = gpus.granted(["0"], cards, devices)
    assert [Path(one).name for one in found.devices] == ["nvidia1", "nvidiactl", "nvidia-uvm"]
    assert found.variables == {"CUDA_VISIBLE_DEVICES": "GPU-aaaa-1"}
    by_uuid = gpus.granted(["GPU-bbbb-2", "0"], cards, devices)
    assert [Path(one).name for one in by_uuid.devices[:2]] == ["nvidia0", "nvidia1"]
    assert by_uuid.variables == {"CUDA_VISIBLE_DEVICES": "GPU-bbbb-2,GPU-aaaa-1"}


def test_without_a_gpu_none_is_shown(machine: tuple[Path, Path]) -> None:
    assert gpus.granted([], *machine) == gpus.Granted((), {"CUDA_VISIBLE_DEVICES": ""})


def test_gpus_without_names_are_numbered_anew(machine: tuple[Path, Path]) -> None:
    cards, devices = machine
    (cards / "0000:41:00.0/information").write_text("GPU UUID: \t GPU-????????\nDevice Minor: \t 0\n")
    assert gpus.granted(["1"], cards, devices).variables == {"CUDA_VISIBLE_DEVICES": "0"}
    # As in a container, where /proc does not show the driver.
    assert next(Path(one).name for one in gpus.granted(["1"], devices / "none", devices).devices) == "nvidia1"


def test_a_gpu_that_is_not_there_is_told(machine: tuple[Path, Path]) -> None:
    with pytest.raises(LookupError, match="no GPU 7; the driver shows 2"):
        gpus.granted(["7"], *machine)
    (machine[1] / "nvidia1").unlink()
    with pytest.raises(LookupError, match="nvidia1"):
        gpus.granted(["0"], *machine)


@pytest.mark.parametrize("path", ["/etc/passwd", "/dev/../etc/passwd", "/dev/shm", "nvidia0", "/dev/no-such-device"])
async def test_what_is_no_device_is_refused_by_the_local_provider(path: str) -> None:
    provider = LocalProvider(devices=[path])
    with pytest.raises(ConfigurationError, match=r"LocalProvider\.devices must be a device node"):
        provider._begin(None, provider._examined())  # type: ignore[arg-type]
    provider.close()


# ---- waiting


def node(name: str, free: float, total: float = 4.0, **further: float) -> Node:
    amounts = {"memory": 8.0 * GIB, **further}
    both = {"free": {"CPU": free, **amounts}, "total": {"CPU": total, **amounts}}
    return {"node_id": name, "name": name, "address": "", "labels": {}, **both}  # type: ignore[typeddict-item]


def seen(*nodes: Node, waiting: tuple[str, ...] = ()) -> Survey:
    actors = [{"name": one, "state": "PENDING_CREATION", "node_id": ""} for one in waiting]
    return {"nodes": list(nodes), "actors": actors, "others": {}}  # type: ignore[typeddict-item]


EARLIER, LATER = (f"ray-ann-{when:012x}-00000000" for when in (1000, 2000))


def test_a_wait_says_what_is_asked_what_is_free_and_who_comes_before() -> None:
    there = seen(node("a", 1), node("b", 2), waiting=(EARLIER, LATER))
    text = waiting_text(there, LATER, {"CPU": 4.0, "memory": 8.0 * GIB}, 75)
    assert "asked for 4 CPUs, 8 GiB of memory" in text
    assert "3 of 8 CPUs free; 16 GiB of 16 GiB of memory free; 1 before it in the queue." in text
    assert "No node has" not in text
    assert "first in the queue" in waiting_text(there, EARLIER, {"CPU": 4.0}, 75)


def test_what_no_node_has_is_told_and_what_fits_is_no_wait() -> None:
    there = seen(node("a", 4), waiting=(LATER,))
    text = waiting_text(there, LATER, {"CPU": 1.0, "GPU": 1.0}, 3)
    assert "asked for 1 CPU, 1 GPU; 4 of 4 CPUs free; 0 of 0 GPUs free" in text
    assert text.endswith("No node has that much at all: it starts only if the cluster grows.")
    assert waiting_text(there, LATER, {"CPU": 4.0}, 3) == ""


def test_the_cluster_is_shown_as_a_table() -> None:
    nodes = (
        ClusterNode("b", {"CPU": 4.0, "memory": 8.0 * GIB}, {"CPU": 4.0, "memory": 8.0 * GIB}),
        ClusterNode("a", {"CPU": 4.0, "GPU": 1.0, "tpu": 2.0}, {"CPU": 2.5, "tpu": 1.0}, ("one", "two"), 3, 1),
    )
    header, first, second, waiting = cluster_text(ClusterView("auto", nodes, ("three",), 2), "two").splitlines()
    assert header.split("  ")[0] == "node"
    assert first.startswith("a     2.5 of 4   0 of 1")
    assert first.endswith("tpu 1 of 2       one, two (this notebook's), 3 of other people, 1 other actor")
    assert second.endswith("none")
    assert waiting == "waiting for room: three, 2 of other people"


# ---- words


def test_errors_travel_as_what_they_are() -> None:
    told = words.error_of(words.failure_of(QuotaError("full", retryable=True)), sandbox_id="one")
    assert (type(told), str(told)) == (QuotaError, "full")
    assert isinstance(told, QuotaError)
    assert (told.provider, told.sandbox_id, told.retryable) == ("ray", "one", True)
    odd = words.error_of(words.failure_of(KeyError("x")))
    assert str(odd) == "KeyError: 'x'"


def test_ids_tell_whose_and_when() -> None:
    made = words.new_id(words.owner_mark("Ann O'Neil"))
    found = words.parse_id(made)
    assert found is not None
    assert found[0] == "annoneil"
    assert words.owner_mark("Ω") == "nobody"
    for text in ("", "no-such-sandbox", made + "0", "ray-ann-1-2"):
        assert words.parse_id(text) is None


def test_what_the_configuration_forbids_is_refused() -> None:
    provider = RayProvider(most_cpus=4, most_gpus=1, most_memory="1 GiB")
    for wanted, word in (
        (Resources(cpus=5), "--cpus may be 4"),
        (Resources(gpus=2), "--gpus may be 1"),
        (Resources(memory=2 * GIB), "--memory may be 1 GiB"),
        (Resources(cpus=0), "--cpus must be more than 0"),
        (Resources(memory=0), "--memory must be more than 0"),
    ):
        with pytest.raises(ConfigurationError, match=word):
            provider.choose_resources(wanted)
    provider.choose_resources(Resources(cpus=4, gpus=0, memory=GIB))
    assert provider._options() == {"num_cpus": 4.0, "num_gpus": 0, "memory": GIB}


@pytest.mark.parametrize(
    ("address", "kind", "words_of_it"),
    [
        ("http://somewhere", ConfigurationError, "no address"),
        ("ray://somewhere", ConfigurationError, "no address"),
        ("127.0.0.1:9", SandboxConnectionError, "No Ray cluster answers"),
    ],
)
def test_addresses_are_checked_before_ray_tries_them(
    address: str, kind: type[SandboxKernelError], words_of_it: str
) -> None:
    from sandbox_kernel.providers.ray.driver import check_address

    with pytest.raises(kind, match=words_of_it):
        check_address(address)


def test_rays_errors_become_one_sentence() -> None:
    exceptions = pytest.importorskip("ray.exceptions", reason="ray is not installed")
    from sandbox_kernel.providers.ray.failures import error_of

    unavailable = error_of(exceptions.ActorUnavailableError("Socket closed", b"0" * 16))
    assert (type(unavailable), getattr(unavailable, "retryable", None)) == (SandboxConnectionError, True)
    missing = error_of(RuntimeError("failed to import\nModuleNotFoundError: No module named 'sandbox_kernel'"))
    assert isinstance(missing, ConfigurationError)
    setup = error_of(exceptions.RuntimeEnvSetupError("\x1b[36mlong\x1b[0m\ntext\nno such package\n"))
    assert str(setup).endswith("no such package")


SILENT = (
    "Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a connection error code 2. End "
    "of file. Some common causes include: (1) the process was killed by the OOM killer due to high memory usage, (2) "
    "ray stop --force was called, or (3) the worker crashed unexpectedly due to SIGSEGV or another unexpected error. "
    "If the process was killed by the kernel OOM killer (verifiable by checking for OOM in dmesg of the OOMing node), "
    "consider enabling resource isolation via --enable-resource-isolation to prevent node deaths."
)
"""What Ray 2.60 says of an actor whose process was killed."""
EXITED = (
    "Worker exit type: SYSTEM_ERROR Worker exit detail: Worker exits unexpectedly. Worker exits with an exit code 4."
)


@pytest.mark.parametrize(
    ("said", "clause"),
    [
        (SILENT, "its process on the node was ended, and Ray does not know by what"),
        (EXITED, "its process on the node was ended (Worker exits unexpectedly. Worker exits with an exit code 4)"),
    ],
)
def test_an_actor_that_died_is_said_to_have_died_of_what_ray_knows(said: str, clause: str) -> None:
    exceptions = pytest.importorskip("ray.exceptions", reason="ray is not installed")
    from ray.core.generated.common_pb2 import ActorDiedErrorContext

    from sandbox_kernel.providers.ray.failures import error_of

    words_of_it = f"The actor is dead because its worker process has died. {said}"
    context = ActorDiedErrorContext(actor_id=b"0" * 16, error_message=words_of_it)
    assert str(error_of(exceptions.ActorDiedError(context))) == f"The sandbox ended: {clause}."


def test_an_actor_that_rays_memory_monitor_ended_is_said_to_have_been() -> None:
    exceptions = pytest.importorskip("ray.exceptions", reason="ray is not installed")
    from sandbox_kernel.providers.ray.failures import error_of

    told = error_of(exceptions.OutOfMemoryError("1 worker(s) were killed due to the node running low on memory. …"))
    assert isinstance(told, SandboxLostError)
    assert str(told) == "The sandbox ended: its node ran low on memory, and Ray ended its process there."
