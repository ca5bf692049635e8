"""What a tool knows of the call that it serves: variables, correlation id, and where its progress goes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

_NO_VARIABLES: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class RuntimeContext:
    """The circumstances of one call. Each call has its own, however many run at once.

    ``variables`` are those of the session and of the call; those in ``fixed`` come from the configuration, and no cell
    can have set them.
    """

    variables: Mapping[str, Any] = field(default_factory=lambda: _NO_VARIABLES)
    correlation_id: str = ""
    fixed: frozenset[str] = frozenset()
    on_progress: Callable[[float | None, str], None] | None = field(default=None, compare=False, repr=False)
    _cancelled: threading.Event = field(default_factory=threading.Event, init=False, compare=False, repr=False)

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the call any more; a blocking tool may look at it, and end."""
        return self._cancelled.is_set()

    def wait_cancelled(self, timeout: float | None = None) -> bool:
        """Sleep up to ``timeout`` seconds, and no longer than somebody waits for the call; return `cancelled`."""
        return self._cancelled.wait(timeout)

    def cancel(self) -> None:
        """Tell the tool that nobody waits any more."""
        self._cancelled.set()

    def get(self, name: str, default: Any = None) -> Any:
        """Return a variable."""
        return self.variables.get(name, default)


_current: ContextVar[RuntimeContext | None] = ContextVar("sandbox_kernel_runtime_context", default=None)


def current_context() -> RuntimeContext:
    """Return the context of the call that runs here; an empty one outside of calls."""
    return _current.get() or RuntimeContext()


def enter(context: RuntimeContext) -> None:
    """Make a context the current one, for this task or thread."""
    _current.set(context)


def report_progress(fraction: float | None = None, message: str = "") -> None:
    """Tell the cell how far the tool has come: 0 to 1, or None where that is not known."""
    context = _current.get()
    if context is not None and context.on_progress is not None:
        share = None if fraction is None else min(1.0, max(0.0, float(fraction)))
        context.on_progress(share, str(message)[:1000])
