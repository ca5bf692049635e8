"""A local provider whose sandboxes run an attacker in place of the bridge: the kernel process is its target."""

from __future__ import annotations

import os

from sandbox_kernel.providers.local.provider import LocalProvider

ATTACKER = r"""
import itertools, json, os, socket, struct, sys, threading, time
link = socket.socket(fileno=int(sys.argv[sys.argv.index("--link-fd") + 1]))
HEADER = struct.Struct("!BBIQQ")
numbers = itertools.count(1)
lock = threading.Lock()

def send(data):
    link.sendall(data)

def frame(payload, flags=3):
    send(HEADER.pack(2, flags, len(payload), next(numbers), 0) + payload)

def message(*parts, flags=3):
    frame(struct.pack("!H%dI" % len(parts), len(parts), *map(len, parts)) + b"".join(parts), flags)

def event(data=b"", **fields):
    message(b"e", json.dumps(fields).encode(), data)

def hello():
    send(HEADER.pack(1, 0, 25, 0, 0) + struct.pack("!4sB16sI", b"sbxl", 1, os.urandom(16), 1 << 23))

def ready():
    event(event="ready", pid=1, life=1, python="3.12.1")

def output(msg_type, parent, content):
    header = json.dumps({"msg_id": os.urandom(4).hex(), "msg_type": msg_type, "version": "5.4"}).encode()
    message(b"o", b"kernel." + msg_type.encode(), header, parent, b"{}", content)

def garbage():
    while True:
        send(os.urandom(65536))

def silence():
    hello()
    time.sleep(600)

def lives():
    hello()
    while True:
        ready()
        event(event="died", exit=1, life=1, stderr="x" * 50000)

def flood():
    hello()
    ready()
    text = json.dumps({"name": "stdout", "text": "x" * 100000}).encode()
    while True:
        output("stream", b"{}", text)

def bombs():
    hello()
    ready()
    for bomb in itertools.cycle([b"[" * 100000, b"9" * 1000000, b'{"a":' * 50000, b"NaN", b"\xff", b""]):
        message(b"e", bomb, b"")
        message(b"o", bomb, bomb, bomb, bomb, bomb)
        message(b"s\x00\x00\x00\x01", bomb, bomb, bomb, bomb)
        message()

def unending(size):
    hello()
    ready()
    frame(struct.pack("!H3I", 3, 1, size // 2, size // 2), flags=1)
    while True:
        frame(bytes(200000), flags=0)

def huge():
    unending(1 << 29)

def large():
    unending(250_000_000)

globals()[MODE]()
"""


class HostileProvider(LocalProvider):
    """Everything is the local provider's but the program that runs inside. Environment: HOSTILE_MODE."""

    program = f"MODE = {os.environ.get('HOSTILE_MODE', 'silence')!r}\n{ATTACKER}"
