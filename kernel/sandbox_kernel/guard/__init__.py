"""What may come out of a sandbox: message types, MIME bundles, widgets, sizes. See docs/security.md.

`Guard` is light to import: what cleans HTML and reads Markdown is loaded with the first output that needs it.
"""

from .policy import Guard

__all__ = ["Guard"]
