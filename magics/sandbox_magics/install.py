"""`%sandbox install`: packages for a sandbox without network, fetched as wheels by this machine's pip."""

from __future__ import annotations

import asyncio
import os
import posixpath
import tempfile
from argparse import Namespace
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path

from sandbox_kernel.commands import CommandContext, require_approval, require_bridge
from sandbox_kernel.errors import CommandError, NotFoundError, QuotaError, SandboxError
from sandbox_kernel.lifecycle import State
from sandbox_kernel.progress import Progress, count_text, size_text
from sandbox_kernel.session import SandboxSession

from .host_folder import HostFolder
from .registry import argument, command
from .uploads import Chooser
from .wheels import Pip, Target, canonical, checked_requirement, read_requirements, target_of

PIECE = 1024 * 1024
MAX_REQUIREMENTS = 1024 * 1024
"""Bytes of a file of requirements."""


@command(
    "install",
    argument("packages", nargs="*", metavar="PACKAGE", help="a package's name, with versions perhaps: 'pandas>=2'"),
    argument(
        "-r", "--requirement", metavar="FILE", help="a file of such names, of this machine, in the notebook's folder"
    ),
)
async def install(context: CommandContext, arguments: Namespace) -> None:
    """Install packages in the sandbox, which needs no network for it; they stay until the sandbox ends.

    This machine's pip fetches them, from the index that it is configured for, after asking. It takes wheels only: a
    source distribution would have to be built here, which runs its author's code. A FILE is read as it is on this
    machine: what cells changed in it counts when it was applied.
    """
    wanted = [checked_requirement(one) for one in arguments.packages]
    if arguments.requirement:
        wanted += read_requirements(await _read(context, arguments.requirement))
    if not wanted:
        raise CommandError("`%sandbox install` needs the names of packages, as in: %sandbox install seaborn")
    session = context.session
    require_bridge(context, "install")
    names = ", ".join(wanted)
    await require_approval(
        context, "install", f"Fetch {names} and what they need with this machine's pip, for the sandbox?"
    )
    if session.state is not State.ACTIVE:
        await session.start()
        require_bridge(context, "install")
    with tempfile.TemporaryDirectory(prefix="sandbox-wheels-") as folder:
        await _install(context, wanted, Path(folder))


async def _read(context: CommandContext, name: str) -> str:
    """Return a file of the notebook's folder. Raises CommandError for one that lies elsewhere."""
    session = context.session
    choice = await Chooser(session.directory, "", session.hidden).choose([name])
    if len(choice.files) != 1 or not choice.files[0].is_inside:
        raise CommandError(f"{name!r} must be one file in the notebook's folder.")
    (file,) = choice.files
    if file.size > MAX_REQUIREMENTS:
        raise CommandError(f"{name!r} is too large for a file of requirements.")
    with HostFolder(file.anchor) as folder:
        descriptor = folder.open(file.parts)
    with os.fdopen(descriptor, "rb") as opened:
        content = opened.read(MAX_REQUIREMENTS)
    if await _is_changed(session, "/".join(file.parts), content):
        context.write(f"Cells have changed {name}; it is read as it is on this machine until `%sandbox apply`.\n")
    # Editors of Windows begin a file with a mark.
    return content.decode("utf-8-sig", errors="replace")


async def _is_changed(session: SandboxSession, path: str, content: bytes) -> bool:
    """Whether cells of the sandbox that runs see another content."""
    if session.state is not State.ACTIVE or session.changes is None:
        return False
    try:
        async with aclosing(session.files.read(path, limit=len(content))) as pieces:
            return b"".join([piece async for piece in pieces]) != content
    except (NotFoundError, QuotaError):
        return True


async def _install(context: CommandContext, wanted: Sequence[str], scratch: Path) -> None:
    session = context.session
    said = await session.describe_packages()
    python = session.host_python
    wheels = scratch / "wheels"
    for folder in (wheels, scratch / "empty"):
        folder.mkdir()
    pip = Pip(Target(python) if python else target_of(said), scratch)
    async for line in pip.fetch(wanted, wheels):
        context.write(f"{line}\n")
    new = _without(sorted(wheels.glob("*.whl")), said.get("installed"))
    if not new:
        context.write("Everything is installed already.\n")
        return
    inside = posixpath.join(str(said.get("folder", "")), f".wheels-{os.urandom(8).hex()}")
    try:
        await _send(context, new, inside)
        done = await session.install_wheels(inside)
    except BaseException:
        await _tidy(session, inside)
        raise
    _write_summary(context, new, done.get("imported", []))


def _without(wheels: Sequence[Path], installed: object) -> list[Path]:
    """Return the wheels without those that were added to the sandbox before, in the same version."""
    known = installed if isinstance(installed, dict) else {}
    return [wheel for wheel in wheels if known.get(canonical(_name(wheel))) != _version(wheel)]


def _name(wheel: Path) -> str:
    return wheel.name.split("-")[0]


def _version(wheel: Path) -> str:
    return wheel.name.split("-")[1]


async def _send(context: CommandContext, wheels: Sequence[Path], folder: str) -> None:
    with Progress(context, "Install", sum(wheel.stat().st_size for wheel in wheels)) as progress:
        for wheel in wheels:
            progress.begin(wheel.name)
            await context.session.files.write(posixpath.join(folder, wheel.name), _content(wheel, progress))


async def _content(wheel: Path, progress: Progress) -> AsyncIterator[bytes]:
    with wheel.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, PIECE):
            yield piece
            progress.advance(len(piece))


async def _tidy(session: SandboxSession, folder: str) -> None:
    """Remove the wheels that were sent for nothing, if the sandbox is still there."""
    if session.state is State.ACTIVE:
        with suppress(SandboxError):
            await session.files.remove(folder, recursive=True)


def _write_summary(context: CommandContext, wheels: Sequence[Path], imported: object) -> None:
    size = size_text(sum(wheel.stat().st_size for wheel in wheels))
    names = ", ".join(f"{_name(wheel)} {_version(wheel)}" for wheel in wheels)
    context.write(f"Installed {count_text(len(wheels), 'package')} ({size}): {names}.\n")
    before = (
        [name for name in imported if isinstance(name, str) and name.isidentifier()]
        if isinstance(imported, list)
        else []
    )
    if before:
        context.write(
            f"Imported before, so still the old version: {', '.join(before[:20])}. `%sandbox restart` brings the new "
            "one; variables are lost by it.\n"
        )
