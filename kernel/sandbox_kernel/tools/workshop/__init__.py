"""Tools that are written in notebooks: checked, kept with versions and owners, and run in a sandbox.

``Workshop`` is their life cycle, for notebooks and programs; stores keep them. See docs/tools.md.
"""

from .lifecycle import Workshop
from .settings import WorkshopSettings

__all__ = ["Workshop", "WorkshopSettings"]
