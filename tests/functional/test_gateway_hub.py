"""A notebook over a user's server at a real JupyterHub, through its proxy, with a token of the hub.

On demand: `SANDBOX_KERNEL_TEST_JUPYTERHUB` names the Python of an environment with `jupyterhub jupyter_server
ipykernel`, and `SANDBOX_KERNEL_TEST_HTTP_PROXY` the program `configurable-http-proxy` from npm.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the hub is started and ended as on Linux", allow_module_level=True)

from tests.ports import free_port

from .client import running

PYTHON = os.environ.get("SANDBOX_KERNEL_TEST_JUPYTERHUB", "")
PROXY = os.environ.get("SANDBOX_KERNEL_TEST_HTTP_PROXY", "")
PATIENCE = 60.0
ADMIN = "a-token-of-a-service"
CONFIGURATION = """\
c.JupyterHub.bind_url = "http://127.0.0.1:{ports[0]}/base"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{ports[1]}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{ports[2]}"
c.ConfigurableHTTPProxy.command = [{proxy!r}]
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allowed_users = {{"ann"}}
c.JupyterHub.spawner_class = "simple"
c.Spawner.cmd = [{python!r}, "-m", "jupyterhub.singleuser"]
c.Spawner.args = ["--allow-root"]
c.Spawner.environment = {{"JUPYTERHUB_SINGLEUSER_APP": "jupyter_server.serverapp.ServerApp"}}
c.JupyterHub.services = [{{"name": "test", "api_token": {admin!r}}}]
c.JupyterHub.load_roles = [
    {{"name": "test", "services": ["test"], "scopes": ["admin:users", "admin:servers", "tokens"]}}
]
"""

pytestmark = pytest.mark.skipif(
    not (PYTHON and PROXY),
    reason="SANDBOX_KERNEL_TEST_JUPYTERHUB and SANDBOX_KERNEL_TEST_HTTP_PROXY name no JupyterHub and no proxy",
)


class Hub:
    """A running hub."""

    def __init__(self, folder: Path) -> None:
        ports = [free_port() for _ in range(3)]
        file = folder / "jupyterhub_config.py"
        file.write_text(CONFIGURATION.format(ports=ports, proxy=PROXY, python=PYTHON, admin=ADMIN))
        self.url = f"http://127.0.0.1:{ports[0]}/base"
        self.log = folder / "hub.log"
        path = f"{Path(PYTHON).parent}{os.pathsep}{os.environ['PATH']}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [PYTHON, "-m", "jupyterhub", "-f", str(file)],
                cwd=folder,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": path},
                start_new_session=True,
            )

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Call its API as a service that may do much."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"token {ADMIN}"}
        request = urllib.request.Request(f"{self.url}/hub/api{path}", data, headers, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 - it is ours
            said = answer.read()
        return json.loads(said) if said else None

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + PATIENCE
        while True:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            try:
                self.ask("GET", "/")
            except (OSError, urllib.error.HTTPError):
                time.sleep(0.3)
            else:
                return

    def begin_server(self) -> str:
        """Start the user's server; return a token that she could have made at the hub's page."""
        self.ask("POST", "/users/ann/server")
        deadline = time.monotonic() + PATIENCE
        while not self.ask("GET", "/users/ann")["servers"].get("", {}).get("ready"):
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.3)
        return str(self.ask("POST", "/users/ann/tokens", {})["token"])

    def end(self) -> None:
        """End it with its servers and its proxy."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = tmp_path / "hub"
    folder.mkdir()
    made = Hub(folder)
    try:
        made.wait()
        yield made
    finally:
        made.end()


def error_of(folder: Path, words: list[str], token: str) -> str:
    environment = {"SANDBOX_KERNEL_GATEWAY_TOKEN": token}
    with running(folder, *words, "--SandboxSession.start_attempts=1", environment=environment) as kernel:
        return str(kernel.front_end().run("1").error["evalue"])


@pytest.mark.parametrize("mode", ["bridge", "relay"])
def test_a_notebook_runs_at_the_users_own_server(hub: Hub, tmp_path: Path, mode: str) -> None:
    words = ["--provider=gateway", f"--GatewayProvider.url={hub.url}/user/ann", f"--GatewayProvider.mode={mode}"]
    token = hub.begin_server()
    with running(tmp_path / "k", *words, environment={"SANDBOX_KERNEL_GATEWAY_TOKEN": token}) as kernel:
        front_end = kernel.front_end()
        assert front_end.run("x = 41; x + 1").result == "42"
        assert mode in str(front_end.run("%sandbox status").contents("display_data"))
        busy = front_end.cell("import time\nprint('begun', flush=True)\ntime.sleep(1000)")
        front_end.until(lambda: "begun" in busy.stream())
        front_end.interrupt()
        assert front_end.finish(busy).error["ename"] == "KeyboardInterrupt"
        assert front_end.run("x").result == "41"
        front_end.ask("shutdown_request", {"restart": False}, channel="control")
    assert "SANDBOX_KERNEL_GATEWAY_TOKEN" in error_of(tmp_path / "wrong", words, "another-token-than-that")
    hub.ask("DELETE", "/users/ann/server")
    assert "start it at the hub" in error_of(tmp_path / "stopped", words, token)
