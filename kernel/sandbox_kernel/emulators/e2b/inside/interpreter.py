"""The code interpreter on port 49999: code goes in, lines of JSON come out as it runs."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

from .http import Exchange, HttpError
from .javascript import JavaScript
from .python_context import PythonContext

KEEPALIVE = 5.0
"""Seconds of silence after which a line says that there is nothing to say."""
LANGUAGES: dict[str, type[PythonContext | JavaScript]] = {
    "python": PythonContext,
    "javascript": JavaScript,
    "typescript": JavaScript,
}
ALIASES = {"js": "javascript", "ts": "typescript"}


class Context:
    """A kernel with its variables; one run at a time."""

    def __init__(self, language: str, cwd: str) -> None:
        self.id = str(uuid.uuid4())
        self.language, self.cwd = language, cwd
        self.lock = asyncio.Lock()
        self.runner = LANGUAGES[language](language, cwd)

    def describe(self) -> dict[str, str]:
        """Return what clients are told."""
        return {"id": self.id, "language": self.language, "cwd": self.cwd}


class Interpreter:
    """One sandbox's contexts."""

    def __init__(self) -> None:
        self._contexts: dict[str, Context] = {}
        self._defaults: dict[str, Context] = {}

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request."""
        request = exchange.request
        match request.method, *request.path.strip("/").split("/"):
            case "GET", "health":
                exchange.answer(200, "OK")
            case "POST", "execute":
                await self._execute(exchange)
            case "POST", "contexts":
                context = self._make(request.json())
                exchange.answer(200, context.describe())
            case "GET", "contexts":
                exchange.answer(200, [one.describe() for one in self._contexts.values()])
            case "POST", "contexts", context_id, "restart":
                await self._find(context_id).runner.restart()
                exchange.answer(200, {})
            case "DELETE", "contexts", context_id:
                context = self._find(context_id)
                del self._contexts[context_id]
                self._defaults = {name: one for name, one in self._defaults.items() if one is not context}
                await context.runner.close()
                exchange.answer(204)
            case _:
                exchange.answer(404, {"detail": "Not Found"})

    def _find(self, context_id: str) -> Context:
        if context_id not in self._contexts:
            raise HttpError(404, f"Context {context_id} not found")
        return self._contexts[context_id]

    def _make(self, asked: dict[str, Any]) -> Context:
        language = str(asked.get("language") or "python").lower()
        language = ALIASES.get(language, language)
        if language not in LANGUAGES:
            raise HttpError(500, f"Failed to create context: no kernel for {language} in this emulator")
        cwd = asked.get("cwd") or os.path.expanduser("~")
        if not os.path.isdir(cwd):
            raise HttpError(400, f"cwd {cwd} does not exist")
        context = Context(language, cwd)
        self._contexts[context.id] = context
        return context

    def _chosen(self, asked: dict[str, Any]) -> Context:
        if asked.get("context_id") and asked.get("language"):
            raise HttpError(400, "Only one of context_id or language can be provided")
        if asked.get("context_id"):
            return self._find(asked["context_id"])
        language = str(asked.get("language") or "python").lower()
        language = ALIASES.get(language, language)
        if language not in self._defaults:
            self._defaults[language] = self._make({"language": language})
        return self._defaults[language]

    async def _execute(self, exchange: Exchange) -> None:
        asked = exchange.request.json()
        context = self._chosen(asked)
        code = context.runner.with_environment(asked.get("env_vars") or {}) + asked["code"]
        exchange.begin("")
        gone = asyncio.ensure_future(exchange.gone())
        async with context.lock:
            sending = asyncio.ensure_future(_send(exchange, context, code))
            await asyncio.wait([sending, gone], return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                # Who has left is not interested any more: this is how clients interrupt.
                await context.runner.interrupt()
                with suppress(OSError):
                    await sending
            else:
                sending.result()
        gone.cancel()


async def _send(exchange: Exchange, context: Context, code: str) -> None:
    """Send what comes of the code; when the client has gone, wait for its end all the same."""
    there = True
    async for event in _with_keepalive(context.runner.run(code)):
        if event["type"] in ("stdout", "stderr"):
            event["timestamp"] = datetime.now(timezone.utc).isoformat()
        try:
            if there:
                await exchange.send(json.dumps(event).encode() + b"\n")
        except OSError:
            there = False
    if there:
        await exchange.send(b'{"type":"end_of_execution"}\n')
        exchange.end()


async def _with_keepalive(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    pending: asyncio.Future[dict[str, Any]] = asyncio.ensure_future(anext(events))
    while True:
        done, _ = await asyncio.wait([pending], timeout=KEEPALIVE)
        if not done:
            yield {"type": "keepalive"}
            continue
        try:
            yield pending.result()
        except StopAsyncIteration:
            return
        pending = asyncio.ensure_future(anext(events))
