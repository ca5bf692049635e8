"""The arguments of `map` that are numbers, and the sandboxes that do its work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from typing import Any

from sandbox_kernel.errors import CommandError
from sandbox_kernel.library.sandbox import Sandbox


def require_number(name: str, value: object, least: int) -> None:
    """Raise CommandError for what is no number, or too small a one."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise CommandError(f"{name} is a whole number{' or a list' if name == 'sandboxes' else ''}, not {value!r}.")
    if value < least and name != "sandboxes":
        raise CommandError(f"{name} is {least} at least, and this is {value}.")


def make_pool(sandboxes: int | Sequence[Sandbox], options: dict[str, Any], inputs: object) -> list[Sandbox]:
    """Return those that do the work: made for it, or given. Raises CommandError, ConfigurationError."""
    if isinstance(sandboxes, int) or not isinstance(sandboxes, Iterable):
        require_number("sandboxes", sandboxes, 1)
        if not 1 <= sandboxes <= 10_000:
            raise CommandError(f"map works in 1 sandbox at least, and sandboxes is {sandboxes}.")
        # No more than there are inputs.
        count = min(sandboxes, max(1, len(inputs))) if isinstance(inputs, Sized) else sandboxes
        if "keep_changes" in options:
            raise CommandError(
                "keep_changes: nothing is kept of the sandboxes that map makes; make some, and pass them as a list."
            )
        # Nor do they go on by themselves, whatever is configured for those of notebooks.
        options = {"on_shutdown": {}, **options}
        return [Sandbox(**options, keep_changes=False) for _ in range(count)]
    pool = list(sandboxes)
    if options:
        raise CommandError(f"{', '.join(options)}: options are for sandboxes that map makes; these are made already.")
    if not pool or not all(isinstance(one, Sandbox) for one in pool) or len({id(one) for one in pool}) < len(pool):
        raise CommandError("sandboxes is a number, or a list of Sandbox objects, each once.")
    return pool
