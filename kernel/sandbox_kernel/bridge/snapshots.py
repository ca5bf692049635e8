"""Saves what the kernel has as one file, and brings it back: variables that can be pickled, and the working folder.

Imported by describing.py, in the sandbox. What is pickled is unpickled in a sandbox only, never outside.
"""

from __future__ import annotations

import os
import sys
from io import IOBase
from types import ModuleType
from typing import Any

NAMES = "names.pickle"
FILES = "files/"
MAX_FILES = 1024 * 1024 * 1024
"""Bytes of files that are saved."""
SKIPPED = {"In", "Out", "exit", "quit", "get_ipython", "open"}
MAX_TOLD = 200


def save(shell: Any, path: str, *, files: bool) -> dict[str, Any]:
    """Write a snapshot to a file; return what is in it and what is not, with reasons."""
    import zipfile

    saved, left_out = _pickled(shell)
    temporary = f"{path}.part"
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(NAMES, _dumped([[name, kind, data] for name, (kind, data) in saved.items()]))
        count = _add_files(archive, left_out, path) if files else 0
    os.replace(temporary, path)
    return {"names": list(saved)[:MAX_TOLD], "files": count, **_told(left_out, path)}


def restore(shell: Any, path: str) -> dict[str, Any]:
    """Bring back what a snapshot has; return what came back and what did not, with reasons."""
    import zipfile
    from importlib import import_module
    from pickle import loads

    found: list[str] = []
    left_out: dict[str, str] = {}
    with zipfile.ZipFile(path) as archive:
        members = [one for one in archive.namelist() if one.startswith(FILES) and ".." not in one.split("/")]
        for member in members:
            target = member[len(FILES) :]
            os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
            with archive.open(member) as source, open(target, "wb") as file:
                while data := source.read(1 << 20):
                    file.write(data)
        entries = loads(archive.read(NAMES))  # noqa: S301 - in the sandbox, where cells may do anything
    for name, kind, data in entries:
        try:
            shell.user_ns[name] = import_module(data) if kind == "module" else loads(data)  # noqa: S301
            found.append(name)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the others come back
            left_out[name] = _reason(exc)
    return {"names": found[:MAX_TOLD], "files": len(members), **_told(left_out, path)}


def _pickled(shell: Any) -> tuple[dict[str, tuple[str, Any]], dict[str, str]]:
    """Return the user's names with what they are pickled to, and those that cannot be, with reasons."""
    hidden = shell.user_ns_hidden
    saved: dict[str, tuple[str, Any]] = {}
    left_out: dict[str, str] = {}
    for name, value in list(shell.user_ns.items()):
        if not isinstance(name, str) or name.startswith("_") or name in SKIPPED or hidden.get(name) is value:
            continue
        if isinstance(value, ModuleType):
            saved[name] = "module", value.__name__
            continue
        try:
            saved[name] = "pickle", _dumped(value)
        except Exception as exc:  # noqa: BLE001 - an object's own code may raise anything
            left_out[name] = _reason(exc)
    return saved, left_out


def _dumped(value: object) -> bytes:
    """Pickle a value; with cloudpickle or dill, where they are, functions and classes of the notebook, too."""
    if isinstance(value, IOBase):
        # dill saves it; brought back it would empty the file that it writes to.
        raise TypeError("it is an open file")
    for name in ("cloudpickle", "dill"):
        try:
            pickler = __import__(name)
        except ImportError:
            continue
        return bytes(pickler.dumps(value))
    import pickle

    if getattr(value, "__module__", "") == "__main__" and hasattr(value, "__qualname__"):
        raise pickle.PicklingError("functions and classes of the notebook need the package cloudpickle in the sandbox")
    return pickle.dumps(value, protocol=4)


def _add_files(archive: Any, left_out: dict[str, str], snapshot: str) -> int:
    count, size = 0, 0
    for folder, folders, names in os.walk("."):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        for name in names:
            path = os.path.relpath(os.path.join(folder, name))
            if name.startswith(".") or os.path.islink(path) or not os.path.isfile(path):
                continue
            size += os.path.getsize(path)
            if size > MAX_FILES or os.path.abspath(path) == os.path.abspath(snapshot):
                left_out[path] = "there are too many bytes of files"
                continue
            archive.write(path, FILES + path)
            count += 1
    return count


def _reason(exc: Exception) -> str:
    return f"{type(exc).__name__}: {' '.join(str(exc).split())}"[:200]


def _told(left_out: dict[str, str], path: str) -> dict[str, Any]:
    return {
        "left_out": dict(list(left_out.items())[:MAX_TOLD]),
        "size": os.path.getsize(path),
        "python": sys.version.split()[0],
    }
