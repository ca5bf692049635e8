"""How what a tool returned travels into the sandbox: text and bytes as they are, the rest as variables do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from sandbox_kernel.errors import ToolExecutionError
from sandbox_kernel.library import values
from sandbox_kernel.link.protocol import Buffer


def encode(value: Any, limit: int) -> tuple[dict[str, Any], list[Buffer]]:
    """Return header and buffers. Raises ToolExecutionError where the value cannot travel, or has more bytes than LIMIT.

    Data frames and Arrow tables go as Arrow, arrays as npy, the rest as JSON (library/values.py). Models of pydantic,
    and data classes, arrive as dicts.
    """
    header: dict[str, Any]
    buffers: list[Buffer]
    if type(value) is str:
        header, buffers = {"kind": "text"}, [value.encode("utf-8", "surrogatepass")]
    elif type(value) in (bytes, bytearray, memoryview):
        header, buffers = {"kind": "bytes"}, [memoryview(value).cast("B")]
    else:
        try:
            header, buffers = values.encode(_plain(value))
        except values.TransferError as exc:
            raise ToolExecutionError(f"the tool returned something that cannot travel into the sandbox: {exc}") from exc
    size = sum(memoryview(one).nbytes for one in buffers)
    if size > limit:
        raise ToolExecutionError(f"the tool returned {size} bytes, and at most {limit} travel (Tools.max_result)")
    return header, buffers


def _plain(value: Any) -> Any:
    """Return what stands for an object, also inside of lists and dicts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({one.name: getattr(value, one.name) for one in dataclasses.fields(value)})
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if type(value) is list:
        return [_plain(item) for item in value]
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    return value


def codec_source() -> bytes:
    """Return the program that reads such values, for the sandbox."""
    return Path(values.__file__).read_bytes()
