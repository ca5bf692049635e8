"""envd, the service in a sandbox for files and processes, in the JSON codec of connect-rpc."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from sandbox_kernel.errors import InvocationError, NotFoundError, QuotaError, SandboxError

from .access import Access
from .brands import ENVD
from .failures import REPEATED, Refusal, error_of, translated
from .rest import Services

_HEAD = struct.Struct(">BI")
_END_OF_STREAM = 2
MAX_MESSAGE = 64 * 1024 * 1024
MAX_OUTPUT = 4 * 1024 * 1024
"""Bytes that a command of ours may print; none needs nearly as many."""
USER = "user"
UPLOAD_TIMEOUT = 600.0


@dataclass(frozen=True)
class Ran:
    """What came of a process. ``exit`` is negative where a signal ended it."""

    exit: int
    output: bytes


class Envd:
    """One sandbox's envd. Each method may raise SandboxError; what it asks for is asked once."""

    def __init__(self, rest: Services, access: Access) -> None:
        self._rest, self._access = rest, access
        self._brand = access.place.brand

    # ---- files

    async def upload(self, path: str, data: bytes) -> None:
        """Write a file; relative paths begin in the user's home. Raises QuotaError where there is no room."""
        files = {"file": (path, data)}
        await self._ask(f"write {path}", "POST", "/files", params=_file(path), files=files, timeout=UPLOAD_TIMEOUT)

    async def beginning(self, path: str, size: int) -> bytes:
        """Return a file's first bytes, ``size`` at most: what a cell may have changed has any length.

        Raises NotFoundError.
        """
        found = bytearray()
        async with aclosing(self.read(path)) as pieces:
            async for piece in pieces:
                found += piece
                if len(found) >= size:
                    break
        return bytes(found[:size])

    async def read(self, path: str) -> AsyncGenerator[bytes, None]:
        """Yield a file's content in pieces. Raises NotFoundError."""
        with self._translated(f"read {path}"):
            async with self._rest.stream(self._access, ENVD, "GET", "/files", params=_file(path)) as response:
                async for piece in response.aiter_bytes():
                    yield piece

    async def write(self, path: str, chunks: AsyncIterable[bytes]) -> None:
        """Write a file from pieces, as they come. Raises QuotaError where there is no room."""
        headers = {"Content-Type": "application/octet-stream"}
        await self._ask(f"write {path}", "POST", "/files", params=_file(path), content=chunks, headers=headers)

    async def stat(self, path: str) -> dict[str, Any]:
        """Return what envd says of a file. Raises NotFoundError."""
        said = await self._call("filesystem.Filesystem/Stat", f"look at {path}", {"path": path})
        return _object(said.get("entry"))

    async def list_folder(self, path: str, depth: int = 1) -> list[dict[str, Any]]:
        """Return what envd says of what is in a folder. Raises NotFoundError."""
        body = {"path": path, "depth": depth}
        said = await self._call("filesystem.Filesystem/ListDir", f"list {path}", body)
        entries = said.get("entries") or []
        return [_object(one) for one in entries] if isinstance(entries, list) else []

    async def move(self, source: str, target: str) -> None:
        """Rename a file, in the place of another. Raises NotFoundError."""
        body = {"source": source, "destination": target}
        await self._call("filesystem.Filesystem/Move", f"rename {source}", body)

    async def remove(self, path: str) -> None:
        """Remove a file, or a folder with what is in it."""
        await self._call("filesystem.Filesystem/Remove", f"remove {path}", {"path": path})

    # ---- processes

    async def run(self, command: str, *, environment: Mapping[str, str] | None = None, timeout: float = 60.0) -> Ran:
        """Run a shell command to its end, its output and errors together.

        A cell can have its shell print without end; after `MAX_OUTPUT` bytes this raises InvocationError.
        """
        output = bytearray()
        status = -1
        stream = self.start(command, environment=environment, timeout=timeout)
        async with aclosing(stream):
            async for event in stream:
                output += _output(event)
                if len(output) > MAX_OUTPUT:
                    text = f"A command of ours printed more than {MAX_OUTPUT} bytes in the sandbox, so it was given up."
                    raise InvocationError(text, provider=self._brand.name, sandbox_id=self._access.sandbox_id)
                if "end" in event:
                    status = _exit_status(_object(event["end"]))
        return Ran(status, bytes(output))

    async def start(
        self, command: str, *, environment: Mapping[str, str] | None = None, timeout: float = 0.0
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Run a shell command and yield its events: start, data, end. 0 seconds: it may take for ever."""
        process = {"cmd": "/bin/bash", "args": ["-l", "-c", command], "envs": dict(environment or {})}
        body = json.dumps({"process": process, "stdin": False}).encode()
        headers = {
            "Content-Type": "application/connect+json",
            "Connect-Protocol-Version": "1",
            "Keepalive-Ping-Interval": "30",
            "Authorization": _as_user(),
        }
        if timeout:
            headers["Connect-Timeout-Ms"] = str(round(timeout * 1000))
        doing, path = "run a command", "/process.Process/Start"
        with self._translated(doing):
            async with self._rest.stream(
                self._access, ENVD, "POST", path, content=_HEAD.pack(0, len(body)) + body, headers=headers
            ) as response:
                async for flag, message in _envelopes(response):
                    if flag & _END_OF_STREAM:
                        self._check_end(message, doing)
                        return
                    yield _object(message.get("event"))

    async def kill(self, pid: int) -> None:
        """End a process with SIGKILL; it may have ended already."""
        body = {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"}
        try:
            await self._call("process.Process/SendSignal", "end a command", body)
        except NotFoundError:
            return

    # ---- asking

    def _check_end(self, message: dict[str, Any], doing: str) -> None:
        error = message.get("error")
        if isinstance(error, dict):
            text = f"{self._access.place.brand.title} could not {doing}: {str(error.get('message'))[:300]}."
            raise InvocationError(text, provider=self._brand.name, sandbox_id=self._access.sandbox_id)

    async def _call(self, method: str, doing: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Connect-Protocol-Version": "1", "Authorization": _as_user()}
        response = await self._ask(doing, "POST", f"/{method}", json=body, headers=headers)
        try:
            return _object(response.json())
        except (ValueError, RecursionError) as exc:
            raise InvocationError(f"What envd answered cannot be read: {exc}.", provider=self._brand.name) from exc

    async def _ask(self, doing: str, method: str, path: str, **content: Any) -> httpx.Response:
        with self._translated(doing):
            return await self._rest.sandbox(self._access, ENVD, method, path, **content)

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """Turn refusals and httpx's errors into ours."""
        with translated(self._brand, doing, sandbox_id=self._access.sandbox_id):
            try:
                yield
            except Refusal as refusal:
                raise _error(self._access, refusal, doing) from refusal


def _error(access: Access, refusal: Refusal, doing: str) -> SandboxError:
    ids: dict[str, Any] = {"provider": access.place.brand.name, "sandbox_id": access.sandbox_id}
    match refusal.status:
        case 404:
            return NotFoundError(f"There is no such file in the sandbox ({refusal.said}).", **ids)
        case 507:
            return QuotaError(f"There is no room in the sandbox ({refusal.said}).", **ids)
        case 400 | 409 | 500 | 501:
            return InvocationError(f"The sandbox refused to {doing}: {refusal.said}", **ids)
    error = error_of(access.place.brand, refusal, doing, sandbox_id=access.sandbox_id)
    # What is asked of a sandbox is asked once here.
    error.retryable = refusal.status in REPEATED
    return error


async def _envelopes(response: httpx.Response) -> AsyncGenerator[tuple[int, dict[str, Any]], None]:
    """Yield flag and message of each envelope. Raises InvocationError where there are none."""
    buffer = bytearray()
    async for data in response.aiter_raw():
        buffer += data
        while len(buffer) >= _HEAD.size:
            flag, size = _HEAD.unpack_from(buffer)
            if size > MAX_MESSAGE:
                raise InvocationError("What envd sends is no stream of messages.")
            if len(buffer) < _HEAD.size + size:
                break
            text = bytes(buffer[_HEAD.size : _HEAD.size + size])
            del buffer[: _HEAD.size + size]
            try:
                yield flag, _object(json.loads(text or b"{}"))
            except (ValueError, RecursionError) as exc:
                raise InvocationError("What envd sends is no stream of messages.") from exc


def _output(event: dict[str, Any]) -> bytes:
    """Return what a process wrote."""
    data = _object(event.get("data"))
    try:
        return b"".join(base64.b64decode(str(data[name])) for name in ("stdout", "stderr") if name in data)
    except ValueError as exc:
        raise InvocationError("What envd sends of a process's output is no base64.") from exc


def _exit_status(end: dict[str, Any]) -> int:
    code = end.get("exitCode", 0)
    if end.get("exited") and isinstance(code, int):
        return code
    return -9


output_of, exit_status_of = _output, _exit_status


def _file(path: str) -> dict[str, str]:
    return {"path": path, "username": USER}


def _as_user() -> str:
    return "Basic " + base64.b64encode(f"{USER}:".encode()).decode()


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
