"""The control plane, as far as there is one: custom code interpreters that are made, found, listed and deleted."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from .refusals import Refusal

Json = dict[str, Any]
SYSTEM = "aws.codeinterpreter.v1"
_ROOT = "/code-interpreters"
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,47}")
_ARN = "arn:aws:bedrock-agentcore:us-west-2:123456789012:code-interpreter"


class Interpreters:
    """Those that there are, by their ids."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._known: dict[str, Json] = {SYSTEM: self._entry(SYSTEM, SYSTEM, "SYSTEM")}

    def require(self, interpreter: str) -> None:
        """Raise Refusal where there is none of that id."""
        if interpreter not in self._known:
            raise Refusal("ResourceNotFoundException", f"Code interpreter {interpreter} not found")

    def operation(self, method: str, path: str) -> str:
        """Return the operation's name. Raises Refusal."""
        at_root = path.rstrip("/") == _ROOT
        names = {
            ("PUT", True): "CreateCodeInterpreter",
            ("POST", True): "ListCodeInterpreters",
            ("GET", False): "GetCodeInterpreter",
            ("DELETE", False): "DeleteCodeInterpreter",
        }
        name = names.get((method, at_root)) if path.startswith(_ROOT) else None
        if name is None:
            raise Refusal("ResourceNotFoundException", f"{method} {path} is no operation of this emulator")
        return name

    def serve(self, operation: str, path: str, content: Json) -> Json:
        """Do an operation. Raises Refusal."""
        interpreter = path[len(_ROOT) :].strip("/")
        if operation == "CreateCodeInterpreter":
            return self._create(content)
        if operation == "ListCodeInterpreters":
            kind = content.get("type")
            found = [one for one in self._known.values() if kind in (None, one["type"])]
            return {"codeInterpreterSummaries": [{k: v for k, v in one.items() if k != "type"} for one in found]}
        self.require(interpreter)
        if operation == "DeleteCodeInterpreter":
            del self._known[interpreter]
            return {"codeInterpreterId": interpreter, "status": "DELETING", "lastUpdatedAt": self._time()}
        found_one = {name: value for name, value in self._known[interpreter].items() if name != "type"}
        return {**found_one, "networkConfiguration": {"networkMode": "SANDBOX"}}

    def _create(self, content: Json) -> Json:
        name = str(content.get("name", ""))
        if not _NAME.fullmatch(name):
            raise Refusal("ValidationException", "a name begins with a letter", field_name="name")
        suffix = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(10))
        interpreter = f"{name}-{suffix}"
        self._known[interpreter] = entry = self._entry(interpreter, name, "CUSTOM")
        return {key: entry[key] for key in ("codeInterpreterId", "codeInterpreterArn", "createdAt", "status")}

    def _entry(self, interpreter: str, name: str, kind: str) -> Json:
        return {
            "codeInterpreterId": interpreter,
            "codeInterpreterArn": f"{_ARN}/{interpreter}",
            "name": name,
            "type": kind,
            "status": "READY",
            "createdAt": self._time(),
            "lastUpdatedAt": self._time(),
        }

    def _time(self) -> str:
        return datetime.fromtimestamp(self._now(), timezone.utc).isoformat().replace("+00:00", "Z")
