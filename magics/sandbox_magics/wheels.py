"""Fetching wheels with this machine's pip: never a source distribution, whose build runs its author's code."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox_kernel.errors import CommandError

MAX_LINE = 64 * 1024
"""Characters of one line of pip's that are looked at."""
OPTIONS = "--disable-pip-version-check --no-input --no-color".split()
WHEELS_ONLY = ("--only-binary", ":all:", "--progress-bar", "off")
OLDEST_PIP = (23, 0)
"""The first whose report of what it would install has a format that stays."""

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_CLAUSE = r"(?:===?|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+"
_REQUIREMENT = re.compile(
    rf"({_NAME})\s*(?:\[\s*{_NAME}(?:\s*,\s*{_NAME})*\s*\])?\s*(?:{_CLAUSE}(?:\s*,\s*{_CLAUSE})*)?", re.ASCII
)
_MARKER = re.compile(r"""[A-Za-z0-9_.<>=!~()\s'"+*-]+""", re.ASCII)
_ARCHIVES = (".whl", ".zip", ".gz", ".bz2", ".xz", ".tar", ".tgz", ".tbz", ".egg")
_TAG = re.compile(r"[A-Za-z0-9_.]{1,100}", re.ASCII)
_OPTION = re.compile(r"(?:^|\s)(--?[A-Za-z][A-Za-z-]*)")
_OF_FILES = {
    "-r": "put the lines of that file into this one",
    "--requirement": "put the lines of that file into this one",
    "-c": "put the versions behind the packages' names",
    "--constraint": "put the versions behind the packages' names",
    "--hash": "hashes would not be checked, so leave them out",
    "-e": "only wheels of an index are installed",
    "--editable": "only wheels of an index are installed",
}
"""What to do instead of an option in a file of requirements."""
_TOLD = ("Collecting ", "  Downloading ", "  Using cached ", "Downloading ", "Using cached ", "Looking in ")
_TOLD_BEFORE = ("Collecting ", "Looking in ")
_SOURCES_ONLY = "No sources permitted for "
"""What pip's log says of a source distribution that it passes over."""


@dataclass(frozen=True)
class Target:
    """For which Python wheels are wanted."""

    python: str = ""
    """An interpreter of this machine with the same environment; "" if there is none, then the rest says."""
    version: str = ""
    implementation: str = ""
    abi: str = ""
    platforms: tuple[str, ...] = ()

    def options(self) -> list[str]:
        """Return pip's words for a Python that is not on this machine."""
        if self.python:
            return []
        options = ["--python-version", self.version, "--implementation", self.implementation]
        options += ["--abi", self.abi] if self.abi else []
        return [*options, *(word for platform in self.platforms for word in ("--platform", platform))]


def target_of(said: Mapping[str, Any]) -> Target:
    """Return the Python that a sandbox says it has; what it says goes into a command line here. Raises CommandError."""
    tags = [said.get("version"), said.get("implementation"), *said.get("platforms", ())]
    abi = said.get("abi") or ""
    if not all(isinstance(tag, str) and _TAG.fullmatch(tag) for tag in (*tags, abi or "none")):
        raise CommandError("The sandbox does not say which Python it has; `%sandbox stop`, then try again.")
    return Target("", tags[0], tags[1], abi, tuple(tags[2:]))


def checked_requirement(text: str) -> str:
    """Return a requirement that names a package and versions, and nothing else. Raises CommandError.

    An option, a path or a URL in a notebook could have pip fetch or read anything.
    """
    requirement, _, marker = text.strip().partition(";")
    named = _REQUIREMENT.fullmatch(requirement.strip())
    if not named or named[1].lower().endswith(_ARCHIVES) or (marker and not _MARKER.fullmatch(marker)):
        raise CommandError(
            f"{text.strip()!r} is not the name of a package, with versions perhaps, as in 'pandas>=2'. Options, paths "
            "and addresses are not taken from a notebook; set an index in this machine's pip configuration."
        )
    return text.strip()


def read_requirements(text: str) -> list[str]:
    """Return the requirements of a file in pip's format, without its options. Raises CommandError with the line."""
    requirements = []
    for number, line in enumerate(text.replace("\\\n", " ").splitlines(), 1):
        content = re.sub(r"(^|\s+)#.*", "", line).strip()
        if not content:
            continue
        if option := _OPTION.search(content):
            instead = _OF_FILES.get(option[1], "set it in this machine's pip configuration")
            raise CommandError(f"Line {number} of the requirements: the option {option[1]} is not taken; {instead}.")
        try:
            requirements.append(checked_requirement(content))
        except CommandError as exc:
            raise CommandError(f"Line {number} of the requirements: {exc}") from exc
    return requirements


class Pip:
    """This kernel's pip, which has the user's own configuration: index, proxies, certificates."""

    def __init__(self, target: Target, scratch: Path) -> None:
        self._target, self._scratch = target, scratch
        self._log = scratch / "pip.log"
        self._last: list[str] = []

    async def fetch(self, requirements: Sequence[str], folder: Path) -> AsyncIterator[str]:
        """Download the wheels that are missing, with those that they need; yield lines about it.

        Raises CommandError, where there is only a source distribution with its name.
        """
        if not self._target.python:
            async for line in self._download(requirements, folder):
                yield line
            return
        # What the environment has already is seen by its own pip only, and only when it installs.
        report = self._scratch / "report.json"
        dry = ["install", "--dry-run", "--report", str(report), "--root-user-action", "ignore", "--no-user"]
        async for line in self._run([*dry, *WHEELS_ONLY, "--", *requirements]):
            yield line
        missing = [
            f"{item['metadata']['name']}=={item['metadata']['version']}"
            for item in json.loads(report.read_text(encoding="utf-8"))["install"]
        ]
        if missing:
            async for line in self._download(missing, folder, "--no-deps"):
                if not line.startswith(_TOLD_BEFORE):
                    yield line

    async def _download(self, requirements: Sequence[str], folder: Path, *options: str) -> AsyncIterator[str]:
        words = ["download", "--dest", str(folder), *WHEELS_ONLY, *self._target.options(), *options]
        async for line in self._run([*words, "--", *requirements]):
            yield line

    async def _run(self, arguments: Sequence[str]) -> AsyncIterator[str]:
        """Run pip; yield what a person may want to see of its output. Raises CommandError where it fails."""
        python = ["--python", self._target.python] if self._target.python not in ("", sys.executable) else []
        self._last.clear()
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-I", "-m", "pip", *python, "--log", str(self._log), *OPTIONS, *arguments],
            # An empty folder: a file beside the notebook must not be taken for a package of its name.
            cwd=self._scratch / "empty",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=MAX_LINE,
        )
        try:
            assert process.stdout is not None
            async for line in _lines(process.stdout):
                self._last = [*self._last[-20:], line]
                if line.startswith(_TOLD):
                    yield line
            if await process.wait():
                raise self._error()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()

    def _error(self) -> CommandError:
        errors = [line.removeprefix("ERROR: ") for line in self._last if line.startswith("ERROR: ")]
        if any("No module named pip" in line for line in self._last):
            return CommandError(f"This kernel's environment has no pip: run `{sys.executable} -m ensurepip`.")
        if any(word in " ".join(self._last) for word in ("no such option: --", 'unknown command "')):
            version = ".".join(map(str, OLDEST_PIP))
            return CommandError(
                f"This kernel's pip is too old: run `{sys.executable} -m pip install 'pip>={version}'`."
            )
        for line in errors:
            if wanted := re.match(r"No matching distribution found for (.+)", line):
                return self._not_found(wanted[1])
        last = errors[-1] if errors else (self._last[-1].strip() if self._last else "it says nothing")
        return CommandError(f"The packages could not be fetched: {last}")

    def _not_found(self, wanted: str) -> CommandError:
        name = re.split(r"[\s\[<>=!~;(]", wanted, maxsplit=1)[0]
        if canonical(name) in self._source_only():
            return CommandError(
                f"{name} has no wheel that fits the sandbox's Python, only a source distribution ({wanted}). Building "
                "that would run its author's code on this machine, so it is not done: ask for another version, or "
                "build a wheel yourself and let pip find it (`find-links` in its configuration)."
            )
        return CommandError(f"The package index has no {wanted} that fits the sandbox's Python; is the name right?")

    def _source_only(self) -> set[str]:
        with suppress(OSError):
            text = self._log.read_text(encoding="utf-8", errors="replace")
            return {canonical(name) for name in re.findall(rf"{_SOURCES_ONLY}([A-Za-z0-9._-]+)", text)}
        return set()


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            # Longer than is looked at; what is left of it comes next.
            continue
        if not line:
            return
        yield line.decode(errors="replace").rstrip()


def canonical(name: str) -> str:
    """Return a package's name as it is compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower().rstrip("-")
