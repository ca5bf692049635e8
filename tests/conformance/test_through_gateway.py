"""The samples once more, with the cells in kernels of real servers: in either mode."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.gateways import JUPYTER_SERVER, KINDS, TOKEN, WHOLE, serving

from .children import SAMPLES, run_suites, tell_passed
from .conftest import KERNEL

if sys.platform != "linux":
    pytest.skip("the servers are started and ended as on Linux", allow_module_level=True)
pytest.importorskip("jupyter_server")

_SECONDS = 280
_WAYS = [(kind, mode) for kind in KINDS for mode in ("bridge", "relay")]
_CHOSEN = [way for way in _WAYS if WHOLE or "bridge" in way or JUPYTER_SERVER.name in way]
"""Relay mode passes messages on, whoever runs the kernel."""


@pytest.mark.skipif(KERNEL != "sandbox", reason="another kernel is under test")
@pytest.mark.timeout(_SECONDS)
@pytest.mark.parametrize(("kind", "mode"), _CHOSEN)
def test_the_samples_pass_through_a_gateway(
    kind: str, mode: str, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    with serving(tmp_path / "gateway", KINDS[kind]) as gateway:
        token = {"SANDBOX_KERNEL_GATEWAY_TOKEN": TOKEN}
        title = "Python (kernel of a gateway)"
        options = gateway.arguments(mode=mode)
        done = run_suites(
            tmp_path, "sandbox-gateway", title, options, str(SAMPLES), timeout=_SECONDS - 30, spec_env=token
        )
    tell_passed(done, f"conformance through {kind}, {mode} mode", record_property)
