"""Certificates for tests of TLS: an authority of the test's own, and what it signs."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import trustme


class Authority:
    """A certificate authority whose files lie in one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._authority = trustme.CA()
        self.file = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.file))

    def issue(self, name: str = "localhost", *, expired: bool = False) -> tuple[str, str]:
        """Return the paths of a certificate chain and of its private key."""
        now = datetime.now(timezone.utc)
        until = now - timedelta(days=1) if expired else now + timedelta(days=1)
        issued = self._authority.issue_cert(name, not_before=now - timedelta(days=10), not_after=until)
        label = f"{name}-{'expired' if expired else 'valid'}"
        chain, key = self._folder / f"{label}.pem", self._folder / f"{label}.key"
        for index, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(str(chain), append=index > 0)
        issued.private_key_pem.write_to_path(str(key))
        return str(chain), str(key)

    def server(self, **options: Any) -> dict[str, str]:
        """Return what an executor's configuration says of a new certificate."""
        chain, key = self.issue(**options)
        return {"certificate_file": chain, "private_key_file": key}
