"""Which ports kernels under test get, and what tests have to say at the end of a run, whichever process ran them."""

from __future__ import annotations

import pytest

from tests.ports import choose_for_jupyter_client

SAID = "said at the end"
"""The property of a test's report that is shown, with the value (title, text)."""

choose_for_jupyter_client()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print it, by title."""
    said: dict[str, list[str]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                if name == SAID:
                    title, text = value
                    said.setdefault(str(title), []).append(str(text))
    for title, texts in said.items():
        terminalreporter.section(title)
        for text in sorted(texts):
            terminalreporter.line(text)
