"""What carries a link's bytes: the contract between a link and a provider."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol, Union

Buffer = Union[bytes, bytearray, memoryview]


class Receiver(Protocol):
    """Who is told what a transport brings. Every method is called on the event loop's thread."""

    def data_received(self, data: memoryview) -> None:
        """Bytes arrived, in order. The view is valid during the call only."""

    def writable(self) -> None:
        """What was written has left; more may be written."""

    def connection_lost(self, reason: str) -> None:
        """The transport ended, for the reason given in one clause. Called once, and last."""


class Transport(ABC):
    """An ordered byte stream between the kernel process and a bridge; it may end at any time."""

    @abstractmethod
    def start(self, receiver: Receiver) -> None:
        """Begin to deliver. Called once, on the event loop's thread, before anything is written."""

    @abstractmethod
    def write(self, buffers: Sequence[Buffer]) -> bool:
        """Send the buffers, in order, without blocking.

        What cannot leave at once is kept (not copied). Returns whether everything left; after False the caller waits
        for `Receiver.writable` before it writes again.
        """

    @abstractmethod
    def close(self) -> None:
        """End the stream. Idempotent; `Receiver.connection_lost` is not called for it."""
