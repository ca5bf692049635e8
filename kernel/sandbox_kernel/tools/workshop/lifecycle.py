"""The life of tools that are written in notebooks: registered, changed, run, removed. For programs, too."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox_kernel.errors import (
    SandboxKernelError,
    ToolConflictError,
    ToolExecutionError,
    ToolOwnershipError,
    ToolRegistrationError,
    ToolStorageError,
    ToolTimeoutError,
    ToolValidationError,
    UnknownToolError,
)
from sandbox_kernel.events import EventLog
from sandbox_kernel.tools.context import RuntimeContext
from sandbox_kernel.tools.schema import check_arguments, make_validator
from sandbox_kernel.tools.tool import Policy, Tool, require_name

from .checks import check_policy, check_structure, normalised
from .documents import Artifact, Document, Version
from .execution import Run, Runner
from .settings import WorkshopSettings
from .stats import Stats
from .store import ToolStore

if TYPE_CHECKING:
    from traitlets.config import Config

    from sandbox_kernel.library import Sandbox

    from .gateway import Gateway

DISCOVERY_INTERVAL = 60.0
"""Seconds between two looks at what the gateway has."""
ATTEMPTS = 5
"""How often a change is tried that somebody else's crosses."""
SUFFIXES = {".py": "python", ".js": "javascript", ".mjs": "javascript", ".ts": "typescript", ".mts": "typescript"}


@dataclass(frozen=True)
class Registered:
    """What came of a registration."""

    document: Document
    artifact: Artifact
    known: bool
    """Its code had been checked before."""


class Workshop:
    """Registers, keeps and runs tools. Its methods belong to one event loop; several processes may share a store."""

    def __init__(
        self,
        settings: WorkshopSettings | None = None,
        *,
        config: Config | None = None,
        store: ToolStore | None = None,
        make_sandbox: Callable[[], Sandbox] | None = None,
        log: EventLog | None = None,
    ) -> None:
        """``config`` is that of the kernel; tools run in sandboxes of its provider unless ``make_sandbox`` is given."""
        self._config = config
        self.settings = settings or WorkshopSettings(config=config)
        self._made_store = store
        self._owner = ""
        self._log = log or EventLog(config=config)
        self.runner = Runner(make_sandbox or self._make_sandbox)
        self._stats: Stats | None = None
        self._gateway: Gateway | None = None
        self._discovered: Sequence[Tool] = ()
        self._discover_due = 0.0

    def _make_sandbox(self) -> Sandbox:
        from traitlets.config import Config

        from sandbox_kernel.library import Sandbox

        config = deepcopy(self._config) if self._config is not None else Config()
        # A tool sees nothing of the notebook's folder.
        config.Workspace.mode = "private"
        return Sandbox(config=config)

    @property
    def store(self) -> ToolStore:
        """Where tools are kept."""
        if self._made_store is None:
            self._made_store = self.settings.make_store()
        return self._made_store

    async def owner(self) -> str:
        """Return who owns what is registered here. It comes from the configuration or from AWS."""
        if not self._owner:
            self._owner = await asyncio.to_thread(self.settings.who)
        return self._owner

    async def stats(self) -> Stats:
        """Return the counters of this process."""
        if self._stats is None:
            self._stats = Stats(self._log, await self.owner())
        return self._stats

    # ---- registering

    async def register(self, name: str, code: str, language: str = "python", *, label: str = "") -> Registered:
        """Check code and keep it as a new tool.

        Raises ToolRegistrationError for a name that is taken or none, ToolValidationError with findings for the code.
        """
        require_name(name)
        with (await self.stats()).step("registration", name, language=language) as said:
            owner = await self.owner()
            if await self.store.load(owner, name) is not None:
                raise ToolRegistrationError(
                    f"There is a tool {name!r} of yours already; `%sandbox tool update` gives it new code."
                )
            artifact, known = await self._artifact(name, code, language)
            version = Version(1, artifact.digest, time.time(), label)
            document = Document(owner, name, (version,), 1, revision=1)
            await self._keep(artifact, document, 0, known=known)
            said.update(digest=artifact.digest, known=known)
            return Registered(document, artifact, known)

    async def update(self, name: str, code: str, language: str = "", *, label: str = "") -> Registered:
        """Give a tool new code, as its next version. Code that cannot be taken leaves the tool as it was."""
        with (await self.stats()).step("update", name) as said:
            before = await self._own(name)
            language = language or (await self.artifact(before.version.digest)).language
            artifact, known = await self._artifact(name, code, language)
            if artifact.digest == before.version.digest:
                raise ToolRegistrationError(f"The tool {name!r} has this code already; nothing was changed.")

            def change(document: Document) -> Document:
                number = max(one.number for one in document.versions) + 1
                version = Version(number, artifact.digest, time.time(), label)
                return document.changed(versions=(*document.versions, version), current=number)

            document = await self._change(name, change, artifact, known=known)
            said.update(digest=artifact.digest, known=known, version=document.current)
            return Registered(document, artifact, known)

    async def register_folder(self, folder: Path) -> list[tuple[str, Registered | SandboxKernelError]]:
        """Register each file of a folder under its stem; return what came of each."""
        found: list[tuple[str, Registered | SandboxKernelError]] = []
        for path in await asyncio.to_thread(lambda: sorted(folder.iterdir())):
            if path.suffix in SUFFIXES and not path.name.startswith("_"):
                try:
                    code = await asyncio.to_thread(_read_code, path, self.settings.max_code)
                    found.append((path.stem, await self.register(path.stem, code, SUFFIXES[path.suffix])))
                except (SandboxKernelError, OSError, UnicodeDecodeError) as exc:
                    error = exc if isinstance(exc, SandboxKernelError) else ToolRegistrationError(f"{path}: {exc}")
                    found.append((path.stem, error))
        return found

    async def _artifact(self, name: str, code: str, language: str) -> tuple[Artifact, bool]:
        """Return the checked artifact, and whether it was known; then only its structure is looked at again."""
        stats = await self.stats()
        artifact = check_structure(name, language, normalised(language, code), self.settings)
        stored = await self.store.get_artifact(artifact.digest)
        if stored is not None and _same(stored, artifact):
            stats.counts["cache hits"] += 1
            return artifact, True
        if stored is not None:
            raise ToolRegistrationError(
                "This code is known with another function as its tool; give the tool that function's name."
            )
        stats.counts["cache misses"] += 1
        await check_policy(name, artifact, self.settings)
        if language != "python":
            complaint = await self.runner.check_syntax(artifact)
            if complaint:
                raise ToolValidationError(
                    f"The code of the tool {name!r} is no {language}:\n{complaint.strip()[:2000]}"
                )
        return artifact, False

    async def _keep(self, artifact: Artifact, document: Document, expected: int, *, known: bool) -> None:
        """Put the artifact, then the document that names it. Somebody may be dropping the same artifact meanwhile."""
        for attempt in range(ATTEMPTS):
            # One that was seen is most often still there; that is looked at when the document is saved.
            skipped = known and not attempt
            new = not skipped and await self.store.put_artifact(artifact.digest, artifact.to_json())
            try:
                await self.store.save(document, expected)
            except ToolConflictError:
                if attempt == ATTEMPTS - 1 or await self._is_changed(document, expected):
                    if new:
                        await self.store.drop_artifact(artifact.digest)
                    raise
                continue
            return

    async def _is_changed(self, document: Document, expected: int) -> bool:
        found = await self.store.load(document.owner, document.name)
        return (found.revision if found else 0) != expected

    # ---- changing

    async def _own(self, name: str) -> Document:
        """Return a tool of the owner's. Raises ToolOwnershipError for somebody else's, UnknownToolError for none."""
        owner = await self.owner()
        other, slash, bare = name.rpartition("/")
        if slash and other != owner:
            raise ToolOwnershipError(
                f"The tool {bare!r} belongs to {other}, and you are {owner}; only he can change it."
            )
        found = await self.store.load(owner, bare)
        if found is not None:
            return found
        others = [one.owner for one in await self.store.documents() if one.name == bare]
        if others:
            raise _not_yours(bare, others[0], owner)
        raise await self._unknown(bare)

    async def _unknown(self, name: str) -> UnknownToolError:
        import difflib

        names = [one.name for one in await self.store.documents(await self.owner())]
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names) or 'none'}."
        return UnknownToolError(f"There is no tool {name[:80]!r}; {hint}")

    async def _change(
        self,
        name: str,
        change: Callable[[Document], Document],
        artifact: Artifact | None = None,
        *,
        known: bool = False,
    ) -> Document:
        """Change a document; somebody else's change in between is not lost."""
        for attempt in range(ATTEMPTS):
            before = await self._own(name)
            after = change(before)
            try:
                if artifact is not None:
                    await self._keep(artifact, after, before.revision, known=known)
                else:
                    await self.store.save(after, before.revision)
            except ToolConflictError:
                if attempt == ATTEMPTS - 1:
                    raise
                continue
            return after
        raise AssertionError("the last attempt returns or raises")

    async def rollback(self, name: str, number: int | None = None) -> Document:
        """Run an earlier version again: that of a number, or the one before. Raises UnknownToolError."""

        def change(document: Document) -> Document:
            earlier = [one.number for one in document.versions if one.number < document.current]
            wanted = number if number is not None else max(earlier, default=0)
            if wanted not in [one.number for one in document.versions]:
                known = ", ".join(str(one.number) for one in document.versions)
                asked = f"version {wanted}" if wanted else "earlier version"
                raise UnknownToolError(f"The tool {name!r} has no {asked}; it has: {known}.")
            return document.changed(current=wanted)

        with (await self.stats()).step("rollback", name):
            return await self._change(name, change)

    async def enable(self, name: str, enabled: bool = True) -> Document:
        """Let a tool be run, or let nobody run it."""
        with (await self.stats()).step("enabling" if enabled else "disabling", name):
            return await self._change(name, lambda document: document.changed(enabled=enabled))

    async def remove(
        self,
        name: str,
        *,
        artifact: bool = False,
        unpublish: Callable[[Document], Awaitable[None]] | None = None,
    ) -> list[str]:
        """Remove a tool, and with ``artifact`` its code where nobody else uses it; return what is left, and why.

        It is withdrawn from the gateway first, or ``unpublish`` is called; that this fails does not stop the rest.
        """
        left: list[str] = []
        with (await self.stats()).step("removal", name):
            document = await self._own(name)
            if unpublish is not None or document.published:
                try:
                    await (unpublish or self._withdraw)(document)
                except SandboxKernelError as exc:
                    left.append(f"what was published: {exc}")
            await self.store.delete(document)
            if artifact:
                for digest in sorted(document.digests):
                    try:
                        if not await self.store.drop_artifact(digest):
                            users = ", ".join(f"{owner}/{tool}" for owner, tool in await self.store.users(digest))
                            left.append(f"the artifact {digest}: it is used by {users}")
                    except ToolStorageError as exc:
                        left.append(f"the artifact {digest}: {exc}")
        return left

    async def collect(self) -> list[str]:
        """Remove the artifacts that nobody uses, such as a crash leaves; return their digests."""
        found = await self.store.artifacts()
        return [one for one in found if not await self.store.users(one) and await self.store.drop_artifact(one)]

    # ---- publishing

    @property
    def gateway(self) -> Gateway:
        """The gateway that is configured. Raises ToolRegistrationError where there is none."""
        if self._gateway is None:
            self._gateway = self.settings.make_gateway()
        return self._gateway

    async def publish(self, name: str) -> Document:
        """Make the tool a target of the gateway, or bring its target up to date; a failure changes nothing."""
        with (await self.stats()).step("publication", name):
            document = await self._own(name)
            gateway = self.gateway
            artifact = await self.artifact(document.version.digest)
            old = str(document.published.get(gateway.identifier, ""))
            target = await gateway.publish(self._as_tool(document, artifact), old)
            if target == old:
                return document
            try:
                return await self._change(name, lambda one: _published(one, gateway.identifier, target))
            except BaseException:
                await gateway.unpublish(target)
                raise

    async def unpublish(self, name: str) -> Document:
        """Remove the tool's target from the gateway. Raises UnknownToolError where it has none."""
        with (await self.stats()).step("withdrawal", name):
            document = await self._own(name)
            await self._withdraw(document)
            return await self._change(name, lambda one: _published(one, self.gateway.identifier, ""))

    async def _withdraw(self, document: Document) -> None:
        target = document.published.get(self.gateway.identifier)
        if not target:
            raise UnknownToolError(f"The tool {document.name!r} is not published at {self.gateway.identifier}.")
        await self.gateway.unpublish(str(target))

    # ---- looking

    async def documents(self, *, all_owners: bool = False) -> Sequence[Document]:
        """Return the owner's tools, or everybody's."""
        return await self.store.documents(None if all_owners else await self.owner())

    async def show(self, name: str) -> tuple[Document, Artifact]:
        """Return a tool and its code; that of somebody else is called OWNER/NAME. Raises UnknownToolError."""
        owner, slash, bare = name.rpartition("/")
        found = await self.store.load(owner if slash else await self.owner(), bare)
        if found is None:
            raise await self._unknown(bare)
        return found, await self.artifact(found.version.digest)

    async def artifact(self, digest: str) -> Artifact:
        """Return checked code. Raises ToolStorageError where it is not there, or is not what its name says."""
        stored = await self.store.get_artifact(digest)
        if stored is None:
            raise ToolStorageError(f"The artifact {digest} is not in the store.")
        from .checks import digest_of

        try:
            found = Artifact.from_json(stored)
        except (ValueError, TypeError, KeyError) as exc:
            raise ToolStorageError(f"The artifact {digest} cannot be read: {exc}.") from exc
        if digest_of(found.language, found.code) != digest:
            raise ToolStorageError(f"The artifact {digest} is not what it was: its content has another digest.")
        return found

    # ---- running

    async def begin(self, name: str, arguments: Mapping[str, Any], *, timeout: float | None = None) -> Run:
        """Begin to run a tool with these arguments; see `Runner`. Raises ToolArgumentsError and what keeps it."""
        document, artifact = await self.show(name)
        if not document.enabled:
            raise ToolExecutionError(f"The tool {name!r} is disabled; `%sandbox tool enable {name}` changes that.")
        seconds = self.settings.execution_timeout if timeout is None else timeout
        if not 0 < seconds <= self.settings.longest_execution:
            raise ToolExecutionError(
                f"A run may take at most {self.settings.longest_execution:g} s (WorkshopSettings.longest_execution)."
            )
        await asyncio.to_thread(check_arguments, make_validator(artifact.input_schema), dict(arguments))
        await self.store.count_use(artifact.digest)
        return self.runner.begin(document.name, artifact, artifact.function, arguments, seconds)

    async def invoke(self, name: str, arguments: Mapping[str, Any], *, timeout: float | None = None) -> Run:
        """Run a tool to its end; who is cancelled ends it. Raises ToolExecutionError or ToolTimeoutError."""
        with (await self.stats()).step("execution", name) as said:
            run = await self.begin(name, arguments, timeout=timeout)
            said["execution_id"] = run.id
            assert run.task is not None
            try:
                await asyncio.wait([run.task])
            except asyncio.CancelledError:
                run.task.cancel()
                raise
            if run.state == "timeout":
                raise ToolTimeoutError(run.error)
            if run.state != "done":
                raise ToolExecutionError(run.error)
            return run

    async def tools(self) -> Sequence[Tool]:
        """Return the owner's tools as ones that cells can call: they run in sandboxes of their own."""
        found = []
        for document in await self.documents():
            if document.enabled:
                artifact = await self.artifact(document.version.digest)
                found.append(self._as_tool(document, artifact))
        if self.settings.use_gateway:
            names = {tool.name for tool in found}
            found += [tool for tool in await self._of_gateway() if tool.name not in names]
        return found

    async def _of_gateway(self) -> Sequence[Tool]:
        """Return what the gateway has, looked at now and then."""
        if time.monotonic() >= self._discover_due:
            self._discovered = await self.gateway.discover()
            self._discover_due = time.monotonic() + DISCOVERY_INTERVAL
        return self._discovered

    def _as_tool(self, document: Document, artifact: Artifact) -> Tool:
        async def call(arguments: dict[str, Any], _: RuntimeContext) -> Any:
            return (await self.invoke(document.name, arguments)).value

        return Tool(
            document.name,
            artifact.description or document.name,
            artifact.input_schema,
            call,
            blocking=False,
            policy=Policy.ALLOW,
            timeout=self.settings.execution_timeout + 60,
            source=f"workshop:{document.owner}/{document.name}@{artifact.digest}",
        )

    async def close(self) -> None:
        """End sandboxes and runs, and close the store. Idempotent."""
        await self.runner.close()
        if self._gateway is not None:
            await self._gateway.close()
        if self._made_store is not None:
            await self._made_store.close()


def _published(document: Document, gateway: str, target: str) -> Document:
    others = {key: value for key, value in document.published.items() if key != gateway}
    return document.changed(published={**others, gateway: target} if target else others)


def _read_code(path: Path, limit: int) -> str:
    """Return a file's text. Raises ToolRegistrationError where it is none: a pipe would be waited for."""
    if path.is_symlink():
        # A cell may have made it, and what it leads to would be read by the sandbox.
        raise ToolRegistrationError(f"{path} is a link; links are not followed.")
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(descriptor, encoding="utf-8") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ToolRegistrationError(f"{path} is no ordinary file.")
        text = opened.read(limit + 1)
    if len(text) > limit:
        raise ToolRegistrationError(f"{path} has more than {limit} characters (WorkshopSettings.max_code).")
    return text


def _not_yours(name: str, owner: str, caller: str) -> ToolOwnershipError:
    return ToolOwnershipError(f"The tool {name!r} belongs to {owner}, and you are {caller}; only he can change it.")


def _same(stored: bytes, artifact: Artifact) -> bool:
    try:
        found = Artifact.from_json(stored)
    except (ValueError, TypeError, KeyError):
        return False
    return replace(found, description="") == replace(artifact, description="")
