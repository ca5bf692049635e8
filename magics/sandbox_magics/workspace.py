"""`%sandbox diff`, `apply` and `discard`: what cells changed in the notebook's folder."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase

from sandbox_kernel.commands import CommandContext, require_approval
from sandbox_kernel.errors import CommandError
from sandbox_kernel.lifecycle import State
from sandbox_kernel.providers.base import WorkspaceChanges
from sandbox_kernel.workspace.changes import Action, Change, Kind
from sandbox_kernel.workspace.folder import shown
from sandbox_kernel.workspace.texts import difference

from .registry import argument, command

MAX_LISTED = 200
"""Changes that are shown one by one."""
MAX_TEXTS = 20
"""Files whose text is compared."""
MAX_TEXT_LINES = 100
"""Lines of one file's diff."""
_NAMED = 5
_SIGNS = {Action.ADD: "+", Action.CHANGE: "~", Action.REMOVE: "-"}
_FILES = argument("files", nargs="*", metavar="FILE", help="files, folders or patterns such as '*.csv'; default: all")


@command("diff", _FILES, argument("--stat", action="store_true", help="without the changed lines"))
async def diff(context: CommandContext, arguments: Namespace) -> None:
    """Show what cells changed in the notebook's folder and nobody applied.

    On this machine nothing has changed yet: `%sandbox apply` does that.
    """
    changes = await _changes(context)
    chosen = _chosen(await changes.read(), arguments.files)
    if not chosen:
        context.write("Cells have changed nothing here that was not applied.\n")
        return
    texts = 0 if arguments.stat else MAX_TEXTS
    lines = []
    for change in chosen[:MAX_LISTED]:
        lines.append(_line(change))
        if texts and change.kind is Kind.FILE and change.action is not Action.REMOVE and not change.refused:
            texts -= 1
            lines += await _text(changes, change)
    context.write("\n".join([*lines, *_rest(chosen), _summary(chosen), ""]))


@command("apply", _FILES)
async def apply(context: CommandContext, arguments: Namespace) -> None:
    """Write what cells changed to the notebook's folder on this machine, after showing it and asking."""
    changes = await _changes(context)
    chosen = _chosen(await changes.read(), arguments.files)
    possible = [change for change in chosen if not change.refused]
    if not chosen:
        context.write("Cells have changed nothing here that was not applied.\n")
        return
    context.write("\n".join([*_listing(chosen), ""]))
    if not possible:
        raise CommandError("Nothing of this can be applied.")
    accepted = await _accepted(context, possible, changes.folder)
    outcome = await changes.apply(accepted)
    if len(accepted) < len(possible):
        outcome.refused += [(change, "it was also changed on this machine") for change in possible if change.edited]
    for change, why in outcome.refused:
        context.write(f"Not applied: {shown(change.path)}: {why}.\n", error=True)
    context.write(f"Applied: {_summary(outcome.done)}.\n")
    if outcome.refused:
        raise CommandError(f"{_count(len(outcome.refused))} not applied, as said above; nothing of them was written.")


async def _accepted(context: CommandContext, possible: list[Change], folder: str) -> list[Change]:
    """Return the changes that may be made. Raises CommandError if there are none.

    What was also changed on this machine is asked for by itself, and no configuration allows it unasked.
    """
    edited = [change for change in possible if change.edited]
    others = [change for change in possible if not change.edited]
    if others or context.session.approval_of("apply") == "deny":
        await require_approval(
            context, "apply", f"Make {'these' if not edited else 'the other'} changes in {shown(folder)}?"
        )
    if not edited:
        return possible
    names = ", ".join(shown(change.path) for change in edited[:_NAMED])
    more = f" and {len(edited) - _NAMED} more" if len(edited) > _NAMED else ""
    question = f"{names}{more}: also changed on this machine since the sandbox's start. REPLACE this machine's version?"
    try:
        answer = await context.ask(f"{question} [y/N] ")
    except CommandError:
        answer = ""
    if answer.strip().lower() in ("y", "yes"):
        return possible
    if not others:
        raise CommandError(f"Nothing was done: {names}{more}: also changed on this machine, and nobody confirmed it.")
    return others


@command("discard", _FILES)
async def discard(context: CommandContext, arguments: Namespace) -> None:
    """Throw away what cells changed: in the sandbox, too, the files are again what they are on this machine."""
    changes = await _changes(context)
    chosen = _chosen(await changes.read(), arguments.files)
    if not chosen:
        context.write("Cells have changed nothing here that was not applied.\n")
        return
    context.write("\n".join([*_listing(chosen), ""]))
    await require_approval(context, "discard", "Throw these changes away?")
    outcome = await changes.discard(chosen)
    for change, why in outcome.refused:
        context.write(f"Not discarded: {shown(change.path)}: {why}.\n", error=True)
    context.write(f"Discarded: {_summary(outcome.done)}.\n")
    if outcome.refused:
        raise CommandError(f"{_count(len(outcome.refused))} not discarded, as said above.")


async def _changes(context: CommandContext) -> WorkspaceChanges:
    if context.session.state not in (State.ACTIVE, State.PAUSED):
        await context.session.start()
    changes = context.session.changes
    if changes is None:
        workspace = context.session.info.details.get("workspace", "none")
        raise CommandError(
            f"This sandbox keeps no changes of the notebook's folder; its workspace is {workspace}. "
            "See `%sandbox status`."
        )
    return changes


def _chosen(changes: Sequence[Change], names: Sequence[str]) -> list[Change]:
    """Return the changes of these files, folders or patterns. Raises CommandError for one that nothing matches."""
    if not names:
        return list(changes)
    wanted = [name.removeprefix("./").removeprefix("/work/").rstrip("/") for name in names]
    chosen = [change for change in changes if any(_is_meant(change.path, name) for name in wanted)]
    for name, given in zip(wanted, names, strict=True):
        if not any(_is_meant(change.path, name) for change in chosen):
            raise CommandError(f"Cells changed nothing called {given!r}; `%sandbox diff` shows what they changed.")
    # A file cannot be without its folder.
    paths = {change.path for change in chosen}
    needed = {path[:end] for path in paths for end, char in enumerate(path) if char == "/"} - paths
    parents = [one for one in changes if one.path in needed and one.action is Action.ADD and one.kind is Kind.FOLDER]
    if not parents:
        return chosen
    # Not compared: there may be hundreds of thousands, and two of the same path.
    taken = {id(change) for change in (*chosen, *parents)}
    return [change for change in changes if id(change) in taken]


def _is_meant(path: str, name: str) -> bool:
    return name in ("", ".", "/work") or path == name or path.startswith(f"{name}/") or fnmatchcase(path, name)


def _listing(changes: Sequence[Change]) -> list[str]:
    return [*(_line(change) for change in changes[:MAX_LISTED]), *_rest(changes), _summary(changes)]


def _rest(changes: Sequence[Change]) -> list[str]:
    """Return what is said of the changes that are not listed: how many are in which folder."""
    left = Counter(change.path.rpartition("/")[0] or "." for change in changes[MAX_LISTED:])
    lines = [f"  … {count} more in {shown(folder)}" for folder, count in left.most_common(20)]
    return [*lines, *([f"  … and in {len(left) - 20} more folders"] if len(left) > 20 else [])]


def _line(change: Change) -> str:
    text = f"{_SIGNS[change.action]} {shown(change.path)}"
    if change.kind is Kind.FOLDER:
        text += "/"
    elif change.kind is Kind.LINK and change.target:
        text += f" -> {shown(change.target)}"
    elif change.kind is Kind.FILE:
        text += f"  {_size(change.size)}"
    if change.kind is Kind.FILE and change.mode & 0o100 and change.action is not Action.REMOVE:
        text += ", can be run"
    if change.refused:
        return f"{text}  (never applied: {change.refused})"
    return f"{text}  (also changed on this machine)" if change.edited else text


async def _text(changes: WorkspaceChanges, change: Change) -> list[str]:
    """Return the lines that differ."""
    try:
        before, after = await changes.texts(change)
    except OSError as exc:
        return [f"    (it cannot be read any more: {exc.strerror})"]
    lines = [f"    {shown(line.expandtabs())}" for line in difference(change, before, after)]
    if len(lines) > MAX_TEXT_LINES:
        lines = [*lines[:MAX_TEXT_LINES], f"    … {len(lines) - MAX_TEXT_LINES} more lines"]
    return lines


def _size(size: int) -> str:
    value = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _summary(changes: Sequence[Change]) -> str:
    counts = Counter(change.action for change in changes)
    parts = [f"{counts[action]} {action.value}" for action in Action if counts[action]]
    return ", ".join(parts) or "nothing"


def _count(number: int) -> str:
    return "One change was" if number == 1 else f"{number} changes were"
