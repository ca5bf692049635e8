"""Cleaning of replies: payloads, user expressions, what inspection and the debugger show."""

from __future__ import annotations

from .bundles import BundleGuard
from .json_text import Json, RefusedError

MAX_PAYLOADS = 100
MAX_CELL = 1024 * 1024
"""Characters of a cell that the sandbox may put into the notebook."""
MARK = "# This cell was written by the sandbox.\n"
_COMMANDS = ("%sandbox", "%%sandbox")


class ReplyGuard:
    """Cleans the contents of replies in place; each method returns what was changed, for people."""

    def __init__(self, bundles: BundleGuard) -> None:
        self._bundles = bundles

    def clean(self, msg_type: str, content: Json) -> list[str] | None:
        """Return notes on what was cleaned; None if nothing was changed. Raises RefusedError."""
        match msg_type:
            case "execute_request":
                return self._clean_execution(content)
            case "inspect_request":
                return self._clean_in(content)
            case "debug_request":
                return self._clean_in(content.get("body"))
            case "is_complete_request":
                return self._clean_indent(content)
        return None

    def _clean_execution(self, content: Json) -> list[str] | None:
        notes: list[str] = []
        changed = False
        payloads = content.get("payload")
        if payloads:
            content["payload"] = self._clean_payloads(payloads, notes)
            changed = content["payload"] != payloads
        expressions = content.get("user_expressions")
        if expressions:
            if type(expressions) is not dict:
                raise RefusedError("user expressions are an object")
            for value in expressions.values():
                cleaned = self._clean_in(value)
                if cleaned is not None:
                    notes += cleaned
                    changed = True
        return notes if changed else None

    def _clean_in(self, holder: object) -> list[str] | None:
        """Clean the bundle that an object holds, if it does."""
        if type(holder) is not dict or not holder.get("data"):
            return None
        cleaned = self._bundles.clean(holder["data"], holder.get("metadata", {}))
        if not cleaned.changed:
            return None
        holder["data"], holder["metadata"] = cleaned.data, cleaned.metadata
        return cleaned.notes

    def _clean_payloads(self, payloads: object, notes: list[str]) -> list[Json]:
        if type(payloads) is not list or len(payloads) > MAX_PAYLOADS:
            raise RefusedError("payloads are a list")
        made = [self._clean_payload(payload, notes) for payload in payloads]
        return [payload for payload in made if payload is not None]

    def _clean_payload(self, payload: object, notes: list[str]) -> Json | None:
        if type(payload) is not dict:
            return None
        match payload.get("source"):
            case "page":
                cleaned = self._bundles.clean(payload.get("data", {}), {})
                notes += cleaned.notes
                start = payload.get("start", 0)
                return {"source": "page", "data": cleaned.data, "start": start if type(start) is int else 0}
            case "set_next_input":
                return _clean_next_input(payload)
            case "ask_exit":
                return {"source": "ask_exit", "keepkernel": payload.get("keepkernel") is True}
            case source:
                notes.append(f"a request to the front end ({str(source)[:40]!r}) was refused")
        return None

    def _clean_indent(self, content: Json) -> list[str] | None:
        indent = content.get("indent", "")
        if type(indent) is not str or indent.strip():
            content["indent"] = ""
            return []
        return None


def _clean_next_input(payload: Json) -> Json | None:
    """Mark a cell that the sandbox puts into the notebook; behind the mark no `%sandbox` line acts."""
    text = payload.get("text")
    if type(text) is not str or len(text) > MAX_CELL:
        return None
    return {
        "source": "set_next_input",
        "text": MARK + without_commands(text),
        "replace": payload.get("replace") is True,
    }


def without_commands(text: str) -> str:
    """Return the text of a cell that somebody else wrote, with the `%sandbox` lines that would act as comments."""
    lines = text.split("\n")
    for index, line in enumerate(lines):
        if line.strip() and not line.lstrip().startswith("#") and not line.strip().startswith(_COMMANDS):
            break
        if line.strip().startswith(_COMMANDS):
            # A comment line before it does not keep it from being a command.
            lines[index] = f"# {line}"
    return "\n".join(lines)
