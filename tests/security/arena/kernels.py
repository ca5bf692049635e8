"""A kernel under test and a client of it, as a notebook front end has them."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

START_TIMEOUT = 30


class Kernel:
    """One kernel from an installed kernelspec."""

    def __init__(self, kernelspec: str, options: list[str], folder: str, connection_file: str, key: str) -> None:
        self._options, self._folder = options, folder
        self._manager = KernelManager(kernel_name=kernelspec, connection_file=connection_file)
        # The secret that attacks look for is also what a front end signs its messages with.
        self._manager.session.key = key.encode()
        self._client: BlockingKernelClient | None = None

    def start(self, **descriptors: Any) -> None:
        # Each is another notebook's, as for a server: what one notebook's cells wrote is kept for it.
        notebook = f"{self._folder}/{os.urandom(8).hex()}.ipynb"
        environment = {**os.environ, "JPY_SESSION_NAME": notebook}
        self._manager.start_kernel(extra_arguments=self._options, cwd=self._folder, env=environment, **descriptors)
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=START_TIMEOUT)

    @property
    def pid(self) -> int:
        provisioner: Any = self._manager.provisioner
        return int(provisioner.pid)

    @property
    def client(self) -> BlockingKernelClient:
        assert self._client is not None, "not started"
        return self._client

    def run(self, code: str, timeout: float) -> dict[str, Any]:
        """Run a cell to its end. `errors` are the error outputs that the notebook shows."""
        printed: list[str] = []
        errors: list[dict[str, Any]] = []

        def collect(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                printed.append(content["text"])
            elif message["msg_type"] == "error":
                errors.append({"name": content["ename"], "value": content["evalue"], "lines": content["traceback"]})

        reply = self.client.execute_interactive(code, timeout=timeout, output_hook=collect, allow_stdin=False)
        return {"status": reply["content"]["status"], "printed": "".join(printed), "errors": errors}

    def begin(self, code: str, until: str, timeout: float) -> dict[str, Any]:
        message_id = self.client.execute(code, allow_stdin=False)
        printed, deadline = "", time.monotonic() + timeout
        while until not in printed:
            message = self.client.get_iopub_msg(timeout=max(0.0, deadline - time.monotonic()))
            if message["parent_header"].get("msg_id") != message_id:
                continue
            if message["msg_type"] == "error":
                raise RuntimeError(f"the cell failed: {message['content']['evalue']}")
            printed += message["content"].get("text", "")
        return {"printed": printed}

    def stop(self) -> None:
        """Ask it to shut down, as closing the notebook does."""
        self.client.stop_channels()
        self._manager.shutdown_kernel(now=False)

    def forget(self) -> None:
        self.client.stop_channels()
        with contextlib.suppress(Exception):
            self._manager.shutdown_kernel(now=True)
