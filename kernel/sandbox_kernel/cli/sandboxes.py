"""`jupyter sandbox list|status|stop|pause|resume`: the sandboxes in the record file."""
# ruff: noqa: T201 - a program prints

from __future__ import annotations

import json
import time
from argparse import Namespace
from dataclasses import asdict
from typing import Any

from sandbox_kernel.durations import age
from sandbox_kernel.errors import CommandError, SandboxKernelError, SandboxLostError
from sandbox_kernel.records import RecordFile, SessionRecord

from .control import run_command

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
    stopper = _add_one(families, "stop", "give a sandbox back; its kernel stays", nargs="?")
    stopper.add_argument("--all", action="store_true", help="stop every sandbox in the list")
    stopper.set_defaults(run=stop)


def _add_one(families: Any, name: str, text: str, nargs: str | None = None) -> Any:
    parser = families.add_parser(name, help=text, description=text.replace("%%", "%"))
    parser.add_argument("id", metavar="ID", nargs=nargs, help="the sandbox, or the beginning of its id")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, metavar="S", help="seconds to wait (%(default)g)")
    parser.set_defaults(run=tell_kernel, command=name)
    return parser


def show_list(arguments: Namespace) -> int:
    """Print the sandboxes that exist; forget those that have gone with their kernel process."""
    records = _present(RecordFile())
    if arguments.json:
        print(json.dumps([{**asdict(record), "has_owner": record.has_owner} for record in records], indent=2))
    elif records:
        _print_table([_row(record) for record in records])
    else:
        print("There are no sandboxes.")
    return 0


def tell_kernel(arguments: Namespace) -> int:
    """Have the sandbox's kernel run the command of the same name."""
    line = arguments.command
    if getattr(arguments, "log", None) is not None:
        line = f"{line} --log {arguments.log}"
    print(_tell(_find(arguments.id), line, arguments.timeout).rstrip("\n"))
    return 0


def stop(arguments: Namespace) -> int:
    """Stop one sandbox, or all of them; one that cannot be stopped keeps no other from it."""
    if bool(arguments.id) == arguments.all:
        raise CommandError("jupyter sandbox stop: say either ID or --all")
    if arguments.id:
        print(_tell(_find(arguments.id), "stop", arguments.timeout).rstrip("\n"))
        return 0
    failures = [error for record in _present(RecordFile()) if (error := _stop_quietly(record, arguments.timeout))]
    if failures:
        raise failures[0]
    return 0


def _stop_quietly(record: SessionRecord, timeout: float) -> SandboxKernelError | None:
    try:
        print(_tell(record, "stop", timeout).rstrip("\n"))
    except SandboxKernelError as exc:
        print(f"{record.sandbox_id}: {exc}")
        return exc
    return None


def _tell(record: SessionRecord, line: str, timeout: float) -> str:
    if not record.has_owner:
        raise SandboxLostError(
            f"The kernel process {record.kernel_pid} of the sandbox {record.sandbox_id} has gone.",
            provider=record.provider,
            sandbox_id=record.sandbox_id,
            correlation_id=record.correlation_id,
        )
    return run_command(record, line, timeout)


def _find(sandbox_id: str) -> SessionRecord:
    file = RecordFile()
    _present(file)
    found = file.find(sandbox_id)
    if not found:
        raise CommandError(f"There is no sandbox {sandbox_id!r}; `jupyter sandbox list` shows all.")
    if len(found) > 1:
        names = ", ".join(record.sandbox_id for record in found)
        raise CommandError(f"{sandbox_id!r} is the beginning of several ids: {names}.")
    return found[0]


def _present(file: RecordFile) -> list[SessionRecord]:
    """Return the records of sandboxes that can still exist, and drop the others."""
    records = file.all()
    for record in records:
        if record.is_stale:
            file.remove(record.provider, record.sandbox_id)
    return [record for record in records if not record.is_stale]


def _row(record: SessionRecord) -> list[str]:
    owner = f"process {record.kernel_pid}" if record.has_owner else "gone"
    where = record.notebook or record.directory
    return [record.sandbox_id, record.provider, record.state, age(time.time() - record.created), owner, where]


def _print_table(rows: list[list[str]]) -> None:
    rows = [["SANDBOX", "PROVIDER", "STATE", "AGE", "KERNEL", "NOTEBOOK OR FOLDER"], *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
