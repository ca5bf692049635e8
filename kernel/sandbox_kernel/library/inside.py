"""The sandbox's half of `push` and `pull`. Run in the inner kernel, in one namespace with values.py."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .values import Buffer, TransferError, decode, encode, pieces  # noqa: TC004 - they are in the namespace

PIECE = 8 * 1024 * 1024
"""Bytes in one message."""
PIECES = "_sandbox_pieces"
"""Attribute of the shell that holds what has arrived of values."""


def put(shell: Any, name: str, header: dict[str, Any], key: str) -> None:
    """Give a variable the value whose pieces have arrived."""
    arrived = getattr(shell, PIECES).pop(key)
    try:
        shell.user_ns[name] = decode(header, arrived)
    except TransferError as exc:
        _tell(shell, {"error": str(exc)})


def get(shell: Any, name: str) -> None:
    """Send the value of a variable."""
    if name not in shell.user_ns:
        _tell(shell, {"error": "there is no variable of that name in the sandbox"})
        return
    try:
        header, buffers = encode(shell.user_ns[name])
    except TransferError as exc:
        _tell(shell, {"error": str(exc)})
        return
    parts = pieces(buffers, PIECE)
    _tell(shell, {"header": header, "size": sum(len(one) for part in parts for one in part)})
    for part in parts:
        _tell(shell, {}, part)


def _tell(shell: Any, content: dict[str, Any], buffers: Sequence[Buffer] = ()) -> None:
    kernel = shell.kernel
    parent = shell.get_parent()
    kernel.session.send(kernel.iopub_socket, "sandbox_value", content, parent, ident=b"sandbox", buffers=list(buffers))
