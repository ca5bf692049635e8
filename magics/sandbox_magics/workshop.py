"""`%%sandbox tool` and `%sandbox tool`: tools that are written in this notebook, or were in another one."""

from __future__ import annotations

import asyncio
import json
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_kernel.commands import CommandContext, require_approval
from sandbox_kernel.durations import age
from sandbox_kernel.errors import CommandError
from sandbox_kernel.tools.serving import workshop_of

from .registry import argument, cell_command, command

if TYPE_CHECKING:
    from sandbox_kernel.tools.workshop.documents import Document
    from sandbox_kernel.tools.workshop.execution import Run
    from sandbox_kernel.tools.workshop.lifecycle import Registered

ACTIONS = """
list show invoke status cancel update versions rollback enable disable remove register publish unpublish gateway stats
""".split()
"""What `%sandbox tool` does."""
ACTION = "tool"
"""What the configuration's approvals call a change of a tool that is there."""
MAX_SHOWN = 100_000
"""Characters of a value that are put into the notebook."""


@cell_command(
    "tool",
    argument("name", metavar="NAME", help="what the tool is called; one function of the cell has this name"),
    argument("--language", choices=("python", "javascript", "typescript"), default="", help="default: python"),
    argument("--version", default="", metavar="LABEL", help="what you call this version, such as 1.2.0"),
    argument("--update", action="store_true", help="give the tool of this name this code, as its next version"),
)
async def tool_cell(context: CommandContext, arguments: Namespace, body: str) -> None:
    """Register the function below as a tool: its code is checked and kept, its types and docstring describe it.

    It runs in a sandbox of its own, by `%sandbox tool invoke`, and cells can call it as tools.NAME.
    """
    workshop = workshop_of(context.session)
    if arguments.update:
        await require_approval(context, ACTION, f"Give the tool {arguments.name!r} the code of this cell?")
        done = await workshop.update(arguments.name, body, arguments.language, label=arguments.version)
    else:
        done = await workshop.register(arguments.name, body, arguments.language or "python", label=arguments.version)
    context.write(_told(done))


@command(
    "tool",
    argument("action", choices=ACTIONS, metavar="ACTION", help=", ".join(ACTIONS)),
    argument(
        "name", nargs="?", default="", metavar="NAME", help="a tool, a run (status, cancel), or a folder (register)"
    ),
    argument(
        "values", nargs="*", metavar="NAME=VALUE", help="arguments of invoke; a value that is JSON is read as such"
    ),
    argument("--json", default="", metavar="OBJECT", help="arguments of invoke, as one JSON object"),
    argument("--timeout", type=float, default=None, metavar="SECONDS", help="of invoke"),
    argument("--background", action="store_true", help="invoke does not wait: `%%sandbox tool status` tells"),
    argument("--version", type=int, default=None, metavar="NUMBER", help="of rollback; default: the one before"),
    argument("--artifact", action="store_true", help="remove its code, too, unless somebody else uses it"),
    argument("--all", action="store_true", help="list everybody's tools"),
)
async def tool_line(context: CommandContext, arguments: Namespace) -> None:
    """Work with the tools that are registered: list, show, run, change and remove them.

    `%sandbox tool invoke NAME a=1 b='[1, 2]'` runs one in a sandbox. To register one, write %%sandbox tool NAME at the
    top of a cell; to give it new code, %%sandbox tool NAME --update (`%%sandbox tool --help` tells more).
    """
    if arguments.action not in ("list", "stats", "status", "gateway") and not arguments.name:
        raise CommandError(f"`%sandbox tool {arguments.action}` needs a name.")
    await globals()[f"_{arguments.action}"](context, arguments)


async def _list(context: CommandContext, arguments: Namespace) -> None:
    workshop = workshop_of(context.session)
    documents = await workshop.documents(all_owners=arguments.all)
    if not documents:
        context.write("There are no tools yet; %%sandbox tool NAME, at the top of a cell, registers one.\n")
    for one in documents:
        name = f"{one.owner}/{one.name}" if arguments.all else one.name
        context.write(f"{name:24}  {_state(one)}\n")


async def _show(context: CommandContext, arguments: Namespace) -> None:
    document, artifact = await workshop_of(context.session).show(arguments.name)
    context.write(f"{document.name}: {_state(document)}, owner {document.owner}, {artifact.language}\n")
    context.write(f"{artifact.description}\n{json.dumps(artifact.input_schema, indent=1)}\n\n{artifact.code}")


async def _versions(context: CommandContext, arguments: Namespace) -> None:
    document, _ = await workshop_of(context.session).show(arguments.name)
    for one in document.versions:
        mark = "*" if one.number == document.current else " "
        context.write(
            f"{mark} {one.number:3}  {one.digest[:12]}  {age(time.time() - one.created)} ago  {one.label}".rstrip()
        )
        context.write("\n")


async def _register(context: CommandContext, arguments: Namespace) -> None:
    folder = await asyncio.to_thread(_folder, context.session.directory, arguments.name)
    for name, done in await workshop_of(context.session).register_folder(folder):
        if isinstance(done, Exception):
            context.write(f"{name}: {done}\n", error=True)
        else:
            context.write(_told(done))


def _folder(directory: Path, name: str) -> Path:
    folder = (directory / name).resolve()
    if not folder.is_relative_to(directory.resolve()) or not folder.is_dir():
        raise CommandError(f"{name!r} is no folder beside the notebook.")
    return folder


async def _update(_: CommandContext, arguments: Namespace) -> None:
    raise CommandError(
        f"New code stands in a cell of its own: %%sandbox tool {arguments.name} --update on its first line, code below."
    )


async def _rollback(context: CommandContext, arguments: Namespace) -> None:
    workshop = workshop_of(context.session)
    await require_approval(context, ACTION, f"Run an earlier version of the tool {arguments.name!r} from now on?")
    document = await workshop.rollback(arguments.name, arguments.version)
    context.write(f"{document.name} is at version {document.current} again.\n")


async def _enable(context: CommandContext, arguments: Namespace) -> None:
    await require_approval(context, ACTION, f"Let the tool {arguments.name!r} be run again?")
    await workshop_of(context.session).enable(arguments.name)
    context.write(f"{arguments.name} can be run.\n")


async def _disable(context: CommandContext, arguments: Namespace) -> None:
    await require_approval(context, ACTION, f"Let nobody run the tool {arguments.name!r}?")
    await workshop_of(context.session).enable(arguments.name, enabled=False)
    context.write(f"{arguments.name} is disabled: nobody can run it.\n")


async def _remove(context: CommandContext, arguments: Namespace) -> None:
    await require_approval(context, ACTION, f"Remove the tool {arguments.name!r} with all its versions?")
    left = await workshop_of(context.session).remove(arguments.name, artifact=arguments.artifact)
    context.write(f"{arguments.name} is removed.\n")
    for one in left:
        context.write(f"Left: {one}\n", error=True)


async def _publish(context: CommandContext, arguments: Namespace) -> None:
    workshop = workshop_of(context.session)
    question = f"Publish the tool {arguments.name!r} at the gateway {workshop.gateway.identifier}, for all who use it?"
    await require_approval(context, "publish", question)
    document = await workshop.publish(arguments.name)
    target = document.published[workshop.gateway.identifier]
    context.write(f"{document.name} is published at {workshop.gateway.identifier} as the target {target}.\n")


async def _unpublish(context: CommandContext, arguments: Namespace) -> None:
    await require_approval(context, "publish", f"Withdraw the tool {arguments.name!r} from the gateway?")
    await workshop_of(context.session).unpublish(arguments.name)
    context.write(f"{arguments.name} is withdrawn.\n")


async def _gateway(context: CommandContext, _: Namespace) -> None:
    for name, status in (await workshop_of(context.session).gateway.health()).items():
        context.write(f"{name:24}  {status}\n")


async def _invoke(context: CommandContext, arguments: Namespace) -> None:
    workshop = workshop_of(context.session)
    values = _values(arguments)
    if arguments.background:
        run = await workshop.begin(arguments.name, values, timeout=arguments.timeout)
        context.write(f"{run.id} runs; `%sandbox tool status {run.id}` tells of it, `cancel` ends it.\n")
        return
    _write_run(context, await workshop.invoke(arguments.name, values, timeout=arguments.timeout))


async def _status(context: CommandContext, arguments: Namespace) -> None:
    runner = workshop_of(context.session).runner
    if arguments.name:
        _write_run(context, runner.find(arguments.name))
        return
    for run in runner.runs.values():
        context.write(f"{run.id}  {run.tool:20}  {run.state}\n")
    if not runner.runs:
        context.write("Nothing was run in this session.\n")


async def _cancel(context: CommandContext, arguments: Namespace) -> None:
    run = workshop_of(context.session).runner.find(arguments.name)
    if run.task is None or run.task.done():
        raise CommandError(f"{run.id} is over: {run.state}.")
    run.task.cancel()
    context.write(f"{run.id} is cancelled.\n")


async def _stats(context: CommandContext, _: Namespace) -> None:
    for line in (await workshop_of(context.session).stats()).lines():
        context.write(f"{line}\n")


def _values(arguments: Namespace) -> dict[str, object]:
    try:
        found = json.loads(arguments.json or "{}")
    except ValueError as exc:
        raise CommandError(f"--json is no JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise CommandError('--json is a JSON object, such as --json \'{"city": "Rome"}\'.')
    for word in arguments.values:
        name, equals, text = word.partition("=")
        if not equals:
            raise CommandError(f"{word!r} is not of the form NAME=VALUE, as in: %sandbox tool invoke add a=1 b=2")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _write_run(context: CommandContext, run: Run) -> None:
    if run.stdout:
        context.write(run.stdout if run.stdout.endswith("\n") else f"{run.stdout}\n")
    if run.state == "done":
        context.write(f"{_shown(json.dumps(run.value, ensure_ascii=False), run.tool)}\n")
    elif run.error:
        context.write(f"{run.error}\n", error=True)
    used = f"{run.seconds:.2f} s, processor {run.cpu:.2f} s, memory {run.memory / 1e6:.0f} MB"
    context.write(f"({run.id}: {run.state}{', ' + used if run.state != 'running' else ''})\n")


def _shown(value: str, tool: str) -> str:
    if len(value) <= MAX_SHOWN:
        return value
    return (
        f"{value[:MAX_SHOWN]}…\n(The first {MAX_SHOWN} of {len(value)} characters are shown; "
        f"in a cell, tools.{tool.rpartition('/')[2]}(…) returns them all.)"
    )


def _state(document: Document) -> str:
    version = document.version
    label = f" ({version.label})" if version.label else ""
    return f"version {version.number}{label}  {version.digest[:12]}" + ("" if document.enabled else "  disabled")


def _told(done: Registered) -> str:
    known = ", its code was known" if done.known else ""
    document = done.document
    return f"{document.name}: version {document.current} is registered ({done.artifact.digest[:12]}{known}).\n"
