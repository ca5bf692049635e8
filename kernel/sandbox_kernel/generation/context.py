"""What a model is told of the notebook. Everything here came out of a sandbox: it is cut, and it is data."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sandbox_kernel.cell_memory import RunCell
from sandbox_kernel.errors import NotFoundError, SandboxError, SandboxKernelError
from sandbox_kernel.lifecycle import State
from sandbox_kernel.patience import in_time
from sandbox_kernel.session import SandboxSession

from .code_redaction import redact_cell
from .redaction import HIDDEN, SECRET_COLUMN, is_secret_name
from .settings import Generation
from .tables import first_lines
from .text import fenced, one_line, without_full_stop

T = TypeVar("T")

MAX_VARIABLES = 100
MAX_FILES = 100
MAX_TOOLS = 50
MAX_TOOL = 300
"""Characters of what is told of a tool."""
MAX_CELLS = 6
MAX_CELL = 4000
"""Characters of a cell, or of a traceback, that are sent."""
MAX_HEADS = 5
MAX_ROW = 400
"""Characters of a row of a data file."""
TOOLS_TIMEOUT = 5.0
"""Seconds in which servers of tools must have told what they offer."""
FILES_TIMEOUT = 5.0
"""Seconds in which the sandbox must have told of its files."""
TABLES = (".csv", ".tsv")
_ENDING = r"\.(?:csv|tsv|jsonl?|xlsx?|parquet|feather|txt|xml|ya?ml|sqlite|db|h5|npy|npz|png|jpe?g|zip|gz)(?!\w)"
FILE_NAME = re.compile(rf"(?<![\w/.])(?:[\w.-]+/)*[\w-][\w.-]*{_ENDING}", re.IGNORECASE)
"""A file that a person or a cell names."""
QUOTED_FILE_NAME = re.compile(rf"""(["'`])([\w-][\w .()/-]{{0,200}}?{_ENDING})\1""", re.IGNORECASE)
"""The same in quotes, where a name may have spaces."""


@dataclass(frozen=True)
class Variable:
    """A variable of the sandbox."""

    name: str
    type: str
    detail: str = ""


@dataclass(frozen=True)
class Head:
    """The first lines of a data file."""

    path: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class NotebookContext:
    """What there is; sequences are in the order in which they are told."""

    python: str = ""
    packages: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    """What code can call besides, a line each."""
    variables: tuple[Variable, ...] = ()
    files: tuple[str, ...] = ()
    heads: tuple[Head, ...] = ()
    cells: tuple[RunCell, ...] = ()
    """Oldest first."""
    absent: tuple[str, ...] = ()
    """Files that the request names and that are not there."""
    unknown: str = ""
    """Why the sandbox could not be asked; "" if it was."""
    files_unknown: str = ""
    """Why its files could not be listed; "" if they were."""

    def text(self, size: int) -> str:
        """Return it as Markdown, of about so many characters at most: what matters least is left out first."""
        whole = self
        text = _text(whole)
        while len(text) > size:
            shorter = whole.shortened()
            if shorter is None:
                return text[:size]
            whole = shorter
            text = _text(whole)
        return text

    def shortened(self) -> NotebookContext | None:
        """Return it with less; None if nothing is left to leave out."""
        # The first that is long enough is shortened.
        shorter: tuple[tuple[bool, Callable[[], NotebookContext]], ...] = (
            (len(self.cells) > 1, lambda: replace(self, cells=self.cells[1:])),
            (len(self.files) > 10, lambda: replace(self, files=_half(self.files))),
            (len(self.variables) > 10, lambda: replace(self, variables=_half(self.variables))),
            (bool(self.heads), lambda: replace(self, heads=self.heads[:-1])),
            (bool(self.tools), lambda: replace(self, tools=_half(self.tools))),
            (self != self._last_words, lambda: self._last_words),
        )
        return next((make() for applies, make in shorter if applies), None)

    @property
    def _last_words(self) -> NotebookContext:
        return NotebookContext(self.python, variables=self.variables[:5])


def _half(whole: tuple[T, ...]) -> tuple[T, ...]:
    return whole[: len(whole) // 2]


async def _tools(session: SandboxSession) -> tuple[str, ...]:
    """Return what cells can call outside the sandbox, a line for each; what cannot be asked in time is left out."""
    if session.host_tools is None:
        return ()
    try:
        lines = await in_time(session.host_tools.offered(), TOOLS_TIMEOUT)
    except (SandboxKernelError, asyncio.TimeoutError) as exc:
        session.log.write("tools_not_told", level="warning", error=repr(exc)[:200])
        return ()
    return tuple(one_line(line, MAX_TOOL) for line in lines[:MAX_TOOLS])


async def gather(session: SandboxSession, settings: Generation, prompt: str) -> NotebookContext:
    """Ask a sandbox that runs what it has; one that does not, has nothing."""
    # Before anything is cut: of half a secret nobody could tell that it is one. In a thread: what came out of a sandbox
    # may be made to take long.
    cells = await asyncio.to_thread(_clean_cells, tuple(session.cells)[-MAX_CELLS:], settings.secrets)
    known = NotebookContext(cells=cells, tools=await _tools(session))
    if session.state is not State.ACTIVE:
        return replace(known, unknown="no sandbox is running")
    try:
        said = await session.describe(values=settings.send_values, secret=SECRET_COLUMN)
    except SandboxError as exc:
        known = replace(known, unknown=_reason(exc))
    else:
        known = replace(
            known,
            python=one_line(said.get("python"), 40),
            packages=tuple(one_line(name, 40) for name in _list(said.get("packages"), 100)),
            variables=tuple(_variables(said.get("variables"), values=settings.send_values)),
        )
    others = [*_named_files(cell.code for cell in cells), *session.uploaded]
    try:
        files = await in_time(_files(session, prompt, others, settings.preview_rows), FILES_TIMEOUT)
    except (SandboxError, asyncio.TimeoutError) as exc:
        return replace(known, files_unknown=_reason(exc) or "it took too long to list them")
    return replace(known, files=tuple(files.names), heads=tuple(files.heads), absent=tuple(files.absent))


def _clean_cells(cells: Iterable[RunCell], secrets: Collection[str]) -> tuple[RunCell, ...]:
    return tuple(redact_cell(cell, secrets) for cell in cells)


def _reason(error: BaseException) -> str:
    return without_full_stop(one_line(str(error), 200))


# ---- what the sandbox says


def _variables(said: object, *, values: bool) -> Iterable[Variable]:
    for entry in _list(said, MAX_VARIABLES):
        if not (isinstance(entry, list) and len(entry) == 3 and all(isinstance(part, str) for part in entry)):
            continue
        name, kind, detail = entry
        if values and is_secret_name(name):
            detail = HIDDEN
        # Rows of a table keep their lines only in a preview.
        yield Variable(one_line(name, 80), one_line(kind, 160), one_line(detail, 4000))


def _list(said: object, limit: int) -> list[object]:
    return said[:limit] if isinstance(said, list) else []


@dataclass
class _Files:
    names: list[str] = field(default_factory=list)
    """For people and models, with sizes."""
    there: set[str] = field(default_factory=set)
    """Those that were looked at and are there."""
    absent: list[str] = field(default_factory=list)
    """Those that the request names and that are not there."""
    heads: list[Head] = field(default_factory=list)


async def _files(session: SandboxSession, prompt: str, others: Sequence[str], rows: int) -> _Files:
    found = _Files()
    paths = []
    # A folder without files is no fault.
    with suppress(NotFoundError):
        async with aclosing(session.files.list("*", limit=100_000)) as entries:
            async for entry in entries:
                paths.append(entry.path)
                found.names.append(_file(entry.path, entry.kind, entry.size))
                if len(found.names) >= MAX_FILES:
                    break
    named = _named_files([prompt], paths)
    for path in dict.fromkeys([*named, *others]):
        try:
            await _look_at(session, path, rows, found)
        except NotFoundError:
            continue
        except SandboxError:
            # It is there, and cannot be read.
            found.there.add(path)
    found.absent = [name for name in named if name not in found.there]
    return found


def _file(path: str, kind: str, size: int) -> str:
    name = one_line(path, 200)
    return f"{name}/" if kind == "folder" else f"{name} ({size} bytes)"


async def _look_at(session: SandboxSession, path: str, rows: int, found: _Files) -> None:
    """Note that a file is there, and its first lines if it is a table. Raises NotFoundError."""
    content = b""
    async with aclosing(session.files.read(path)) as pieces:
        async for piece in pieces:
            content = piece
            break
    found.there.add(path)
    if path.lower().endswith(TABLES) and len(found.heads) < MAX_HEADS:
        text = content[: (rows + 1) * MAX_ROW].decode(errors="replace")
        lines = first_lines(text, rows, "\t" if path.lower().endswith(".tsv") else "")
        found.heads.append(Head(one_line(path, 200), tuple(one_line(line, MAX_ROW) for line in lines)))


def _named_files(texts: Iterable[str], paths: Sequence[str] = ()) -> list[str]:
    """Return the files that texts name, with spaces those in quotes and those of paths; addresses are none."""
    names: list[str] = []
    # The longest first: "my data.csv" names no "data.csv".
    spaced = sorted((path for path in paths if " " in path), key=len, reverse=True)
    for text in texts:
        names += (found[2] for found in QUOTED_FILE_NAME.finditer(text))
        rest = QUOTED_FILE_NAME.sub(" ", text)
        for path in spaced:
            if path in rest:
                names.append(path)
                rest = rest.replace(path, " ")
        names += FILE_NAME.findall(rest)
    return list(dict.fromkeys(names))[:20]


# ---- as text


def _text(context: NotebookContext) -> str:
    parts = ["# The notebook", ""]
    if context.unknown:
        parts += [f"Variables and files are not known: {context.unknown}.", ""]
    elif context.files_unknown:
        parts += [f"Files are not known: {context.files_unknown}.", ""]
    if context.python:
        parts += [f"Python {context.python}. Packages that are installed: {', '.join(context.packages) or 'none'}.", ""]
    if context.tools:
        parts += ["## Functions that are there besides", "", *(f"- {line}" for line in context.tools), ""]
    if context.variables:
        lines = (f"- {one.name}: {one.type}" + (f"; {one.detail}" if one.detail else "") for one in context.variables)
        parts += ["## Variables, the newest first", "", *lines, ""]
    if context.files:
        parts += ["## Files in the working folder", "", *(f"- {name}" for name in context.files), ""]
    for head in context.heads:
        parts += [f"## The first lines of {head.path}", "", fenced("\n".join(head.lines)), ""]
    if context.absent:
        parts += [f"These files are not there: {', '.join(context.absent)}.", ""]
    if context.cells:
        parts += ["## The last cells, oldest first", "", *(_cell(cell) for cell in context.cells)]
    return "\n".join(parts)


def _cell(cell: RunCell) -> str:
    code = fenced(cell.code[:MAX_CELL], "python")
    if not cell.failed:
        return f"{code}\n"
    said = f"It ended by {one_line(cell.error, 100)}: {one_line(cell.message, 500)}"
    return f"{code}\n\n{said}\n\n{fenced(cell.traceback[-MAX_CELL:])}\n"
