"""What each type of message may hold. Most outputs are recognised by their bytes, without being parsed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sandbox_kernel.link.protocol import Buffer

from .json_text import Json, Parsed, RefusedError, parse, text_of

OUTPUTS = frozenset(
    """
    clear_output comm_close comm_msg comm_open debug_event display_data error execute_input execute_result status
    stream update_display_data
    """.split()
)
"""What a kernel publishes on iopub. `iopub_welcome` and `shutdown_reply` come from the kernel process only."""
STATES = {
    f'{{"execution_state":{space}"{state}"}}'.encode() for space in ("", " ") for state in ("busy", "idle", "starting")
}
MAX_HEADER = 64 * 1024
MAX_NAME = 1024
MAX_PROMPT = 10_000
BIG = 64 * 1024
"""Bytes of an image from which it is worth not to parse it."""
SEARCHED = 128 * 1024
"""Bytes of a stream's text that are searched at a time."""
EMPTY = b"{}"
BACKSLASH = ord("\\")

_STREAM = re.compile(rb'\{"name": ?"std(?:out|err)", ?"text": ?"')
_DATA = re.compile(rb'\{"data": ?\{')
_IMAGE_ENTRY = re.compile(rb'"(?:image/(?:png|jpeg|gif|webp)|text/plain)": ?"')
_NEXT_ENTRY = re.compile(rb", ?(?=\")")


def check_header(header: Mapping[str, Any], frame: Buffer) -> None:
    """Check a message's header, which was read with Python's own parser. Raises RefusedError."""
    if len(frame) > MAX_HEADER or bytes(frame[:2]) != b'{"':
        raise RefusedError("no header")
    for value in header.values():
        if type(value) is not str and value is not None:
            raise RefusedError("a header's fields are text")
        if value is not None and len(value) > MAX_NAME:
            raise RefusedError("a header's field is too long")
    if not header.get("msg_id"):
        raise RefusedError("a message without an id")
    if not str(header.get("version")).startswith("5."):
        # jupyter_client takes the rest for messages of long ago, and stumbles over them.
        raise RefusedError("a message of another protocol")


def check_parent(parent: object, frame: Buffer) -> None:
    """Check a parent header: a header that a front end made, or none. Raises RefusedError."""
    if type(parent) is not dict or len(frame) > MAX_HEADER or (parent and bytes(frame[:2]) != b'{"'):
        raise RefusedError("no parent header")


def check_metadata(frame: Buffer) -> None:
    """Check a message's metadata. Raises ValueError."""
    if frame != EMPTY:
        parse(frame)


def is_stream(content: Buffer) -> bool:
    """Whether these bytes are a stream's content with two texts and nothing else.

    Exact, though nothing is parsed: the text is a JSON string if no quote in it is unescaped. An invalid escape in it
    would make the whole unreadable for a front end, and nothing else.
    """
    start = _STREAM.match(content)
    if start is None or len(content) < start.end() + 2 or bytes(content[-2:]) != b'"}':
        return False
    return _is_inside_string(content, start.end(), len(content) - 2)


def _is_inside_string(content: Buffer, start: int, end: int) -> bool:
    """Whether a JSON string that is open at the start is still open at the end."""
    view = memoryview(content)
    # Most text has no quotes, and all but views tell that at the memory's speed.
    whole = None if isinstance(content, memoryview) else content
    carried = b""
    for begin in range(start, end, SEARCHED):
        stop = min(begin + SEARCHED, end)
        if whole is not None and not carried and whole.find(b'"', begin, stop) < 0 and view[stop - 1] != BACKSLASH:
            continue
        text = carried + bytes(view[begin:stop])
        carried = b""
        if b'"' in text or text.endswith(b"\\"):
            # Then each backslash that is left escapes what stands behind it.
            text = text.replace(b"\\\\", b"") if b"\\\\" in text else text
            if text.count(b'"') != text.count(b'\\"'):
                return False
            carried = b"\\" if text.endswith(b"\\") else b""
    return not carried


def check_stream(content: Buffer) -> None:
    """Raise ValueError unless this is a stream's content."""
    if is_stream(content):
        return
    parsed = parse(content).content
    if parsed.get("name") not in ("stdout", "stderr"):
        raise RefusedError("no such stream")
    text_of(parsed.get("text"))


def check_status(content: Buffer) -> None:
    """Raise ValueError unless this is a state in which a kernel that lives can be."""
    if content not in STATES and parse(content).content.get("execution_state") not in ("busy", "idle", "starting"):
        raise RefusedError("no state of a kernel")


def check_input(content: Buffer) -> None:
    """Raise ValueError unless this is execute_input's content."""
    parsed = parse(content).content
    if type(parsed.get("code")) is not str or type(parsed.get("execution_count")) is not int:
        raise RefusedError("no input")


def check_error(content: Buffer) -> None:
    """Raise ValueError unless this is an error's content: names and lines of text."""
    parsed = parse(content).content
    lines = parsed.get("traceback")
    if type(lines) is not list or not all(type(line) is str for line in lines):
        raise RefusedError("no traceback")
    if type(parsed.get("ename")) is not str or type(parsed.get("evalue")) is not str:
        raise RefusedError("no error")


def check_clear(content: Buffer) -> None:
    """Raise ValueError unless this is clear_output's content."""
    if type(parse(content).content.get("wait", False)) is not bool:
        raise RefusedError("no clear_output")


def check_object(content: Buffer) -> None:
    """Raise ValueError unless this is an object."""
    parse(content)


CHECKS = {
    "stream": check_stream,
    "status": check_status,
    "execute_input": check_input,
    "error": check_error,
    "clear_output": check_clear,
    "debug_event": check_object,
}


def parse_display(content: Buffer) -> Parsed:
    """Read the content of an output with a bundle; of large images only that they are strings of base64 characters.

    An image's place in the content is taken by "". If something else in the bundle is to be changed, everything has to
    be read (`parse`).
    """
    if len(content) < BIG:
        return parse(content)
    return parse(_without_images(content))


def _without_images(raw: Buffer) -> bytes:
    """Cut out the text of images that stand first in a bundle.

    Exact: from the beginning on it is known at each byte whether it is in a string, and a string without a backslash
    ends with the next quote.
    """
    found = _DATA.match(raw)
    parts = []
    taken = 0
    while found is not None and (entry := _IMAGE_ENTRY.match(raw, found.end())) is not None:
        start = entry.end()
        end, plain = _end_of_string(raw, start)
        if end < 0:
            break
        if plain and end - start > BIG and entry.group().startswith(b'"image/'):
            parts.append(raw[taken:start])
            taken = end
        found = _NEXT_ENTRY.match(raw, end + 1)
    return b"".join([*parts, raw[taken:]])


def _end_of_string(raw: Buffer, start: int) -> tuple[int, bool]:
    """Return where a JSON string without a backslash ends, -1 where it has one, and whether it is free of markup."""
    plain = True
    view = memoryview(raw)
    for begin in range(start, len(raw), SEARCHED):
        # A copy, because only bytes are searched at the memory's speed, but one that the processor's cache holds.
        text = bytes(view[begin : begin + SEARCHED])
        end = text.find(b'"')
        text = text[:end] if end >= 0 else text
        if b"\\" in text:
            break
        plain = plain and not any(character in text for character in (b"<", b">", b"&", b"'"))
        if end >= 0:
            return begin + end, plain
    return -1, False


def check_input_request(content: Buffer) -> Json:
    """Return the content of a question with its prompt bounded. Raises ValueError."""
    parsed = parse(content).content
    prompt = parsed.get("prompt", "")
    if type(prompt) is not str or type(parsed.get("password", False)) is not bool:
        raise RefusedError("no question")
    return {"prompt": prompt[:MAX_PROMPT], "password": parsed.get("password", False)}
