"""`%sandbox status`: what the notebook's sandbox is and how it is, and the log's last lines."""

from __future__ import annotations

import html
import time
from argparse import Namespace

from sandbox_kernel.commands import CommandContext
from sandbox_kernel.durations import age
from sandbox_kernel.errors import CommandError
from sandbox_kernel.session_info import SessionInfo

from .registry import argument, command

DEFAULT_LINES = 20


@command(
    "status",
    argument(
        "--log", nargs="?", type=int, const=DEFAULT_LINES, metavar="N", help="show the last N lines of the log (20)"
    ),
)
async def status(context: CommandContext, arguments: Namespace) -> None:
    """Show the sandbox, its state, its limits and what they leave."""
    if arguments.log is not None:
        _show_log(context, arguments.log)
        return
    rows = status_rows(context.session.info, time.time())
    context.display({"text/plain": _as_text(rows), "text/html": _as_html(rows)})


def _show_log(context: CommandContext, count: int) -> None:
    if count < 1:
        raise CommandError(f"`%sandbox status --log {count}`: at least one line can be shown.")
    log = context.session.log
    lines = log.tail(count)
    context.write("\n".join([*lines, ""]) if lines else f"The log {log.file} has no lines yet.\n")


def status_rows(info: SessionInfo, now: float) -> list[tuple[str, str]]:
    """Return names and values for the table; what is not known, or does not apply, is left out."""
    rows = [
        ("Provider", info.provider),
        ("Mode", info.mode),
        ("Isolation", info.isolation),
        ("State", info.state.value),
        ("Sandbox", info.sandbox_id),
        ("Age", age(now - info.created) if info.created is not None else ""),
        ("Python", info.python),
        *((name[:1].upper() + name[1:], value) for name, value in info.details.items()),
        ("Output guard", info.guard),
        ("Notebook", info.notebook),
        ("Correlation id", info.correlation_id),
        ("Last error", info.error),
    ]
    return [(name, value) for name, value in rows if value]


def _as_text(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def _as_html(rows: list[tuple[str, str]]) -> str:
    left = 'style="text-align: left"'
    lines = [
        f'<tr><th scope="row" {left}>{html.escape(name)}</th><td {left}>{html.escape(value)}</td></tr>'
        for name, value in rows
    ]
    return f"<table><tbody>{''.join(lines)}</tbody></table>"
