"""Fuzzers; they are not part of the test suite, since they end only when they find something."""
