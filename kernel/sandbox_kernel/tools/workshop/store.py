"""The contract of a store. Each method is one step that has happened or has not, whenever the process dies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from .documents import Document


class ToolStore(ABC):
    """Keeps documents and artifacts; several processes may use it at once.

    The order makes a crash harmless: an artifact is put before a document names it, and dropped after no document does.
    What a crash leaves is at most an artifact that nobody uses.
    """

    @abstractmethod
    async def load(self, owner: str, name: str) -> Document | None:
        """Return a document; None if there is none. Raises ToolStorageError, as all methods do."""

    @abstractmethod
    async def documents(self, owner: str | None = None) -> Sequence[Document]:
        """Return those of an owner, or all, by owner and name."""

    @abstractmethod
    async def save(self, document: Document, expected: int) -> None:
        """Keep a document in place of the one with the revision EXPECTED; 0: there must be none.

        Artifacts that it names and did not name before are counted as used once more.

        Raises ToolConflictError if there is another one, or if an artifact that it names is not there (any more).
        """

    @abstractmethod
    async def delete(self, document: Document) -> None:
        """Remove this revision of a document. Raises ToolConflictError if there is another one."""

    @abstractmethod
    async def users(self, digest: str) -> Sequence[tuple[str, str]]:
        """Return owner and name of the documents that name an artifact."""

    @abstractmethod
    async def put_artifact(self, digest: str, data: bytes) -> bool:
        """Keep an artifact; return whether it was new."""

    @abstractmethod
    async def get_artifact(self, digest: str) -> bytes | None:
        """Return an artifact; None if there is none."""

    @abstractmethod
    async def drop_artifact(self, digest: str) -> bool:
        """Remove an artifact unless a document names it; return whether it is gone."""

    @abstractmethod
    async def artifacts(self) -> Sequence[str]:
        """Return the digests of all artifacts."""

    @abstractmethod
    async def count_use(self, digest: str) -> None:
        """Note that an artifact was used once more."""

    @abstractmethod
    async def uses(self, digest: str) -> int:
        """Return how often it was."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of what it holds open. Idempotent."""
