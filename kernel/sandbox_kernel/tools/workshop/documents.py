"""What is kept of a tool: a document for each owner and name, and an artifact for each distinct code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

LANGUAGES = ("python", "javascript", "typescript")


@dataclass(frozen=True)
class Artifact:
    """Checked code, under the SHA-256 of ``language:normalised code``. The same for all who use it."""

    digest: str
    language: str
    code: str
    function: str
    """The function in it that is called."""
    input_schema: Mapping[str, Any]
    description: str

    def to_json(self) -> bytes:
        """Return what is stored at ``artifacts/{digest}.json``."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Artifact:
        """Read what was stored. Raises ValueError, TypeError, KeyError where it is something else."""
        return cls(**json.loads(data))


@dataclass(frozen=True)
class Version:
    """One state of a tool's code. Its number grows by one; a label, such as 1.2.0, is the owner's."""

    number: int
    digest: str
    created: float
    """Seconds since the epoch."""
    label: str = ""


@dataclass(frozen=True)
class Document:
    """A tool of somebody's."""

    owner: str
    name: str
    versions: tuple[Version, ...]
    current: int
    """The number of the version that is run."""
    enabled: bool = True
    revision: int = 0
    """Grows with each change that is saved; two who change it at once are told apart by it."""
    published: Mapping[str, Any] = field(default_factory=dict)
    """Where it was published, by the gateway's name."""

    @property
    def version(self) -> Version:
        """The version that is run."""
        return self.numbered(self.current)

    def numbered(self, number: int) -> Version:
        """Return a version. Raises KeyError."""
        for one in self.versions:
            if one.number == number:
                return one
        raise KeyError(number)

    @property
    def digests(self) -> frozenset[str]:
        """The artifacts that it uses."""
        return frozenset(one.digest for one in self.versions)

    def changed(self, **fields: Any) -> Document:
        """Return the document with other fields and the next revision."""
        return replace(self, **fields, revision=self.revision + 1)

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps({**asdict(self), "published": dict(self.published)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Document:
        """Read what was stored."""
        fields = json.loads(text)
        return cls(**{**fields, "versions": tuple(Version(**one) for one in fields["versions"])})
