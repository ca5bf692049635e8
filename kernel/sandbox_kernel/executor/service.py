"""What each method of the service does, without a word about gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import sandbox_kernel
from sandbox_kernel.errors import InvocationError, QuotaError, SandboxKernelError
from sandbox_kernel.executor_api import executor_pb2 as pb
from sandbox_kernel.executor_api.names import to_bytes, to_text
from sandbox_kernel.executor_api.protocol import PROTOCOL
from sandbox_kernel.providers.base import FileEntry, SandboxFiles

from .calls import Caller, CallStream, Function
from .hosted import HostedSandbox
from .links import Relay
from .metrics import Metrics
from .numbers import OnceOnly
from .sandboxes import Sandboxes

ENTRIES = 500
"""Files in one message of a list."""
PATHS = 1024 * 1024
"""Bytes of paths after which a message of a list has no more files; they are what a sandbox says."""
MAX_LABEL = 200
MAX_LISTED = 1_000_000
STOP_TIMEOUT = 5.0
"""Seconds in which a client must have ended its half after it was told that no more of a file is taken."""
NO_LIMIT = (1 << 63) - 1
"""What a client is told who may upload any number of bytes."""


class Service:
    """The methods, by their names in `functions`."""

    def __init__(self, sandboxes: Sandboxes, metrics: Metrics) -> None:
        self._sandboxes, self._metrics = sandboxes, metrics
        self._begun = OnceOnly()

    @property
    def functions(self) -> dict[str, Function]:
        """What serves each method of `executor.proto`."""
        return {
            "Greet": self.greet,
            "Create": self.create,
            "Attach": self.attach,
            "Pause": self.pause,
            "Resume": self.resume,
            "Close": self.close,
            "List": self.list,
            "Explain": self.explain,
            "ReadFile": self.read_file,
            "WriteFile": self.write_file,
            "ListFiles": self.list_files,
            "RemoveFile": self.remove_file,
            "Run": self.run,
            "Link": self.link,
        }

    async def greet(self, caller: Caller, request: pb.GreetRequest) -> pb.GreetReply:
        """Tell who this is."""
        version, draining = sandbox_kernel.__version__, self._sandboxes.draining
        return pb.GreetReply(version=version, protocol=PROTOCOL, owner=caller.owner, draining=draining)

    # ---- a sandbox's life

    async def create(self, caller: Caller, request: pb.CreateRequest) -> pb.SandboxInfo:
        """Make one."""
        label = request.label[:MAX_LABEL]
        return self._info(
            await self._sandboxes.create(caller.owner, label, list(request.kernel_arguments), caller.correlation_id)
        )

    async def attach(self, caller: Caller, request: pb.SandboxRequest) -> pb.SandboxInfo:
        """Tell of one."""
        hosted = await self._find(caller, request.sandbox_id)
        hosted.touch()
        return self._info(hosted)

    async def pause(self, caller: Caller, request: pb.SandboxRequest) -> pb.SandboxInfo:
        """Freeze one."""
        hosted = await self._find(caller, request.sandbox_id)
        await self._sandboxes.pause(hosted)
        return self._info(hosted)

    async def resume(self, caller: Caller, request: pb.SandboxRequest) -> pb.SandboxInfo:
        """Let one go on."""
        hosted = await self._find(caller, request.sandbox_id)
        await self._sandboxes.resume(hosted)
        return self._info(hosted)

    async def close(self, caller: Caller, request: pb.SandboxRequest) -> pb.CloseReply:
        """End one."""
        if not self._sandboxes.end_reason(caller.owner, request.sandbox_id):
            hosted = self._sandboxes.find(caller.owner, request.sandbox_id)
            await self._sandboxes.close(hosted, "client", "a client has closed it", caller.correlation_id)
        return pb.CloseReply()

    async def list(self, caller: Caller, request: pb.ListRequest) -> pb.ListReply:
        """Tell of the caller's."""
        return pb.ListReply(sandboxes=[self._info(hosted) for hosted in self._sandboxes.of(caller.owner)])

    async def explain(self, caller: Caller, request: pb.ExplainRequest) -> pb.Explanation:
        """Tell why one ended, or why its Python did."""
        reason = self._sandboxes.end_reason(caller.owner, request.sandbox_id)
        if reason:
            return pb.Explanation(reason=reason, ended=True)
        hosted = self._sandboxes.find(caller.owner, request.sandbox_id)
        if not hosted.sandbox.alive:
            return pb.Explanation(reason=await self._sandboxes.bury(hosted), ended=True)
        if request.HasField("exit_code"):
            return pb.Explanation(reason=await hosted.sandbox.kernel_death_reason(request.exit_code))
        return pb.Explanation()

    # ---- files

    async def read_file(self, caller: Caller, request: pb.ReadFileRequest) -> AsyncIterator[pb.FileChunk]:
        """Give a file's content."""
        hosted = await self._running(caller, request.sandbox_id)
        limit = request.limit if request.HasField("limit") else None
        with hosted.errands.files() as files:
            async for data in files.read(to_text(request.path), limit=limit):
                hosted.touch()
                yield pb.FileChunk(data=data)

    async def write_file(self, caller: Caller, stream: CallStream) -> None:
        """Take a file's content, as far as the owner may upload it; nothing is kept of more."""
        first = await stream.read()
        if first is None or not first.HasField("header"):
            raise InvocationError("A file begins with its header.")
        header = first.header
        hosted = await self._running(caller, header.sandbox_id)
        upload = _Upload(self._sandboxes, caller.owner, hosted, stream)
        with hosted.errands.files() as files:
            left = self._sandboxes.quotas.upload_left(caller.owner)
            await stream.write(pb.WriteFileReply(allowed=NO_LIMIT if left is None else left))
            try:
                written = await files.write(to_text(header.path), upload.chunks(), mode=header.mode & 0o777)
            except BaseException as exc:
                upload.forget()
                if isinstance(exc, SandboxKernelError):
                    await upload.stop()
                raise
        self._metrics.uploaded.inc(written)
        await stream.write(pb.WriteFileReply(written=written))

    async def list_files(self, caller: Caller, request: pb.ListFilesRequest) -> AsyncIterator[pb.FileList]:
        """Give what matches a pattern."""
        hosted = await self._running(caller, request.sandbox_id)
        with hosted.errands.files() as files:
            async for entries in batches(files, request):
                yield pb.FileList(entries=entries)

    async def remove_file(self, caller: Caller, request: pb.RemoveFileRequest) -> pb.RemoveFileReply:
        """Remove a file or folder."""
        hosted = await self._running(caller, request.sandbox_id)
        with hosted.errands.files() as files:
            await files.remove(to_text(request.path), recursive=request.recursive)
        return pb.RemoveFileReply()

    # ---- commands and the link

    async def run(self, caller: Caller, request: pb.RunRequest) -> AsyncIterator[pb.RunOutput]:
        """Run a shell command, once."""
        hosted = await self._running(caller, request.sandbox_id)
        self._begun.use(caller.owner, caller.number)
        with hosted.errands.command(request.command) as command:
            async for data in command:
                hosted.touch()
                yield pb.RunOutput(data=data)
                hosted.errands.taken(command, len(data))
            if command.exit_code is None:
                raise InvocationError("The sandbox ended before the command did.", sandbox_id=hosted.sandbox_id)
            yield pb.RunOutput(exit_code=command.exit_code)

    async def link(self, caller: Caller, stream: CallStream) -> None:
        """Carry a link's bytes."""
        first = await stream.read()
        if not isinstance(first, pb.LinkChunk) or not first.HasField("open"):
            raise InvocationError("A link begins with the name of its sandbox.")
        hosted = await self._find(caller, first.open.sandbox_id)
        await self._sandboxes.wake(hosted)
        await Relay(hosted, stream, first.open, self._metrics).run(lambda: self._sandboxes.bury(hosted))

    # ---- which one

    async def _find(self, caller: Caller, sandbox_id: str) -> HostedSandbox:
        hosted = self._sandboxes.find(caller.owner, sandbox_id)
        if not hosted.sandbox.alive:
            # Nobody has noticed yet. From now on it is not found, for the reason that is found out here.
            await self._sandboxes.bury(hosted)
        return self._sandboxes.find(caller.owner, sandbox_id)

    async def _running(self, caller: Caller, sandbox_id: str) -> HostedSandbox:
        hosted = await self._find(caller, sandbox_id)
        hosted.require_running()
        hosted.touch()
        return hosted

    def _info(self, hosted: HostedSandbox) -> pb.SandboxInfo:
        return hosted.info(self._sandboxes.closes(hosted))


class _Upload:
    """A file on its way in, counted against its owner's quota while it comes."""

    def __init__(self, sandboxes: Sandboxes, owner: str, hosted: HostedSandbox, stream: CallStream) -> None:
        self._sandboxes, self._owner, self._hosted, self._stream = sandboxes, owner, hosted, stream
        self._counted = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield what comes. Raises QuotaError for more than is allowed, InvocationError where not all of it comes.

        A client that has gone is like one that ends its half, as far as gRPC tells; so the end is a message.
        """
        while (chunk := await self._stream.read()) is not None:
            if chunk.whole:
                return
            self._sandboxes.quotas.count_upload(self._owner, len(chunk.data))
            self._counted += len(chunk.data)
            self._hosted.touch()
            yield chunk.data
        raise InvocationError("The file was not sent whole, so nothing of it is kept.")

    async def stop(self) -> None:
        """Have the client end its half: while it writes, gRPC may let it hear nothing but that the call has ended."""
        await self._stream.write(pb.WriteFileReply(stopped=True))
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drain(), STOP_TIMEOUT)

    async def _drain(self) -> None:
        while await self._stream.read() is not None:
            pass

    def forget(self) -> None:
        """Count it no more: it is not kept."""
        self._sandboxes.quotas.count_upload(self._owner, -self._counted)


async def batches(files: SandboxFiles, request: pb.ListFilesRequest) -> AsyncIterator[list[pb.FileEntry]]:
    """Yield what matches a pattern, as much at a time as one message takes."""
    batch: list[pb.FileEntry] = []
    size = 0
    limit = min(request.limit or MAX_LISTED, MAX_LISTED)
    try:
        async for entry in files.list(to_text(request.pattern), recursive=request.recursive, limit=limit):
            batch.append(_entry(entry))
            size += len(batch[-1].path)
            if len(batch) == ENTRIES or size >= PATHS:
                yield batch
                batch, size = [], 0
    except QuotaError:
        # What was found comes before the word that there is more.
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _entry(entry: FileEntry) -> pb.FileEntry:
    path = to_bytes(entry.path)
    return pb.FileEntry(path=path, kind=entry.kind, size=entry.size, modified=entry.modified, mode=entry.mode)
