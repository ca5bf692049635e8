"""The kernel under test, whose output guard SIGUSR1 turns off, and SIGUSR2 on again: run as `sandbox_kernel` is.

At each of these signals it notes how many seconds of the processor its guard has used, in the file of its temporary
folder that GUARD_SPENT names.
"""

from __future__ import annotations

import gc

# As `python -m sandbox_kernel` does.
gc.disable()

import os  # noqa: E402
import signal  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from sandbox_kernel.app import main  # noqa: E402
from sandbox_kernel.guard import Guard  # noqa: E402

CHECKS = ("output", "reply", "question")
make = Guard.__init__


def make_switched(guard: Guard, *args: Any, **kwargs: Any) -> None:
    """Make a guard that listens to the signals."""
    make(guard, *args, **kwargs)
    spent = 0.0

    def timed(check: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*message: Any) -> Any:
            nonlocal spent
            began = time.thread_time()
            try:
                return check(*message)
            finally:
                spent += time.thread_time() - began

        return checked

    def switch(number: int, _frame: object) -> None:
        Path(tempfile.gettempdir(), os.environ["GUARD_SPENT"]).write_text(str(spent))
        guard.trusted_output = number == signal.SIGUSR1

    for name in CHECKS:
        setattr(guard, name, timed(getattr(guard, name)))
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, switch)


if __name__ == "__main__":
    Guard.__init__ = make_switched  # type: ignore[method-assign]
    main()
