"""Python in the code interpreter: an ipykernel, its messages in the interpreter's own words."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import AsyncIterator
from queue import Empty
from typing import Any

NAMES = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}
START_TIMEOUT = 60.0


class PythonContext:
    """One ipykernel, started with the first run."""

    def __init__(self, language: str, cwd: str) -> None:
        self._cwd = cwd
        self._manager: Any = None
        self._client: Any = None

    def with_environment(self, variables: dict[str, str]) -> str:
        """Return lines that set variables: they stand before the code, whose line numbers shift."""
        lines = [f"os.environ[{name!r}] = {value!r}\n" for name, value in variables.items()]
        return "".join(["import os\n", *lines]) if lines else ""

    async def run(self, code: str) -> AsyncIterator[dict[str, Any]]:
        """Run code; yield what comes of it."""
        await self._ensure()
        msg_id = self._client.execute(code, allow_stdin=False)
        while True:
            try:
                message = await self._client.get_iopub_msg(timeout=1)
            except Empty:
                if not await self._manager.is_alive():
                    await self._forget()
                    yield {"type": "error", "name": "ContextRestarting", "value": "the kernel died", "traceback": ""}
                    return
                continue
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            content = message["content"]
            match message["msg_type"]:
                case "status" if content["execution_state"] == "idle":
                    return
                case "execute_input":
                    yield {"type": "number_of_executions", "execution_count": content["execution_count"]}
                case "stream":
                    yield {"type": content["name"], "text": content["text"]}
                case "execute_result" | "display_data" as kind:
                    yield _result(content["data"], main=kind == "execute_result")
                case "error":
                    trace = "".join(content["traceback"])
                    yield {"type": "error", "name": content["ename"], "value": content["evalue"], "traceback": trace}

    async def interrupt(self) -> None:
        """Interrupt what runs."""
        await self._manager.interrupt_kernel()

    async def restart(self) -> None:
        """Begin anew with the next run."""
        await self._forget()

    async def close(self) -> None:
        """End the kernel."""
        await self._forget()

    async def _forget(self) -> None:
        if self._manager is not None:
            self._client.stop_channels()
            await self._manager.shutdown_kernel(now=True)
            self._manager = self._client = None

    async def _ensure(self) -> None:
        if self._manager is not None:
            return
        from jupyter_client.manager import AsyncKernelManager

        folder = tempfile.mkdtemp(prefix="interpreter-")
        self._manager = AsyncKernelManager(
            transport="ipc", ip=f"{folder}/k", connection_file=f"{folder}/kernel.json", kernel_name="python3"
        )
        self._manager.kernel_spec_manager.ensure_native_kernel = True
        environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        await self._manager.start_kernel(
            cwd=self._cwd, env=environment, extra_arguments=["--HistoryManager.enabled=False"]
        )
        self._client = self._manager.client()
        self._client.start_channels()
        await self._client.wait_for_ready(timeout=START_TIMEOUT)
        await asyncio.sleep(0)


def _result(data: dict[str, Any], *, main: bool) -> dict[str, Any]:
    result: dict[str, Any] = {"type": "result", "is_main_result": main}
    extra = {}
    for mime, value in data.items():
        if mime in NAMES:
            result[NAMES[mime]] = value
        else:
            extra[mime] = value
    if "text" in result:
        # As the service does it: 'abc' becomes abc.
        result["text"] = re.sub(r"^'(.*)'$", r"\1", result["text"], flags=re.DOTALL)
    if extra:
        result["extra"] = extra
    return result
