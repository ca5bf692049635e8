"""JSON exactly as a browser reads it: what is checked here must be what the front end sees.

Python's parser takes more than a browser's: UTF-16, NaN. Both let the last of equal keys win. What is not valid UTF-8
is read with replacement characters by both. A key `__proto__` can change what a JavaScript object seems to contain.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from sandbox_kernel.link.protocol import Buffer

Json = dict[str, Any]


class RefusedError(ValueError):
    """A message that no kernel sends; it is dropped and counted."""


class Parsed(NamedTuple):
    """A JSON object, and whether its source may be passed on in its place."""

    content: Json
    exact: bool


def _refuse_constant(name: str) -> Any:
    raise RefusedError(f"{name} is no JSON")


class _Pairs:
    """Makes objects without the keys that mean more than themselves in JavaScript."""

    def __init__(self) -> None:
        self.dropped = False

    def __call__(self, pairs: list[tuple[str, Any]]) -> Json:
        made = dict(pairs)
        if "__proto__" in made:
            del made["__proto__"]
            self.dropped = True
        return made


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


def parse(raw: Buffer) -> Parsed:
    """Read an object. Raises ValueError or RecursionError where there is none."""
    exact = True
    try:
        text = str(raw, "utf-8")
    except UnicodeDecodeError:
        text, exact = str(raw, "utf-8", "replace"), False
    if "\\u00" in text or "__proto__" in text:
        # Only then can the key be there: its characters are ASCII, plain or escaped.
        pairs = _Pairs()
        content = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=pairs).decode(text)
        exact = exact and not pairs.dropped
    else:
        content = _decode(text)
    if type(content) is not dict:
        raise RefusedError("not a JSON object")
    return Parsed(content, exact)


def dump(content: Json) -> bytes:
    """Return an object as compact JSON."""
    try:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair; only escaped can it be passed on.
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def text_of(value: object) -> str:
    """Return a MIME bundle's text, which may also be a list of lines. Raises RefusedError for anything else."""
    if type(value) is str:
        return value
    if type(value) is list and all(type(line) is str for line in value):
        return "".join(value)
    raise RefusedError("no text where text belongs")
