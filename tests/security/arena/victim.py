"""A process of the host that holds a secret in its memory, an open file and its environment, and counts signals."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

PR_SET_PTRACER, ANYBODY = 0x59616D61, -1


def main(signals_file: str) -> None:
    secret = sys.stdin.readline().strip().encode()
    memory, scratch = ctypes.create_string_buffer(secret, 64), ctypes.create_string_buffer(64)
    descriptor, path = tempfile.mkstemp()
    Path(path).unlink()
    os.write(descriptor, secret)
    # Where only a parent may trace a process, this one lets anybody of its user.
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANYBODY, 0, 0, 0)
    signal.signal(signal.SIGUSR1, lambda *_: _count(signals_file))
    ready = {
        "victim_pid": os.getpid(),
        "victim_address": ctypes.addressof(memory),
        "victim_size": 64,
        "victim_scratch_address": ctypes.addressof(scratch),
        "victim_descriptor": descriptor,
    }
    print(json.dumps(ready), flush=True)
    sys.stdin.read()


def _count(signals_file: str) -> None:
    with Path(signals_file).open("a") as file:
        file.write("x")


if __name__ == "__main__":
    main(sys.argv[1])
