"""Hands one question to the porter and gives its answer as text: what a call into the sandbox runs.

Nothing but the standard library, and little of that: a call may start an interpreter for it. The texts are base64 of
what porter.py describes, deflated where that pays; an answer has marks around it, since other text may surround it.
"""

from __future__ import annotations

# Not `socket` and `base64`: those take as long to import as the interpreter takes to start.
import _socket
import binascii
import os
import sys
import time
import zlib

BEGIN, END = "<sbx:", ":sbx>"
CONNECT_TIMEOUT = 3.0
"""Seconds in which a porter that is being started must have its socket."""
SMALL = 400
"""Bytes up to which deflating does not pay."""
SAMPLE, PAYS = 8192, 0.9
"""Bytes of the beginning by which it is judged whether it does, and the share that may be left of them."""


def ask(folder: str, text: str) -> str:
    """Return the porter's answer to a question; both are text. "@NAME" stands for a file with the question."""
    if text.startswith("@"):
        with open(text[1:], "rb") as file:
            question = file.read()
        os.unlink(text[1:])
    else:
        question = binascii.a2b_base64(text)
    if question[:1] == b"z":
        question = b"r" + zlib.decompress(question[1:])
    sock = connected(os.path.join(folder, "porter.sock"))
    try:
        sock.sendall(question[1:])
        answer = bytearray()
        while data := sock.recv(1 << 20):
            answer += data
    finally:
        sock.close()
    return marked(bytes(answer))


def marked(answer: bytes) -> str:
    """Return an answer as text: its length, its checksum, and the rest."""
    packed = deflated(answer)
    text = binascii.b2a_base64(packed, newline=False).decode()
    return f"{BEGIN}{len(text)}:{zlib.crc32(packed):08x}:{text}{END}"


def deflated(plain: bytes) -> bytes:
    """Return "z" and what is left of it where deflating pays, else "r" and it as it is."""
    sample = plain[:SAMPLE]
    if len(plain) > SMALL and len(zlib.compress(sample, 1)) < PAYS * len(sample):
        return b"z" + zlib.compress(plain, 1)
    return b"r" + plain


def connected(path: str) -> _socket.socket:
    """Return a connection to the porter. Raises OSError."""
    deadline = time.monotonic() + CONNECT_TIMEOUT
    while True:
        sock = _socket.socket(_socket.AF_UNIX)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return sock


if __name__ == "__main__":
    print(ask(sys.argv[1], sys.argv[2]))  # noqa: T201 - that is what it is for
