"""`%sandbox snapshot` and `restore`: a sandbox as it is now, kept by its provider, or as a file for another one."""

from __future__ import annotations

import asyncio
import os
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from sandbox_kernel.commands import CommandContext, require_approval, require_bridge
from sandbox_kernel.errors import CommandError, NotFoundError
from sandbox_kernel.lifecycle import State
from sandbox_kernel.progress import Progress, size_text

from .registry import argument, command

SUFFIX = ".sandbox-snapshot"
PATIENCE = 300.0
"""Seconds in which Python in the sandbox has to make a snapshot, or to bring one back."""
PIECE = 1024 * 1024
SHOWN = 20


@command(
    "snapshot",
    argument(
        "name", nargs="?", default="", metavar="NAME", help="of the file, in the notebook's folder, or the snapshot"
    ),
    argument("--as-file", action="store_true", help="also where the provider itself keeps snapshots"),
    argument("--stay", action="store_true", help="leave the file in the sandbox's working folder instead"),
    argument("--no-files", action="store_true", help="into the file variables only"),
)
async def snapshot(context: CommandContext, arguments: Namespace) -> None:
    """Keep the running sandbox as it is now, for others to begin with.

    Where the provider keeps snapshots (E2B, PPIO, Novita) it does so, and `%sandbox start --template ID` begins with
    it. Elsewhere variables and the working folder are saved as a file, for `%sandbox restore` in another sandbox; best
    effort: what can be pickled in the sandbox (functions and classes of the notebook need cloudpickle there), and
    files but hidden ones, up to 1 GiB. Open files, threads and connections are not saved.
    """
    session = context.session
    if session.state is not State.ACTIVE:
        raise CommandError("No sandbox is running of which a snapshot could be made.")
    require_bridge(context, "snapshot")
    if session.capabilities.snapshots and not (arguments.as_file or arguments.stay or arguments.no_files):
        kept = await session.snapshot(arguments.name)
        context.write(f"The snapshot is kept; `%sandbox start --template {kept}` begins with it.\n")
        return
    name = _name(context, arguments.name)
    inside = name if arguments.stay else f".sandbox-kernel-{os.urandom(6).hex()}"
    said = await session.describe(snapshot=inside, files=not arguments.no_files, patience=PATIENCE)
    if not arguments.stay:
        try:
            await _fetch(context, inside, name, int(said.get("size", 0)))
        finally:
            await session.files.remove(inside)
    where = "the sandbox's working folder" if arguments.stay else "the notebook's folder"
    size = size_text(int(said.get("size", 0)))
    context.write(f"Saved {_counted(said)} ({size}) as {name} in {where}.\n")
    _write_left_out(context, said)


@command("restore", argument("file", nargs="?", default="", metavar="FILE", help="a name in the notebook's folder"))
async def restore(context: CommandContext, arguments: Namespace) -> None:
    """Bring back variables and files that `%sandbox snapshot` saved; they are unpickled in the sandbox only."""
    session = context.session
    name = _name(context, arguments.file)
    path = session.directory / name
    if session.state is not State.ACTIVE:
        await session.start()
    require_bridge(context, "restore")
    here = await asyncio.to_thread(path.is_file)
    inside = f".sandbox-kernel-{os.urandom(6).hex()}" if here else name
    if here:
        with Progress(context, "Upload", path.stat().st_size) as progress:
            await session.files.write(inside, _pieces(path, progress), mode=0o600)
    elif not await _is_inside(context, name):
        kept = " One that the provider keeps is for `%sandbox start --template ID`." * session.capabilities.snapshots
        raise CommandError(f"There is no snapshot {name}, neither in {session.directory} nor in the sandbox.{kept}")
    try:
        said = await session.describe(restore=inside, patience=PATIENCE)
    finally:
        if here:
            await session.files.remove(inside)
    context.write(f"Restored {_counted(said)} from {name}.\n")
    _write_left_out(context, said)


def _name(context: CommandContext, given: str) -> str:
    stem = Path(context.session.notebook).stem if context.session.notebook else "notebook"
    name = given or f"{stem}{SUFFIX}"
    if PurePath(name).name != name or name in (".", ".."):
        raise CommandError(f"A snapshot has a name in the notebook's folder, and {name!r} is a path.")
    return name


async def _fetch(context: CommandContext, inside: str, name: str, size: int) -> None:
    path = context.session.directory / name
    replaced = ", in place of the one that is there" if await asyncio.to_thread(os.path.lexists, path) else ""
    await require_approval(context, "snapshot", f"Write {name} ({size_text(size)}) to {path.parent}{replaced}?")
    temporary = path.with_name(f".{os.urandom(6).hex()}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with Progress(context, "Download", size) as progress, os.fdopen(descriptor, "wb") as file:
            async for piece in context.session.files.read(inside):
                await asyncio.to_thread(file.write, piece)
                progress.advance(len(piece))
        await asyncio.to_thread(os.replace, temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


async def _pieces(path: Path, progress: Progress) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, PIECE):
            yield piece
            progress.advance(len(piece))


async def _is_inside(context: CommandContext, name: str) -> bool:
    with suppress(NotFoundError):
        async for _ in context.session.files.list(name):
            return True
    return False


def _counted(said: dict[str, Any]) -> str:
    names, files = said.get("names"), said.get("files")
    return f"{len(names) if isinstance(names, list) else 0} variables and {files} files"


def _write_left_out(context: CommandContext, said: dict[str, Any]) -> None:
    left_out = said.get("left_out")
    if not isinstance(left_out, dict) or not left_out:
        return
    context.write("Left out:\n")
    for name, reason in list(left_out.items())[:SHOWN]:
        context.write(f"  {str(name)[:100]!r}: {str(reason)[:200]}\n")
    if len(left_out) > SHOWN:
        context.write(f"  … and {len(left_out) - SHOWN} more\n")
