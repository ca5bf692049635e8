"""Takes what looks like a secret out of text that is sent to a model, or kept."""

from __future__ import annotations

import re
from collections.abc import Collection

HIDDEN = "***"
MIN_SECRET = 8
"""Characters: what is shorter is no secret that could be told from other words."""

_NAME = r"pass(?:word|wd|phrase)?|secret|token|(?:api|access|private)[ _-]?key|credential|authorization"
SECRET_COLUMN = (
    r"(?i:password|passwd|passphrase)"
    rf"|(?:^|[\W_]|(?<=[a-z])(?=[A-Z]))(?i:{_NAME}|pwd)s?(?:$|[\W_\d]|(?=[A-Z]))"
)
"""What finds the name of a column, or of an entry, that may hold secrets: a part of it, in whatever spelling."""
_SECRET_COLUMN = re.compile(SECRET_COLUMN)
_KEY = re.compile(r"(?:^|[_-])keys?(?:$|[_-])", re.IGNORECASE)
_KNOWN = re.compile(
    r"""
    -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|\Z)
    | \b(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b
    | \b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}
    | \bgh[pousr]_[A-Za-z0-9]{20,} | \bgithub_pat_[A-Za-z0-9_]{20,}
    | \bglpat-[A-Za-z0-9_-]{20,}
    | \bxox[abprs]-[A-Za-z0-9-]{10,}
    | \bAIza[0-9A-Za-z_-]{30,}
    | \bhf_[A-Za-z0-9]{20,}
    | \be2b_[a-z0-9]{20,}
    | \beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*
    """,
    re.VERBOSE | re.DOTALL,
)
_IN_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{0,100}:)[^\s/@]{1,200}(?=@)", re.IGNORECASE)
_BEARER = re.compile(r"(\b(?:bearer|basic)\s+)[A-Za-z0-9+/=._~-]{8,}", re.IGNORECASE)
_QUOTED = re.compile(
    rf"""(\b\w{{0,60}}(?:{_NAME})\w{{0,60}}["']?\]?\s{{0,9}}[:=]\s{{0,9}}[rbfu]{{0,2}})(["'])(?!\2)[^\n"']{{1,2000}}\2""",
    re.IGNORECASE,
)
_IN_ENVIRONMENT = re.compile(
    r"(\b[A-Z0-9_]{0,60}(?:PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY)[A-Z0-9_]{0,60}=)[^\s\"']{4,2000}"
)


def is_secret_name(name: str) -> bool:
    """Whether a variable of that name, in Python or in an environment, may hold a secret."""
    return is_secret_column(name) or _KEY.search(name) is not None


def is_secret_column(name: str) -> bool:
    """Whether a column or an entry of that name may hold secrets; "key" alone is what other tables are joined by."""
    return _SECRET_COLUMN.search(name) is not None


def redact(text: str, secrets: Collection[str] = ()) -> str:
    """Return the text without what looks like a secret, and without these very values."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _KNOWN.sub(HIDDEN, text)
    text = _IN_ADDRESS.sub(rf"\1{HIDDEN}", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    text = _QUOTED.sub(rf"\1\2{HIDDEN}\2", text)
    return _IN_ENVIRONMENT.sub(rf"\1{HIDDEN}", text)
