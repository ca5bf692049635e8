"""The program that runs inside a sandbox, packed to be sent to one elsewhere."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent.parent
_LINK = ("__init__.py", "envelope.py", "pieces.py", "protocol.py", "websocket.py")


@cache
def bridge_archive() -> bytes:
    """Return a zip archive with the folder `sandbox_kernel`, as far as it is needed inside; always the same bytes."""
    files = [
        _PACKAGE / "__init__.py",
        *(_PACKAGE / "link" / name for name in _LINK),
        *sorted((_PACKAGE / "bridge").glob("*.py")),
    ]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            name = str(Path("sandbox_kernel") / file.relative_to(_PACKAGE))
            archive.writestr(zipfile.ZipInfo(name), file.read_bytes(), zipfile.ZIP_DEFLATED)
    return stream.getvalue()
