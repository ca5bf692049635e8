"""Takes what looks like a secret out of cells and of tracebacks: by Python's grammar, and by lines where that fails."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cache

from sandbox_kernel.cell_memory import RunCell
from sandbox_kernel.workspace.patterns import Patterns
from sandbox_kernel.workspace.settings import HIDDEN as SECRET_FILES

from .python_secrets import is_secret_in_code, secret_literals
from .redaction import CODE_LINE, HIDDEN, MIN_PART, OPENING, TEXT, UNUSUAL, redact, redact_told

SEPARATOR = "\n\0\n"
_PYTHON_CELL = re.compile(r"%%(?:time|timeit|capture|prun|python|python3|pypy|sandbox)\b")
"""Begins a cell whose rest is Python."""
_MAGIC = re.compile(r"\s*(?:[\w.,\s]{1,200}=\s*)?[%!](?!=)")
_NAME = r"(?P<name>[a-z_][\w.-]{0,80})"
_VALUE = r"""(?P<value>"[^"\n]*"?|'[^'\n]*'?|[^\s"'|;&]+)"""
_OPTION = re.compile(rf"(?<![\w-])(?P<before>--?{_NAME}(?:=|\s+)(?!-)){_VALUE}", re.IGNORECASE)
_SETTING = re.compile(
    rf"""(?<![\w-])(?P<before>{_NAME}["']?\s?[:=]\s{{0,3}}["']?(?:(?:bearer|basic|token)\s+)?)(?P<value>[^\s"'|;&]+)""",
    re.IGNORECASE,
)
_USER = re.compile(r"""((?<![\w-])(?:-u|-U|--user|--proxy-user)[\s=]*["']?[^\s:"']{1,100}:)[^\s"']+""")
_SHORT = re.compile(
    r"(\b(?:mysql\w*|mariadb[\w-]*|sshpass)\b[^|;&\n]{0,500}?\s-p)[^\s|;&]+|(\bredis-cli\b[^|;&\n]{0,500}?\s-a\s+)\S+"
)
_WHOLE_LINE = re.compile(
    rf"""(?P<before>\s*(?:(?:export|set|setx|ENV|-)\s+)?["']?{_NAME}["']?\s*[:=]\s*)(?P<value>\S.*)""", re.IGNORECASE
)
"""A line of a settings file."""
_WORD = re.compile(r"[A-Za-z_]\w*")
_LITERAL = re.compile(rf"{TEXT}|[\"'][^\n]*$", re.DOTALL | re.IGNORECASE | re.MULTILINE)
"""A text, or one that a line's end cuts."""
_NAMED = re.compile(r"\s*[:,\]]")
_TOLD = re.compile(
    r"""(?<![\w-])(?P<before>(?P<name>[a-z_](?:[\w-]|\ (?=key\b)){0,60})\s{0,3}(?:=|=>|:)\s{0,3})"""
    r"""(?P<value>(?!:)[^\s"'`,;&()\[\]{}<>\\%$]{3,500}(?![\w(\[{%])(?=\s*(?:["',;.)\n]|$)))""",
    re.IGNORECASE,
)
"""In a text or a comment of code: `password=…`, `password: …` at the end of a phrase."""
_TOLD_SQL = re.compile(
    r"(?P<before>\b(?:password|identified\s+by)\s{1,3}')(?P<value>[^'\n]{1,200})(?=')", re.IGNORECASE
)


@dataclass(frozen=True)
class CleanCode:
    """Code without what looks like a secret."""

    text: str
    hidden: tuple[tuple[str, str], ...] = ()
    """Parts of one line that were taken out, as they were written, and what stands there now."""

    @property
    def contents(self) -> set[str]:
        """What was taken out and is no ordinary word, so that it is taken out wherever it stands."""
        whole = (_content(old) for old, new in self.hidden if _content(new) == HIDDEN)
        return {content for content in whole if UNUSUAL.match(content)}


@dataclass(frozen=True)
class _Edit:
    """Bytes of the code, from ``start`` to ``end``, that become ``text``."""

    start: int
    end: int
    text: str


def redact_code(code: str, secrets: Collection[str] = ()) -> str:
    """Return a cell's code without secrets."""
    cleaned = clean_code(code)
    return redact(_without(cleaned.text, cleaned.contents, everywhere=True), secrets)


def redact_answer(text: str, secrets: Collection[str] = ()) -> str:
    """Return an answer in Markdown without secrets, its blocks as code."""
    parts = re.split(r"(?m)^([ \t]*(?:```|~~~)[^\n]*\n)", text)
    # Every other one is a fence, and every fourth one stands between two of them.
    parts[2::4] = [clean_code(part).text for part in parts[2::4]]
    return redact("".join(parts), secrets)


def redact_kept(wish: str, code: str, secrets: Collection[str] = ()) -> tuple[str, str]:
    """Return a request and the code that answered it, for a file: what was told in the one is not in the other."""
    told: set[str] = set()
    wish = redact_told(redact(wish, secrets), told)
    code = redact_code(code, secrets)
    return wish, _without(code, {one for one in told if UNUSUAL.match(one)}, everywhere=True)


def redact_cell(cell: RunCell, secrets: Collection[str] = ()) -> RunCell:
    """Return a cell without secrets: what is taken out of its code or its message is not in its traceback either."""
    cleaned = clean_code(cell.code)
    whole = SEPARATOR.join((cleaned.text, cell.message, _traceback(cell.traceback, cleaned)))
    whole = redact(_without(whole, cleaned.contents, everywhere=True), secrets)
    code, message, traceback = [*whole.split(SEPARATOR), "", ""][:3]
    told: set[str] = set()
    message = redact_told(message, told)
    traceback = "\n".join(line if CODE_LINE.match(line) else redact_told(line, told) for line in traceback.split("\n"))
    return replace(cell, code=_without(code, told), message=message, traceback=_without(traceback, told))


def _without(code: str, told: Collection[str], *, everywhere: bool = False) -> str:
    """Return code without what was told as a secret, on the lines that name one, or everywhere."""
    found = sorted((one for one in told if len(one) >= MIN_PART and one in code), key=len, reverse=True)
    if not found:
        return code
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, found))})(?!\w)")
    if everywhere:
        return pattern.sub(HIDDEN, code)
    return "\n".join(pattern.sub(HIDDEN, line) if _has_secret_word(line) else line for line in code.split("\n"))


def clean_code(code: str) -> CleanCode:
    """Return a cell's code without the texts that stand with names of secrets."""
    stripped = code.lstrip()
    if not stripped.startswith("%%"):
        return _python(code)
    first, line_end, body = stripped.partition("\n")
    before = code[: len(code) - len(stripped)]
    if _PYTHON_CELL.match(first):
        cleaned = _python(body)
    elif match := re.match(r"%%(?:writefile|file)\s+(?:-a\s+)?[\"']?(?P<path>[^\n\"']*)", first):
        cleaned = _file(match["path"].strip(), body)
    else:
        cleaned = CleanCode("\n".join(map(_settings_line, body.split("\n"))))
    return replace(cleaned, text=f"{before}{_shell_line(first)}{line_end}{cleaned.text}")


def _file(path: str, body: str) -> CleanCode:
    name = path.rsplit("/", maxsplit=1)[-1]
    if is_secret_in_code(path) or any(_secret_files().cover(one) for one in (path.lstrip("/~."), name)):
        return CleanCode(HIDDEN)
    if path.endswith(".py"):
        return _python(body)
    return CleanCode("\n".join(map(_settings_line, body.split("\n"))))


@cache
def _secret_files() -> Patterns:
    return Patterns(SECRET_FILES)


def _content(literal: str) -> str:
    found = OPENING.match(literal)
    return literal[found.end() :].removesuffix(found["quote"]) if found else literal


# ---- Python


def _python(code: str) -> CleanCode:
    lines = code.split("\n")
    tree = _tree(code)
    magic: set[int] = set()
    if tree is None:
        magic = _magic_lines(lines)
        blanked = [_blank(line) if index in magic else line for index, line in enumerate(lines)]
        tree = _tree("\n".join(blanked)) if magic else None
    if tree is None:
        return CleanCode("\n".join(_by_lines(lines, magic)))
    source = code.encode(errors="surrogatepass")
    starts = _starts(lines)
    try:
        edits = [*_of_literals(tree, source, starts), *_of_comments(code, lines, starts)]
    except RecursionError:
        return CleanCode("\n".join(_by_lines(lines, magic)))
    edits += [edit for index in magic if (edit := _whole(lines, starts, index)).text != lines[index]]
    return _edited(source, edits)


def _blank(line: str) -> str:
    """Return a statement in place of a line that is no Python."""
    return f"{line[: len(line) - len(line.lstrip())]}0"


def _tree(code: str) -> ast.Module | None:
    """Return the syntax tree; None for what is no Python."""
    # Python's lines end at these, too, and a line's number would be another.
    if re.search(r"[\r\x0c]", code):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _starts(lines: list[str]) -> list[int]:
    """Return where each line begins, in bytes."""
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode(errors="surrogatepass")) + 1)
    return starts


def _magic_lines(lines: list[str]) -> set[int]:
    """Return the lines for IPython and the shell, with those that continue them."""
    found: set[int] = set()
    for index, line in enumerate(lines):
        continues = index - 1 in found and lines[index - 1].endswith("\\")
        if continues or _MAGIC.match(line) or line.rstrip().endswith("?"):
            found.add(index)
    return found


def _of_literals(tree: ast.Module, source: bytes, starts: list[int]) -> Iterator[_Edit]:
    secret = {id(one) for one in secret_literals(tree)}
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, (ast.Constant, ast.JoinedStr)):
            waiting += ast.iter_child_nodes(node)
            continue
        if isinstance(node, ast.Constant) and not isinstance(node.value, (str, bytes)):
            continue
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        text = source[start:end].decode(errors="surrogatepass")
        new = _hidden(text) if id(node) in secret else _without_told(text)
        if new != text:
            yield _Edit(start, end, new)


def _hidden(text: str) -> str:
    """Return a literal with nothing in it."""
    found = OPENING.match(text)
    opening, quote = (found["opening"], found["quote"]) if found else ("", "")
    return f"{opening}{HIDDEN}{quote}"


def _of_comments(code: str, lines: list[str], starts: list[int]) -> Iterator[_Edit]:
    try:
        comments = [one for one in tokenize.generate_tokens(io.StringIO(code).readline) if one.type == tokenize.COMMENT]
    except (tokenize.TokenError, SyntaxError):
        # Lines for the shell, of which the tokenizer knows nothing.
        comments = []
    for one in comments:
        new = _without_told(one.string)
        if new != one.string:
            row, column = one.start
            start = starts[row - 1] + len(lines[row - 1][:column].encode(errors="surrogatepass"))
            yield _Edit(start, start + len(one.string.encode(errors="surrogatepass")), new)


def _whole(lines: list[str], starts: list[int], index: int) -> _Edit:
    return _Edit(starts[index], starts[index + 1] - 1, _shell_line(lines[index]))


def _edited(source: bytes, edits: list[_Edit]) -> CleanCode:
    parts, hidden, end = [], [], 0
    for edit in sorted(edits, key=lambda one: one.start):
        if edit.start < end:
            continue
        old = source[edit.start : edit.end].decode(errors="surrogatepass")
        parts += [source[end : edit.start].decode(errors="surrogatepass"), edit.text]
        lines = [part.strip() for part in old.split("\n")]
        hidden += [(line, edit.text if len(lines) == 1 else HIDDEN) for line in lines if len(line) >= MIN_PART]
        end = edit.end
    parts.append(source[end:].decode(errors="surrogatepass"))
    return CleanCode("".join(parts), tuple(hidden))


def _without_told(text: str) -> str:
    """Return a text or a comment without what it tells as a secret."""
    text = _TOLD.sub(_if_named, text)
    return _TOLD_SQL.sub(rf"\g<before>{HIDDEN}", text)


def _if_named(match: re.Match[str]) -> str:
    return f"{match['before']}{HIDDEN}" if is_secret_in_code(match["name"]) else match[0]


# ---- lines


def _by_lines(lines: list[str], magic: Collection[int]) -> Iterator[str]:
    """Yield lines of what is no Python, or not yet: each text is taken out that stands with a name of a secret."""
    depth = 0
    for index, line in enumerate(lines):
        if index in magic:
            yield _shell_line(line)
            continue
        if depth <= 0 and not _has_secret_word(line):
            yield _without_told(line)
            continue
        bare = _LITERAL.sub("", line)
        # The lines that belong to it.
        depth = max(0, depth) + sum(map(bare.count, "([{")) - sum(map(bare.count, ")]}"))
        yield _LITERAL.sub(_unless_name, line)


def _has_secret_word(line: str) -> bool:
    return any(is_secret_in_code(word) for word in _WORD.findall(line))


def _unless_name(match: re.Match[str]) -> str:
    content = match[0].strip("\"'")
    is_name = content.isidentifier() and is_secret_in_code(content) and _NAMED.match(match.string, match.end())
    return match[0] if is_name or not content.strip() else _hidden(match[0])


def _shell_line(line: str) -> str:
    """Return a line for the shell or for a magic without passwords among its options and settings."""
    line = _SETTING.sub(_value_if_named, _OPTION.sub(_value_if_named, line))
    line = _USER.sub(rf"\1{HIDDEN}", line)
    line = _SHORT.sub(lambda match: f"{match[1] or match[2]}{HIDDEN}", line)
    return _LITERAL.sub(_unless_name, line) if _has_secret_word(_LITERAL.sub("", line)) else line


def _value_if_named(match: re.Match[str]) -> str:
    value = match["value"]
    if not is_secret_in_code(match["name"]) or HIDDEN in value or value.startswith("$"):
        return match[0]
    quote = value[0] if value[0] in "\"'" else ""
    return f"{match['before']}{quote}{HIDDEN}{quote}"


def _settings_line(line: str) -> str:
    """Return a line of a file, or of another language, without the value of a setting that may be a secret."""
    match = _WHOLE_LINE.fullmatch(line)
    if match and is_secret_in_code(match["name"]):
        return _value_if_named(match)
    return _without_told(_shell_line(line))


def _traceback(text: str, code: CleanCode) -> str:
    """Return a traceback, its lines of code without what is hidden in the cell's code or would be in theirs."""
    # Few of many stand there.
    code = replace(code, hidden=tuple(pair for pair in code.hidden if pair[0] in text))
    return "\n".join(_traceback_line(line, code) for line in text.split("\n"))


def _traceback_line(line: str, code: CleanCode) -> str:
    found = CODE_LINE.match(line)
    if found is None:
        return line
    before, rest = line[: found.end()], line[found.end() :]
    for old, new in code.hidden:
        rest = rest.replace(old, new)
    words = rest.lstrip()
    indent = rest[: len(rest) - len(words)]
    block = words.rstrip().endswith(":")
    cleaned = _python(f"{words} pass").text.removesuffix(" pass") if block else _python(words).text
    return f"{before}{indent}{cleaned}"
