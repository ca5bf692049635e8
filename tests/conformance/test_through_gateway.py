"""The samples once more, with the cells in kernels of real servers: messages are passed on, whoever runs the kernel."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.gateways import KINDS, TOKEN, serving

from .children import SAMPLES, run_suites, tell_passed
from .conftest import KERNEL

if sys.platform != "linux":
    pytest.skip("the servers are started and ended as on Linux", allow_module_level=True)
pytest.importorskip("jupyter_server")

_SECONDS = 280


@pytest.mark.skipif(KERNEL != "sandbox", reason="another kernel is under test")
@pytest.mark.timeout(_SECONDS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_samples_pass_through_a_gateway(kind: str, tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    with serving(tmp_path / "gateway", KINDS[kind]) as gateway:
        token = {"SANDBOX_KERNEL_GATEWAY_TOKEN": TOKEN}
        title = "Python (kernel of a gateway)"
        options = gateway.arguments()
        done = run_suites(
            tmp_path, "sandbox-gateway", title, options, str(SAMPLES), timeout=_SECONDS - 30, spec_env=token
        )
    tell_passed(done, f"conformance through {kind}", record_property)
