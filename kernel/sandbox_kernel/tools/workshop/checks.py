"""Checks code before it becomes an artifact: structure, then security policy and compliance, with line and reason."""

from __future__ import annotations

import asyncio
import json
import shutil
import sysconfig
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from sandbox_kernel.errors import ConfigurationError, ToolRegistrationError, ToolValidationError

from . import python_code, script_code
from .documents import LANGUAGES, Artifact
from .python_code import Finding
from .settings import WorkshopSettings

RUFF_TIMEOUT = 30.0


def normalised(language: str, code: str) -> str:
    """Return the code as it is kept. Raises ToolRegistrationError for a language that there is not."""
    if language not in LANGUAGES:
        raise ToolRegistrationError(f"There is no language {language[:40]!r}; there are: {', '.join(LANGUAGES)}.")
    return python_code.normalised(code) if language == "python" else script_code.normalised(code)


def digest_of(language: str, code: str) -> str:
    """Return the SHA-256 that names normalised code."""
    return sha256(f"{language}:{code}".encode("utf-8", "surrogatepass")).hexdigest()


def check_structure(name: str, language: str, code: str, settings: WorkshopSettings) -> Artifact:
    """Return what the code, which is normalised, would be as an artifact. Raises ToolValidationError."""
    if len(code) > settings.max_code:
        raise ToolValidationError(
            f"The code has {len(code)} characters; at most {settings.max_code} are taken (WorkshopSettings.max_code)."
        )
    if not code.strip():
        raise ToolValidationError("The cell holds no code.")
    digest = digest_of(language, code)
    if language != "python":
        function, schema, text = script_code.describe(name, code, types=settings.require_types)
        if settings.require_docstring and not text:
            raise ToolValidationError(f"{function} has no description: a comment /** … */ before it says what it does.")
        return Artifact(digest, language, code, function, schema, text)
    tree = python_code.parse(name, code)
    found = python_code.the_function(name, tree)
    findings = python_code.structure_findings(found, types=settings.require_types, docstring=settings.require_docstring)
    python_code.refuse(name, findings)
    import ast

    text = ast.get_docstring(found) or ""
    return Artifact(digest, language, code, found.name, python_code.schema_of(found), text)


async def check_policy(name: str, artifact: Artifact, settings: WorkshopSettings) -> None:
    """Raise ToolValidationError with every finding if the code breaks the policy."""
    findings: list[Finding] = []
    if artifact.language == "python":
        findings += python_code.import_findings(python_code.parse(name, artifact.code), settings.forbidden_imports)
        findings += await ruff_findings(artifact.code, settings.rules)
    else:
        findings += script_code.policy_findings(artifact.code)
    python_code.refuse(name, findings)


async def ruff_findings(code: str, rules: Sequence[str]) -> list[Finding]:
    """Return what ruff says. Raises ConfigurationError where it is not there, or does not know a rule."""
    if not rules:
        return []
    program = _ruff()
    # Isolated, and deaf to comments: neither the notebook's folder nor the code says what is looked for.
    options = ["check", "--isolated", "--ignore-noqa", "--no-cache", "--quiet", "--output-format", "json"]
    process = await asyncio.create_subprocess_exec(
        program,
        *options,
        "--select",
        ",".join(rules),
        "--stdin-filename",
        "tool.py",
        "-",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, complaint = await asyncio.wait_for(process.communicate(code.encode()), RUFF_TIMEOUT)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
        raise ToolValidationError("The code could not be looked through in time; make it shorter.") from None
    if process.returncode not in (0, 1):
        last = complaint.decode(errors="replace").strip().splitlines()[-1:]
        raise ConfigurationError(f"ruff cannot check the code (WorkshopSettings.rules): {' '.join(last)}")
    return [
        Finding(int(one["location"]["row"]), str(one["code"]), str(one["message"]).rstrip("."))
        for one in json.loads(said)
    ]


def _ruff() -> str:
    beside = Path(sysconfig.get_path("scripts"), "ruff")
    program = str(beside) if beside.exists() else shutil.which("ruff")
    if program is None:
        raise ConfigurationError(
            "The code of tools is checked by ruff, which is not installed: `pip install 'sandbox-kernel[tools]'`."
        )
    return program
