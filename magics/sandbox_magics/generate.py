"""`%%sandbox generate`, `%sandbox fix` and `explain`: code from plain words, that knows the notebook."""

from __future__ import annotations

import asyncio
import difflib
from argparse import Namespace
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from sandbox_kernel.cell_memory import RunCell
from sandbox_kernel.commands import CommandContext, require_approval
from sandbox_kernel.errors import CommandError

from .registry import Argument, argument, cell_command, command

if TYPE_CHECKING:
    # Loaded with the first command that needs them.
    from sandbox_kernel.generation.chain import Answered
    from sandbox_kernel.generation.context import NotebookContext
    from sandbox_kernel.generation.generator import Generator

    from .answer_view import AnswerView

MODEL = argument("--model", default="", metavar="NAME", help="ask this model only, among those that are configured")
RUN = argument("--run", action="store_true", help="also run the code, in the sandbox")
NO_CONTEXT = argument("--no-context", action="store_true", help="tell the model nothing of the notebook")
SHOW_CONTEXT = argument("--show-context", action="store_true", help="show what would be sent, and send nothing")
ASKING: Sequence[Argument] = (MODEL, NO_CONTEXT, SHOW_CONTEXT)

DISTRIBUTIONS = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Packages whose modules have another name."""


@cell_command("generate", RUN, *ASKING)
async def generate(context: CommandContext, arguments: Namespace, body: str) -> None:
    """Turn the text below into code: shown as it is written, and put into a new cell below this one.

    The model is told names, types and columns of the sandbox's variables, its files with the first rows of tables that
    are named, and the last cells with their errors; --show-context shows all of it. What is said after that refines the
    last code; `%sandbox forget` begins anew. `%sandbox models` shows who is asked. With --run the code runs in the
    sandbox at once.
    """
    wish = body.strip()
    if not wish:
        raise CommandError("Write below %%sandbox generate what the code is to do.")
    await _Request(context, arguments, "generate", wish).answer(wish)


@command("fix", argument("wish", nargs="*", metavar="WISH", help="what to mind"), RUN, *ASKING)
async def fix(context: CommandContext, arguments: Namespace) -> None:
    """Correct the last cell that failed: the difference is shown, the corrected code put into a new cell below."""
    failed = context.session.cells.last_failure()
    if failed is None:
        raise CommandError("No cell of this session has failed; there is nothing to correct.")
    from sandbox_kernel.generation.conversation import fix_request
    from sandbox_kernel.generation.redaction import redact_message

    wish = " ".join(arguments.wish)
    request = fix_request(failed.code, f"{failed.error}: {failed.message}", failed.traceback, wish)
    about = wish or redact_message(f"{failed.error}: {failed.message}")
    await _Request(context, arguments, "fix", about, failed).answer(request)


@command("explain", argument("number", nargs="?", type=int, metavar="N", help="the cell In [N]"), *ASKING)
async def explain(context: CommandContext, arguments: Namespace) -> None:
    """Explain the last cell, or the cell In [N] if it is one of the last twenty."""
    cell = _cell(context, arguments.number)
    from sandbox_kernel.generation.conversation import explain_request

    error = f"{cell.error}: {cell.message}" if cell.failed else ""
    await _Request(context, arguments, "explain", f"In [{cell.number}]").explanation(
        explain_request(cell.code, error, cell.traceback)
    )


def _cell(context: CommandContext, number: int | None) -> RunCell:
    cells = list(context.session.cells)
    found = [cell for cell in cells if number is None or cell.number == number]
    if found:
        return found[-1]
    if not cells:
        raise CommandError("No cell has been run in this session yet.")
    numbers = ", ".join(str(cell.number) for cell in cells)
    raise CommandError(f"There is no cell In [{number}] to explain; there are: {numbers}.")


async def generator_of(context: CommandContext) -> Generator:
    """Return what the session has for questions to models. Raises ConfigurationError."""
    from sandbox_kernel.generation.generator import Generator

    return context.session.companion(Generator)


async def confirm(context: CommandContext, generator: Generator, model: str = "") -> None:
    """Let the person agree once in a session that something is sent, and to whom. Raises CommandError."""
    if generator.confirmed:
        return
    places = ", ".join(dict.fromkeys(one.place for one in generator.chain.chosen(model)))
    await require_approval(
        context,
        "generate",
        "Send requests of this session, with names and columns of variables, files' names and first rows, and the last "
        f"cells, to {places}? (--show-context shows what is sent.)",
    )
    # Who agreed to one model has not agreed to the others.
    generator.confirmed = not model


class _Request:
    """One question to the models, and what is done with the answer."""

    def __init__(
        self, context: CommandContext, arguments: Namespace, name: str, wish: str, failed: RunCell | None = None
    ) -> None:
        self._context, self._arguments, self._name, self._wish, self._failed = context, arguments, name, wish, failed

    async def answer(self, request: str) -> None:
        """Ask for code, show the answer, and make a cell of it."""
        from sandbox_kernel.generation.answers import read_answer
        from sandbox_kernel.generation.conversation import SYSTEM
        from sandbox_kernel.generation.text import one_line

        from .answer_view import AnswerView

        generator = await generator_of(self._context)
        known = await self._known(generator, request)
        if self._shown(generator, SYSTEM, request, known):
            return
        await confirm(self._context, generator, self._arguments.model)
        with AnswerView(self._context) as view:
            answered = await self._ask(generator, view, SYSTEM, request, known)
            answer = await asyncio.to_thread(read_answer, view.text)
            await generator.remember(request, answer)
            number = await generator.keep(self._name, self._wish, answer, answered)
            if answer.not_proposed:
                asked = ", ".join(one_line(one, 100) for one in answer.not_proposed)
                view.add(f"It asks pip for what is no package's name, which is in no cell: {_quoted(asked)}")
            if not answer.code:
                view.add("There is no code in this answer.")
                return
            if answered.cut or not answer.complete:
                view.add("The code is not complete, so no cell was made of it. Ask again, or for less at once.")
                return
            if answer.left_out:
                view.add(f"Not in the cell: {answer.left_out} more, since a cell magic has a cell of its own.")
            await self._use(generator, view, answer.code, answer.packages, answered.model, number, known)

    async def explanation(self, request: str) -> None:
        """Ask for an explanation and show it."""
        from sandbox_kernel.generation.answers import Answer
        from sandbox_kernel.generation.conversation import EXPLAIN

        from .answer_view import AnswerView

        generator = await generator_of(self._context)
        known = await self._known(generator, request)
        if self._shown(generator, EXPLAIN, request, known):
            return
        await confirm(self._context, generator, self._arguments.model)
        with AnswerView(self._context) as view:
            answered = await self._ask(generator, view, EXPLAIN, request, known)
            await generator.keep(self._name, self._wish, Answer(view.text), answered)

    # ---- before the answer

    async def _known(self, generator: Generator, request: str) -> NotebookContext | None:
        if self._arguments.no_context:
            return None
        known = await generator.context(self._wish)
        for name in known.absent:
            self._context.write(
                f"{name} is not in the sandbox; if it is to be read, copy it there first: %sandbox upload {name}\n",
                error=True,
            )
        return known

    def _shown(self, generator: Generator, system: str, request: str, known: NotebookContext | None) -> bool:
        """Show what would be sent, where that is all that is wanted."""
        if not self._arguments.show_context:
            return False
        made = generator.request(system, request, known)
        for one in made.messages:
            self._context.write(f"[{one.role}]\n{one.text}\n")
        self._context.write(f"[system]\n{made.system}\nNothing was sent.\n")
        return True

    async def _ask(
        self, generator: Generator, view: AnswerView, system: str, request: str, known: NotebookContext | None
    ) -> Answered:
        from sandbox_kernel.generation.chain import Answered

        made = generator.request(system, request, known)
        last = None
        async with aclosing(generator.ask(made, self._arguments.model)) as steps:
            async for step in steps:
                view.take(step)
                last = step
        assert isinstance(last, Answered)
        return last

    # ---- after it

    async def _use(
        self,
        generator: Generator,
        view: AnswerView,
        code: str,
        packages: Sequence[str],
        model: str,
        number: int,
        known: NotebookContext | None,
    ) -> None:
        from sandbox_kernel.generation.answers import signed, without_sandbox_lines
        from sandbox_kernel.generation.redaction import HIDDEN

        checked = await generator.check(code)
        if checked.error:
            view.add(f"The code cannot run, so no cell was made of it: {_quoted(checked.error)}. Ask again.")
            return
        if checked.unknown:
            view.add(f"The code could not be checked before: {_quoted(checked.unknown)}.")
        if self._failed is not None:
            self._show_difference(view, self._failed.code, code)
        there = {name.lower() for name in known.packages} if known is not None else set()
        wanted = [DISTRIBUTIONS.get(name, name) for name in checked.missing]
        # What it says of pip counts only where nothing better is known.
        wanted = wanted or [name for name in packages if name.lower() not in there]
        if any(f"{quote}{HIDDEN}{quote}" in code for quote in "\"'"):
            view.add("`***` in the code stands for what was taken out before it was sent.")
        self._context.add_cell(signed(without_sandbox_lines(code), model))
        if wanted:
            view.add(f"It needs what is not installed: `%sandbox install {' '.join(wanted)}`")
        if not self._arguments.run or checked.missing:
            view.add("The code is in the cell below." + (" It was not run." if self._arguments.run else ""))
            return

        def ended(cell: RunCell) -> None:
            generator.note_run(number, cell)
            outcome = f"It ended by {_quoted(cell.error)}: `%sandbox fix`" if cell.failed else "It ran"
            view.add(f"{outcome}, in {cell.seconds:.2f} s.")

        self._context.run_rest(code, ended)

    def _show_difference(self, view: AnswerView, old: str, new: str) -> None:
        from sandbox_kernel.generation.text import fenced

        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "the failed cell", "corrected", lineterm="")
        difference = "\n".join(lines)
        view.add(fenced(difference, "diff") if difference else "The code is the same as before.")


def _quoted(text: str) -> str:
    from .answer_view import escaped

    return escaped(text)
