"""Names of files that usually hold secrets: no pattern and no folder hands them over; who wants one names it."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

PATTERNS = """
    .env .env.* *.env .envrc .git .hg .svn .ssh .aws .azure .gnupg .kube .docker .gcloud .netrc _netrc .pgpass .my.cnf
    .npmrc .pypirc .git-credentials .htpasswd .vault-token .terraform *.tfstate *.tfvars
    *.pem *.key *.p12 *.pfx *.jks *.keystore *.kdbx *.ppk *.asc *.gpg id_rsa* id_dsa* id_ecdsa* id_ed25519*
    credentials credentials.* *_credentials.json client_secret*.json service_account*.json secrets.* .streamlit
""".split()
"""Of a name on the way to the file, or the file's own; compared without regard to case."""
NO_SECRETS = ("*.pub", ".env.example", ".env.sample", ".env.template")


def is_secret(parts: Iterable[str]) -> bool:
    """Whether a file, given by the names on the way to it, is taken to hold a secret."""
    return any(
        fnmatchcase(name, pattern)
        for name in map(str.casefold, parts)
        if not any(fnmatchcase(name, harmless) for harmless in NO_SECRETS)
        for pattern in PATTERNS
    )
