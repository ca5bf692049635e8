"""Files between this machine and the sandbox, beside `cp` of the same file on the same disk."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from kernel_bench.plan import Effort, Samples, interleaved
from kernel_bench.process import Contender, Kernel, running
from kernel_bench.results import Row

MEGABYTE = 1024**2
FULL, QUICK = 1024 * MEGABYTE, 128 * MEGABYTE
ALLOW = "--SandboxSession.approvals=download=allow"
CP = "cp"


def files(contenders: Sequence[Contender], effort: Effort) -> Iterator[Row]:
    """Take one large file up and down with the first kernel that has `%sandbox`; `cp` is the reference."""
    subject = contenders[0]
    allowed = Contender(subject.name, (*subject.argv, ALLOW), subject.env, subject.folder)
    size = effort.count(FULL, QUICK)
    with running([allowed]) as (kernel,):
        folder = Path(kernel.connection_file).parent / "work"
        _fill(folder / "big.bin", size)
        for name, line in (
            ("upload", "%sandbox upload big.bin --to up"),
            ("download", "%sandbox download up/big.bin --to down"),
        ):
            measures = [partial(_transfer, kernel, folder, line, size), partial(_copy, folder, size)]
            samples = interleaved(effort.count(5, 2), measures, lambda measure: measure())
            yield Row(
                f"{name} of {size // MEGABYTE} MB (reference: `{CP}`)", "MB/s", _per_contender(samples, contenders)
            )


def _per_contender(samples: Samples, contenders: Sequence[Contender]) -> Samples:
    """The subject's figures first and those of `cp` last, with nothing for contenders between."""
    return (samples[0], *(() for _ in contenders[2:]), samples[1])


def _fill(path: Path, size: int) -> None:
    block = os.urandom(MEGABYTE)
    with path.open("wb") as file:
        for _ in range(size // MEGABYTE):
            file.write(block)


def _transfer(kernel: Kernel, folder: Path, line: str, size: int) -> float:
    (folder / "down/up/big.bin").unlink(missing_ok=True)
    cell = kernel.wire.run(line, timeout=300)
    return size / MEGABYTE / cell.seconds


def _copy(folder: Path, size: int) -> float:
    target = folder / "copy.bin"
    target.unlink(missing_ok=True)
    began = time.perf_counter()
    subprocess.run([CP, str(folder / "big.bin"), str(target)], check=True)
    return size / MEGABYTE / (time.perf_counter() - began)
