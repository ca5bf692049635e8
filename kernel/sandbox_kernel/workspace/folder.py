"""The notebook's folder of one kernel process: how its sandboxes see it, and why not otherwise."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from .layers import Layer, LayerStore, TryLock
from .owners import Owner
from .patterns import Patterns
from .place import refusal
from .secrets import Secrets
from .settings import Workspace

_AT_ONCE = 64
"""Folders that are looked at before each cell; a look takes about a microsecond."""
_INTERVAL = 2.0
"""Seconds between two looks at all other folders."""
_SHOWN = 3
_CLEAN_AFTER = 30.0
"""Seconds from the first sandbox's start until old layers are removed."""
_KEPT = (
    "Changes of this notebook that were not applied are here again: `%sandbox diff` shows them, "
    "`%sandbox apply` writes them, `%sandbox discard` throws them away.\n"
)


class NotebookFolder:
    """Decides once what the folder is shown as; a provider that cannot do it says so by `degrade`."""

    def __init__(
        self,
        settings: Workspace,
        folder: str,
        notebook: str,
        try_lock: TryLock,
        session: str = "",
        *,
        keeps: bool = True,
    ) -> None:
        """``session`` is which of the notebook's sandboxes it is for, where it has several with names.

        Without ``keeps`` each sandbox begins with the folder as it is, and what its cells change ends with it.
        """
        self.settings = settings
        self.session = session
        self.keeps = keeps
        self._try_lock = try_lock
        self.folder = os.path.realpath(folder)
        self.notebook = notebook
        self.mode = str(settings.mode)
        self.reason = ""
        """Why it is another mode than the configured one, as a clause."""
        self.layer: Layer | None = None
        self.secrets: Secrets | None = None
        self.patterns = Patterns(settings.hidden)
        self._greeting = ""
        self._further = ""
        """What it says of other changes that are kept."""
        self._looked = 0.0
        self._looking: threading.Thread | None = None
        self._cleaner: threading.Timer | None = None
        self._found: list[str] = []
        if self.mode != "private":
            self.reason = refusal(self.folder, self.patterns)
        if self.reason:
            self.mode = "private"
            self._greeting = f"Cells see an empty folder instead of the notebook's: {self.reason}.\n"

    # ---- for the provider, before it makes a sandbox

    def prepare(self, own: Sequence[str] = (), skipped: Sequence[str] = ()) -> None:
        """Look for what has to be hidden, and open a layer if there is to be one.

        ``own`` are further paths to hide; ``skipped`` are folders that cells see anyway.
        """
        if self.mode == "private":
            return
        if self.mode == "overlay" and (self.layer is None or not self.keeps):
            self._open_layer()
        hidden = (*own, self.settings.layers)
        secrets = Secrets(
            self.folder,
            self.patterns,
            tuple(os.path.realpath(path) for path in hidden),
            tuple(skipped),
            self.settings.largest_folder,
        )
        secrets.search()
        self.secrets = secrets

    def _open_layer(self) -> None:
        self.close()
        try:
            self.layer = self.store.open(self.owner) if self.keeps else self.store.make_passing(self.owner)
        except OSError as exc:
            self.degrade(f"no layer can be made in {self.settings.layers} ({exc.strerror}); set Workspace.layers")
            return
        if not self.keeps:
            return
        if not self.layer.is_empty():
            self._greeting = _KEPT
        self._further = self._others()

    @property
    def passing(self) -> Sequence[str]:
        """What has to be removed with the sandbox that is made now."""
        return [self.layer.path] if self.layer is not None and not self.keeps else []

    def _others(self) -> str:
        """Return a line about further changes that are kept and may be this notebook's."""
        owner, kept = self.owner, self.kept()
        if any(one.owner.is_now(owner) for one in kept):
            return "More changes of this notebook were kept: `%sandbox kept` shows them.\n"
        gone = [one.owner.notebook for one in kept if one.owner.is_gone() and one.owner.folder == self.folder]
        if not gone:
            return ""
        return (
            f"Changes of {shown(os.path.basename(gone[0]))} were kept, which is not there any more. If this notebook "
            "is it, `%sandbox kept` goes on with them.\n"
        )

    @property
    def owner(self) -> Owner:
        """Whose its layers are."""
        return Owner.now(self.folder, self.notebook, self.session)

    @property
    def store(self) -> LayerStore:
        """Where the layers are."""
        return LayerStore(self.settings.layers, self._try_lock, _settle)

    def kept(self) -> list[Layer]:
        """Return the layers with changes that nobody uses and that may be this notebook's, the last used first."""
        owner = self.owner
        found = [layer for layer in self.store.free() if layer.owner.may_be(owner)]
        return sorted(found, key=lambda layer: layer.used, reverse=True)

    def take_over(self, layer: Layer) -> bool:
        """Go on with another layer in the next sandbox; return False if somebody uses it."""
        if not self.store.take(layer):
            return False
        layer.belong(self.owner)
        self.close()
        self.layer = layer
        self._greeting, self._further = _KEPT, ""
        return True

    def degrade(self, reason: str) -> None:
        """Show the folder read-only from now on, because an overlay cannot be had: ``reason``, as a clause."""
        self.mode, self.reason = "readonly", reason
        self._greeting = f"Cells can read the notebook's folder but not write to it: {reason}.\n"
        layer = self.layer
        self.close()
        if layer is not None and not self.keeps:
            # Unless a sandbox has it, with which it goes.
            self.store.remove(layer)

    def belongs_to(self, notebook: str) -> bool:
        """Take note of the notebook's file; return whether a new sandbox is needed to show what was kept of it."""
        if self.notebook or self.layer is None or not self.keeps:
            return False
        self.notebook = notebook
        kept = self.store.kept_for(self.owner) if self.layer.is_empty() else None
        if kept is None:
            self.layer.belong(self.owner)
            self._further = self._others()
            return False
        self.layer.close()
        self.layer = kept
        self._greeting, self._further = _KEPT, self._others()
        return True

    def clean_later(self) -> None:
        """Remove in some time, in the background, the layers that need not be kept any more."""
        if self._cleaner is None and self.layer is not None:
            self._cleaner = threading.Timer(_CLEAN_AFTER, self._clean)
            self._cleaner.daemon = True
            self._cleaner.start()

    def _clean(self) -> None:
        # What cannot be removed is left for `jupyter sandbox clean`, which says why.
        with suppress(OSError):
            self.store.clean(self.settings.keep_days, self.settings.keep_size)

    def close(self) -> None:
        """Let go of the layer. Idempotent."""
        if self.layer is not None:
            self.layer.close()
            self.layer = None

    # ---- for people

    def take_greeting(self) -> str:
        """Return what the first cell has to say, once."""
        greeting = self._greeting + self._further
        self._greeting = self._further = ""
        return greeting

    def describe(self) -> str:
        """Return a line for the status table."""
        why = f"; {self.reason}" if self.reason else ""
        if self.mode == "private":
            return f"private: an empty folder{why}"
        how = {
            "overlay": "overlay: changes stay in a layer until `%sandbox apply`"
            if self.keeps
            else "overlay: changes end with the sandbox",
            "readonly": "read-only; /scratch can be written to",
            "readwrite": "read-write: cells change the folder itself",
        }[self.mode]
        return f"{shown(self.folder)}, {how}{why}"

    def describe_hidden(self) -> str:
        """Return a line for the status table: how much is hidden."""
        if self.secrets is None or not self.secrets.hidden:
            return ""
        text = f"{len(self.secrets.hidden)} by Workspace.hidden"
        if self.secrets.unseen:
            names = ", ".join(shown(name) for name in self.secrets.unseen[:_SHOWN])
            text += f", of them {len(self.secrets.unseen)} because the folder is too large to look through: {names}"
            text += " … (Workspace.largest_folder)"
        if self.secrets.locked:
            names = ", ".join(shown(name) for name in self.secrets.locked[:_SHOWN])
            text += f"; {len(self.secrets.locked)} of them folders that you may not read yourself: {names}"
        return text

    # ---- beside running cells

    def new_secrets(self) -> list[str]:
        """Return what has to be hidden now and had not when this was last asked.

        The uppermost folders are looked at each time, all others in the background. Takes some 0.1 milliseconds.
        """
        if self.secrets is None:
            return []
        if self._looking is not None:
            if self._looking.is_alive():
                return []
            self._looking = None
        found, self._found = self._found, []
        changed = self.secrets.changed(0, _AT_ONCE)
        if changed:
            found += self.secrets.look_again(changed)
        if self.secrets.count > _AT_ONCE and time.monotonic() - self._looked > _INTERVAL:
            self._looked = time.monotonic()
            self._looking = threading.Thread(target=self._look_at_rest, args=(self.secrets,), daemon=True)
            self._looking.start()
        return found

    def _look_at_rest(self, secrets: Secrets) -> None:
        changed = secrets.changed(_AT_ONCE)
        if changed:
            self._found = secrets.look_again(changed)


def _settle(layer: Layer) -> None:
    # Imported here, because most starts have no layer with changes.
    from .applying import settle

    settle(layer)


def shown(text: str) -> str:
    """Return a name with everything that is not plain text written out: a cell chose it."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
