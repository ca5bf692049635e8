"""envd: files and processes, in the JSON codec of connect-rpc."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import tarfile
import zlib
from contextlib import suppress
from typing import Any

from .http import Exchange, HttpError, Request

HOME = os.path.expanduser("~")
READ_SIZE = 32 * 1024
ARCHIVE = "/emulator/archive"
"""Not envd's: by it the emulator copies one sandbox's files to another."""
END_OF_STREAM = 2
"""The flag of a stream's last frame."""
STATUS = {
    "invalid_argument": 400,
    "not_found": 404,
    "already_exists": 409,
    "failed_precondition": 400,
    "deadline_exceeded": 504,
    "unimplemented": 501,
    "internal": 500,
}


class RpcError(Exception):
    """An error in connect-rpc's words."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def body(self) -> dict[str, str]:
        """Return what is sent of it."""
        return {"code": self.code, "message": str(self)}


def frame(message: Any, flag: int = 0) -> bytes:
    """Return a message in its envelope."""
    data = json.dumps(message).encode()
    return struct.pack(">BI", flag, len(data)) + data


def unframe(body: bytes) -> Any:
    """Return the message of the first envelope."""
    _, size = struct.unpack(">BI", body[:5])
    return json.loads(body[5 : 5 + size] or b"{}")


class Running:
    """A process, and those who watch it."""

    def __init__(self, process: asyncio.subprocess.Process, config: dict[str, Any], tag: str | None) -> None:
        self.process, self.config, self.tag = process, config, tag
        self.watchers: list[asyncio.Queue[dict[str, Any] | None]] = []
        self.ended: dict[str, Any] | None = None

    def watch(self) -> asyncio.Queue[dict[str, Any] | None]:
        """Return a queue with all that happens from now on; None is the end."""
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        queue.put_nowait({"event": {"start": {"pid": self.process.pid}}})
        self.watchers.append(queue)
        return queue

    def tell(self, event: dict[str, Any] | None) -> None:
        """Tell everyone who watches."""
        for queue in self.watchers:
            queue.put_nowait({"event": event} if event is not None else None)

    async def follow(self) -> None:
        """Tell what the process says, and how it ends."""
        out, err = self.process.stdout, self.process.stderr
        assert out is not None
        assert err is not None
        reading = [asyncio.ensure_future(self._read(out, "stdout")), asyncio.ensure_future(self._read(err, "stderr"))]
        code = await self.process.wait()
        # What it left in the background may hold its pipes for ever; what is in them now is told.
        await asyncio.wait(reading, timeout=0.2)
        for task in reading:
            task.cancel()
        exited = code >= 0
        status = f"exit status {code}" if exited else f"signal: {signal.strsignal(-code)}"
        end: dict[str, Any] = {"exited": exited, "status": status}
        if exited and code:
            end["exitCode"] = code
        if code:
            end["error"] = status
        self.ended = {"end": end}
        self.tell(self.ended)
        self.tell(None)

    async def _read(self, stream: asyncio.StreamReader, name: str) -> None:
        while data := await stream.read(READ_SIZE):
            self.tell({"data": {name: base64.b64encode(data).decode()}})


class Envd:
    """One sandbox's envd."""

    def __init__(self) -> None:
        self._running: dict[int, Running] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request."""
        request = exchange.request
        if request.path == "/health":
            exchange.answer(204)
        elif request.path == "/files":
            await asyncio.get_running_loop().run_in_executor(None, _files, exchange)
        elif request.path == ARCHIVE:
            await asyncio.get_running_loop().run_in_executor(None, _archive, exchange)
        elif request.path in ("/process.Process/Start", "/process.Process/Connect"):
            await self._stream(exchange)
        else:
            await self._unary(exchange)

    async def _unary(self, exchange: Exchange) -> None:
        name = exchange.request.path.rpartition("/")[2]
        try:
            call = getattr(self, f"_{_snake(name)}", None)
            if call is None or not exchange.request.path.startswith(("/process.Process/", "/filesystem.Filesystem/")):
                call = _unimplemented
            exchange.answer(200, call(exchange.request.json()) or {})
        except RpcError as exc:
            exchange.answer(STATUS[exc.code], exc.body())
        except FileNotFoundError as exc:
            exchange.answer(404, {"code": "not_found", "message": f"path not found: {exc.filename}"})
        except OSError as exc:
            exchange.answer(500, {"code": "internal", "message": str(exc)})

    # ---- processes

    async def _stream(self, exchange: Exchange) -> None:
        asked = unframe(exchange.request.body)
        exchange.begin("application/connect+json")
        try:
            if exchange.request.path.endswith("Start"):
                running = await self._start(asked)
            else:
                running = self._find(asked)
            queue = running.watch()
            if exchange.request.path.endswith("Start"):
                task = asyncio.ensure_future(running.follow())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await self._send_events(exchange, running, queue)
            last: dict[str, Any] = {}
        except RpcError as exc:
            last = {"error": exc.body()}
        await exchange.send(frame(last, END_OF_STREAM))
        exchange.end()

    async def _send_events(
        self, exchange: Exchange, running: Running, queue: asyncio.Queue[dict[str, Any] | None]
    ) -> None:
        headers = exchange.request.headers
        loop = asyncio.get_running_loop()
        limit = int(headers.get("connect-timeout-ms", "0")) / 1000
        deadline = loop.time() + limit if limit else None
        keepalive = float(headers.get("keepalive-ping-interval", "90"))
        while True:
            wait = min(keepalive, deadline - loop.time() if deadline else keepalive)
            try:
                event = await asyncio.wait_for(queue.get(), max(0.0, wait))
            except asyncio.TimeoutError:
                if deadline is not None and loop.time() >= deadline:
                    _signal(running, signal.SIGKILL)
                    raise RpcError("deadline_exceeded", "the command took longer than its timeout") from None
                event = {"event": {"keepalive": {}}}
            if event is None:
                return
            await exchange.send(frame(event))

    async def _start(self, asked: dict[str, Any]) -> Running:
        config = asked["process"]
        cwd = _path(config.get("cwd") or HOME)
        if not os.path.isdir(cwd):
            raise RpcError("invalid_argument", f"cwd '{cwd}' does not exist")
        try:
            process = await asyncio.create_subprocess_exec(
                config["cmd"],
                *(_with_app(argument) for argument in config.get("args", [])),
                env={**os.environ, **_PATH, **config.get("envs", {})},
                cwd=cwd,
                stdin=subprocess.PIPE if asked.get("stdin") else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as exc:
            raise RpcError("invalid_argument", f"{config['cmd']} cannot be run: {exc}") from exc
        running = self._running[process.pid] = Running(process, config, asked.get("tag"))
        return running

    def _find(self, asked: dict[str, Any]) -> Running:
        selector = asked.get("process", {})
        pid = int(selector.get("pid", 0))
        found = self._running.get(pid)
        if found is None or found.ended is not None:
            raise RpcError("not_found", f"process with pid {pid} not found")
        return found

    def _list(self, asked: dict[str, Any]) -> dict[str, Any]:
        alive = [(pid, one) for pid, one in self._running.items() if one.ended is None]
        return {"processes": [{"config": one.config, "pid": pid} for pid, one in alive]}

    def _send_signal(self, asked: dict[str, Any]) -> None:
        number = signal.SIGKILL if asked.get("signal") in ("SIGNAL_SIGKILL", 9) else signal.SIGTERM
        _signal(self._find(asked), number)

    def _send_input(self, asked: dict[str, Any]) -> None:
        writer = self._find(asked).process.stdin
        if writer is None:
            raise RpcError("failed_precondition", "stdin of the process is not open")
        writer.write(base64.b64decode(asked["input"]["stdin"]))

    def _close_stdin(self, asked: dict[str, Any]) -> None:
        writer = self._find(asked).process.stdin
        if writer is not None:
            writer.close()

    # ---- files

    def _stat(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"entry": _entry(_path(asked.get("path", "")))}

    def _list_dir(self, asked: dict[str, Any]) -> dict[str, Any]:
        folder = _path(asked.get("path", ""))
        if not os.path.isdir(folder):
            os.lstat(folder)
            raise RpcError("invalid_argument", f"path is not a directory: {folder}")
        return {"entries": list(_below(folder, int(asked.get("depth") or 1)))}

    def _make_dir(self, asked: dict[str, Any]) -> dict[str, Any]:
        path = _path(asked["path"])
        if os.path.lexists(path):
            raise RpcError("already_exists", f"path already exists: {path}")
        os.makedirs(path)
        return {"entry": _entry(path)}

    def _move(self, asked: dict[str, Any]) -> dict[str, Any]:
        source, target = _path(asked["source"]), _path(asked["destination"])
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.rename(source, target)
        return {"entry": _entry(target)}

    def _remove(self, asked: dict[str, Any]) -> None:
        path = _path(asked["path"])
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            # One that is not there is no error: os.RemoveAll.
            with suppress(FileNotFoundError):
                os.unlink(path)


def _unimplemented(asked: dict[str, Any]) -> None:  # noqa: ARG001 - in the place of what is asked for
    raise RpcError("unimplemented", "this call is not emulated")


_PATH = {"PATH": f"/run/bridge/bin:{os.environ.get('PATH', '')}"}
"""With a `sudo` that does nothing, as an agent's start wants one."""


def _with_app(text: str) -> str:
    """Put an agent's /app into the home folder: an emulated sandbox cannot have it elsewhere."""
    return re.sub(r"(?<![\w./~-])/app(?=[\s/;&]|$)", f"{HOME}/app", text)


def _signal(running: Running, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(running.process.pid, number)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).lower()


def _path(text: str) -> str:
    return os.path.normpath(os.path.join(HOME, os.path.expanduser(text)))


def _entry(path: str) -> dict[str, Any]:
    info = os.lstat(path)
    kind = "FILE_TYPE_DIRECTORY" if stat.S_ISDIR(info.st_mode) else "FILE_TYPE_FILE"
    if stat.S_ISLNK(info.st_mode):
        kind = "FILE_TYPE_SYMLINK"
    elif not stat.S_ISDIR(info.st_mode) and not stat.S_ISREG(info.st_mode):
        kind = "FILE_TYPE_UNSPECIFIED"
    entry: dict[str, Any] = {
        "name": os.path.basename(path),
        "type": kind,
        "path": path,
        "size": str(info.st_size),
        "mode": stat.S_IMODE(info.st_mode),
        "permissions": stat.filemode(info.st_mode),
        "owner": "user",
        "group": "user",
        "modifiedTime": _time(info.st_mtime),
    }
    if stat.S_ISLNK(info.st_mode):
        entry["symlinkTarget"] = os.readlink(path)
    return entry


def _time(seconds: float) -> str:
    from datetime import datetime, timezone

    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")


def _below(folder: str, depth: int) -> Any:
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        yield _entry(path)
        if depth > 1 and os.path.isdir(path) and not os.path.islink(path):
            yield from _below(path, depth - 1)


# ---- /files, in a thread


def _files(exchange: Exchange) -> None:
    request = exchange.request
    if request.method == "GET":
        path = _path(request.query.get("path", ""))
        if not os.path.exists(path):
            raise HttpError(404, {"code": 404, "message": f"path '{path}' does not exist"})
        if not os.path.isfile(path):
            raise HttpError(400, {"code": 400, "message": f"path '{path}' is a directory or no regular file"})
        with open(path, "rb") as file:
            exchange.answer(200, file.read())
        return
    try:
        written = [_write(name, data) for name, data in _uploads(request)]
    except OSError as exc:
        status = 507 if exc.errno == 28 else 500
        raise HttpError(status, {"code": status, "message": f"error writing file: {exc}"}) from exc
    exchange.answer(200, written)


def _copied(one: tarfile.TarInfo) -> tarfile.TarInfo | None:
    # In the cache are mounts of this machine.
    wanted = one.isreg() or one.isdir() or one.issym()
    return one if wanted and not one.name.startswith("./.cache") else None


def _archive(exchange: Exchange) -> None:
    stream = io.BytesIO(exchange.request.body)
    if exchange.request.method == "PUT":
        with tarfile.open(fileobj=stream) as archive:
            # The home folder itself belongs to another user.
            members = [one for one in archive.getmembers() if one.name != "."]
            # Older releases of Python have no filters, and do what this one does.
            choice: dict[str, Any] = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
            archive.extractall(HOME, members, **choice)
        exchange.answer(204)
        return
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(HOME, ".", filter=_copied)
    exchange.answer(200, stream.getvalue())


def _uploads(request: Request) -> list[tuple[str, bytes]]:
    body, path = request.body, request.query.get("path", "")
    if request.headers.get("content-encoding") == "gzip":
        body = zlib.decompress(body, 31)
    content_type = request.headers.get("content-type", "")
    if not content_type.startswith("multipart/"):
        return [(path, body)]
    found = re.search(r'boundary="?([^";]+)', content_type)
    if found is None:
        raise HttpError(400, {"code": 400, "message": "no multipart boundary"})
    pieces = (b"\r\n" + body).split(b"\r\n--" + found[1].encode())[1:-1]
    parts = []
    for piece in pieces:
        head, _, data = piece.partition(b"\r\n\r\n")
        name = re.search(rb'filename="([^"]*)"', head)
        parts.append((path or (name[1].decode() if name else ""), data))
    return parts


def _write(name: str, data: bytes) -> dict[str, str]:
    path = _path(name)
    if os.path.isdir(path):
        raise HttpError(400, {"code": 400, "message": f"path is a directory: {path}"})
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    return {"name": os.path.basename(path), "path": path, "type": "file"}
