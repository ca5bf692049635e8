"""`%%sandbox agent` and `%sandbox agents`: agents that are deployed in sandboxes, called from a notebook."""

from __future__ import annotations

import html
import json
import os
import re
import time
from argparse import Namespace
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from sandbox_kernel.commands import CommandContext, require_approval
from sandbox_kernel.errors import CommandError, SandboxConnectionError

from .registry import argument, cell_command, command

if TYPE_CHECKING:
    # Loaded with the first command that needs them.
    from sandbox_kernel.agents import AgentClient, AgentSession
    from sandbox_kernel.agents.client import Answer
    from sandbox_kernel.session import SandboxSession

DEFAULT_SESSION = "default"
WIDTH = 24
"""Characters of a bar as text."""
INTERVAL = 0.1
"""Seconds between two pictures of it."""
_CONTROLS = re.compile(r"[^\x20-\x7e\xa0-\U0010ffff\n\t]")
_VERBS = ("pause", "resume", "close")


class NotebookAgents:
    """What a session keeps of agents: the client with its sessions, and whether a person has agreed."""

    def __init__(self, session: SandboxSession) -> None:
        self._session = session
        self._client: AgentClient | None = None
        self.confirmed = False

    @property
    def client(self) -> AgentClient:
        """The client that the configuration asks for. Raises ConfigurationError, AuthenticationError."""
        if self._client is None:
            from sandbox_kernel.agents.settings import configured_client

            self._client = configured_client(self._session.config, self._session.info.provider)
        return self._client

    async def close(self) -> None:
        """End the agents' sandboxes."""
        if self._client is not None:
            await self._client.close()


@cell_command(
    "agent",
    argument("template", metavar="TEMPLATE", help="the template that the agent is deployed in"),
    argument("--session", default=DEFAULT_SESSION, metavar="NAME", help="which conversation with it this belongs to"),
    argument("--stream", action="store_true", help="show the answer's text alone, as it comes"),
    argument("--batch", action="store_true", help="each line is a request of its own"),
    argument("--concurrency", type=int, default=10, metavar="N", help="of a batch: requests at one time (10)"),
    argument("--timeout", type=float, default=0.0, metavar="S", help="seconds for the answer, and each pause in it"),
)
async def agent(context: CommandContext, arguments: Namespace, body: str) -> None:
    """Send the text below to an agent and show its answer, as it comes where the agent streams it.

    JSON is sent as it is, with all its fields; other text as {"prompt": TEXT}. The first request begins a session: a
    sandbox that remembers, is paid for, and ends with the kernel; `%sandbox agents` shows those there are.
    """
    if not body.strip():
        raise CommandError("Write below %%sandbox agent what the agent is to be asked.")
    agents = context.session.companion(NotebookAgents)
    await _confirm(context, agents)
    if arguments.batch:
        await _batch(context, agents.client, arguments, body)
        return
    session = await agents.client.session(arguments.template, arguments.session)
    await _show_answer(context, session, arguments, body.strip())


async def _confirm(context: CommandContext, agents: NotebookAgents) -> None:
    """Let the person agree once in a session that something is sent, and to whom. Raises CommandError."""
    if agents.confirmed:
        return
    place = agents.client.control.brand.title
    question = f"Send requests of this session to agents in sandboxes at {place}, which are paid for?"
    await require_approval(context, "agent", question)
    agents.confirmed = True


async def _show_answer(context: CommandContext, session: AgentSession, arguments: Namespace, request: str) -> None:
    from sandbox_kernel.agents.answers import text_of

    pieces = 0
    ends = True
    async with aclosing(session.stream(request, timeout=arguments.timeout)) as answer:
        async for piece in answer:
            pieces += 1
            whole = isinstance(piece, (dict, list)) and not arguments.stream and not session.streams
            text = json.dumps(piece, indent=2, ensure_ascii=False) if whole else text_of(piece)
            if text:
                context.write(_clean(text))
                ends = text.endswith("\n")
    if not ends or not pieces:
        context.write("\n")


async def _batch(context: CommandContext, client: AgentClient, arguments: Namespace, body: str) -> None:
    from sandbox_kernel.agents.answers import text_of

    requests = [line for line in body.splitlines() if line.strip()]
    if arguments.concurrency < 1:
        raise CommandError("`%%sandbox agent --concurrency` must be at least 1.")
    progress = _Bar(context, arguments.template, len(requests))

    def count(answer: Answer) -> None:
        progress.advance(failed=answer.error is not None)

    answers = await client.batch(
        arguments.template,
        requests,
        session=arguments.session,
        concurrency=arguments.concurrency,
        on_answer=count,
    )
    progress.end()
    for number, answer in enumerate(answers, 1):
        said = text_of(answer.value) if answer.error is None else f"{type(answer.error).__name__}: {answer.error}"
        context.write(_clean(f"[{number}] {said}\n"), error=answer.error is not None)


class _Bar:
    """One display that is replaced as the answers come."""

    def __init__(self, context: CommandContext, label: str, total: int) -> None:
        self._context, self._label, self._total = context, label, total
        self._id = f"sandbox-agents-{os.urandom(8).hex()}"
        self._done = self._failed = 0
        self._shown = 0.0
        self._show(update=False)

    def advance(self, *, failed: bool) -> None:
        """One more is answered."""
        self._done += 1
        self._failed += failed
        if time.monotonic() - self._shown >= INTERVAL:
            self._show(update=True)

    def end(self) -> None:
        """All are answered."""
        self._show(update=True)

    def _show(self, *, update: bool) -> None:
        self._shown = time.monotonic()
        share = self._done / self._total if self._total else 1.0
        facts = f"{self._done} of {self._total} answered" + (f", {self._failed} failed" if self._failed else "")
        full = round(share * WIDTH)
        label = html.escape(self._label)
        data = {
            "text/plain": f"{self._label} {'█' * full}{'░' * (WIDTH - full)} {facts}",
            "text/html": f'<div>{label} <progress value="{share:.4f}" max="1"></progress> <code>{facts}</code></div>',
        }
        self._context.display(data, display_id=self._id, update=update)


@command(
    "agents",
    argument("verb", nargs="?", default="", metavar="pause|resume|close", help="what to do with a session"),
    argument("name", nargs="?", default="", metavar="NAME", help="its name, or its sandbox's id"),
)
async def agents(context: CommandContext, arguments: Namespace) -> None:
    """Show the sessions with agents, also those of other notebooks; pause, resume or close one of this notebook's."""
    client = context.session.companion(NotebookAgents).client
    if arguments.verb:
        await _do(context, client, arguments)
        return
    rows = [("NAME", "AGENT", "SANDBOX", "STATE", "HEALTH", "REQUESTS")]
    own = client.sessions
    rows += [
        (one.name, one.template, one.sandbox_id, one.state, await _health(one), str(one.invocations)) for one in own
    ]
    known = {one.sandbox_id for one in own}
    for detail in await client.list_sessions():
        if detail.sandbox_id not in known:
            name, template = detail.metadata.get("sandbox-kernel-session", ""), detail.template_id
            rows.append((name, template, detail.sandbox_id, detail.state, "", "another program's"))
    if len(rows) == 1:
        context.write("There are no sessions with agents; a cell with %%sandbox agent TEMPLATE begins one.\n")
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        context.write(_clean(f"{line}\n"))


async def _health(session: AgentSession) -> str:
    if session.state != "active":
        return ""
    try:
        return (await session.ping()).status
    except SandboxConnectionError:
        return "does not answer"


async def _do(context: CommandContext, client: AgentClient, arguments: Namespace) -> None:
    found = [one for one in client.sessions if arguments.name in (one.name, one.sandbox_id)]
    if arguments.verb not in _VERBS or not arguments.name:
        raise CommandError(f"`%sandbox agents {arguments.verb}`: say pause, resume or close, and a session's name.")
    if not found:
        names = ", ".join(one.name for one in client.sessions) or "none"
        raise CommandError(f"This notebook has no session {arguments.name!r} with an agent; there are: {names}.")
    for one in found:
        doing: Any = getattr(one, arguments.verb)
        await doing()
        context.write(f"The session {one.name} with {one.template} is {one.state}.\n")


def _clean(text: str) -> str:
    """Return an agent's words without what a terminal would take for commands."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)
