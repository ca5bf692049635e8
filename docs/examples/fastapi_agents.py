"""A web service with FastAPI that asks an agent: one client for all requests, one session for each user.

Run it with ``PPIO_API_KEY=… uvicorn fastapi_agents:app``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException
from fastapi.responses import StreamingResponse

from sandbox_kernel.agents import AgentClient
from sandbox_kernel.errors import RateLimitError, SandboxError, TemplateNotFoundError

AGENT = "echo-agent"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the client as long as the service; at its end the agents' sandboxes end, too."""
    async with AgentClient("ppio") as app.state.agents:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/users/{user}/ask")
async def ask(user: str, request: Annotated[dict[str, Any], Body()]) -> Any:
    """Return the agent's answer; it remembers what this user said before."""
    try:
        return await app.state.agents.invoke(AGENT, request, session=user)
    except TemplateNotFoundError as exc:
        raise HTTPException(404, str(exc)) from exc
    except RateLimitError as exc:
        raise HTTPException(429, str(exc), {"Retry-After": str(round(exc.retry_after))}) from exc
    except SandboxError as exc:
        raise HTTPException(502, str(exc)) from exc


@app.post("/users/{user}/stream")
async def stream(user: str, request: Annotated[dict[str, Any], Body()]) -> StreamingResponse:
    """Pass on the pieces of the agent's answer, a line each, as they come."""

    async def lines() -> AsyncIterator[str]:
        async for piece in app.state.agents.stream(AGENT, request, session=user):
            yield json.dumps(piece) + "\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")
