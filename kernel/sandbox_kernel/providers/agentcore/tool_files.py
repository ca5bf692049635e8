"""The files of a session through the service's own tools, for basic mode.

The tools take relative paths only, and whole contents: larger files go in pieces that code in the session joins.
"""

from __future__ import annotations

import base64
import json
import os
import posixpath
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import Any

from sandbox_kernel.errors import InvocationError, NotFoundError, QuotaError, SandboxError
from sandbox_kernel.providers.base import FileEntry, SandboxFiles

from .api import Api
from .faults import PROVIDER
from .results import ToolResult

PIECE = 8 * 1024 * 1024
"""Bytes of one call, in either direction; the service's limit is 100 MB of text."""
TIMEOUT = 300.0
_MARK = "<sbx-files>"
_CODE = """\
def _sbx_files():
    import glob, json, os, shutil, stat
    {body}
_sbx_files()
"""
_SAY = f"print({_MARK!r} + json.dumps(%s))"
_KINDS = "{stat.S_IFREG: 'file', stat.S_IFDIR: 'folder', stat.S_IFLNK: 'link'}"


class ToolFiles(SandboxFiles):
    """Every method runs in order with cells: the session has one interpreter."""

    def __init__(self, api: Api, session_id: str, root: Callable[[], str]) -> None:
        """``root`` tells the session's working folder."""
        self._api, self._session_id, self._root = api, session_id, root

    async def read(self, path: str, *, limit: int | None = None) -> AsyncGenerator[bytes, None]:
        wanted = self.relative(path)
        size = await self._size(wanted, path)
        if limit is not None and size > limit:
            raise QuotaError(f"{path} has {size} bytes, more than {limit}.", provider=PROVIDER)
        if size <= PIECE:
            content = await self._read_one(wanted, path)
            if content:
                yield content
            return
        for start in range(0, size, PIECE):
            part = self._part()
            await self._run(
                f"with open({wanted!r}, 'rb') as f, open({part!r}, 'wb') as g:",
                f"    f.seek({start}); g.write(f.read({PIECE}))",
            )
            try:
                content = await self._read_one(part, path)
            finally:
                await self._call("removeFiles", {"paths": [part]})
            yield content

    async def write(self, path: str, chunks: AsyncIterable[bytes], *, mode: int = 0o644) -> int:
        wanted, part, size = self.relative(path), self._part(), 0
        piece = bytearray()
        begun = False
        try:
            async for chunk in chunks:
                piece += chunk
                size += len(chunk)
                while len(piece) >= PIECE:
                    await self._append(part, bytes(piece[:PIECE]), begun=begun)
                    begun = True
                    del piece[:PIECE]
            await self._append(part, bytes(piece), begun=begun)
            begun = True
            said = await self._run(
                f"if os.path.isdir({wanted!r}): print({_MARK!r} + '\"folder\"'); return",
                f"os.makedirs(os.path.dirname({wanted!r}) or '.', exist_ok=True)",
                f"os.chmod({part!r}, {mode & 0o777}); os.replace({part!r}, {wanted!r})",
                _SAY % "'done'",
            )
            self._check_kind(path, str(said))
        except BaseException:
            if begun:
                await self._run(f"if os.path.exists({part!r}): os.unlink({part!r})")
            raise
        return size

    async def list(
        self, pattern: str, *, recursive: bool = False, limit: int = 100_000
    ) -> AsyncGenerator[FileEntry, None]:
        wanted = self.relative(pattern)
        said = await self._run(
            f"found = [{wanted!r}] if os.path.lexists({wanted!r}) else glob.glob({wanted!r}, recursive=True)",
            "walked = [(a, n) for p in found for a, b, c in os.walk(p) for n in b + c]",
            f"found += [os.path.join(*one) for one in walked] if {recursive!r} else []",
            f"kinds = {_KINDS}",
            f"looked = [(p, os.lstat(p)) for p in found[:{limit + 1}]]",
            "named = [(p, kinds.get(stat.S_IFMT(s.st_mode), 'special'), s) for p, s in looked]",
            "rows = [[p, kind, s.st_size, s.st_mtime, stat.S_IMODE(s.st_mode)] for p, kind, s in named]",
            _SAY % "rows",
        )
        rows = said if isinstance(said, list) else []
        if not rows:
            raise NotFoundError(f"There is no {pattern} in the sandbox.", provider=PROVIDER)
        for row in rows[:limit]:
            path, kind, size, modified, bits = row
            is_file = kind == "file"
            yield FileEntry(str(path), str(kind), int(size) if is_file else 0, float(modified), int(bits))
        if len(rows) > limit:
            raise QuotaError(f"There are more than {limit} files.", provider=PROVIDER)

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        wanted = self.relative(path)
        said = await self._run(
            f"p = {wanted!r}",
            f"if not os.path.lexists(p): print({_MARK!r} + '\"absent\"'); return",
            f"if os.path.isdir(p) and not os.path.islink(p): (shutil.rmtree if {recursive!r} else os.rmdir)(p)",
            "else: os.unlink(p)",
            _SAY % "'done'",
        )
        if said == "absent":
            raise NotFoundError(f"There is no {path} in the sandbox.", provider=PROVIDER)

    def relative(self, path: str) -> str:
        """Return a path as it may travel. Raises InvocationError for what lies outside of the session's folder."""
        root = self._root().rstrip("/")
        wanted = path
        if root and (path == root or path.startswith(f"{root}/")):
            wanted = path[len(root) :].lstrip("/") or "."
        elif path.startswith("~/"):
            wanted = path[2:]
        clean = posixpath.normpath(wanted)
        if clean.startswith(("/", "..")):
            raise InvocationError(
                f"{path} lies outside of the session's folder ({root or 'its working folder'}), which AgentCore's file "
                "tools cannot leave.",
                provider=PROVIDER,
                sandbox_id=self._session_id,
            )
        return clean

    # ---- parts

    def _part(self) -> str:
        return f".sandbox-kernel-{os.urandom(6).hex()}"

    async def _append(self, part: str, content: bytes, *, begun: bool) -> None:
        if not begun:
            await self._call("writeFiles", {"content": [{"path": part, "blob": content}]})
            return
        more = self._part()
        await self._call("writeFiles", {"content": [{"path": more, "blob": content}]})
        await self._run(
            f"with open({part!r}, 'ab') as f, open({more!r}, 'rb') as g: shutil.copyfileobj(g, f)",
            f"os.unlink({more!r})",
        )

    async def _size(self, wanted: str, path: str) -> int:
        said = await self._run(
            f"p = {wanted!r}",
            "kind = 'absent' if not os.path.exists(p) else 'folder' if os.path.isdir(p) "
            "else 'file' if os.path.isfile(p) else 'fifo or device'",
            _SAY % "[kind, os.path.getsize(p) if kind == 'file' else 0]",
        )
        kind, size = said if isinstance(said, list) and len(said) == 2 else ("absent", 0)
        if kind == "absent":
            raise NotFoundError(f"There is no file {path} in the sandbox.", provider=PROVIDER)
        self._check_kind(path, str(kind))
        return int(size)

    def _check_kind(self, path: str, kind: str) -> None:
        if kind not in ("file", "done"):
            raise InvocationError(f"{path}: it is a {kind}.", provider=PROVIDER, sandbox_id=self._session_id)

    async def _read_one(self, wanted: str, path: str) -> bytes:
        said = await self._call("readFiles", {"paths": [wanted]})
        for block in said.blocks:
            resource = block.get("resource") or {}
            if "blob" in resource:
                blob = resource["blob"]
                return bytes(blob) if isinstance(blob, (bytes, bytearray)) else base64.b64decode(blob)
            if "text" in resource:
                return str(resource["text"]).encode()
        raise NotFoundError(f"There is no file {path} in the sandbox.", provider=PROVIDER)

    async def _run(self, *lines: str) -> object:
        code = _CODE.format(body="\n    ".join(lines))
        said = await self._call("executeCode", {"code": code, "language": "python"})
        _, mark, text = said.printed.partition(_MARK)
        return json.loads(text.splitlines()[0]) if mark else None

    async def _call(self, tool: str, arguments: dict[str, Any]) -> ToolResult:
        said = await self._api.invoke(self._session_id, tool, arguments, timeout=TIMEOUT)
        if said.is_error:
            last = " ".join((said.text or said.stderr).strip().splitlines()[-1:])[-300:]
            raise self._error(last)
        return said

    def _error(self, text: str) -> SandboxError:
        return InvocationError(f"AgentCore could not do that with the file: {text}.", provider=PROVIDER)
