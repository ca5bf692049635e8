"""What becomes of inputs: a value, or a failure that says what happened; and of them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sandbox_kernel.errors import CellError

RAISED = "raised"
"""The function raised an exception."""
MAY_HAVE_RUN = "may have run"
"""Its sandbox was lost when the function ran with it, or may have; it was not run again."""
TIMED_OUT = "timed out"
"""The function ran with it longer than a cell may (SandboxSession.execution_timeout), and was ended."""
NOT_SENT = "not sent"
"""The input cannot travel into a sandbox."""
NOT_RETURNED = "not returned"
"""The function returned what cannot travel out of a sandbox."""


@dataclass(frozen=True)
class Failure:
    """Why an input has no result. It stands in the place of one in `Results`."""

    index: int
    """Of the input, from 0."""
    kind: str
    """"raised", "may have run", "timed out", "not sent" or "not returned"."""
    name: str
    """Of the exception's class."""
    message: str
    traceback: str = ""
    """Of an exception of the function, as text."""

    def __str__(self) -> str:
        return f"input {self.index}: {self.name}: {self.message}"

    def error(self) -> CellError:
        """Return an exception of a class with the failure's name."""
        name = self.name if self.name.isidentifier() else "CellError"
        kind: type[CellError] = type(name, (CellError,), {})
        return kind(self.name, f"input {self.index}: {self.message}", self.traceback.splitlines())


@dataclass(frozen=True)
class Outcome:
    """What became of one input."""

    index: int
    """Of the input, from 0."""
    value: Any = None
    """What the function returned."""
    failure: Failure | None = None
    """Why there is no value; None where there is one."""

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.failure is None


class Results(list[Any]):
    """A list of what the function returned, in the order of the inputs; a `Failure` where it returned nothing."""

    @property
    def failures(self) -> list[Failure]:
        """The failures among them."""
        return [one for one in self if isinstance(one, Failure)]

    def raise_on_failure(self) -> Results:
        """Return these results. Raises the first failure's error, if there is one."""
        for failure in self.failures:
            raise failure.error()
        return self
