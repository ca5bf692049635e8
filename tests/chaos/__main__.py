"""`python -m tests.chaos`: a run of any length, its report on standard output; the exit status is 0 if all is well."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from .absence import TRUE, kernel_killed, network_away
from .faults import KILLS, NETWORK
from .runner import run


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--each", type=int, default=100, help="faults of each kind (%(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=(*NETWORK, *KILLS), default=[*NETWORK, *KILLS])
    parser.add_argument("--only", choices=("absence", "faults"), help="one part; without it, both")
    options = parser.parse_args()
    if options.only != "faults":
        run_absence()
    return 0 if options.only == "absence" else run_faults(options)


def run_absence() -> None:
    """Run one long cell while the network is away, and while its kernel process is killed."""
    for part in (network_away, kernel_killed):
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            print(part(Path(folder), TRUE), flush=True)


def run_faults(options: argparse.Namespace) -> int:
    """Run many cells through faults; return the exit status."""
    report = run(
        options.cells,
        options.seed,
        options.each,
        tuple(options.kinds),
        tell,
    )
    print(report)
    return 0 if report.good and min(report.struck[kind] for kind in options.kinds) >= options.each else 1


def tell(text: str) -> None:
    """Show how far it is."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
