"""`python tests/benchmarks/bench.py`: measures two kernels side by side and prints medians, ratios and bounds.

The first kernel is held against the bounds, the last is the reference. Both are started from their kernelspecs by the
same code and take turns, so that a busy machine slows both; `--kernels python3,python3` shows how far two equal kernels
differ on this one. ipykernel writes its history to disk after each cell; where the disk is slow that flatters the other
kernel, and `--kernels 'sandbox,python3 --HistoryManager.hist_file=:memory:'` compares without.
The exit status says whether everything could be measured; whether the bounds hold is for the reader.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from jupyter_client.kernelspec import NoSuchKernel
from kernel_bench import table
from kernel_bench.catalogue import CATALOGUE
from kernel_bench.plan import Effort
from kernel_bench.process import Contender
from kernel_bench.results import Row

KERNELS_HELP = "kernelspecs, subject first; options may follow a name"


def main() -> int:
    """Measure, print, and return the exit status."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="kernel-bench-") as folder:
        try:
            contenders = [Contender.of(name, Path(folder)) for name in options.kernels]
        except NoSuchKernel as exc:
            print(f"no kernelspec is called {exc.name}; `jupyter kernelspec list` shows what there is", file=sys.stderr)
            return 2
        rows, failures = _measure(contenders, options.only, Effort(options.quick))
    print(f"\n{table.summary(rows, failures)}\nload at the end {os.getloadavg()[0]:.2f}")
    if options.json:
        table.write_json(options.json, options.kernels, rows, failures)
    return 1 if failures else 0


def _measure(contenders: Sequence[Contender], names: Sequence[str], effort: Effort) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    failures: list[str] = []
    print(f"{table.machine()}\n\n{table.heading([contender.name for contender in contenders])}", flush=True)
    for name in names:
        # One kernel that cannot do one thing must not cost the rest of the table.
        try:
            for row in CATALOGUE[name](contenders, effort):
                rows.append(row)
                print(table.line(row), flush=True)
        except Exception as exc:  # noqa: BLE001 - see above
            failures.append(f"{name}: {type(exc).__name__}: {exc}")
            print(f"could not measure {failures[-1]}", flush=True)
    return rows, failures


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a minute or two, and more noise")
    parser.add_argument("--kernels", type=_words, default=["sandbox", "python3"], help=KERNELS_HELP)
    parser.add_argument("--only", type=_measurements, default=list(CATALOGUE), help=f"some of {','.join(CATALOGUE)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all samples there")
    return parser.parse_args()


def _words(text: str) -> list[str]:
    return text.split(",")


def _measurements(text: str) -> list[str]:
    names = _words(text)
    unknown = [name for name in names if name not in CATALOGUE]
    if unknown:
        raise argparse.ArgumentTypeError(f"no measurement {', '.join(unknown)}; there are {', '.join(CATALOGUE)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
