"""What a provider implements for basic mode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Union


@dataclass(frozen=True)
class Text:
    """Something was printed; ``name`` is stdout or stderr."""

    name: str
    text: str


@dataclass(frozen=True)
class Display:
    """Something is shown; with ``result`` it is the cell's value."""

    data: dict[str, Any]
    metadata: dict[str, Any] = field(default_factory=dict)
    result: bool = False


@dataclass(frozen=True)
class Failure:
    """The cell ended by an exception."""

    name: str
    value: str
    traceback: list[str]


Event = Union[Text, Display, Failure]


class Runner(ABC):
    """Runs code in one sandbox, one cell at a time."""

    language: str
    version: str
    """Of the language, such as "3.11.7"."""

    @abstractmethod
    def run(self, code: str) -> AsyncIterator[Event]:
        """Run code and yield what comes of it, as it comes. An exception of the code is a Failure.

        Closing the iterator before its end interrupts the code. Raises SandboxError.
        """

    @abstractmethod
    async def restart(self) -> None:
        """Forget all variables. Raises SandboxError."""

    @abstractmethod
    def shell(self, text: str) -> AsyncIterator[bytes | int]:
        """Run a shell command; yield its output and, last, its exit status. Closing the iterator ends it."""
