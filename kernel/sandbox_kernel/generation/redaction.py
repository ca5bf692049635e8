"""Takes what looks like a secret out of text that is sent to a model, or kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

HIDDEN = "***"
MIN_SECRET = 8
"""Characters: what is shorter is no secret that could be told from other words."""
MIN_PART = 4
"""Characters: what is shorter stands elsewhere for something else."""

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
TEXT = (
    r"(?:[rbfu]{0,2}(?:"
    r'"{3}(?:\\.|[^\\]){0,20000}?"{3}|'
    r"'{3}(?:\\.|[^\\]){0,20000}?'{3}|"
    r'"(?:\\.|[^"\\\n]){0,20000}"|'
    r"'(?:\\.|[^'\\\n]){0,20000}'))"
)
"""A text in Python, and in most other languages."""
_KIND = r"[\w.]{1,60}(?:\[[^\]\n=]{0,60}\])?"
_ASSIGNED = re.compile(
    rf"""
    (?P<name>(?<!\w)[a-z_][\w-]{{0,80}} | "[^"'\n]{{1,80}}" | '[^"'\n]{{1,80}}')
    (?:
        \s{{0,9}}\]?\s{{0,9}}
        (?: :?= | [=!]= | : | :\s{{0,9}}{_KIND}(?:\s{{0,9}}\|\s{{0,9}}{_KIND}){{0,5}}\s{{0,9}}= )
        \s{{0,40}}(?P<open>\(\s{{0,40}})?
    )
    (?P<value>{TEXT}(?(open)(?:\s{{0,40}}\+?\s{{0,40}}{TEXT}){{0,20}}|(?:[ ]?\+?[ ]?{TEXT}){{0,20}}))
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
"""A name, and a text that it is given: assigned, annotated, by `:=`, in a dictionary, as an argument, or compared."""
_ENVIRON = re.compile(
    rf"""
    (?:\benviron\s?(?:\[\s{{0,9}}{TEXT}\s{{0,9}}\]\s{{0,9}}=|\.setdefault\(\s{{0,9}}{TEXT}\s{{0,9}},)
        | \b(?:putenv|setenv)\(\s{{0,9}}{TEXT}\s{{0,9}},
    )
    \s{{0,40}}(?P<value>{TEXT})
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_ENV_MAGIC = re.compile(r"(^[ \t]*%(?:set_)?env[ \t]+\w+[ \t]*[= \t][ \t]*)\S[^\n]*", re.MULTILINE)
_IN_ENVIRONMENT = re.compile(
    r"(\b[A-Z0-9_]{0,60}(?:PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY)[A-Z0-9_]{0,60}=)"
    r"[^\s\"']{4,2000}"
)
_PAIR = re.compile(
    r"""(?:[?&;"']|\b\w{1,60}=[^\s,;()"']{1,80}\s)\s{0,3}(?<!\w)(?P<name>[a-z][\w-]{0,60})\s?=\s?"""
    r"""(?P<value>(?![rbfu]{1,2}["'])[^\s;&,"'()]{1,2000})(?![\w(.\[-])""",
    re.IGNORECASE,
)
"""In addresses and connection strings: `?token=…`, `;Password=…`, `user=me password=…`; arguments have commas."""
_TOLD = re.compile(
    r"""(?<![\w-])(?P<name>[a-z_](?:[\w-]|\ (?=key\b)){0,60})"""
    r"""(?:["']?\s{0,3}(?:[:=]|=>|\b(?:is|was)\b)\s{0,3}|\s{1,3}(?=["'`]))"""
    r"""(?P<value>"[^"\n]{1,500}"|'[^'\n]{1,500}'|`[^`\n]{1,500}`|[^\s"'`,;&()\[\]{}]{3,500})(?![\w(\[])""",
    re.IGNORECASE,
)
"""In a sentence."""
CODE_LINE = re.compile(r"\s*(?:-+>\s*)?\d+ |\s{4}")
"""What a line of code in a traceback begins with."""
_LIKE_A_KEY = re.compile(r"\S*\d\S*$")
OPENING = re.compile(r"""(?P<opening>(?:[rbfu]{0,2}(?=["']))?(?P<quote>"{3}|'{3}|["'`]?))""", re.IGNORECASE)
UNUSUAL = re.compile(r"(?=.*[^A-Za-z_])[^\n\"']{6,}$")
"""What is no ordinary word, so that it may be taken out wherever it stands."""


def is_secret_name(name: str) -> bool:
    """Whether a variable of that name, in Python or in an environment, may hold a secret."""
    return is_secret_column(name) or _KEY.search(name) is not None


def is_secret_column(name: str) -> bool:
    """Whether a column or an entry of that name may hold secrets; "key" alone is what other tables are joined by."""
    return _SECRET_COLUMN.search(name) is not None


def redact(text: str, secrets: Collection[str] = ()) -> str:
    """Return a text, with code in it, without what looks like a secret, and without these very values."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _KNOWN.sub(HIDDEN, text)
    text = _IN_ADDRESS.sub(rf"\1{HIDDEN}", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    found: set[str] = set()
    text = _without_values(_ENVIRON, text, lambda _: True, found)
    text = _without_values(_ASSIGNED, text, _assigns_secret, found)
    text = _without_values(_PAIR, text, _names_secret, found)
    text = _ENV_MAGIC.sub(rf"\1{HIDDEN}", text)
    text = _IN_ENVIRONMENT.sub(rf"\1{HIDDEN}", text)
    # What is a secret here, is one where it stands without its name, as in an error's message.
    for value in sorted(found, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", HIDDEN, text)
    return text


def redact_message(text: str) -> str:
    """Return sentences about an error, or a traceback, without what is told in them as a password or the like."""
    return "\n".join(line if CODE_LINE.match(line) else redact_told(line, set()) for line in text.split("\n"))


def redact_told(text: str, found: set[str]) -> str:
    """Return a sentence without what it tells as a password or the like, which is added to what was found."""
    return _without_values(_TOLD, text, _names_secret, found, ordinary=True)


def _without_values(
    pattern: re.Pattern[str],
    text: str,
    is_secret: Callable[[re.Match[str]], bool],
    found: set[str],
    *,
    ordinary: bool = False,
) -> str:
    """Return a text without the values that a pattern finds, which are noted; ordinary words only where wanted."""
    kept, end, start = [], 0, 0
    while match := pattern.search(text, start):
        ((opening, quote),) = OPENING.findall(match["value"][:5])[:1]
        content = match["value"][len(opening) :].removesuffix(quote)
        if not is_secret(match) or not content or HIDDEN in content:
            # What it would take for a value may hold a secret itself.
            start = match.start() + 1
            continue
        if ordinary or UNUSUAL.match(content):
            found.add(content)
        kept += [text[end : match.start("value")], opening, HIDDEN, quote]
        end = start = match.end("value")
    return "".join([*kept, text[end:]])


def _names_secret(match: re.Match[str]) -> bool:
    return is_secret_column(match["name"])


def _assigns_secret(match: re.Match[str]) -> bool:
    name = match["name"].strip("\"'")
    constant = name.isupper() and is_secret_name(name) and _LIKE_A_KEY.match(match["value"]) is not None
    return constant or is_secret_column(name)
