"""The models that can be asked: one file per kind, each loaded on first use."""
