"""Answers that are given while there is no sandbox."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from packaging.version import Version

from sandbox_kernel import answers


@pytest.mark.parametrize("language", ["python", "javascript"])
def test_kernel_info_has_a_version_before_one_is_known(language: str) -> None:
    info = answers.kernel_info("", "", language)
    assert Version(info["implementation_version"]) > Version("0")


def test_kernel_info_has_the_versions_that_cells_see() -> None:
    info = answers.kernel_info("3.10.1", "8.18.0")
    assert (info["language_info"]["version"], info["implementation_version"]) == ("3.10.1", "8.18.0")
    assert "IPython 8.18.0" in info["banner"]
    assert answers.kernel_info("3.10.1", "")["implementation_version"] == version("ipython")
