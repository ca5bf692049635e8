"""A folder of this machine that is held open. What is in it is reached name by name, and no link is followed.

So what happens to the names meanwhile, whoever does it, never leads out of the folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from sandbox_kernel.errors import CommandError

MODE = 0o644
"""Of what lands here, less what the user's umask takes."""


class HostFolder:
    """Use it as a context manager. Paths are sequences of names."""

    def __init__(self, path: str) -> None:
        if os.open not in os.supports_dir_fd:
            raise CommandError("Files cannot be handed over safely on this operating system; use `jupyter` to do it.")
        self._flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        # The folder itself is named by the user, so links on the way to it are the user's.
        self._fd = os.open(path, self._flags & ~os.O_NOFOLLOW)

    def __enter__(self) -> HostFolder:  # noqa: PYI034 - Python 3.10 has no Self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def status(self, parts: Sequence[str]) -> os.stat_result | None:
        """Return what is at a path, a link as such; None if nothing is. Raises OSError where the way is no folder."""
        try:
            folder = self._folder(parts[:-1])
        except FileNotFoundError:
            return None
        try:
            return os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        finally:
            os.close(folder)

    def open(self, parts: Sequence[str]) -> int:
        """Open a regular file for reading. Raises OSError, and CommandError if it is something else."""
        folder = self._folder(parts[:-1])
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(parts[-1], flags, dir_fd=folder)
        finally:
            os.close(folder)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise CommandError(f"{'/'.join(parts)!r} is no regular file any more.")
        return file

    def land(self, parts: Sequence[str], expected: os.stat_result | None) -> Landing:
        """Return a new file that becomes the one at a path, in place of what is expected there. Raises OSError."""
        return Landing(self._folder(parts[:-1], make=True), parts[-1], expected)

    def _folder(self, parts: Sequence[str], *, make: bool = False) -> int:
        folder = os.dup(self._fd)
        for name in parts:
            try:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(name, 0o755, dir_fd=folder)
                inner = os.open(name, self._flags, dir_fd=folder)
            finally:
                os.close(folder)
            folder = inner
        return folder


class Landing:
    """A file under a name of its own until it is whole. Use it as a context manager."""

    def __init__(self, folder: int, name: str, expected: os.stat_result | None) -> None:
        self._folder, self._name, self._expected = folder, name, expected
        self._temporary = f".{os.urandom(8).hex()}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._file = os.open(self._temporary, flags, MODE, dir_fd=folder)
        except BaseException:
            os.close(folder)
            raise
        self._committed = False

    def __enter__(self) -> Landing:  # noqa: PYI034 - Python 3.10 has no Self
        return self

    def write(self, pieces: Sequence[bytes]) -> None:
        """Write pieces, all of them."""
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(self._file, view) :]

    def commit(self) -> None:
        """Give the file its name. Raises CommandError if something else is there than was expected."""
        if self._expected is None:
            self._reserve()
        elif _identity(self._expected) != _identity(self._now()):
            raise CommandError(
                f"{self._name!r} has changed on this machine meanwhile, so it was not replaced; try again."
            )
        os.rename(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._committed = True

    def _reserve(self) -> None:
        try:
            os.close(
                os.open(self._name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE, dir_fd=self._folder)
            )
        except FileExistsError as exc:
            raise CommandError(
                f"{self._name!r} has appeared on this machine meanwhile, so it was not replaced; try again."
            ) from exc

    def _now(self) -> os.stat_result | None:
        with suppress(FileNotFoundError):
            return os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
        return None

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._file)
        if not self._committed:
            with suppress(FileNotFoundError):
                os.unlink(self._temporary, dir_fd=self._folder)
        os.close(self._folder)


def _identity(status: os.stat_result | None) -> tuple[int, ...] | None:
    if status is None:
        return None
    return status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns
