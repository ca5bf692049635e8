"""What cells changed in a copy of the notebook's folder: shown, applied and taken back as in a shared one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial

from sandbox_kernel.workspace.applying import Outcome, apply_changes
from sandbox_kernel.workspace.changes import Action, Change, ChangeReader
from sandbox_kernel.workspace.entries import FOLDER, Entry
from sandbox_kernel.workspace.layers import Layer
from sandbox_kernel.workspace.secrets import Secrets
from sandbox_kernel.workspace.texts import read_both

from .comparing import GONE, conflicts, upwards
from .copy import Copy
from .threads import in_thread
from .transfers import Sending


class CopyChanges:
    """Is `providers.base.WorkspaceChanges`. Cells do not stand still: what is applied is what was fetched."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy

    @property
    def folder(self) -> str:
        """The notebook's folder on this machine."""
        return self._copy.notebook.folder

    async def read(self) -> list[Change]:
        copy, (layer, secrets) = self._copy, self._parts()
        async with copy.lock:
            plan = await copy.stage()
            largest = int(copy.notebook.settings.largest_file)
            changes = await in_thread(ChangeReader(layer, secrets, largest).read)
            host, base = copy.found.entries, copy.base
            marked = [
                replace(one, conflict=True) if conflicts(one.path, host, base, is_there=one.host is not None) else one
                for one in changes
            ]
            return [*marked, *plan.odd]

    async def texts(self, change: Change) -> tuple[bytes, bytes]:
        layer, secrets = self._parts()
        async with self._copy.lock:
            return await in_thread(lambda: read_both(layer, secrets, change))

    async def apply(self, changes: list[Change]) -> Outcome:
        copy, (layer, secrets) = self._copy, self._parts()
        async with copy.lock:
            outcome = await in_thread(lambda: apply_changes(layer, secrets, changes))
            assert copy.staged is not None
            self._forget({change.path for change in outcome.done if change.action is Action.REMOVE})
            for change in outcome.done:
                if change.action is not Action.REMOVE:
                    copy.base[change.path] = copy.staged.entries.get(change.path, Entry(FOLDER))
            await copy.save()
            return outcome

    async def discard(self, changes: list[Change]) -> Outcome:
        copy = self._copy
        async with copy.lock:
            found = await copy.look()
            removed = [one for one in changes if one.action is Action.ADD]
            restored = [one for one in changes if one.action is not Action.ADD]
            outcome = Outcome()
            sending = [Sending(one.path, GONE, None) for one in sorted(removed, key=_depth, reverse=True)]
            for change in sorted(restored, key=_depth):
                entry = found.entries.get(change.path)
                if entry is None:
                    outcome.refused.append((change, found.left_out.get(change.path, "it is not on this machine")))
                else:
                    sending.append(copy.sending_of(change.path, entry, None))
            sent = await copy.transfers.send(sending)
            assert copy.staged is not None
            await in_thread(partial(copy.staged.forget, sent.entries))
            there = [one for one in sending if one.path in sent.entries]
            self._forget({one.path for one in there if one.entry is GONE})
            copy.base.update({one.path: sent.entries[one.path] for one in there if one.entry is not GONE})
            refused = {change.path for change, _ in outcome.refused}
            for change in changes:
                if change.path in sent.refused:
                    outcome.refused.append((change, sent.refused[change.path]))
                elif change.path not in refused:
                    outcome.done.append(change)
            await copy.save()
            return outcome

    def _forget(self, gone: Collection[str]) -> None:
        """Take note that entries, and what was in them, are nowhere any more."""
        base = self._copy.base
        for path in [one for one in base if one in gone or any(around in gone for around in upwards(one))]:
            del base[path]

    def _parts(self) -> tuple[Layer, Secrets]:
        layer, secrets = self._copy.notebook.layer, self._copy.notebook.secrets
        assert layer is not None
        assert secrets is not None
        return layer, secrets


def _depth(change: Change) -> int:
    return change.path.count("/")
