"""The small host that attacks aim at: files with a secret, servers, processes; and how it looks after an attack."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

KNOWN_NAME, KNOWN_ADDRESS = "known.attack.test", "203.0.113.77"
HERE = Path(__file__).parent
PLANTED = "planted-by-an-attack"


class World:
    """Everything is prepared when it is made. `facts` is what attacks are told."""

    def __init__(self, base: Path, secret: str, address: str) -> None:
        self.base, self.secret = base, secret
        self.facts: dict[str, Any] = {"host_address": address, "outside_pid": os.getpid(), "outside": False}
        self._put_files()
        self._start_servers()
        self._start_processes()
        self._open_terminal()

    # -- preparation

    def _put_files(self) -> None:
        folders = {name: self.base / name for name in ("home", "notebooks", "temporary", "runtime", "playground")}
        files = {
            "home_secret": folders["home"] / "private.key",
            "notebook_secret": folders["notebooks"] / ".env",
            "temporary_secret": folders["temporary"] / "note.txt",
        }
        for folder in folders.values():
            folder.mkdir(exist_ok=True, mode=0o700)
        for path in files.values():
            path.write_text(f"SECRET={self.secret}\n")
        # A stand-in for the control, where no kernel runs.
        (folders["runtime"] / "kernel-0.json").write_text(json.dumps({"key": self.secret}))
        self.facts |= {name: str(path) for name, path in files.items()}
        self.facts |= {
            "home": str(folders["home"]),
            "notebook_folder": str(folders["notebooks"]),
            "temporary_folder": str(folders["temporary"]),
            "runtime_folder": str(folders["runtime"]),
            "playground": str(folders["playground"]),
            "packages_folder": sysconfig.get_path("purelib"),
            "kernelspec_folder": f"{sys.prefix}/share/jupyter/kernels",
            "home_secret_handle": handle_of(str(files["home_secret"])),
            "known_name": KNOWN_NAME,
            "known_address": KNOWN_ADDRESS,
        }

    def _start_servers(self) -> None:
        tcp = socket.create_server(("", 0))
        tcp6 = _if_possible(lambda: socket.create_server(("::1", 0), family=socket.AF_INET6))
        udp = _datagram_server(socket.AF_INET, ("127.0.0.1", 0))
        names = _datagram_server(socket.AF_INET, ("127.0.0.1", 53))
        path, datagram_path = str(self.base / "server.sock"), str(self.base / "datagrams.sock")
        abstract = f"attack-{os.urandom(8).hex()}"
        unix, unix_abstract = (_unix_server(address) for address in (path, f"\0{abstract}"))
        datagrams = _datagram_server(socket.AF_UNIX, datagram_path)
        for listener in filter(None, (tcp, tcp6, unix, unix_abstract)):
            _serve(self._greet, listener)
        for end in (udp, datagrams):
            _serve(self._answer, end)
        _serve(_answer_question, names)
        self.facts |= {
            "tcp_port": tcp.getsockname()[1],
            "tcp6_port": tcp6.getsockname()[1] if tcp6 else 0,
            "udp_port": udp.getsockname()[1],
            "unix_path": path,
            "unix_datagram_path": datagram_path,
            "abstract_name": abstract,
        }

    def _greet(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(self.secret.encode())

    def _answer(self, end: socket.socket) -> None:
        _, sender = end.recvfrom(512)
        end.sendto(self.secret.encode(), sender)

    def _start_processes(self) -> None:
        marker = f"host-victim-{os.urandom(4).hex()}"
        self._signals = self.base / marker
        self._signals.touch()
        victim = [sys.executable, str(HERE / "victim.py"), str(self._signals)]
        self._victim = subprocess.Popen(victim, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._victim.stdin is not None
        assert self._victim.stdout is not None
        self._victim.stdin.write(self.secret + "\n")
        self._victim.stdin.flush()
        self.facts |= json.loads(self._victim.stdout.readline())
        program = self.base / "program"
        shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
        self._program = subprocess.Popen([str(program), "1000000"])
        self._neighbour = _process_in_another_network()
        self.facts |= {"victim_marker": marker, "program_pid": self._program.pid, "kernel_pid": os.getpid()}

    def _open_terminal(self) -> None:
        self._terminal, self.terminal_end = os.openpty()
        os.set_blocking(self._terminal, False)
        self._shown = 0

    # -- observation

    def observe(self) -> dict[str, Any]:
        """Return what an attack may change out here, each under the name that `Attack.trace` uses."""
        self._shown += len(self._read_terminal())
        return {
            "victim signals": self._signals.stat().st_size,
            "victim niceness": os.getpriority(os.PRIO_PROCESS, self._victim.pid),
            "processes alive": [process.poll() is None for process in (self._victim, self._program, self._neighbour)],
            "host name": socket.gethostname(),
            "planted files": [str(path) for path in self._planted() if path.exists()],
            "programs": _changed_times(),
            "mounts": Path("/proc/self/mountinfo").read_text(),
            "terminal": self._shown,
        }

    def _read_terminal(self) -> bytes:
        try:
            return os.read(self._terminal, 1 << 16)
        except BlockingIOError:
            return b""

    def _planted(self) -> list[Path]:
        folders = ("home", "notebook_folder", "packages_folder", "kernelspec_folder")
        return [Path(self.facts[name], PLANTED) for name in folders]

    def tidy(self) -> None:
        """Undo what a successful attack left, so that the next one's trace shows."""
        for path in self._planted():
            path.unlink(missing_ok=True)


def handle_of(path: str) -> tuple[int, str] | None:
    """Return what `name_to_handle_at` tells of a file, None where the file system has no handles."""
    buffer = (ctypes.c_uint32 * 34)(128)
    mount_id = ctypes.c_int()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.name_to_handle_at(-100, path.encode(), ctypes.byref(buffer), ctypes.byref(mount_id), 0) != 0:
        return None
    return ctypes.c_int32(buffer[1]).value, bytes(buffer)[8 : 8 + buffer[0]].hex()


def _changed_times() -> dict[str, int]:
    """Return when each program that runs here, sandboxes included, was last changed in content, owner or mode."""
    found = {}
    for program in Path("/proc").glob("[0-9]*/exe"):
        try:
            status = program.stat()
        except OSError:
            continue
        found[f"{status.st_dev}:{status.st_ino}"] = status.st_ctime_ns
    return found


def _process_in_another_network() -> subprocess.Popen[bytes]:
    rights = [] if os.getuid() == 0 else ["--user", "--map-current-user"]
    return subprocess.Popen(["unshare", *rights, "--net", "sleep", "1000000"])


def _if_possible(make: Callable[[], socket.socket]) -> socket.socket | None:
    try:
        return make()
    except OSError:
        return None


def _unix_server(address: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(address)
    server.listen()
    return server


def _datagram_server(family: int, address: Any) -> socket.socket:
    server = socket.socket(family, socket.SOCK_DGRAM)
    server.bind(address)
    return server


def _serve(once: Callable[[socket.socket], None], end: socket.socket) -> None:
    def loop() -> None:
        while True:
            try:
                once(end)
            except OSError:
                # The other side went away; the next one is served.
                continue

    threading.Thread(target=loop, daemon=True).start()


def _answer_question(end: socket.socket) -> None:
    """Answer any question of type A with the known address, others with nothing."""
    question, sender = end.recvfrom(512)
    name_end = question.index(b"\0", 12) + 5
    of_type_a = question[name_end - 4 : name_end - 2] == b"\0\1"
    records = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(KNOWN_ADDRESS) if of_type_a else b""
    header = question[:2] + b"\x81\x80\0\1" + bytes([0, int(of_type_a)]) + b"\0\0\0\0"
    end.sendto(header + question[12:name_end] + records, sender)
