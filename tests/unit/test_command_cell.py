"""A cell of `%sandbox` commands, beside the front end that sees it run."""

from __future__ import annotations

import json
from typing import Any

from sandbox_kernel.cells import CommandCell, KeyboardInterruptError
from sandbox_kernel.requests import Request

NOBODY: Any = None


async def test_cell_that_is_interrupted_before_its_task_begins_does_not_run() -> None:
    header = {"msg_id": "a", "msg_type": "execute_request"}
    content = {"code": "%sandbox help", "silent": False}
    request = Request("shell", [], [json.dumps(part).encode() for part in (header, {}, {}, content)], header)
    request.read_cell()
    # Any command would need the front end, and fail otherwise.
    cell = CommandCell(NOBODY, NOBODY, request)
    cell.cancel()
    assert isinstance(await cell.run(), KeyboardInterruptError)
