"""`%%sandbox --replicas N`: one cell in many sandboxes at once, what is equal shown once."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from sandbox_kernel.commands import CommandContext
from sandbox_kernel.errors import CommandError, SandboxKernelError

from .counting import Counting
from .registry import argument, cell_command

if TYPE_CHECKING:
    # Loaded with the first cell that needs it.
    from sandbox_kernel.library import Output, Result, Sandbox

WIDGET = "application/vnd.jupyter.widget-view+json"
END_TIMEOUT = 5.0
"""Seconds in which interrupted replicas must have ended."""
MAX_OUTPUT = 8 * 1024 * 1024
"""Bytes of output that are kept of one replica."""


class ReplicasFailedError(CommandError):
    """The cell failed in some of the replicas, whose output says how."""


@cell_command("replicas", argument("count", type=int, metavar="N", help="how many sandboxes"))
async def replicas(context: CommandContext, arguments: Namespace, body: str) -> None:
    """Run the cell in N fresh sandboxes at once; `%%sandbox --replicas N` is the same.

    In each of them `replica` is its number, from 1, and `replicas` is N. When all have ended their outputs are shown,
    equal ones once, under the numbers of those that they are of. Each sandbox ends with its run of the cell.
    """
    require_allowed(context, arguments.count, "replicas")
    from sandbox_kernel.library import Sandbox

    settings: dict[str, Any] = {
        "config": context.session.config,
        "directory": context.session.directory,
        "private_paths": context.session.private_paths,
        # Each sees the folder as it is, and leaves nothing, whatever is configured for the notebook's own.
        "keep_changes": False,
        "on_shutdown": {},
    }
    async with AsyncExitStack() as stack:
        pool = [Sandbox(**settings) for _ in range(arguments.count)]
        for sandbox in pool:
            sandbox.max_output = MAX_OUTPUT
        with Counting(context, "replicas", len(pool)) as counting:
            standing = _Standing(counting)
            tasks = [
                asyncio.ensure_future(_run(sandbox, number, len(pool), body, standing))
                for number, sandbox in enumerate(pool, 1)
            ]
            # Each as soon as it has ended: others may wait for the room that it takes.
            closings = [asyncio.ensure_future(_close(*one)) for one in zip(pool, tasks, strict=True)]
            stack.push_async_callback(_all_closed, closings)
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError:
                await _interrupt(pool, tasks)
                _show(context, [_outcome(task) for task in tasks])
                raise
        # Shown while the last ones are being given back, which takes its time.
        failed = _show(context, [_outcome(task) for task in tasks])
    if failed:
        raise ReplicasFailedError(f"The cell failed in {failed} of {len(pool)} replicas.")


def require_allowed(context: CommandContext, count: int, what: str) -> None:
    """Raise CommandError where a cell may not make so many sandboxes."""
    most = context.session.max_fan_out
    if not 1 <= count <= most:
        raise CommandError(
            f"A cell may make 1 to {most} sandboxes, and {what} is {count} (SandboxSession.max_fan_out in the "
            "configuration)."
        )


class _Standing:
    """How far the replicas are, in their bar: how many have ended, and what others still wait for."""

    def __init__(self, counting: Counting) -> None:
        self._counting = counting
        self._done = 0
        self._waits: dict[int, str] = {}

    def wait(self, number: int, text: str) -> None:
        """Take what a replica waits for; "" where it waits no longer."""
        if text:
            self._waits[number] = text
        elif self._waits.pop(number, None) is None:
            return
        self._show()

    def end(self, number: int) -> None:
        """Take note that a replica has ended."""
        self._waits.pop(number, None)
        self._done += 1
        self._show()

    def _show(self) -> None:
        # They wait for the same, each at its place in the queue: the one that is next says it for all.
        note = f"{len(self._waits)} not started: {self._waits[min(self._waits)]}" if self._waits else ""
        self._counting.set(self._done, note)


async def _run(sandbox: Sandbox, number: int, count: int, body: str, standing: _Standing) -> Result:
    sandbox.session.on_waiting = lambda text: standing.wait(number, text)
    try:
        await sandbox.push(replica=number, replicas=count)
        return await sandbox.run(body)
    finally:
        standing.end(number)


async def _close(sandbox: Sandbox, task: asyncio.Future[Result]) -> None:
    """Give a sandbox back when its cell has ended."""
    await asyncio.wait([task])
    await sandbox.close()


async def _all_closed(closings: Sequence[asyncio.Future[None]]) -> None:
    """Wait until all are given back, which goes on for who does not wait. Raises what kept one from that."""
    await asyncio.wait(closings)
    for closing in closings:
        closing.result()


async def _interrupt(pool: Sequence[Sandbox], tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Interrupt the cell in all of them, and give each the time to end it."""
    for sandbox, task in zip(pool, tasks, strict=True):
        if not sandbox.interrupt():
            task.cancel()
    try:
        await asyncio.wait(tasks, timeout=END_TIMEOUT)
    finally:
        for task in tasks:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _outcome(task: asyncio.Future[Result]) -> Result | BaseException:
    if task.cancelled():
        return SandboxKernelError("It was interrupted before it ran.")
    return task.exception() or task.result()


# ---- how it is shown


def _show(context: CommandContext, outcomes: Sequence[Result | BaseException]) -> int:
    """Show each different outcome once; return how many of all are failures."""
    groups: dict[str, list[int]] = {}
    for index, outcome in enumerate(outcomes):
        groups.setdefault(_likeness(outcome), []).append(index)
    for members in groups.values():
        context.write(f"{'' if members[0] == 0 else chr(10)}{_named(members)}:\n")
        _show_one(context, outcomes[members[0]])
    return sum(isinstance(one, BaseException) or one.error is not None for one in outcomes)


def _likeness(outcome: Result | BaseException) -> str:
    """Return a text that is the same for outcomes that look the same."""
    if isinstance(outcome, BaseException):
        return f"{type(outcome).__name__}: {outcome}"
    return repr([outcome.notice, outcome.dropped, *map(_content, outcome.outputs)])


def _content(output: Output) -> tuple[object, ...]:
    from sandbox_kernel.library.outputs import Display, Error, ExecuteResult, Stream

    match output:
        case Stream(name, text):
            return name, text
        case Display(data, metadata) | ExecuteResult(data, metadata):
            return type(output).__name__, data, metadata
        case Error(name, value, traceback):
            return name, value, traceback
    return ()


def _named(members: Sequence[int]) -> str:
    """Return "replica 2", or "replicas 1, 2, 5" with ranges where there are any, for numbers that begin with 0."""
    numbers = [one + 1 for one in members]
    return f"{'replica' if len(numbers) == 1 else 'replicas'} {', '.join(_ranges(numbers))}"


def _ranges(numbers: Iterable[int]) -> Iterable[str]:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    for run in runs:
        # Two are a list, not a range.
        yield f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run))  # noqa: RUF001 - that dash is meant


def _show_one(context: CommandContext, outcome: Result | BaseException) -> None:
    from sandbox_kernel.library.outputs import Display, Error, ExecuteResult, Stream

    if isinstance(outcome, BaseException):
        context.write(f"{type(outcome).__name__}: {outcome}\n", error=True)
        return
    if outcome.notice:
        context.write(outcome.notice, error=True)
    for output in outcome.outputs:
        match output:
            case Stream(name, text):
                context.write(text, error=name == "stderr")
            case Display(data, metadata) | ExecuteResult(data, metadata):
                # What a widget talks to is in a sandbox that ends now.
                context.display({key: value for key, value in data.items() if key != WIDGET}, dict(metadata))
            case Error(name, value, traceback):
                context.write("\n".join([*(traceback or [f"{name}: {value}"]), ""]), error=True)
    if outcome.dropped:
        context.write(f"({outcome.dropped} more outputs were left out)\n", error=True)
