"""Names of files as the protocol carries them: bytes, since those of a file system need not be text in UTF-8."""

from __future__ import annotations


def to_bytes(path: str) -> bytes:
    """Return a path or pattern as it travels, for strings as `os.fsdecode` makes them with UTF-8.

    What no file's name is (a half of a surrogate pair, which a cell may make up) travels as bytes that no text is.
    """
    try:
        return path.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return path.encode(errors="surrogatepass")


def to_text(data: bytes) -> str:
    """Return what travelled as a string, in which each byte that is no UTF-8 stands for itself."""
    return data.decode(errors="surrogateescape")


def printable(text: str) -> str:
    """Return a text for a message's string fields, with backslash escapes in place of what UTF-8 does not have."""
    return text.encode(errors="backslashreplace").decode()
