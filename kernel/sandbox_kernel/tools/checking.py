"""Checks the arguments of calls, so that no cell can keep the kernel's process busy by what it sends.

What a schema asks for can take any time: a `pattern` may try more ways to match than there are seconds, schemas that
contain themselves branch at each level, and Python's `re` lets no other thread run meanwhile. Such checks, and those of
large arguments, are made one after the other in a process of their own, which is ended when one takes too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from sandbox_kernel.errors import ToolArgumentsError

from .schema import Validator, check_arguments, make_validator
from .tool import Tool

CHECK_TIMEOUT = 10.0
"""Seconds that a check may take."""
START_ALLOWANCE = 20.0
"""Seconds more for the first check of a process, which has to start."""
LARGE = 16 * 1024
"""Bytes of a request from which it is checked in the other process, whatever its schema."""
MAX_VALIDATORS = 100
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from sandbox_kernel.tools.checking import answer_requests; answer_requests()"
)


class ArgumentChecker:
    """Checks the arguments of one session's calls. Its methods belong to one event loop."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = asyncio.Lock()

    async def check(self, tool: Tool, arguments: dict[str, Any], size: int) -> None:
        """Raise ToolArgumentsError if arguments, SIZE bytes as JSON, are not what a tool takes, or take too long."""
        if size <= LARGE and not tool.is_costly:
            check_arguments(tool.validator, arguments)
            return
        async with self._turn:
            error = await self._ask({"schema": dict(tool.input_schema), "arguments": arguments})
        if error:
            raise ToolArgumentsError(error)

    def close(self) -> None:
        """End the process. Idempotent; the next check starts another one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                # What it has not read goes with it.
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]

    async def _ask(self, request: Mapping[str, Any]) -> str:
        timeout = CHECK_TIMEOUT + (START_ALLOWANCE if self._process is None else 0)
        process = self._process = self._process or _started()
        work = asyncio.ensure_future(asyncio.to_thread(_exchange, process, request))
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.wait([work], timeout=timeout)
            if not work.done():
                raise ToolArgumentsError(
                    f"checking the arguments took longer than {timeout:g} s, so the tool was not called; "
                    "send less, or simpler values"
                )
            return work.result()
        except (OSError, ValueError) as exc:
            self.close()
            raise ToolArgumentsError("the arguments could not be checked: the process that does it has ended") from exc
        finally:
            if not work.done():
                self.close()


def _started() -> subprocess.Popen[bytes]:
    # A session of its own: an interrupt of this process is none of its.
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _PROGRAM, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _exchange(process: subprocess.Popen[bytes], request: Mapping[str, Any]) -> str:
    """Return what is wrong with arguments; "" if nothing is. Raises OSError or ValueError where the process ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    return str(json.loads(process.stdout.readline()))


# ---- in the other process


def answer_requests() -> None:
    """Answer each line, a schema and arguments, with what is wrong with them."""
    validators: dict[str, Validator] = {}
    for line in sys.stdin.buffer:
        # Who started this may be gone, and a pattern that is tried lets no code of ours run: the system ends it.
        _end_after(CHECK_TIMEOUT + START_ALLOWANCE)
        error = _error_of(validators, line)
        _end_after(0)
        sys.stdout.write(json.dumps(error) + "\n")
        sys.stdout.flush()


def _error_of(validators: dict[str, Validator], line: bytes) -> str:
    try:
        request = json.loads(line)
        key = json.dumps(request["schema"])
        if key not in validators:
            if len(validators) >= MAX_VALIDATORS:
                validators.clear()
            validators[key] = make_validator(request["schema"])
        check_arguments(validators[key], request["arguments"])
    except ToolArgumentsError as exc:
        return str(exc)
    except RecursionError:
        return "the arguments are nested too deeply"
    return ""


def _end_after(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
