"""The copy of one notebook's folder in one sandbox: how it is made, kept like the folder, and fetched back."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from sandbox_kernel.errors import SandboxKernelError
from sandbox_kernel.operations import Operations
from sandbox_kernel.workspace.changes import Kind
from sandbox_kernel.workspace.entries import FILE, FOLDER, Entry, is_same, load, save
from sandbox_kernel.workspace.folder import NotebookFolder, shown
from sandbox_kernel.workspace.host_files import Caps, Found, HostFiles, open_to_send
from sandbox_kernel.workspace.patterns import Patterns
from sandbox_kernel.workspace.staging import REMOVED, Staging

from . import telling
from .beside import base_file, chosen, clean, odd_file
from .comparing import Plan, compared, to_send, upwards
from .staged import Staged, Step
from .threads import in_thread
from .transfers import Sending, Sent, Transfers

AT_ONCE = 300
"""Entries of a folder that is looked at before each cell; that takes about a millisecond."""
SENT_AT_ONCE = 8 * 1024 * 1024
"""Bytes that are sent ahead of a cell."""
INTERVAL = 2.0
"""Seconds between two looks at a larger folder."""
SHARE = 20
"""How much longer than a look the pause behind it is, at least."""

Report = Callable[..., None]
"""Takes the name of an event, its level and fields, for the log."""


class Copy:
    """One copy. ``base`` is what folder and copy were when they were last alike."""

    def __init__(self, notebook: NotebookFolder, operations: Operations, report: Report, hidden: Sequence[str]) -> None:
        self.notebook = notebook
        self.transfers = Transfers(operations)
        self.lock = asyncio.Lock()
        self.step: Step = lambda label, size: lambda path, moved: None
        """Shows people how far it has come."""
        self.base: dict[str, Entry] = {}
        self.found = Found()
        """What the last look at the folder found."""
        self.staged: Staged | None = None
        """What the layer has; None without one."""
        self.is_open = False
        """Whether the sandbox has it, and can be asked about it."""
        self.kept: float | None = None
        """When the layer last had all that cells changed, in seconds since the epoch."""
        self._report, self._hidden = report, hidden
        self._host: HostFiles | None = None
        self._skipped = Patterns(notebook.settings.sync_skipped)
        self._refused: dict[str, Entry] = {}
        self._unsent: dict[str, str] = {}
        """What could not be brought to a new sandbox, with the reason."""
        self._sending: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[Found] | None = None
        self._looked = 0.0
        self._used = False
        """Whether a cell ran since the changes were last fetched."""
        self._told: tuple[str, ...] = ()
        self._file = ""

    # ---- how it begins

    async def begin(self, provider: str, sandbox_id: str, *, fresh: bool) -> str:
        """Make the copy, or go on with the one that the sandbox has; return what people have to know, as lines.

        Raises SandboxError, OSError.
        """
        async with self.lock:
            await in_thread(partial(self._prepare, f"{provider}:{sandbox_id}", fresh=fresh))
            if self._host is None:
                return ""
            found = await self.look()
            if fresh:
                await self._fill(found)
            else:
                await self._go_on(found)
            self.is_open = True
            await self.save()
            self.notebook.clean_later()
            return self._news(found) if fresh else ""

    def _prepare(self, sandbox: str, *, fresh: bool) -> None:
        self.is_open, self._sending, self._looking, self.kept = False, None, None, None
        self._refused, self._unsent, self._told, self._used = {}, {}, (), False
        self.notebook.prepare(self._hidden)
        secrets, settings = self.notebook.secrets, self.notebook.settings
        if secrets is None:
            return
        self._host = HostFiles(secrets, self.caps, self._skipped)
        folder = os.path.join(settings.layers, "copies")
        os.makedirs(folder, 0o700, exist_ok=True)
        clean(folder, settings.keep_days)
        name = hashlib.sha256(sandbox.encode()).hexdigest()[:32]
        self._file = os.path.join(folder, f"{name}.json")
        if self.notebook.layer is not None:
            self.notebook.layer = chosen(self.notebook, self.notebook.layer, name, fresh=fresh)
            try:
                Staging(self.notebook.layer).probe()
            except OSError as exc:
                self.notebook.degrade(f"no layer can be made in {settings.layers} ({exc.strerror})")
        layer = self.notebook.layer
        self.staged = Staged(layer, self.caps.file_size) if layer is not None else None
        if self.staged is not None:
            self.staged.pin([path for path, entry in self.staged.entries.items() if self._is_skipped(path, entry)])

    @property
    def caps(self) -> Caps:
        """How much is copied."""
        settings = self.notebook.settings
        return Caps(settings.sync_files, settings.sync_size, settings.sync_file_size)

    async def look(self) -> Found:
        assert self._host is not None
        if self._looking is not None:
            # One at a time: what is found of secrets is kept for the next look.
            await asyncio.wait([self._looking])
            self._looking = None
        self.found = await in_thread(partial(self._host.look, self._known()))
        return self.found

    def _known(self) -> Mapping[str, Entry]:
        """Return the entries whose digests need not be computed again."""
        return ChainMap(self.found.entries, dict(self.base))

    async def _fill(self, found: Found) -> None:
        """Make the copy in an empty folder: the notebook's folder, and on top what its layer says."""
        layer = self.notebook.layer
        covered = self.staged.covered if self.staged is not None else frozenset()
        sending = [
            self.sending_of(path, entry, None)
            for path, entry in found.entries.items()
            if path not in covered and not any(around in covered for around in upwards(path))
        ]
        own = self.staged.to_send() if self.staged is not None else []
        sent = await self._send("Upload", [*sending, *own])
        # Of what is in the layer: what it was when cells changed it, in a sandbox before this one.
        before = (load(base_file(layer)) or {}) if layer is not None else {}
        self.base = {**found.entries, **{path: entry for path, entry in before.items() if path in covered}}
        self.base.update({one.path: sent.entries[one.path] for one in sending if one.path in sent.entries})
        self._unsent = {path: shown(why) for path, why in sent.refused.items()}
        for one in sending:
            if one.path in sent.refused:
                self.base.pop(one.path, None)
                self._refused[one.path] = one.entry
        if self.staged is not None:
            self.staged.pin(sent.refused)

    async def _go_on(self, found: Found) -> None:
        """Go on with a copy that is there."""
        known = load(self._file)
        if known is None:
            # Another machine's, or it is too long ago: what is alike now counts as such.
            claims = await self.transfers.contents(self.caps.file_size)
            known = {path: entry for path, entry in found.entries.items() if is_same(entry, claims.get(path))}
        self.base = known
        await self._push(found)

    # ---- this machine's changes

    async def synchronise(self) -> Sent:
        """Send what has changed on this machine, and that no cell changed; return what became of it."""
        async with self.lock:
            await self.settle()
            self._refused.clear()
            return await self._push(await self.look())

    async def _push(self, found: Found) -> Sent:
        pending = self._pending(found)
        sent = await self._send("Upload", pending)
        self._take(pending, sent)
        if pending:
            await self.save()
        return sent

    def _pending(self, found: Found) -> list[Sending]:
        for path, entry in found.entries.items():
            if path in self.base and is_same(entry, self.base[path]):
                # With the signature of now, so that it need not be read again.
                self.base[path] = entry
        plan = to_send(found.entries, found.left_out, self.base, self._refused)
        return [self.sending_of(path, entry, expected) for path, (entry, expected) in plan.items()]

    def sending_of(self, path: str, entry: Entry, expected: str | None) -> Sending:
        secrets = self.notebook.secrets
        assert secrets is not None
        return Sending(path, entry, expected, partial(open_to_send, secrets, path) if entry.kind == FILE else None)

    async def _send(self, label: str, entries: Sequence[Sending]) -> Sent:
        if not entries:
            return Sent()
        size = sum(one.entry.size for one in entries)
        sent = await self.transfers.send(entries, self.step(label, size))
        self._report("copied", files=len(sent.entries), refused=len(sent.refused), bytes=size)
        return sent

    def _take(self, pending: Iterable[Sending], sent: Sent) -> None:
        """Take note of what is in the sandbox now."""
        for one in pending:
            if one.path in sent.refused:
                self._refused[one.path] = one.entry
            elif one.entry.kind == REMOVED:
                self.base.pop(one.path, None)
            elif one.path in sent.entries:
                self.base[one.path] = sent.entries[one.path]

    def before_cell(self) -> str:
        """Send what has changed on this machine ahead of a cell, if that is quickly done; return what to say of it."""
        self._used = True
        if not self.is_open or self.lock.locked() or (self._sending is not None and not self._sending.done()):
            return ""
        if self.notebook.layer is not None:
            self.notebook.layer.keep_young()
        found = self._looked_at()
        pending = self._pending(found) if found is not None else []
        if not pending:
            return ""
        left: tuple[str, ...] = ()
        if sum(one.entry.size for one in pending) > SENT_AT_ONCE:
            left = tuple(one.path for one in pending if one.entry.size)
            pending = [one for one in pending if not one.entry.size]
        if pending:
            self._sending = asyncio.ensure_future(self._arrive(pending, self.transfers.send_now(pending)))
        told, self._told = self._told, left
        if not left or told == left:
            return ""
        return f"{telling.names(left)} changed on this machine; `%sandbox sync` brings the sandbox what is new.\n"

    def _looked_at(self) -> Found | None:
        """Return what a look at the folder finds now, or, in a large one, found some seconds ago; None without one."""
        assert self._host is not None
        if len(self.found.entries) + len(self.found.left_out) <= AT_ONCE:
            with suppress(OSError):
                self.found = self._host.look(self._known())
                return self.found
            return None
        if self._looking is None:
            if time.monotonic() - self._looked > max(INTERVAL, SHARE * self.found.seconds):
                self._looking = asyncio.ensure_future(asyncio.to_thread(self._host.look, self._known()))
            return None
        if not self._looking.done():
            return None
        looking, self._looking, self._looked = self._looking, None, time.monotonic()
        if looking.cancelled() or looking.exception() is not None:
            return None
        self.found = looking.result()
        return self.found

    async def _arrive(self, pending: Sequence[Sending], arriving: asyncio.Task[Sent]) -> None:
        """Take note of what was sent ahead of a cell; what goes wrong is tried again before the next one."""
        try:
            self._take(pending, await arriving)
            await self.save()
        except (SandboxKernelError, OSError) as exc:
            self._report("not_copied", "warning", error=str(exc))

    async def settle(self) -> None:
        """Wait for what was sent ahead of a cell."""
        if self._sending is not None:
            await asyncio.wait([self._sending])

    # ---- the sandbox's changes

    async def stage(self) -> Plan:
        """Bring what cells changed into the layer; called with the lock. Raises CommandError, SandboxError, OSError."""
        await self.settle()
        layer, staged = self.notebook.layer, self.staged
        assert layer is not None
        assert staged is not None
        found = await self.look()
        self._pending(found)
        largest = self.caps.file_size
        plan = await in_thread(partial(self._compare, await self.transfers.contents(largest), found))
        for path in plan.alike:
            if path in found.entries:
                self.base[path] = found.entries[path]
            else:
                self.base.pop(path, None)
        layer.set_applied({})
        await staged.follow(plan, self.base, self.transfers, self.step)
        changed = {path: self.base[path] for path in plan.wanted if path in self.base}
        await in_thread(partial(save, base_file(layer), changed))
        await self.save()
        self.kept = time.time()
        return plan

    def _compare(self, claims: Mapping[str, Entry], found: Found) -> Plan:
        copied = {path: claim for path, claim in claims.items() if not self._is_skipped(path, claim)}
        return compared(copied, self.base, found.entries, self.caps.file_size, self.caps.size)

    def _is_skipped(self, path: str, claim: Entry) -> bool:
        return self._skipped.cover(path, folder=claim.kind == FOLDER)

    async def keep(self) -> bool:
        """Bring what cells changed into the layer, so that it outlives the sandbox; return whether that was done.

        What cannot be kept, such as a file that is too large, is told when the next copy begins.
        """
        layer = self.notebook.layer
        if not self.is_open or layer is None:
            return True
        try:
            async with self.lock:
                plan = await self.stage()
                lost = {one.path: Entry(FILE, said=one.refused) for one in plan.odd if one.kind is Kind.FILE}
                save(odd_file(layer), lost)
        except (SandboxKernelError, OSError) as exc:
            self._report("not_kept", "warning", error=str(exc))
            return False
        return True

    def belongs_to(self, notebook: str, *, fresh: bool) -> bool:
        """Take note of the notebook's file; return whether a new sandbox is needed to show what was kept of it."""
        if self.notebook.layer is None or not fresh:
            self.notebook.notebook = self.notebook.notebook or notebook
            return False
        renewed = self.notebook.belongs_to(notebook)
        if renewed:
            # It is the other layer now, and nothing of this sandbox belongs there.
            self.forget()
        return renewed

    async def watch(self, is_idle: Callable[[], bool]) -> None:
        """Fetch now and then what cells changed, while none runs, until the sandbox is not this one's any more."""
        interval = float(self.notebook.settings.sync_interval)
        while interval and self.is_open:
            await asyncio.sleep(interval)
            if self._used and is_idle():
                self._used = False
                await self.keep()

    def forget(self) -> None:
        """The sandbox is not this kernel process's any more."""
        self.is_open = False

    def discard_file(self) -> None:
        """The sandbox is gone."""
        self.forget()
        with suppress(FileNotFoundError):
            if self._file:
                os.unlink(self._file)

    async def save(self) -> None:
        """Remember what was alike, for a kernel process that comes after this one."""
        try:
            await in_thread(partial(save, self._file, dict(self.base)))
        except OSError as exc:
            self._report("not_saved", "warning", error=str(exc))

    # ---- for people

    def lost(self) -> str:
        """Return what became of changes when the sandbox ended by itself, as a sentence behind others; "" if none."""
        return telling.lost(self.kept) if self.is_open and self.notebook.layer is not None else ""

    def describe(self) -> dict[str, str]:
        """Rows for the status table."""
        return telling.describe(self.notebook, len(self.base), self.found)

    def _news(self, found: Found) -> str:
        """Return what is not in the sandbox, and what could not be kept of the one before it."""
        layer = self.notebook.layer
        odd = (load(odd_file(layer)) or {}) if layer is not None else {}
        if layer is not None and odd:
            os.unlink(odd_file(layer))
        return telling.news({path: entry.said for path, entry in odd.items()}, {**found.left_out, **self._unsent})
