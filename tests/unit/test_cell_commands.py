"""`%%sandbox NAME` cells: which cells are some, and how they come to their command."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_kernel.commands import CommandContext
from sandbox_kernel.errors import CommandError
from sandbox_kernel.events import EventLog
from sandbox_kernel.requests import CellCommand, Request, cell_command
from sandbox_magics import registry
from sandbox_magics.commands import run_line

from .test_commands import Context, FakeSession


@pytest.fixture
def echo() -> Iterator[list[tuple[bool, str]]]:
    """A command of cells that keeps what it is given."""
    given: list[tuple[bool, str]] = []

    @registry.cell_command("echo", registry.argument("--loud", action="store_true", help="be loud"))
    async def run(context: CommandContext, arguments: argparse.Namespace, body: str) -> None:
        """Keep the body."""
        given.append((arguments.loud, body))

    yield given
    del registry._cell_commands["echo"]


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(FakeSession(EventLog(path=str(tmp_path / "log"))))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("%%sandbox echo\nhello\n  there", CellCommand("echo", "hello\n  there")),
        ("\n# a comment\n%%sandbox  echo --loud  \n", CellCommand("echo --loud", "")),
        ("%sandbox status\n%%sandbox\techo\nx", CellCommand("echo", "x")),
        ("%%sandbox echo", CellCommand("echo", "")),
        ("%%sandbox echo\n%%sandbox echo\n%sandbox stop", CellCommand("echo", "%%sandbox echo\n%sandbox stop")),
        ("%%sandbox\nx", None),
        ("%%sandbox -o x\nx", None),
        ("%%sandboxes echo\nx", None),
        ("x = 1\n%%sandbox echo\nx", None),
        ("%sandbox status", None),
        ("", None),
    ],
)
def test_cell_of_a_command_is_known_by_its_first_line(code: str, expected: CellCommand | None) -> None:
    assert cell_command(code) == expected


def test_code_that_takes_a_cells_place_holds_no_commands() -> None:
    header = {"msg_id": "1", "msg_type": "execute_request"}
    content = {"code": "%sandbox status\n%%sandbox echo\nx"}
    request = Request("shell", [], [json.dumps(part).encode() for part in (header, {}, {}, content)], header)
    request.read_cell()
    assert (request.lines, request.has_commands, request.has_code) == (["status"], True, False)
    request.replace_code("%sandbox stop\n%%sandbox echo\n")
    assert not request.has_commands
    assert json.loads(bytes(request.frames[3]))["code"] == "%sandbox stop\n%%sandbox echo\n"


async def test_command_gets_its_options_and_the_body(context: Context, echo: list[tuple[bool, str]]) -> None:
    await run_line("echo --loud", context, "hello\n")
    await run_line(" echo ", context, "")
    assert echo == [(True, "hello\n"), (False, "")]


@pytest.mark.parametrize(
    ("line", "body", "part"),
    [
        ("ecko", "", "no command `%%sandbox ecko`; did you mean `echo`? There are: "),
        ("status", "", "`status` is for a line: write %sandbox status, with one %."),
        ("echo", None, "`echo` is for a cell of its own: write %%sandbox echo on its first line"),
        ("echo --low", "", "it is called as: %%sandbox echo [--loud] [-h]"),
        ("echo 'x", "", "No closing quotation"),
    ],
)
async def test_mistakes_are_told(
    context: Context, echo: list[tuple[bool, str]], line: str, body: str | None, part: str
) -> None:
    with pytest.raises(CommandError) as caught:
        await run_line(line, context, body)
    assert part in str(caught.value)
    assert echo == []


async def test_help_tells_of_cells_too(context: Context, echo: list[tuple[bool, str]]) -> None:
    await run_line("help", context)
    assert "%%sandbox COMMAND" in context.text
    assert context.text.count("Keep the body.") == 1
    await run_line("help echo", context)
    await run_line("echo --help", context, "")
    assert context.text.count("usage: %%sandbox echo [--loud] [-h]") == 2
