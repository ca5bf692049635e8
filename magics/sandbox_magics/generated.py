"""`%sandbox history`, `forget` and `models`: what was asked of models, and how they are."""

from __future__ import annotations

import asyncio
import html
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sandbox_kernel.commands import CommandContext
from sandbox_kernel.errors import CommandError

from .generate import confirm, generator_of
from .registry import argument, command

if TYPE_CHECKING:
    from sandbox_kernel.generation.chain import Health
    from sandbox_kernel.generation.history import Entry

DEFAULT_ENTRIES = 20
MAX_ENTRIES = 1000


@command(
    "history",
    argument("count", nargs="?", type=int, default=DEFAULT_ENTRIES, metavar="N", help="how many (20)"),
    argument("--show", type=int, metavar="NUMBER", help="show one of them, with its prompt and code"),
)
async def history(context: CommandContext, arguments: Namespace) -> None:
    """Show what was asked of models in this folder, and what came of it; it is kept over restarts of the kernel."""
    if not 1 <= arguments.count <= MAX_ENTRIES:
        raise CommandError(f"`%sandbox history {arguments.count}`: from 1 to {MAX_ENTRIES} entries can be shown.")
    generator = await generator_of(context)
    await generator.settle()
    count = MAX_ENTRIES if arguments.show else arguments.count
    entries = await asyncio.to_thread(generator.history.last, count)
    if arguments.show:
        _show_one(context, dict(entries), arguments.show)
    elif entries:
        head = ("", "when", "command", "request", "model", "took", "tokens", "code", "result", "ran")
        show_table(context, head, [_row(number, entry) for number, entry in entries])
    else:
        context.write("Nothing was asked of a model in this folder yet.\n")


def _show_one(context: CommandContext, entries: dict[int, Entry], number: int) -> None:
    if number not in entries:
        raise CommandError(f"There is no entry {number} in this folder's history; `%sandbox history` shows them.")
    entry = entries[number]
    context.write(f"{_when(entry.time)}  {entry.model}\n\n{entry.prompt}\n\n{entry.code}")


def _row(number: int, entry: Entry) -> tuple[str, ...]:
    used = [str(count) for count in (entry.input_tokens, entry.output_tokens) if count is not None]
    lines = len(entry.code.splitlines())
    return (
        str(number),
        _when(entry.time),
        entry.command,
        _short(entry.prompt),
        entry.model,
        f"{entry.seconds:.1f} s",
        " + ".join(used),
        f"{lines} lines" if lines else "",
        _short(entry.result) or ("not run" if lines else ""),
        f"{entry.run_seconds:.2f} s" if entry.run_seconds is not None else "",
    )


@command("forget")
async def forget(context: CommandContext, arguments: Namespace) -> None:  # noqa: ARG001
    """Begin a new conversation, and remove this folder's requests from the history."""
    generator = await generator_of(context)
    await generator.settle()
    turns = len(generator.conversation)
    generator.conversation.forget()
    count = await asyncio.to_thread(generator.history.forget)
    context.write(f"Forgotten: {turns} turns of the conversation, {count} entries of the history.\n")


@command(
    "models",
    argument("--check", action="store_true", help="ask each of them for one word, which may cost something"),
)
async def models(context: CommandContext, arguments: Namespace) -> None:
    """Show the models in the order in which they are asked, where they are, and how each did in this session."""
    generator = await generator_of(context)
    if arguments.check:
        await _check_all(context)
    rows = [
        (str(number), model.name, model.place, *_health(generator.chain.health[model.name]))
        for number, model in enumerate(generator.chain.models, 1)
    ]
    if rows:
        show_table(context, ("", "model", "where", "state", "last asked", "first words", "answers", "failures"), rows)
    else:
        context.write("No model is configured; name one in Generation.models.\n")


async def _check_all(context: CommandContext) -> None:
    from sandbox_kernel.errors import GenerationError
    from sandbox_kernel.generation.models.base import Message, ModelRequest

    generator = await generator_of(context)
    await confirm(context, generator)
    # Room for a model that thinks first.
    request = ModelRequest("Answer with one word.", (Message("user", "Say: ready"),), 1000)
    for model in generator.chain.models:
        try:
            async for _ in generator.ask(request, model.name):
                pass
        except GenerationError:
            # It is in the table.
            continue


def _health(health: Health) -> tuple[str, ...]:
    state = "well" if health.well else (health.last_failure if health.last_time else "not asked yet")
    return (
        _short(state, 200),
        _when(health.last_time) if health.last_time else "",
        f"{health.last_first:.2f} s" if health.last_first is not None else "",
        str(health.answers),
        str(health.failures),
    )


# ---- tables


def show_table(context: CommandContext, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Show rows of text, which may be anybody's."""
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]
    lines = [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]
    left = ' style="text-align: left"'
    top = "".join(f"<th{left}>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td{left}>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    context.display({"text/plain": "\n".join(lines), "text/html": table})


def _short(text: str, limit: int = 60) -> str:
    from sandbox_kernel.generation.text import one_line

    return one_line(text, limit)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
