"""A Jupyter kernel for Python whose cells run in a sandbox."""

__version__ = "0.1.0"
