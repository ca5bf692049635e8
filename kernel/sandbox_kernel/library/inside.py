"""The sandbox's half of `push` and `pull`. Run in the inner kernel, in one namespace with values.py."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .values import Buffer, TransferError, decode, encode, fresh_memory  # noqa: TC004 - they are in the namespace

SMALL_VALUE = 1024 * 1024
"""Bytes up to which a value goes in a message. A larger one goes through a pipe (bridge/passage.py)."""


def put(shell: Any, buffers: Sequence[Buffer], name: str, header: dict[str, Any]) -> None:
    """Give a variable the value that came with this cell."""
    try:
        shell.user_ns[name] = decode(header, buffers)
    except TransferError as exc:
        _tell(shell, {"error": str(exc)})


def put_from(shell: Any, _: Sequence[Buffer], name: str, header: dict[str, Any], path: str, size: int) -> None:
    """Give a variable the value that comes through a pipe."""
    whole = fresh_memory(size)
    with open(path, "rb", buffering=0) as pipe:  # noqa: PTH123 - as elsewhere inside
        position = 0
        while position < size:
            count = pipe.readinto(whole[position:])
            if not count:
                raise EOFError("the value ended before it was whole")
            position += count
    put(shell, [whole], name, header)


def get(shell: Any, _: Sequence[Buffer], name: str, path: str, largest: int) -> None:
    """Send the value of a variable, a large one through a pipe unless it has more than ``largest`` bytes."""
    if name not in shell.user_ns:
        _tell(shell, {"error": "there is no variable of that name in the sandbox"})
        return
    try:
        header, buffers = encode(shell.user_ns[name])
    except TransferError as exc:
        _tell(shell, {"error": str(exc)})
        return
    size = sum(memoryview(one).nbytes for one in buffers)
    _tell(shell, {"header": header, "size": size}, buffers if size <= SMALL_VALUE else ())
    if SMALL_VALUE < size <= largest:
        with open(path, "wb", buffering=0) as pipe:  # noqa: PTH123 - as elsewhere inside
            for buffer in buffers:
                rest = memoryview(buffer).cast("B")
                while len(rest):
                    rest = rest[pipe.write(rest) :]


def _tell(shell: Any, content: dict[str, Any], buffers: Sequence[Buffer] = ()) -> None:
    kernel = shell.kernel
    parent = shell.get_parent()
    kernel.session.send(kernel.iopub_socket, "sandbox_value", content, parent, ident=b"sandbox", buffers=list(buffers))
