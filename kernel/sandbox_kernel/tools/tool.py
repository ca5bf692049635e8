"""What a tool is: a name, a schema of its arguments, and what is called; and the rules for calling it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from keyword import iskeyword
from typing import Any, Union

from sandbox_kernel.errors import ToolRegistrationError

from .context import RuntimeContext
from .schema import Validator, is_costly, make_validator

MAX_NAME = 64
MAX_DESCRIPTION = 8000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)

Arguments = dict[str, Any]
Blocking = Callable[[Arguments, RuntimeContext], Any]
Asynchronous = Callable[[Arguments, RuntimeContext], Awaitable[Any]]


class Policy(str, Enum):
    """Who decides about a call: the configuration, or the person in front of the notebook."""

    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


@dataclass(frozen=True, eq=False)
class Tool:
    """Something that a cell can call by name."""

    name: str
    description: str
    input_schema: Mapping[str, Any]
    call: Union[Blocking, Asynchronous]
    blocking: bool
    """Whether ``call`` waits, and so needs a thread; else it is a coroutine function."""
    kind: str = "tool"
    """``tool`` or ``agent``: which of the two names in a cell has it."""
    policy: Policy = Policy.ALLOW
    timeout: float = 60.0
    """Seconds that a call may take."""
    source: str = ""
    """Where it comes from, for the audit log."""
    secrets: frozenset[str] = field(default_factory=frozenset)
    """Arguments that are never written down."""

    def __post_init__(self) -> None:
        require_name(self.name)

    @property
    def origin(self) -> tuple[str, str]:
        """What tells it from another one of its name."""
        return self.source, self.description

    @property
    def line(self) -> str:
        """How a cell calls it, and the first line of what it does."""
        arguments = ", ".join(f"{name}=…" for name in self.input_schema.get("properties", {}))
        called = f".{self.name}" if self.name.isidentifier() and not iskeyword(self.name) else f"[{self.name!r}].run"
        return f"{self.kind}s{called}({arguments}): {self.description.partition(chr(10))[0]}"

    @cached_property
    def is_costly(self) -> bool:
        """Whether checking a few bytes of arguments can take long."""
        return is_costly(self.input_schema)

    @cached_property
    def validator(self) -> Validator:
        """What checks arguments; made once, because that takes longer than its use."""
        return make_validator(self.input_schema)


def require_name(name: str) -> None:
    """Raise ToolRegistrationError if a tool cannot be called so."""
    if len(name) > MAX_NAME:
        raise ToolRegistrationError(
            f"The name {name[:40]!r}… has {len(name)} characters; a tool's has at most {MAX_NAME}."
        )
    if not _NAME.fullmatch(name):
        raise ToolRegistrationError(
            f"{name!r} is no name for a tool: it begins with a letter or _, and letters, digits, _ and - follow."
        )
