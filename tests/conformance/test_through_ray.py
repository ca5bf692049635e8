"""The suites once more, with the sandboxes on the nodes of a Ray cluster; on demand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.ray_cluster import clustered

from .children import SUITES, run_suites, tell_passed
from .conftest import KERNEL, WHOLE

if sys.platform != "linux":
    pytest.skip("the sandboxes of a node need bubblewrap, which only Linux has", allow_module_level=True)
pytest.importorskip("ray", reason="ray is not installed: there is no wheel for this Python")

_SECONDS = 2400
# Upstream's tests kill kernel processes, whose sandboxes are kept for them: here not for long. And they debug, and ask
# for subshells, before the first cell, for which by itself nobody's cluster is used.
OPTIONS = {"unused_timeout": 4.0, "start_with_kernel": True}


@pytest.mark.skipif(not WHOLE, reason="SANDBOX_CONFORMANCE_WHOLE=1 runs it: each sandbox takes seconds to start there")
@pytest.mark.skipif(KERNEL != "sandbox", reason="another kernel is under test")
@pytest.mark.timeout(_SECONDS)
def test_the_suites_pass_through_a_ray_cluster(tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    with clustered(tmp_path / "ray", cpus=32) as cluster:
        title = "Python (sandbox in a Ray cluster)"
        options = cluster.arguments(**OPTIONS)
        slow = {"SANDBOX_CONFORMANCE_SLOW_START": "1"}
        done = run_suites(tmp_path, "sandbox-ray", title, options, str(SUITES), timeout=_SECONDS, env=slow)
    tell_passed(done, "conformance through a Ray cluster", record_property)
