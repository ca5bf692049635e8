"""`%sandbox shell`: a shell command in the sandbox, its output shown as it comes."""

from __future__ import annotations

import codecs
import signal
from argparse import Namespace

from sandbox_kernel.commands import CommandContext, require_bridge
from sandbox_kernel.errors import CommandError, InvocationError
from sandbox_kernel.lifecycle import State

from .registry import command


@command("shell", raw="COMMAND …")
async def shell(context: CommandContext, arguments: Namespace) -> None:
    """Run a shell command in the sandbox and show its output.

    The rest of the line is the command as it is, with its quotes, pipes and redirections. It starts a sandbox, or
    resumes it, where none is running.
    """
    session = context.session
    if not arguments.text:
        raise CommandError("`%sandbox shell` needs a command, as in: %sandbox shell ls -l")
    if session.state is not State.ACTIVE:
        await session.start()
    require_bridge(context, "shell")
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    running = session.shell(arguments.text)
    async for chunk in running:
        _write(context, decoder.decode(chunk))
    _write(context, decoder.decode(b"", final=True))
    if running.exit_code:
        info = session.info
        raise InvocationError(
            f"The command ended with {_ending(session.state, running.exit_code)}.",
            provider=info.provider,
            sandbox_id=info.sandbox_id,
            correlation_id=info.correlation_id,
        )


def _write(context: CommandContext, text: str) -> None:
    if text:
        context.write(text)


def _ending(state: State, code: int) -> str:
    if state is not State.ACTIVE:
        return "the sandbox"
    if code > 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"
