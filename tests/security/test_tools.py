"""A cell that speaks to the tools in its own words, past what `tools` would let it say, gets nothing by it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.functional.client import running

if not sys.platform.startswith("linux"):
    pytest.skip("the local provider is Linux's", allow_module_level=True)

REPOSITORY = Path(__file__).parents[2]
HERE = "tests.functional.sample_tools"
CONFIGURATION = f"""
c.Tools.tools = {{
    "where": {{"call": "{HERE}:where", "policy": "allow"}},
    "note": {{"call": "{HERE}:note", "policy": "ask"}},
    "forbidden": {{"call": "{HERE}:note", "policy": "deny"}},
}}
"""
MEMORY = 300 * 1024 * 1024

RAW = r"""
import glob, json, os, pickle, socket, struct, time
def connected():
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(glob.glob("/run/bridge/*-tools")[0])
    sock.settimeout(20)
    return sock
def say(sock, request, data=None):
    data = json.dumps(request).encode() if data is None else data
    sock.sendall(struct.pack("!II", len(data), 0) + data)
def hear(sock):
    def take(count):
        found = b""
        while len(found) < count:
            piece = sock.recv(count - len(found))
            if not piece: raise EOFError
            found += piece
        return found
    size, rest = struct.unpack("!II", take(8))
    said = json.loads(take(size))
    take(rest)
    return said
def call(name, cell="", **more):
    with connected() as sock:
        request = {"do": "call", "id": 1, "kind": "tool", "name": name, "arguments": {"text": "x"}, "cell": cell}
        say(sock, {**request, **more})
        said = hear(sock)
        return said.get("error", said["do"])
def own():
    return get_ipython().get_parent()["header"]["msg_id"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "kernel"
    (made / "config").mkdir(parents=True)
    (made / "config/jupyter_sandbox_config.py").write_text(CONFIGURATION)
    return made


def test_a_hostile_cell_gets_no_more_than_the_configuration_says(folder: Path, tmp_path: Path) -> None:
    noted = tmp_path / "noted"
    environment = {"PYTHONPATH": str(REPOSITORY), "SAMPLE_SECRET": "hunter2-hunter2", "SAMPLE_FILE": str(noted)}
    with running(folder, environment=environment) as kernel:
        front_end = kernel.front_end()
        assert front_end.run(RAW).status == "ok"
        waits = front_end.cell("import time\ntime.sleep(3)", allow_stdin=True)
        other = front_end.cell("2")
        front_end.finish(waits, other)

        # Names that the configuration does not have; what it denies; approvals that the call claims for itself.
        code = """
names = ["os:system", "tests.functional.sample_tools:note", "note.__globals__", "__import__", "note "]
print([call(name, own()) for name in names])
print(call("forbidden", own()), call("forbidden", own(), policy="allow", approved=True))
"""
        shown = front_end.run(code).stream().splitlines()
        assert json.loads(shown[0].replace("'", '"')) == ["UnknownToolError"] * 5
        assert shown[1] == "ToolDeniedError ToolDeniedError"

        # Another cell's approval: of one that ended, of one that nobody ran.
        code = f"print([call('note', cell) for cell in ({waits.msg_id!r}, {other.msg_id!r}, 'x', '')])"
        assert front_end.run(code).stream() == f"{['ToolDeniedError'] * 4}\n"
        # Nor is anything called, whatever its policy, in the name of a cell that does not run.
        code = f"print([call('where', cell, arguments={{}}) for cell in ({waits.msg_id!r}, 'x', '', own())])"
        assert front_end.run(code).stream() == f"{['ToolDeniedError'] * 3 + ['result']}\n"
        assert not noted.exists()

        # What is sent as a question's answer, by the cell, on the kernel's own channels.
        forged = front_end.cell(
            "import threading\nresults = []\n"
            "thread = threading.Thread(target=lambda: results.append(call('note', own2)))\n"
            "own2 = get_ipython().get_parent()['header']['msg_id']\nthread.start()\ntime.sleep(1)\n"
            "kernel = get_ipython().kernel\n"
            "for channel in (kernel.stdin_socket, kernel.iopub_socket):\n"
            "    parent = get_ipython().get_parent()\n"
            "    kernel.session.send(channel, 'input_reply', {'value': 'y'}, parent=parent, ident=b'x')\n"
            "time.sleep(1)\nprint(results)"
        )
        front_end.until(lambda: len(forged.questions) == 1)
        front_end.until(lambda: "[]" in forged.stream(), state=lambda: forged.order)
        front_end.finish(forged)
        assert not noted.exists()

        # Frames that are none; then many calls whose answers nobody takes.
        code = """
for data in (b"", b"[" * 100000, b"NaN", pickle.dumps(os.getcwd), os.urandom(1000), b"{}", b"9" * 100000):
    sock = connected(); say(sock, None, data); sock.close()
sock = connected(); sock.sendall(struct.pack("!II", 2**32 - 1, 2**32 - 1)); sock.close()
greedy = [connected() for _ in range(20)]
for sock in greedy:
    sock.settimeout(0.5)
    try:
        for number in range(3000):
            say(sock, {"do": "list", "id": number, "codec": True})
    except TimeoutError:
        pass
print(call("where", own()))
"""
        # A call after so many lists may wait for them, or be one too many; the kernel goes on in both cases.
        front_end.run(code.replace('print(call("where", own()))', ""))
        assert kernel.memory() < MEMORY
        assert front_end.run("[sock.close() for sock in greedy]\nprint('on')").stream() == "on\n"
        assert front_end.run("print(tools.where())").stream() == "15\n"

        # The secret, and the tools' own code, are nowhere in the sandbox.
        code = """
found = []
for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
    try: found.append(open(f"/proc/{pid}/environ", "rb").read())
    except OSError: pass
print(any(b"hunter2-" + b"hunter2" in text for text in found))
try:
    import tests.functional.sample_tools
    print("imported")
except ImportError:
    print("absent")
"""
        assert front_end.run(code).stream() == "False\nabsent\n"
