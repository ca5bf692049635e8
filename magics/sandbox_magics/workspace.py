"""`%sandbox diff`, `apply` and `discard`: what cells changed in the notebook's folder."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Sequence

from sandbox_kernel.commands import CommandContext, require_approval
from sandbox_kernel.errors import CommandError
from sandbox_kernel.lifecycle import State
from sandbox_kernel.progress import count_text, size_text
from sandbox_kernel.providers.base import WorkspaceChanges
from sandbox_kernel.workspace.changes import Action, Change, Kind
from sandbox_kernel.workspace.folder import shown
from sandbox_kernel.workspace.texts import difference, obstacle

from .registry import argument, command
from .selection import select

MAX_LISTED = 200
"""Changes that are shown one by one."""
MAX_TEXTS = 20
"""Files whose text is compared."""
MAX_TEXT_LINES = 100
"""Lines of one file's diff."""
MAX_NAMED = 5
"""Files that a question names."""
_ALSO_HERE = "changed on this machine, too"
_SIGNS = {Action.ADD: "+", Action.CHANGE: "~", Action.REMOVE: "-"}
_FILES = argument(
    "files",
    nargs="*",
    metavar="FILE",
    help="files, folders, or patterns such as '**/*.csv'; default: all; -- in front of what begins with -",
)


@command("diff", _FILES, argument("--stat", action="store_true", help="without the changed lines"))
async def diff(context: CommandContext, arguments: Namespace) -> None:
    """Show what cells changed in the notebook's folder and nobody applied.

    On this machine nothing has changed yet: `%sandbox apply` does that.
    """
    changes = await _changes(context)
    chosen = select(await changes.read(), arguments.files, changes.folder)
    if not chosen:
        context.write("Cells have changed nothing here that was not applied.\n")
        return
    texts = 0
    lines = []
    for change in chosen[:MAX_LISTED]:
        lines.append(_line(change))
        if change.kind is Kind.FILE and change.action is not Action.REMOVE and not change.refused:
            texts += 1
            if texts <= MAX_TEXTS and not arguments.stat:
                lines += await _text(changes, change)
    lines += _rest(chosen)
    if texts > MAX_TEXTS and not arguments.stat:
        lines.append(f"  … the changed lines of {texts - MAX_TEXTS} more files are shown if you name them")
    context.write("\n".join([*lines, _summary(chosen), ""]))


@command("apply", _FILES)
async def apply(context: CommandContext, arguments: Namespace) -> None:
    """Write what cells changed to the notebook's folder on this machine, after showing it and asking."""
    changes = await _changes(context)
    chosen = select(await changes.read(), arguments.files, changes.folder)
    possible = [change for change in chosen if not change.refused]
    if not chosen:
        context.write("Cells have changed nothing here that was not applied.\n")
        return
    context.write("\n".join([*_listing(chosen), ""]))
    if not possible:
        raise CommandError("Nothing of this can be applied.")
    await require_approval(context, "apply", f"Make these changes in {shown(changes.folder)}?")
    overwriting = await _may_overwrite(context, possible)
    outcome = await changes.apply([change for change in possible if overwriting or not change.conflict])
    if not overwriting:
        outcome.refused += [(change, _ALSO_HERE) for change in possible if change.conflict]
    for change, why in outcome.refused:
        context.write(f"Not applied: {shown(change.path)}: {why}.\n", error=True)
    context.write(f"Applied: {_summary(outcome.done)}.\n")
    if outcome.refused:
        raise CommandError(f"{_count(len(outcome.refused))} not applied, as said above; nothing of them was written.")


@command("discard", _FILES)
async def discard(context: CommandContext, arguments: Namespace) -> None:
    """Throw away what cells changed: in the sandbox, too, the files are again what they are on this machine."""
    changes = await _changes(context)
    chosen = select(await changes.read(), arguments.files, changes.folder)
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


async def _may_overwrite(context: CommandContext, changes: Sequence[Change]) -> bool:
    """Ask whether what was changed on this machine, too, is to be as in the sandbox. Nobody there means no."""
    both = [change for change in changes if change.conflict]
    if not both:
        return True
    names = ", ".join(shown(change.path) for change in both[:MAX_NAMED])
    more = f" and {len(both) - MAX_NAMED} more" if len(both) > MAX_NAMED else ""
    question = (
        f"On this machine, too, {names}{more} changed since the sandbox got it. Take the sandbox's, and lose yours?"
    )
    try:
        answer = await context.ask(f"{question} [y/N] ")
    except CommandError:
        return False
    return answer.strip().lower() in ("y", "yes")


@command("sync")
async def sync(context: CommandContext, _: Namespace) -> None:
    """Bring files that changed on this machine to a sandbox elsewhere, which has a copy of the notebook's folder.

    Before each cell this is done for what is small. Files that cells changed stay as they are in the sandbox.
    """
    if context.session.state not in (State.ACTIVE, State.PAUSED):
        await context.session.start()
    sent = await context.session.folder.synchronise()
    if sent is None:
        context.write("This sandbox has no copy of the notebook's folder: there is nothing to bring.\n")
        return
    for path, why in sent.refused.items():
        context.write(f"Not copied: {shown(path)}: {shown(why)}.\n", error=True)
    size = size_text(sum(entry.size for entry in sent.entries.values()))
    context.write(f"Copied to the sandbox: {count_text(len(sent.entries), 'change')}, {size}.\n")


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
    if change.kind is Kind.FILE and change.action is not Action.REMOVE:
        # Signatures of files have the mode third.
        could = change.action is Action.CHANGE and change.host is not None and change.host[2] & 0o100
        text += ", can be run" if change.mode & 0o100 else ", cannot be run any more" if could else ""
    if change.conflict:
        text += f"  ({_ALSO_HERE})"
    return f"{text}  (never applied: {change.refused})" if change.refused else text


async def _text(changes: WorkspaceChanges, change: Change) -> list[str]:
    """Return the lines that differ."""
    try:
        before, after = await changes.texts(change)
    except OSError as exc:
        return [f"    (it cannot be read any more: {exc.strerror})"]
    why = obstacle(before, after)
    if why:
        return [f"    ({why})"]
    lines = [f"    {shown(line.expandtabs())}" for line in difference(before, after)]
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
