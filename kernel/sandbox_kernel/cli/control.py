"""Asks a kernel process to run a `%sandbox` command, over its control channel, which answers while a cell runs."""

from __future__ import annotations

import queue
import time
from pathlib import Path
from typing import Any

from sandbox_kernel.errors import InvocationError, SandboxConnectionError, SandboxTimeoutError
from sandbox_kernel.records import SessionRecord


def run_command(record: SessionRecord, line: str, timeout: float) -> str:
    """Return what the command LINE shows in the kernel that has the recorded sandbox; TIMEOUT in seconds.

    Raises SandboxConnectionError, SandboxTimeoutError, or InvocationError with the message of the command's error.
    """
    if not Path(record.connection_file).is_file():
        raise SandboxConnectionError(
            f"The connection file of the kernel process {record.kernel_pid} is gone; only that kernel's own notebook "
            "can reach the sandbox.",
            **_ids(record),
        )
    content = _ask(record, line, timeout)
    if content.get("status") != "ok":
        raise InvocationError(str(content.get("evalue", "the kernel does not know this command")), **_ids(record))
    return str(content.get("text", ""))


def _ask(record: SessionRecord, line: str, timeout: float) -> dict[str, Any]:
    from jupyter_client.blocking.client import BlockingKernelClient

    client = BlockingKernelClient(connection_file=record.connection_file)
    client.load_connection_file()
    client.start_channels(shell=False, iopub=False, stdin=False, hb=False, control=True)
    try:
        request = client.session.msg("sandbox_command_request", {"line": line})
        client.control_channel.send(request)
        deadline = time.monotonic() + timeout
        while True:
            reply = client.control_channel.get_msg(timeout=max(0.0, deadline - time.monotonic()))
            if reply["parent_header"].get("msg_id") == request["header"]["msg_id"]:
                content: dict[str, Any] = reply["content"]
                return content
    except queue.Empty:
        raise SandboxTimeoutError(
            f"The kernel process {record.kernel_pid} did not answer within {timeout:g} s; try --timeout.",
            **_ids(record),
        ) from None
    finally:
        client.stop_channels()


def _ids(record: SessionRecord) -> dict[str, Any]:
    return {
        "provider": record.provider,
        "sandbox_id": record.sandbox_id,
        "correlation_id": record.correlation_id,
    }
