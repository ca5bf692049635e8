"""How bubblewrap shows the notebook's folder, and what has to be made on the host for it.

What is hidden is hidden by a layer of whiteouts between the notebook's folder and what cells write: there such an
entry does not exist, whatever a cell renames. Without overlays it is hidden by mounts of something empty.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from sandbox_kernel.workspace.folder import NotebookFolder

_TOGETHER = 16
"""Files of one folder from which on the whole folder is masked, where each takes a mount: a thousand take a second."""

_MIRRORED = 200
"""Folders that the layer of whiteouts has from the start. What appears in them can be hidden while cells run; an
overlay does not notice a folder that is made later where a cell has looked."""


@dataclass
class View:
    """What the command line of bubblewrap needs."""

    source: str
    """The notebook's folder."""
    upper: str = ""
    """Where an overlay keeps what cells write; "" if there is none."""
    work: str = ""
    whiteouts: str = ""
    """The layer that hides; "" if `masks` do."""
    masks: dict[str, bool] = field(default_factory=dict)
    """Entries to mount over; whether they are folders."""
    empty_folder: str = ""
    empty_file: str = ""
    writable: bool = False
    """Whether cells write to the notebook's folder itself."""


def make_view(notebook: NotebookFolder, private: str, user: int | None, *, whiteouts: bool) -> View | None:
    """Return how the notebook's folder is to be shown, having made what that needs in a ``private`` folder.

    ``user`` is whom cells run as in root mode. None where it is not shown. Raises OSError.
    """
    secrets = notebook.secrets
    if secrets is None:
        return None
    view = View(notebook.folder, writable=notebook.mode == "readwrite")
    if notebook.layer is not None:
        view.upper, view.work = notebook.layer.upper, notebook.layer.work
        _copy_status(notebook.folder, view.upper)
    if whiteouts and not view.writable:
        view.whiteouts = os.path.join(private, "whiteouts")
        try:
            mirrored = islice(secrets.folders, _MIRRORED)
            make_whiteouts(view.whiteouts, notebook.folder, secrets.hidden, user, mirrored)
        except PermissionError:
            # An old kernel, or a container that forbids every device.
            view.whiteouts = ""
    if not view.whiteouts:
        if notebook.layer is not None:
            view.upper = view.work = ""
            notebook.degrade("this system lets nobody make the whiteouts that hide files in an overlay")
        view.masks = mounted_masks(notebook.folder, secrets.hidden)
        view.empty_folder, view.empty_file = os.path.join(private, "folder"), os.path.join(private, "file")
        os.mkdir(view.empty_folder, 0o755)
        with open(view.empty_file, "x", encoding="ascii"):
            os.chmod(view.empty_file, 0o444)
    return view


def make_whiteouts(
    layer: str, source: str, hidden: Iterable[str], user: int | None, mirrored: Iterable[str] = ()
) -> None:
    """Make, or add to, a layer in which these entries of ``source`` are deleted.

    ``mirrored`` are folders to have in it; ``user`` is to own its folders, if not us. Raises OSError.
    """
    made: set[str] = set()

    def make(folder: str) -> None:
        if folder in made:
            return
        if folder:
            make(os.path.dirname(folder))
        made.add(folder)
        path = os.path.join(layer, folder)
        with suppress(FileExistsError):
            os.mkdir(path, 0o755)
            if user is not None:
                os.chown(path, user, user)
            # It may have been removed since it was looked at; what is hidden in it stays hidden if it comes back.
            with suppress(FileNotFoundError, NotADirectoryError):
                _copy_status(os.path.join(source, folder), path)

    make("")
    for folder in mirrored:
        if os.path.isdir(os.path.join(source, folder)):
            make(folder)
    device = os.makedev(0, 0)
    for path in hidden:
        make(os.path.dirname(path))
        target = os.path.join(layer, path)
        try:
            # What an overlay takes for a deleted entry; everybody may make this one device (mknod(2), Linux 5.8).
            os.mknod(target, stat.S_IFCHR, device)
        except FileExistsError:
            # A folder that cells have seen cannot be hidden while they run.
            if not stat.S_ISCHR(os.lstat(target).st_mode):
                raise


def _copy_status(source: str, target: str) -> None:
    """Give a folder the mode and times of another: in an overlay the uppermost folder's are seen."""
    status = os.stat(source)
    os.chmod(target, stat.S_IMODE(status.st_mode) & 0o777 | 0o700)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def mounted_masks(source: str, hidden: dict[str, bool]) -> dict[str, bool]:
    """Return what to mount over to hide these entries: folders with many of them as a whole.

    A symbolic link needs none: what it leads to is hidden itself.
    """
    per_folder = Counter(os.path.dirname(path) for path in hidden)
    whole = {folder for folder, count in per_folder.items() if folder and count >= _TOGETHER}
    masks: dict[str, bool] = dict.fromkeys(whole, True)
    around = tuple(f"{folder}/" for folder in whole)
    single = {path: folder for path, folder in hidden.items() if not path.startswith(around)}
    return {**masks, **{path: folder for path, folder in single.items() if not os.path.islink(f"{source}/{path}")}}
