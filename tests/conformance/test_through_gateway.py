"""The suites once more, with the cells in kernels of real servers: in either mode."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.gateways import JUPYTER_SERVER, KINDS, TOKEN, serving
from tests.gateways import WHOLE as ALL_WAYS

from .children import CHOSEN, run_suites, tell_passed
from .conftest import KERNEL, WHOLE

if sys.platform != "linux":
    pytest.skip("the servers are started and ended as on Linux", allow_module_level=True)
pytest.importorskip("jupyter_server")

_SECONDS = 1500 if WHOLE else 280
_WAYS = [(kind, mode) for kind in KINDS for mode in ("bridge", "relay")]
_CHOSEN = [way for way in _WAYS if ALL_WAYS or "bridge" in way or JUPYTER_SERVER.name in way]
"""Relay mode passes messages on, whoever runs the kernel."""


def our_kernelspec(folder: Path) -> str:
    """Give a gateway a kernelspec of this environment; return its name.

    A gateway's own environment lacks what the suites are about: debugpy, widgets, a new ipykernel.
    """
    spec = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "language": "python"}
    place = folder / "data" / "kernels" / "tested"
    place.mkdir(parents=True)
    (place / "kernel.json").write_text(json.dumps({**spec, "display_name": "Tested"}))
    return place.name


@pytest.mark.skipif(KERNEL != "sandbox", reason="another kernel is under test")
@pytest.mark.timeout(_SECONDS)
@pytest.mark.parametrize(("kind", "mode"), _CHOSEN)
def test_the_suites_pass_through_a_gateway(
    kind: str, mode: str, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    chosen = {"kernel_name": our_kernelspec(tmp_path / "gateway")} if WHOLE else {}
    with serving(tmp_path / "gateway", KINDS[kind]) as gateway:
        token = {"SANDBOX_KERNEL_GATEWAY_TOKEN": TOKEN}
        title = "Python (kernel of a gateway)"
        options = gateway.arguments(mode=mode, **chosen)
        where = {"SANDBOX_CONFORMANCE_GATEWAY": mode}
        done = run_suites(
            tmp_path, "sandbox-gateway", title, options, str(CHOSEN), timeout=_SECONDS - 30, env=where, spec_env=token
        )
    tell_passed(done, f"conformance through {kind}, {mode} mode", record_property)
