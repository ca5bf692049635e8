"""Variables that travel into a sandbox and back."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from sandbox_kernel import Sandbox
from sandbox_kernel.errors import (
    SandboxKernelError,
    TransferError,
)
from sandbox_kernel.providers.local.sandbox import LocalSandbox

if sys.platform != "linux":
    pytest.skip("the local provider needs bubblewrap, which only Linux has", allow_module_level=True)


async def test_variables_travel_both_ways_and_leave_nothing_behind(sandbox: Sandbox) -> None:
    names = "sorted(name for name in globals() if not name.startswith('_'))"
    before = (await sandbox.run(names)).text
    await sandbox.push(number=1, text={"a": (1, b"x")})
    assert (await sandbox.run("number, text")).text == "(1, {'a': (1, b'x')})"
    assert await sandbox.pull("text") == {"a": (1, b"x")}
    await sandbox.run("del number, text")
    assert (await sandbox.run(names)).text == before


async def test_frame_of_a_million_rows_comes_back_equal(sandbox: Sandbox) -> None:
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    rows = 1_000_000
    random = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "whole": random.integers(0, 100, rows),
            "real": random.random(rows),
            "kind": pd.Categorical.from_codes(random.integers(0, 3, rows), ["z", "b", "a"], ordered=True),
            "moment": pd.date_range("2000", periods=rows, freq="min", tz="Europe/Oslo"),
            "text": random.choice(["a", "bc", "ü"], rows),
        },
        index=pd.date_range("2020", periods=rows, freq="s", tz="UTC", name="when"),
    )
    await sandbox.push(frame=frame)
    assert (await sandbox.run("print(frame.index.name, len(frame), frame.whole.sum())")).stdout == (
        f"when {rows} {frame.whole.sum()}\n"
    )
    came = await sandbox.pull("frame")
    assert came.equals(frame)
    assert list(came.dtypes) == list(frame.dtypes)
    assert came.index.identical(frame.index)
    assert came.index.freq == frame.index.freq


async def test_what_cannot_travel_says_why_on_either_side(sandbox: Sandbox) -> None:
    with pytest.raises(TransferError, match=r"value cannot be pushed: .* type object"):
        await sandbox.push(value=object())
    await sandbox.run("class Money(int): pass\nmoney = Money(3)")
    with pytest.raises(TransferError, match=r"money did not travel: .*would come back as int"):
        await sandbox.pull("money")
    with pytest.raises(TransferError, match="no variable"):
        await sandbox.pull("nothing")
    with pytest.raises(TransferError, match="no name"):
        await sandbox.pull("a; b")


FORGE = """
session = get_ipython().kernel.session
honest = session.send

def send(stream, msg, content=None, *args, **kwargs):
    if msg != "sandbox_value":
        return honest(stream, msg, content, *args, **kwargs)
    def say(content, *buffers):
        honest(stream, msg, content, *args, **{**kwargs, "buffers": [memoryview(one) for one in buffers]})
    forge(say)

session.send = send
value = 1
"""
ENDLESS = """
def forge(say):
    while True:
        say({}, bytes(100_000))
"""
TRAP = """
def forge(say):
    import io, os, numpy
    class Trap:
        def __reduce__(self):
            return os.mkdir, (PATH,)
    file = io.BytesIO()
    numpy.save(file, numpy.array([Trap()], dtype=object), allow_pickle=True)
    say({"header": {"kind": "npy"}, "size": len(file.getvalue())}, file.getvalue())
"""


async def test_sandbox_that_sends_more_than_allowed_is_stopped(sandbox: Sandbox) -> None:
    sandbox.max_pull = 1_000_000
    await sandbox.run("text = 'x' * 2_000_000")
    with pytest.raises(TransferError, match="limit is 1000000"):
        await sandbox.pull("text")
    assert (await sandbox.run(FORGE + ENDLESS)).ok
    with pytest.raises(TransferError, match="more than 1000000 bytes"):
        await sandbox.pull("value")
    assert (await sandbox.run("1")).text == "1"


LARGE = """
import numpy
value = numpy.zeros(10_000_000, numpy.uint8)
inside = next(held for name, held in vars(get_ipython()).items() if name.startswith("_sandbox_values_"))
"""


async def forge(sandbox: Sandbox, body: str) -> None:
    """Let the sandbox's half of `pull` do something else."""
    assert await sandbox.pull("__name__") == "__main__"
    code = f"def get(shell, buffers, name, path, largest):\n  import os\n  {body}"
    assert (await sandbox.run(f"{LARGE}exec({code!r}, inside)")).ok


@pytest.fixture(params=["pipe", "link"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let large values go both ways: as on this machine, and as to another one."""
    if request.param == "link":
        monkeypatch.setattr(LocalSandbox, "open_pipe", lambda *_: None)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("_tell(shell, {'header': {'kind': 'npy'}, 'size': 10_000_000})", "its size is not"),
        ("_tell(shell, {'header': {'kind': 'npy'}, 'size': 1 << 60})", "the limit is"),
        ("_tell(shell, {'header': {'kind': 'npy'}, 'size': -5})", "broken"),
        ("_tell(shell, {'header': {'kind': 'npy'}, 'size': 1 << 31}); open(path, 'wb').write(b'x')", "its size is not"),
        ("_tell(shell, {'header': {'kind': 'npy'}, 'size': 1 << 21}); open(path, 'wb').write(bytes(1 << 22))", "size"),
        ("open(path, 'wb').write(b'x' * 10_000)", "sent nothing"),
        ("_tell(shell, {'header': {'kind': 'npy'}, 'size': 10_000_000}); os._exit(1)", "ended"),
    ],
)
async def test_pipe_of_a_hostile_sandbox_ends_with_an_error(sandbox: Sandbox, body: str, error: str) -> None:
    pytest.importorskip("numpy")
    await forge(sandbox, body)
    with pytest.raises(SandboxKernelError, match=error):
        await asyncio.wait_for(sandbox.pull("value"), 20)


@pytest.mark.usefixtures("way")
async def test_large_value_that_nobody_reads_to_its_end_is_given_up(sandbox: Sandbox) -> None:
    np = pytest.importorskip("numpy")
    await sandbox.push(value=1)
    stalled = "def put_from(*_):\n  import time\n  time.sleep(600)"
    assert (await sandbox.run(f"{LARGE}exec({stalled!r}, inside)")).ok
    pushing = asyncio.ensure_future(sandbox.push(value=np.zeros(50_000_000, np.uint8)))
    await asyncio.sleep(0.5)
    pushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pushing
    assert (await asyncio.wait_for(sandbox.run("value.nbytes"), 20)).text == "10000000"


@pytest.mark.usefixtures("way")
async def test_large_values_of_every_kind_come_back(sandbox: Sandbox) -> None:
    np = pytest.importorskip("numpy")
    text, array = "ü" * 2_000_000, np.arange(3_000_000).reshape(1000, 3000).T
    await sandbox.push(text=text, array=array)
    assert await sandbox.pull("text") == text
    came = await sandbox.pull("array")
    assert np.array_equal(came, array)
    came[0, 0] = 7
    assert (await sandbox.run("array[0, 0] = 9")).ok


async def test_pickle_of_a_hostile_sandbox_is_never_opened(sandbox: Sandbox, tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    trap = tmp_path / "sprung"
    assert (await sandbox.run(f"PATH = {str(trap)!r}\n{FORGE}{TRAP}")).ok
    with pytest.raises(TransferError, match="unpickled"):
        await sandbox.pull("value")
    assert not trap.exists()
