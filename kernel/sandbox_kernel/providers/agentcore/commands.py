"""Shell commands in a session, in basic mode: tasks of the service, looked at until they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from .api import Api

TIMEOUT = 60.0
FIRST_LOOK, LONGEST_LOOK = 0.1, 2.0
"""Seconds between two looks at a task: they grow while nothing comes."""
_STATUS = "; printf '\\n<sbx-exit:%s>' $?"
_STATUS_BEGIN = "<sbx-exit:"
KILLED = -9


class TaskCommand:
    """One command. Its output, errors included, comes through a terminal, whose line ends are undone."""

    def __init__(self, api: Api, session_id: str, text: str) -> None:
        self._api, self._session_id, self._text = api, session_id, text
        self._task_id = ""
        self._stopped = False
        self.exit_code = 0

    async def output(self) -> AsyncIterator[bytes]:
        """Run it and yield what it prints. Raises SandboxError."""
        # The exit status that the service tells is not to be relied on.
        command = f"( {self._text}\n){_STATUS}"
        said = await self._api.invoke(self._session_id, "startCommandExecution", {"command": command}, timeout=TIMEOUT)
        self._task_id = said.task_id
        seen, pause = 0, FIRST_LOOK
        while True:
            said = await self._api.invoke(self._session_id, "getTask", {"taskId": self._task_id}, timeout=TIMEOUT)
            done = said.task_status not in ("submitted", "working")
            text = said.printed.replace("\r\n", "\n")
            if done:
                text, mark, code = text.partition(_STATUS_BEGIN)
                text = text.removesuffix("\n") if mark else text
                self.exit_code = int(code.split(">")[0]) if mark else said.exit_code or 0
            elif _STATUS_BEGIN in text or text.endswith("\n"):
                text = text.partition(_STATUS_BEGIN)[0]
            fresh, seen = text[seen:], max(seen, len(text))
            if self._stopped:
                self.exit_code = KILLED
                return
            if fresh:
                yield fresh.encode()
                pause = FIRST_LOOK
            if done:
                return
            await asyncio.sleep(pause)
            pause = min(LONGEST_LOOK, pause * 1.5)

    async def stop(self) -> None:
        """End it."""
        self._stopped = True
        if self._task_id:
            await self._api.invoke(self._session_id, "stopTask", {"taskId": self._task_id}, timeout=TIMEOUT)
