"""Hands the items of a variable over to whoever runs the sandbox, and takes a list of results from there.

Part of describing.py, in the sandbox. It goes through a file: its size in 8 bytes and the program that reads and writes
values (library/values.py), then frames of items. No cell runs meanwhile.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

SIZE = struct.Struct("!Q")
FRAME = struct.Struct("!IQ")
"""Of a frame: bytes of its JSON object, and of what follows it, as in library/fan_out/inside.py."""
KINDS = (list, tuple, range, set, frozenset, dict)
"""What can be iterated over without a surprise; and NumPy's arrays."""


def give(shell: Any, name: str, path: str) -> dict[str, Any]:
    """Write the items of a variable into the file, in place of the program; return how many there are."""
    with open(path, "rb") as file:
        codec = _codec(file)
    if name not in shell.user_ns:
        return {"refused": f"there is no variable {name} in the sandbox"}
    value = shell.user_ns[name]
    kind = type(value)
    if kind not in KINDS and f"{kind.__module__}.{kind.__name__}" != "numpy.ndarray":
        return {"refused": f"{name} is a {kind.__name__}; make a list of it"}
    count = 0
    with open(path, "wb") as file:
        for item in value:
            try:
                header, buffers = codec["encode"](item)
            except codec["TransferError"] as exc:
                return {"refused": f"item {count} of {name} does not travel: {exc}"}
            text = json.dumps(header).encode()
            file.write(FRAME.pack(len(text), sum(memoryview(one).nbytes for one in buffers)) + text)
            file.writelines(buffers)
            count += 1
    return {"count": count}


def take(shell: Any, name: str, path: str, *, keys: bool) -> dict[str, Any]:
    """Give a variable the list of the items in the file; a dict of the first item's keys where there are ``keys``."""
    with open(path, "rb") as file:
        codec = _codec(file)
        items = [codec["decode"](header, [data]) for header, data in _frames(file)]
    shell.user_ns[name] = dict(zip(items[0], items[1:])) if keys else items  # noqa: B905 - as long
    return {}


def _codec(file: Any) -> dict[str, Any]:
    (size,) = SIZE.unpack(file.read(SIZE.size))
    codec: dict[str, Any] = {"__name__": "sandbox_values"}
    exec(compile(file.read(size), "<sandbox values>", "exec"), codec)  # noqa: S102 - from the kernel process
    codec["WHERE"] = "in the sandbox's environment"
    return codec


def _frames(file: Any) -> Iterator[tuple[dict[str, Any], bytes]]:
    while start := file.read(FRAME.size):
        said, size = FRAME.unpack(start)
        yield json.loads(file.read(said)), file.read(size)
