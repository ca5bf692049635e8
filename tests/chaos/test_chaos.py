"""Five hundred cells of which none is lost or runs twice. `make chaos` runs ten thousand."""

from __future__ import annotations

import sys

import pytest

if sys.platform != "linux":
    pytest.skip("an executor's sandboxes need bubblewrap, which only Linux has", allow_module_level=True)
pytest.importorskip("grpc")

from .faults import KILLS, NETWORK, make_plan
from .runner import run

KINDS = (*NETWORK, *KILLS)


@pytest.mark.timeout(900)
def test_every_cell_runs_once_and_is_answered_in_full() -> None:
    report = run(500, seed=7, each=5)
    assert report.good, str(report)
    assert {kind: report.struck[kind] for kind in KINDS} == dict.fromkeys(KINDS, 5)
    # Only what was killed itself is not answered in full.
    assert report.answered + report.told_lost + report.unanswered == 500
    assert report.told_lost <= 5 * 3


def test_a_seed_decides_the_plan() -> None:
    plan = make_plan(500, 7, KINDS, 5)
    assert plan == make_plan(500, 7, KINDS, 5)
    assert plan != make_plan(500, 8, KINDS, 5)
    assert plan.counts == dict.fromkeys(KINDS, 5)
    with pytest.raises(ValueError, match="no room"):
        make_plan(10, 7, KINDS, 5)
