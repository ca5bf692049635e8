"""Files of a sandbox through envd, where there is no bridge."""

from __future__ import annotations

import posixpath
import re
import shlex
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from typing import Any

from sandbox_kernel.errors import InvocationError, NotFoundError, QuotaError
from sandbox_kernel.providers.base import FileEntry, SandboxFiles

from .envd import Envd

DEPTH = 50
"""Folders in folders that are listed."""
_KINDS = {"FILE_TYPE_FILE": "file", "FILE_TYPE_DIRECTORY": "folder", "FILE_TYPE_SYMLINK": "link"}
_WILD = re.compile(r"[*?\[]")


class EnvdFiles(SandboxFiles):
    """Relative paths begin in the working folder."""

    def __init__(self, envd: Callable[[], Envd], work: str, ids: dict[str, Any]) -> None:
        """``work`` is a folder in the home."""
        self._envd, self._work, self._ids = envd, work, ids

    async def read(self, path: str, *, limit: int | None = None) -> AsyncGenerator[bytes, None]:
        full = self._full(path)
        found = _entry(path, await self._stat(path))
        if found.kind == "folder":
            raise InvocationError(f"{path}: it is a folder.", **self._ids)
        if found.kind == "special":
            raise InvocationError(f"{path}: it is a fifo, a device or a socket.", **self._ids)
        if limit is not None and found.size > limit:
            raise QuotaError(f"{path}: it has {found.size} bytes, and {limit} are allowed.", **self._ids)
        async for piece in self._envd().read(full):
            yield piece

    async def write(self, path: str, chunks: AsyncIterable[bytes], *, mode: int = 0o644) -> int:
        full = self._full(path)
        part = posixpath.join(posixpath.dirname(full), f".{uuid.uuid4().hex}.part")
        size = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size
            async for chunk in chunks:
                size += len(chunk)
                yield chunk

        envd = self._envd()
        try:
            await envd.write(part, counted())
            target, source = shlex.quote(full), shlex.quote(part)
            # Not by envd's own call, which would put it into a folder of that name.
            command = f"test ! -d ~/{target} && chmod {mode:o} ~/{source} && mv -fT ~/{source} ~/{target}"
            ran = await envd.run(command)
        except BaseException:
            await envd.remove(part)
            raise
        if ran.exit:
            await envd.remove(part)
            said = ran.output.decode(errors="replace").strip()
            raise InvocationError(f"{path}: {said or 'it is a folder'}.", **self._ids)
        return size

    async def list(
        self, pattern: str, *, recursive: bool = False, limit: int = 100_000
    ) -> AsyncGenerator[FileEntry, None]:
        count = 0
        async for entry in self._found(pattern, recursive=recursive):
            count += 1
            if count > limit:
                raise QuotaError(f"{pattern}: there are more than {limit} files.", **self._ids)
            yield entry
        if not count:
            raise NotFoundError(f"{pattern}: there is no such file.", **self._ids)

    async def _found(self, pattern: str, *, recursive: bool) -> AsyncIterator[FileEntry]:
        wild = _WILD.search(pattern)
        base = pattern if wild is None else posixpath.dirname(pattern[: wild.start()])
        if wild is None:
            top = _entry(base, await self._stat(base))
            yield top
            if top.kind != "folder" or not recursive:
                return
        matching = re.compile(".*") if wild is None else _translated(pattern)
        try:
            listed = await self._envd().list_folder(self._full(base), DEPTH if recursive or "**" in pattern else 2)
        except NotFoundError:
            return
        root = _root(base, listed)
        for one in listed:
            path = posixpath.join(base, posixpath.relpath(str(one.get("path", "")), root))
            if matching.fullmatch(path) or (recursive and any(matching.fullmatch(up) for up in _parents(path))):
                yield _entry(path, one)

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        found = _entry(path, await self._stat(path))
        if found.kind == "folder" and not recursive and await self._envd().list_folder(self._full(path)):
            raise InvocationError(f"{path}: the folder is not empty.", **self._ids)
        await self._envd().remove(self._full(path))

    async def _stat(self, path: str) -> dict[str, Any]:
        try:
            return await self._envd().stat(self._full(path))
        except NotFoundError as exc:
            raise NotFoundError(f"{path}: there is no such file.", **self._ids) from exc

    def _full(self, path: str) -> str:
        if path.startswith("~/") or path == "~":
            return path[2:] or "."
        return path if path.startswith("/") else posixpath.join(self._work, path)


def _root(base: str, listed: Sequence[dict[str, Any]]) -> str:
    """Return the absolute path of the folder that was listed."""
    paths = [str(one.get("path", "")) for one in listed]
    return posixpath.dirname(min(paths, key=lambda path: path.count("/"))) if paths else base


def _entry(path: str, said: dict[str, Any]) -> FileEntry:
    return FileEntry(
        path,
        _KINDS.get(str(said.get("type")), "special"),
        _whole(said.get("size")),
        _moment(said.get("modifiedTime")),
        _whole(said.get("mode")) & 0o7777,
    )


def _whole(value: object) -> int:
    # Numbers of 64 bits are texts in the codec.
    text = str(value)
    return int(text) if text.isdigit() else 0


def _moment(value: object) -> float:
    from datetime import datetime

    try:
        return datetime.fromisoformat(str(value).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return 0.0


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _translated(pattern: str) -> re.Pattern[str]:
    """Return a pattern of files as a regular expression; wildcards do not stand for names that begin with a dot."""
    said, at = "", 0
    while at < len(pattern):
        start = at == 0 or pattern[at - 1] == "/"
        hidden = r"(?!\.)" if start else ""
        if pattern.startswith("**/", at):
            said, at = f"{said}(?:(?!\\.)[^/]+/)*", at + 3
        elif pattern[at] == "*":
            said, at = f"{said}{hidden}[^/]*", at + 1
        elif pattern[at] == "?":
            said, at = f"{said}{hidden}[^/]", at + 1
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            inside = pattern[at + 1 : end].replace("\\", "\\\\")
            said, at = f"{said}[{'^' + inside[1:] if inside[0] == '!' else inside}]", end + 1
        else:
            said, at = said + re.escape(pattern[at]), at + 1
    return re.compile(said)
