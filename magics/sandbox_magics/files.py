"""`%sandbox upload`, `download` and `files`: files between this machine and the sandbox."""

from __future__ import annotations

import asyncio
import os
import posixpath
import shutil
import time
from argparse import Namespace
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path, PurePosixPath

from sandbox_kernel.commands import CommandContext, require_approval
from sandbox_kernel.errors import CommandError, InvocationError, NotFoundError, QuotaError
from sandbox_kernel.lifecycle import State
from sandbox_kernel.progress import Progress, count_text, size_text
from sandbox_kernel.providers.base import FileEntry, SandboxFiles
from sandbox_kernel.session import SandboxSession
from sandbox_kernel.workspace.place import refusal

from .downloads import Arrival, Arrivals, Sorter, is_harmless
from .host_folder import HostFolder
from .registry import argument, command
from .uploads import Choice, Chooser, HostFile

PIECE = 1024 * 1024
"""Bytes that are read from, or written to, this machine's disk at a time."""
AT_HAND = 64 * 1024
"""Bytes up to which a piece is written at once: to have a thread do it takes longer."""
AT_ONCE = 8
"""Files of a download that are under way together; of each some megabytes may be in memory."""
SPARE = 256 * 1024 * 1024
"""Bytes that a download leaves free on this machine's disk."""
SHOWN = 20
"""Files that a question names; what it replaces is always named."""
MAX_LISTED = 1000
READ_ONLY = "read-only; /scratch"
"""What a provider's description says of a workspace that cannot be written to."""

_GONE = (State.INACTIVE, State.ERROR, State.CLOSED)


@command(
    "upload",
    argument("patterns", nargs="+", metavar="PATTERN", help="files or folders of this machine; *, ?, [...] and **"),
    argument("--to", default="", metavar="DIR", help="folder in the sandbox; default: the working folder"),
)
async def upload(context: CommandContext, arguments: Namespace) -> None:
    """Copy files of this machine into the sandbox.

    Patterns begin in the notebook's folder; files there keep their path. For files elsewhere, and for those whose names
    say that they hold secrets, it asks first. Folders and wildcards take neither hidden files, nor secrets, nor links.
    """
    choice = await Chooser(context.session.directory, arguments.to, context.session.hidden).choose(arguments.patterns)
    if not choice.files:
        raise CommandError(f"There is nothing to upload; left out were {_left_out(choice.left_out) or 'no files'}.")
    await _approve_upload(context, choice)
    if context.session.state is not State.ACTIVE:
        await context.session.start()
    with Progress(context, "Upload", choice.size) as progress:
        for file in choice.files:
            progress.begin(shown(file.target))
            await _send(context.session, file, progress)
            context.session.uploaded.append(file.target)
    _summarize(context, "Uploaded", len(choice.files), choice.size, arguments.to or "the working folder")
    _write_left_out(context, choice.left_out)


async def _send(session: SandboxSession, file: HostFile, progress: Progress) -> None:
    try:
        await session.files.write(file.target, _content(file, progress), mode=file.mode | 0o600)
    except InvocationError as exc:
        # The mode of the workspace is the provider's; it says it in words.
        if file.target.startswith("/") or READ_ONLY not in session.info.details.get("workspace", ""):
            raise
        raise InvocationError(
            f"{exc} Cells cannot write to the notebook's folder here: upload to another one, as in --to /scratch."
        ) from exc


async def _approve_upload(context: CommandContext, choice: Choice) -> None:
    asked = choice.asked
    if not asked:
        return
    for file in asked[:SHOWN]:
        context.write(f"  {shown(file.path)}  {size_text(file.size)}, {file.asked}\n")
    if len(asked) > SHOWN:
        context.write(f"  … and {count_text(len(asked) - SHOWN)} more\n")
    size = size_text(sum(file.size for file in asked))
    first = shown(asked[0].path) if len(asked) == 1 else f"these {count_text(len(asked))}"
    await require_approval(context, "upload", f"Hand {first} ({size}) of this machine to the sandbox?")


async def _content(file: HostFile, progress: Progress) -> AsyncIterator[bytes]:
    """Yield what a file holds, up to the size that it had when it was chosen."""
    try:
        with HostFolder(file.anchor) as folder:
            descriptor = folder.open(file.parts)
    except OSError as exc:
        raise InvocationError(f"{file.path!r} cannot be read: {exc.strerror}.") from exc
    try:
        left = file.size
        while left and (piece := await asyncio.to_thread(os.read, descriptor, min(PIECE, left))):
            left -= len(piece)
            yield piece
            progress.advance(len(piece))
    finally:
        os.close(descriptor)


@command(
    "download",
    argument("patterns", nargs="+", metavar="PATTERN", help="files or folders in the sandbox; *, ?, [...] and **"),
    argument("--to", default="", metavar="DIR", help="folder in the notebook's folder; default: that one"),
)
async def download(context: CommandContext, arguments: Namespace) -> None:
    """Copy files of the sandbox into the notebook's folder, after asking.

    The question says what is replaced. Files of the sandbox's working folder keep their path. Folders and wildcards do
    not take hidden files; links, names that mean something else on this machine, and those that Workspace.hidden hides
    here, such as .git or .env, are left out.
    """
    session = context.session
    if session.state in _GONE:
        raise CommandError("No sandbox is running, so it has no files.")
    if session.state is not State.ACTIVE:
        await session.start()
    target = _inside(arguments.to)
    with HostFolder(str(session.directory)) as folder:
        dotted = not refusal(str(session.directory), session.hidden)
        sorter = Sorter(session.files, folder, target, session.hidden, dotted=dotted)
        arrivals = await sorter.sort(arguments.patterns)
        if not arrivals.files:
            left_out = _left_out(arrivals.left_out) or "no files"
            raise CommandError(f"There is nothing to download; left out were {left_out}.")
        _check_room(session.directory, arrivals)
        _write_list(context, arrivals)
        await require_approval(context, "download", _question(session.directory.joinpath(*target), arrivals))
        with Progress(context, "Download", arrivals.size) as progress:
            size = await _fetch_all(session.files, folder, arrivals.files, progress)
    _summarize(context, "Downloaded", len(arrivals.files), size, "/".join(target) or "the notebook's folder")
    _write_left_out(context, arrivals.left_out)


def _inside(text: str) -> tuple[str, ...]:
    """Return the names of a folder below the notebook's. Raises CommandError for another one."""
    path = PurePosixPath(text.replace(os.sep, "/"))
    if path.is_absolute() or not all(is_harmless(part) for part in path.parts):
        raise CommandError(f"--to {text!r} must be a folder in the notebook's folder; downloads land nowhere else.")
    return path.parts


def _check_room(directory: Path, arrivals: Arrivals) -> None:
    free = shutil.disk_usage(directory).free
    if arrivals.size > free - SPARE:
        raise QuotaError(
            f"The files have {size_text(arrivals.size)} and this machine's disk has {size_text(free)} free, of which "
            f"{size_text(SPARE)} stay so; download less, or pack the files in the sandbox."
        )


def _write_list(context: CommandContext, arrivals: Arrivals) -> None:
    replacing = arrivals.replacing
    others = [file for file in arrivals.files if file.replaced is None]
    for file in replacing:
        assert file.replaced is not None
        context.write(f"  {shown(file.path)}  {size_text(file.size)}, replaces {size_text(file.replaced.st_size)}\n")
    for file in others[:SHOWN]:
        context.write(f"  {shown(file.path)}  {size_text(file.size)}\n")
    if len(others) > SHOWN:
        context.write(f"  … and {count_text(len(others) - SHOWN, 'new file')} more\n")


def _question(place: Path, arrivals: Arrivals) -> str:
    count = count_text(len(arrivals.files))
    replaced = len(arrivals.replacing)
    replacing = f", REPLACING {count_text(replaced)} there" if replaced else ""
    return f"Download {count} ({size_text(arrivals.size)}) into {place}{replacing}?"


async def _fetch_all(files: SandboxFiles, folder: HostFolder, arrivals: Sequence[Arrival], progress: Progress) -> int:
    """Copy files, several at once, because each takes a way there and back; return their size in bytes."""
    left = iter(arrivals)
    size = 0

    async def fetch() -> None:
        nonlocal size
        for file in left:
            progress.begin(shown(file.path))
            fetched = await _fetch(files, folder, file, progress)
            size += fetched

    fetching = [asyncio.ensure_future(fetch()) for _ in range(AT_ONCE)]
    try:
        await asyncio.gather(*fetching)
    finally:
        # What one of them failed of ends all, before the folder is closed.
        for task in fetching:
            task.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)
    return size


async def _fetch(files: SandboxFiles, folder: HostFolder, file: Arrival, progress: Progress) -> int:
    """Copy one file; return its size. It has no more bytes than the person was told."""
    size = 0
    try:
        with folder.land(file.parts, file.replaced) as landing:
            pieces: list[bytes] = []
            async with aclosing(files.read(file.source, limit=file.size)) as content:
                async for piece in content:
                    size += len(piece)
                    pieces.append(piece)
                    if sum(map(len, pieces)) >= PIECE:
                        await asyncio.to_thread(landing.write, pieces)
                        progress.advance(sum(map(len, pieces)))
                        pieces = []
            rest = sum(map(len, pieces))
            if rest > AT_HAND:
                await asyncio.to_thread(landing.write, pieces)
            else:
                landing.write(pieces)
            progress.advance(rest)
            landing.commit()
    except QuotaError as exc:
        raise QuotaError(
            f"{file.source!r} has more than the {size_text(file.size)} that were shown: it is written to, or has no "
            "size of its own, as files in /proc have none. Copy it in the sandbox, and download the copy."
        ) from exc
    except OSError as exc:
        raise InvocationError(f"{file.path!r} cannot be written on this machine: {exc.strerror}.") from exc
    return size


@command("files", argument("pattern", nargs="?", default="*", metavar="PATTERN", help="*, ?, [...] and **; default: *"))
async def files(context: CommandContext, arguments: Namespace) -> None:
    """Show the sandbox's files that match a pattern, or what is in a folder.

    Patterns begin in the working folder. Wildcards do not stand for names that begin with a dot.
    """
    session = context.session
    if session.state in _GONE:
        raise CommandError("No sandbox is running, so it has no files.")
    if session.state is not State.ACTIVE:
        await session.start()
    try:
        entries, cut = await _listed(session.files, arguments.pattern)
        if [(entry.path, entry.kind) for entry in entries] == [(arguments.pattern, "folder")]:
            entries, cut = await _listed(session.files, posixpath.join(arguments.pattern, "*"))
    except NotFoundError:
        context.write("There are no such files in the sandbox.\n")
        return
    entries.sort(key=lambda entry: entry.path)
    context.write("".join(_line(entry) for entry in entries))
    size = size_text(sum(entry.size for entry in entries))
    context.write(f"{count_text(len(entries), 'entry').replace('entrys', 'entries')}, {size}.\n")
    if cut:
        context.write(f"There are more; these are {MAX_LISTED:,} of them.\n")


async def _listed(files: SandboxFiles, pattern: str) -> tuple[list[FileEntry], bool]:
    """Return entries and whether there would be more."""
    entries: list[FileEntry] = []
    async with aclosing(files.list(pattern, limit=MAX_LISTED)) as found:
        try:
            async for entry in found:
                entries.append(entry)  # noqa: PERF401 - those before an error count
        except QuotaError:
            return entries, True
    return entries, False


def _line(entry: FileEntry) -> str:
    size = size_text(entry.size) if entry.kind == "file" else entry.kind
    # Within what a clock can say: the number is the sandbox's.
    changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(min(max(entry.modified, 0.0), 4e9)))
    return f"{size:>10}  {changed}  {shown(entry.path)}{'/' if entry.kind == 'folder' else ''}\n"


def shown(name: str) -> str:
    """Return a name as it can be shown: quoted, if it has anything in it that would not be seen as what it is."""
    return name if name.isprintable() and name == name.strip() else ascii(name)


def _summarize(context: CommandContext, done: str, count: int, size: int, place: str) -> None:
    context.write(f"{done} {count_text(count)}, {size_text(size)}, to {place}.\n")


def _left_out(reasons: Counter[str]) -> str:
    return "; ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())


def _write_left_out(context: CommandContext, reasons: Counter[str]) -> None:
    if reasons:
        context.write(f"Left out: {_left_out(reasons)}.\n")
