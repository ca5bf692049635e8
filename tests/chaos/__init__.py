"""Cells through connections and processes that fail: each runs once, with all of its output and its reply."""
