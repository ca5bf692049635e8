"""`jupyter sandbox list|status|stop|pause|resume|detach`: the sandboxes in the record file.

What lists and stops them is also what `%sandbox list` and `%sandbox stop ID` do.
"""
# ruff: noqa: T201 - a program prints

from __future__ import annotations

import asyncio
import json
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sandbox_kernel.durations import age
from sandbox_kernel.errors import CommandError, SandboxKernelError, SandboxLostError
from sandbox_kernel.records import RecordFile, SessionRecord

from .control import run_command

if TYPE_CHECKING:
    from traitlets.config import Config

TIMEOUT = 60.0


def add_commands(families: Any) -> None:
    """Add the subcommands to the program's parser."""
    lister = families.add_parser("list", help="show the sandboxes of this user's kernels")
    lister.add_argument("--json", action="store_true", help="as a JSON list")
    lister.set_defaults(run=show_list)
    _add_one(families, "status", "show one sandbox as `%%sandbox status` does").add_argument(
        "--log", nargs="?", type=int, const=20, metavar="N", help="show the last N lines of its kernel's log (20)"
    )
    _add_one(families, "pause", "freeze a sandbox, also while a cell runs in it")
    _add_one(families, "resume", "let a paused sandbox go on")
    _add_one(families, "detach", "take a sandbox away from its kernel and leave it running, with what runs in it")
    stopper = _add_one(families, "stop", "give a sandbox back; its kernel stays", nargs="?")
    stopper.add_argument("--all", action="store_true", help="stop every sandbox in the list")
    stopper.add_argument("--orphans", action="store_true", help="stop those whose kernel has died; not detached ones")
    stopper.set_defaults(run=stop)


def _add_one(families: Any, name: str, text: str, nargs: str | None = None) -> Any:
    parser = families.add_parser(name, help=text, description=text.replace("%%", "%"))
    parser.add_argument("id", metavar="ID", nargs=nargs, help="the sandbox, or the beginning of its id")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, metavar="S", help="seconds to wait (%(default)g)")
    parser.set_defaults(run=tell_kernel, command=name)
    return parser


def show_list(arguments: Namespace) -> int:
    """Print the sandboxes that exist; forget those that have gone."""
    from sandbox_kernel.configuration import load_configuration

    config, said = load_configuration([])
    if said.error is not None:
        raise said.error
    records, silent = asyncio.run(look(RecordFile(), config))
    for text in silent:
        print(text, file=sys.stderr)
    if arguments.json:
        print(json.dumps([{**asdict(record), "has_owner": record.has_owner} for record in records], indent=2))
    else:
        print(list_text(records))
    return 0


def tell_kernel(arguments: Namespace) -> int:
    """Have the sandbox's kernel run the command of the same name."""
    line = arguments.command
    if getattr(arguments, "log", None) is not None:
        line = f"{line} --log {arguments.log}"
    print(_tell(_find(arguments.id), line, arguments.timeout).rstrip("\n"))
    return 0


def stop(arguments: Namespace) -> int:
    """Stop one sandbox, or several; one that cannot be stopped keeps no other from it."""
    if [bool(arguments.id), arguments.all, arguments.orphans].count(True) != 1:
        raise CommandError("jupyter sandbox stop: say either ID or --all or --orphans")
    from sandbox_kernel.configuration import load_configuration

    config, said = load_configuration([])
    if said.error is not None:
        raise said.error
    chosen = choose(RecordFile(), arguments.id or "", orphans=arguments.orphans)
    outcomes = asyncio.run(stop_records(chosen, config, arguments.timeout))
    for text, error in outcomes:
        if error is None or not arguments.id:
            print(text)
    if not outcomes:
        print("There are no orphans." if arguments.orphans else "There are no sandboxes.")
    failures = [error for _, error in outcomes if error is not None]
    if failures:
        raise failures[0]
    return 0


def choose(file: RecordFile, sandbox_id: str = "", *, orphans: bool = False) -> list[SessionRecord]:
    """Return the records that `stop` is about: of one sandbox, of the orphans, or all. Raises CommandError."""
    if sandbox_id:
        return [_find(sandbox_id)]
    return [record for record in present(file) if record.is_orphan or not orphans]


async def stop_records(
    records: Sequence[SessionRecord], config: Config, timeout: float
) -> list[tuple[str, SandboxKernelError | None]]:
    """Stop these sandboxes: by their kernels, where they have any. Returns a line for each, and what went wrong."""
    outcomes: list[tuple[str, SandboxKernelError | None]] = []
    for record in records:
        try:
            outcomes.append((await _stop(record, config, timeout), None))
        except SandboxKernelError as exc:
            outcomes.append((f"{record.sandbox_id}: {exc}", exc))
    return outcomes


async def _stop(record: SessionRecord, config: Config, timeout: float) -> str:
    if record.has_owner:
        return (await asyncio.to_thread(_tell, record, "stop", timeout)).rstrip("\n")
    from sandbox_kernel.reaping import stop_sandbox

    await asyncio.wait_for(stop_sandbox(record, None, config), timeout)
    RecordFile().remove(record.provider, record.sandbox_id)
    return f"The sandbox {record.sandbox_id} is stopped."


def _tell(record: SessionRecord, line: str, timeout: float) -> str:
    if not record.has_owner:
        raise SandboxLostError(
            f"The kernel process of the sandbox {record.sandbox_id} has gone; `%sandbox attach {record.sandbox_id}` in "
            "a notebook goes on with it, `jupyter sandbox stop` ends it.",
            provider=record.provider,
            sandbox_id=record.sandbox_id,
            correlation_id=record.correlation_id,
        )
    return run_command(record, line, timeout)


def _find(sandbox_id: str) -> SessionRecord:
    file = RecordFile()
    present(file)
    found = file.find(sandbox_id)
    if not found:
        raise CommandError(f"There is no sandbox {sandbox_id!r}; `jupyter sandbox list` shows all.")
    if len(found) > 1:
        names = ", ".join(record.sandbox_id for record in found)
        raise CommandError(f"{sandbox_id!r} is the beginning of several ids: {names}.")
    return found[0]


def present(file: RecordFile) -> list[SessionRecord]:
    """Return the records of sandboxes that can still exist, and drop the others."""
    records = file.all()
    for record in records:
        if record.is_stale:
            file.remove(record.provider, record.sandbox_id)
    return [record for record in records if not record.is_stale]


async def look(file: RecordFile, config: Config) -> tuple[Sequence[SessionRecord], Sequence[str]]:
    """Return the records of sandboxes that exist, as far as their providers can say now, and who cannot.

    Those that have gone are forgotten.
    """
    from sandbox_kernel.inquiry import ask_all

    answer = await ask_all(await asyncio.to_thread(present, file), config)
    for record in answer.gone:
        await asyncio.to_thread(file.remove, record.provider, record.sandbox_id)
    return answer.records, answer.silent


def list_text(records: Sequence[SessionRecord]) -> str:
    """Return the table of sandboxes."""
    if not records:
        return "There are no sandboxes."
    columns = ["SANDBOX", "PROVIDER", "STATE", "AGE", "IDLE", "COST", "KERNEL", "NOTEBOOK OR FOLDER"]
    now = time.time()
    rows = [columns, *(_row(record, now) for record in records)]
    # Few have a price.
    shown = [index for index, name in enumerate(columns) if name != "COST" or any(row[index] for row in rows[1:])]
    widths = {index: max(len(row[index]) for row in rows) for index in shown}
    return "\n".join("  ".join(row[index].ljust(widths[index]) for index in shown).rstrip() for row in rows)


def _row(record: SessionRecord, now: float) -> list[str]:
    owner = f"process {record.kernel_pid}" if record.has_owner else "gone"
    state = "orphan" if record.is_orphan and record.state != "paused" else record.state
    cost = f"${record.hourly_cost * (now - record.created) / 3600:.2f}" if record.hourly_cost else ""
    where = record.notebook or record.directory
    idle = age(now - record.idle_since) if record.idle_since else "-"
    return [record.sandbox_id, record.provider, state, age(now - record.created), idle, cost, owner, where]
