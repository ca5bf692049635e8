"""`python -m tests.chaos`: a run of any length, its report on standard output; the exit status is 0 if all is well."""

from __future__ import annotations

import argparse
import sys

from .faults import KILLS, NETWORK
from .runner import run


def main() -> int:
    """Run cells through faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--each", type=int, default=100, help="faults of each kind (%(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=(*NETWORK, *KILLS), default=[*NETWORK, *KILLS])
    options = parser.parse_args()
    report = run(
        options.cells,
        options.seed,
        options.each,
        tuple(options.kinds),
        lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(report)
    return 0 if report.good and min(report.struck[kind] for kind in options.kinds) >= options.each else 1


def tell(text: str) -> None:
    """Show how far it is."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
