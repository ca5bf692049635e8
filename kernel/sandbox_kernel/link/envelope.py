"""What the messages of a link mean: how Jupyter messages, commands and events are laid out in parts.

Part 0 says which kind it is: one byte, for requests and replies followed by a *token* of four bytes that the kernel
process chose and that comes back with every reply.

    to the bridge     s c a i + token   header, parent header, metadata, content, buffers …
                      x                 a command as JSON
    to the kernel     s c a i + token   header, parent header, metadata, content, buffers …
                      o                 topic, header, parent header, metadata, content, buffers …
                      e                 an event as JSON, bytes that belong to it
                      j                 one of the messages above, sent before and asked for again
"""

from __future__ import annotations

SHELL = b"s"
CONTROL = b"c"
ASIDE = b"a"
"""Shell requests that must not wait for a running cell; answered on the inner kernel's control channel."""
STDIN = b"i"
IOPUB = b"o"
COMMAND = b"x"
EVENT = b"e"
JOURNAL = b"j"

TOKEN_SIZE = 4
NO_TOKEN = bytes(TOKEN_SIZE)
"""Of requests that the bridge makes itself; their replies stay inside."""

LINK_STREAM = b"s"
"""Comes with a stream that is passed to a bridge: it carries the link."""
ERRANDS_STREAM = b"f"
"""Comes likewise: the stream is for files and commands (bridge/errands.py)."""
