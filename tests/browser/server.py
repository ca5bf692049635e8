"""A `jupyter lab` server for tests: started in a folder of its own, ended with everything it started."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.ports import free_port

START_SECONDS = 60
STOP_SECONDS = 20
EXIT_SECONDS = 3

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    # What JupyterLab would show over the page at its first start.
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    # By default JupyterLab gives up on a completion after one second, which a busy machine needs for the first one.
    "@jupyterlab/completer-extension:manager": {"providerTimeout": 30_000},
}


@dataclass(frozen=True)
class LabServer:
    """A running server: its address, its login, and the folder whose notebooks it shows."""

    url: str
    token: str
    root: Path
    log: Path

    def get(self, path: str) -> Any:
        """Ask the server's REST API at `path` (`api/kernels`)."""
        headers = {"Authorization": f"token {self.token}"}
        response = httpx.get(f"{self.url}{path}", headers=headers, timeout=START_SECONDS, trust_env=False)
        return response.raise_for_status().json()

    def log_tail(self, lines: int = 40) -> str:
        """Read the last lines that the server and its kernels wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@contextlib.contextmanager
def lab_server(folder: Path, config: Mapping[str, Mapping[str, Any]]) -> Iterator[LabServer]:
    """Run JupyterLab until the block ends; `config` maps a file's name in the configuration folder to its content.

    Nothing is read from, or left in, the user's own Jupyter folders: `folder` holds them all.
    """
    token = secrets.token_hex(16)
    root = folder / "notebooks"
    root.mkdir(parents=True)
    _write_config(folder / "config", root, token, config)
    with (folder / "server.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab"],
            cwd=root,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield _await_server(process, folder, token)
    finally:
        _stop(process)


def _environment(folder: Path) -> dict[str, str]:
    own = {
        "JUPYTER_CONFIG_DIR": folder / "config",
        "JUPYTER_DATA_DIR": folder / "data",
        "JUPYTER_RUNTIME_DIR": folder / "runtime",
        "IPYTHONDIR": folder / "ipython",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "JPY_"))}
    # The folders of kernelspecs stay findable, wherever the caller keeps them.
    if "JUPYTER_PATH" in os.environ:
        inherited["JUPYTER_PATH"] = os.environ["JUPYTER_PATH"]
    return {**inherited, **{name: str(path) for name, path in own.items()}}


def _write_config(config_dir: Path, root: Path, token: str, config: Mapping[str, Mapping[str, Any]]) -> None:
    server = {
        "ServerApp": {
            "ip": "127.0.0.1",
            "port": free_port(),
            "root_dir": str(root),
            "open_browser": False,
            "allow_root": os.getuid() == 0,
        },
        "LabApp": {"expose_app_in_browser": True, "news_url": None},
        "IdentityProvider": {"token": token},
    }
    files = {"jupyter_server_config": server, "labconfig/default_setting_overrides": SETTINGS, **config}
    for name, content in files.items():
        path = config_dir / f"{name}.json"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def _await_server(process: subprocess.Popen[bytes], folder: Path, token: str) -> LabServer:
    """Wait until the server answers; it states its address in its runtime folder a moment before that."""
    info, log = folder / "runtime" / f"jpserver-{process.pid}.json", folder / "server.log"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"JupyterLab ended with {process.returncode}:\n{log.read_text(errors='replace')}")
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError, httpx.TransportError):
            url = json.loads(info.read_text())["url"]
            server = LabServer(url=url, token=token, root=folder / "notebooks", log=log)
            server.get("api/status")
            return server
        time.sleep(0.05)
    raise TimeoutError(f"JupyterLab did not start in {START_SECONDS} s:\n{log.read_text(errors='replace')}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let the server end its kernels, then end whatever is left of what it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        # Kernels lead process groups of their own, so the server's group alone would miss them.
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        # When all is done the server may still hang: its interpreter waits for a worker thread of anyio.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(EXIT_SECONDS)
        # What tidies up after a kernel outlives it by a moment.
        _, left = psutil.wait_procs(started, STOP_SECONDS)
        for child in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_SECONDS)
