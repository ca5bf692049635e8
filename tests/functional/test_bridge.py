"""The bridge by itself, at the other end of a stream."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from sandbox_kernel.link.protocol import Link, Message

BEGIN = """
import os, sys
from sandbox_kernel.bridge.inner import InnerKernel
from sandbox_kernel.bridge.relay import Bridge

def spawn(life):
    return InnerKernel(sys.argv[2], life, [])

inner = spawn(1)
os.kill(inner.pid, 9)
os.waitid(os.P_PID, inner.pid, os.WEXITED | os.WNOWAIT)
bridge = Bridge(inner, spawn, stream=int(sys.argv[1]))
try:
    bridge.run()
finally:
    bridge.close()
"""


def test_python_that_dies_before_the_bridge_listens_is_reported(tmp_path: Path) -> None:
    """It is spawned before anything is imported that could hear of its death."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-c", BEGIN, str(theirs.fileno()), str(tmp_path)]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()
        try:
            assert first_event(ours) == {"event": "died", "exit": -9, "life": 1, "stderr": ""}
        finally:
            ours.close()
            process.wait(30)


def first_event(sock: socket.socket) -> dict[str, object]:
    """Return what the bridge says first."""
    sock.settimeout(30)
    link = Link(os.urandom(16))
    link.connect()
    while True:
        for buffer in link.data_to_send():
            sock.sendall(buffer)
        for event in link.receive(memoryview(sock.recv(65536))):
            if isinstance(event, Message):
                said: dict[str, object] = json.loads(bytes(event.parts[1]))
                return said
