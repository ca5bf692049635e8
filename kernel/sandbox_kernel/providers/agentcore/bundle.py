"""The program for the sandbox as one archive: the bridge, the porter, and the link's protocol."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[2]
_TIME = (2020, 1, 1, 0, 0, 0)


@cache
def bundle() -> bytes:
    """Return a zip archive with `sandbox_kernel/bridge` and `sandbox_kernel/link`."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as made:
        for path in sorted([*(_PACKAGE / "bridge").glob("*.py"), *(_PACKAGE / "link").glob("*.py")]):
            entry = zipfile.ZipInfo(f"sandbox_kernel/{path.parent.name}/{path.name}", _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            made.writestr(entry, path.read_bytes())
    return archive.getvalue()
