"""Patterns of names in the syntax of .gitignore, without regard to case: which files of a folder are not shown.

Most patterns are plain names, beginnings or ends, and are looked up as such: to compile expressions for them would
take longer than to look through an ordinary folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from sandbox_kernel.errors import ConfigurationError

_WILD = frozenset("*?[\\")


@dataclass(frozen=True)
class _Rule:
    text: str
    """Without its mark of negation and its slash at the end."""
    negated: bool
    folders_only: bool

    @property
    def is_path(self) -> bool:
        """Whether it is matched with the whole path, not with the last name."""
        return "/" in self.text

    @cached_property
    def expression(self) -> re.Pattern[str]:
        return re.compile(translate(self.text.removeprefix("/")), re.DOTALL)

    def matches(self, path: str, name: str, *, folder: bool) -> bool:
        if self.folders_only and not folder:
            return False
        return self.expression.fullmatch(path if self.is_path else name) is not None


class Patterns:
    """A list of patterns; as in .gitignore the last one that matches counts, and `!` takes back.

    Raises ConfigurationError for a pattern that cannot be read.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._rules = [rule for pattern in patterns if (rule := _parse(pattern))]
        self._in_order = any(rule.negated for rule in self._rules)
        self._names: set[str] = set()
        beginnings, ends = [], []
        others: list[_Rule] = []
        for rule in self._rules:
            text = rule.text
            if rule.is_path or rule.folders_only:
                others.append(rule)
            elif not _WILD.intersection(text):
                self._names.add(text)
            elif text[0] == "*" and not _WILD.intersection(text[1:]):
                ends.append(text[1:])
            elif text[-1] == "*" and not _WILD.intersection(text[:-1]):
                beginnings.append(text[:-1])
            else:
                others.append(rule)
        self._beginnings, self._ends = tuple(beginnings), tuple(ends)
        self._check(others)
        self._of_names = _together(rule for rule in others if not rule.is_path and not rule.folders_only)
        self._of_folders = _together(rule for rule in others if not rule.is_path)
        self._paths = [rule for rule in others if rule.is_path]
        lasts = [rule.text.rpartition("/")[2] for rule in self._paths]
        self._lasts = None if any(_WILD.intersection(last) for last in lasts) else frozenset(lasts)

    def _check(self, rules: Iterable[_Rule]) -> None:
        for rule in rules:
            try:
                rule.expression  # noqa: B018 - compiled for the error
            except re.error as exc:
                raise ConfigurationError(f"Workspace.hidden: {rule.text!r} is no pattern ({exc}).") from exc

    def match(self, path: str, *, folder: bool) -> bool:
        """Whether a path in the folder, with `/` between its names, matches; not whether a folder around it does."""
        path = path.casefold()
        name = path.rpartition("/")[2]
        if self._in_order:
            hidden = False
            for rule in self._rules:
                if rule.negated == hidden and rule.matches(path, name, folder=folder):
                    hidden = not hidden
            return hidden
        if name in self._names or name.startswith(self._beginnings) or name.endswith(self._ends):
            return True
        expression = self._of_folders if folder else self._of_names
        if expression is not None and expression.fullmatch(name):
            return True
        if self._lasts is not None and name not in self._lasts:
            return False
        return any(rule.matches(path, name, folder=folder) for rule in self._paths)

    def cover(self, path: str, *, folder: bool = False) -> bool:
        """Whether a path, or a folder around it, matches."""
        names = path.split("/")
        around = ("/".join(names[:count]) for count in range(1, len(names)))
        return any(self.match(one, folder=True) for one in around) or self.match(path, folder=folder)


def _parse(pattern: str) -> _Rule | None:
    text = re.sub(r"(?<!\\) +$", "", pattern.rstrip("\n"))
    if not text or text.startswith("#"):
        return None
    negated = text.startswith("!")
    text = text[negated:]
    folders_only = text.endswith("/")
    text = text.rstrip("/")
    return _Rule(text.casefold(), negated, folders_only) if text else None


def _together(rules: Iterable[_Rule]) -> re.Pattern[str] | None:
    expressions = [translate(rule.text) for rule in rules]
    return re.compile("|".join(f"(?:{one})" for one in expressions), re.DOTALL) if expressions else None


_TOKENS = re.compile(r"(/\*\*/)|(^\*\*/)|(/\*\*$)|(\*+)|(\?)|(\[[!^]?\]?(?:\\.|[^\]\\])*\])|\\(.)|(.)", re.DOTALL)


def translate(text: str) -> str:
    """Return the regular expression of one pattern, as gitignore(5) describes it."""
    parts = []
    for found in _TOKENS.finditer(text):
        between, before, behind, stars, one, group, escaped, plain = found.groups()
        if between:
            parts.append("/(?:.*/)?")
        elif before:
            parts.append("(?:.*/)?")
        elif behind:
            parts.append("/.+")
        elif stars:
            parts.append("[^/]*")
        elif one:
            parts.append("[^/]")
        elif group:
            parts.append(f"(?!/){_group(group)}")
        else:
            parts.append(re.escape(escaped or plain))
    return "".join(parts)


def _group(text: str) -> str:
    inner = text[1:-1]
    sign = "^" if inner[:1] in ("!", "^") and inner[:1] else ""
    # What regular expressions would read as operations on sets stands for itself here.
    inner = re.sub(r"([\[&|~])", r"\\\1", inner[len(sign) :])
    return f"[{sign}{inner}]" if not inner.startswith("]") else f"[{sign}\\{inner}]"
