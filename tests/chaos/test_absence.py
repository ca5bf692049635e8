"""A short cell that prints while nobody hears it. `make chaos` takes one of a minute, and 20 seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("an executor's sandboxes need bubblewrap, which only Linux has", allow_module_level=True)
pytest.importorskip("grpc")

from .absence import SHORT, kernel_killed, network_away


def test_output_is_whole_and_in_its_cell_when_the_network_was_away(tmp_path: Path) -> None:
    assert "all 80 lines" in network_away(tmp_path, SHORT)


def test_attach_shows_all_and_then_the_rest_live(tmp_path: Path) -> None:
    assert "all 80 lines" in kernel_killed(tmp_path, SHORT)
