"""The test's side of the arena: starts it for one kind of user, sends it requests, takes it down."""

from __future__ import annotations

import json
import os
import secrets
import selectors
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ADDRESS = "169.254.77.1"
"""Of the arena's network interface: its network is the one that metadata services answer in."""
SECRET_VARIABLE = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - a name
FIRST_PID = 20_000
REQUEST_TIMEOUT = 90.0
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Person:
    """Who runs the kernel: with which rights, and with which Python environment."""

    name: str
    user: int
    python: str

    def command(self, command: Sequence[str]) -> list[str]:
        """Return a command that, run with the rights of the stage, runs the given one as this person."""
        if self.user == 0:
            return list(command)
        if os.getuid() == 0:
            change = ["--reuid", str(self.user), "--regid", str(self.user), "--clear-groups", "--inh-caps=-all"]
        else:
            change = ["--inh-caps=-all", "--ambient-caps=-all"]
        return ["setpriv", *change, *command]


def unavailable() -> str:
    """Return why throw-away namespaces cannot be had here, "" if they can."""
    try:
        done = subprocess.run([*_unshare(), "true"], check=False, capture_output=True, text=True, timeout=10)
    except OSError as exc:
        return f"no throw-away namespaces for the controls: {exc}"
    return f"no throw-away namespaces for the controls: {done.stderr.strip()}" if done.returncode else ""


def _unshare() -> list[str]:
    own_user = [] if os.getuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    spaces = ["--mount", "--pid", "--uts", "--ipc", "--net", "--fork", "--mount-proc", "--kill-child=SIGKILL"]
    return ["unshare", *own_user, *spaces]


class Arena:
    """Use as a context manager. A request that the driver refuses raises RuntimeError."""

    def __init__(self, person: Person, kernelspec: str) -> None:
        self.person = person
        self.secret = f"host-secret-{secrets.token_hex(16)}"
        self._kernelspec = kernelspec

    def __enter__(self) -> Arena:  # noqa: PYI034 - nobody derives from it
        # Not pytest's own temporary folder, which only its user may enter.
        self.base = Path(tempfile.mkdtemp(prefix="arena-", dir="/var/tmp"))
        self.base.chmod(0o755)
        self._copy_code()
        for folder in ("home", "temporary", "runtime"):
            (self.base / folder).mkdir(mode=0o700)
        self._write_host_files()
        if os.getuid() == 0:
            for path in (self.base, *(self.base / name for name in ("home", "temporary", "runtime"))):
                os.chown(path, self.person.user, self.person.user)
        self._log = (self.base / "arena.log").open("w+")
        self._process = subprocess.Popen(
            [*_unshare(), sys.executable, str(self.base / "code/arena/stage.py"), json.dumps(self._plan())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        return self

    def _copy_code(self) -> None:
        """The repository may lie where the person cannot read."""
        shutil.copytree(HERE, self.base / "code" / HERE.name, ignore=shutil.ignore_patterns("__pycache__"))

    def _write_host_files(self) -> None:
        folder = self.base / "etc"
        folder.mkdir()
        (folder / "shadow").write_text(f"root:{self.secret}:1::::::\n")
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        (folder / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")

    def _plan(self) -> dict[str, Any]:
        over = {str(self.base / "etc" / name): f"/etc/{name}" for name in ("shadow", "resolv.conf", "nsswitch.conf")}
        driver = {"base": str(self.base), "address": ADDRESS, "kernelspec": self._kernelspec}
        return {
            "base": str(self.base),
            "code": str(self.base / "code"),
            "user": self.person.user,
            "over": {source: target for source, target in over.items() if Path(target).exists()},
            "throw_away": self._environment_folders(),
            "address": ADDRESS,
            "first_pid": FIRST_PID,
            "command": self.person.command(
                [self.person.python, "-m", "arena.init", "arena.driver", json.dumps(driver)]
            ),
            "environment": self._environment(),
        }

    def _environment_folders(self) -> list[str]:
        """The parts of the person's Python environment that attacks write into outside."""
        program = (
            "import sys, sysconfig; print(sysconfig.get_path('purelib')); print(sys.prefix + '/share/jupyter/kernels')"
        )
        done = subprocess.run([self.person.python, "-c", program], capture_output=True, text=True, check=True)
        return [folder for folder in done.stdout.splitlines() if Path(folder).is_dir()]

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{Path(self.person.python).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.base / "home"),
            "TMPDIR": str(self.base / "temporary"),
            "JUPYTER_RUNTIME_DIR": str(self.base / "runtime"),
            "LANG": "C.UTF-8",
            SECRET_VARIABLE: self.secret,
        }

    def ask(self, request: str, **arguments: Any) -> Any:
        """Send one request to the driver, and return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"request": request, "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(REQUEST_TIMEOUT):
                raise TimeoutError(f"{request} took longer than {REQUEST_TIMEOUT} s; the arena said: {self.log()}")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the arena ended: {self.log()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{request}: {answer['error']}; the arena said: {self.log()}")
        return answer["result"]

    def log(self) -> str:
        return Path(self._log.name).read_text()[-4000:]

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            # What started the namespaces takes their first process, and so all of them, with it.
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()
        shutil.rmtree(self.base, ignore_errors=True)
