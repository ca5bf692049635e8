"""The sandboxes of one notebook of an ordinary kernel, by name, and what `%sandbox` commands are given there."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from sandbox_kernel.errors import CommandError
from sandbox_kernel.lifecycle import State

if TYPE_CHECKING:
    # Not imported by the kernel process, which has no use for them.
    from sandbox_kernel.cell_memory import RunCell
    from sandbox_kernel.library import BlockingSandbox, Sandbox
    from sandbox_kernel.library.loop_thread import Turn
    from sandbox_kernel.session import SandboxSession

DEFAULT_SESSION = "default"

_NAME = re.compile(r"[\w-]{1,40}", re.ASCII)


class Notebook:
    """Makes sandboxes on first use; they end with the kernel."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self._sandboxes: dict[str, BlockingSandbox] = {}
        self.leaving = False
        """The extension was unloaded; unless it is loaded again in the same cell, the sandboxes end."""

    def __iter__(self) -> Any:
        return iter(sorted(self._sandboxes))

    def existing(self, name: str) -> BlockingSandbox:
        """Return the sandbox of that name, which was used before, or is the default one. Raises CommandError."""
        _require_name(name)
        if name != DEFAULT_SESSION and name not in self._sandboxes:
            known = ", ".join(sorted({DEFAULT_SESSION, *self._sandboxes}))
            raise CommandError(
                f"There is no session {name!r}; there are: {known}. "
                f"A cell with %%sandbox --session {name}, or `%sandbox --session {name} start`, begins one."
            )
        return self.sandbox(name)

    def sandbox(self, name: str = DEFAULT_SESSION, provider: str = "") -> BlockingSandbox:
        """Return the sandbox of that name, which may not have started. Raises CommandError, ConfigurationError."""
        _require_name(name)
        if provider:
            self._require_allowed(provider)
        found = self._sandboxes.get(name)
        if found is None:
            from sandbox_kernel.library import BlockingSandbox
            from sandbox_kernel.tools import ToolRegistry
            from sandbox_kernel.tools.serving import live_tools_of

            tools = ToolRegistry.configured()
            found = self._sandboxes[name] = BlockingSandbox(provider, tools=tools, on_approval=self._approve)
            found.sandbox.session.be_called("" if name == DEFAULT_SESSION else name)
            tools.live_source = live_tools_of(found.sandbox.session)
        elif provider and found.info.provider != provider:
            raise CommandError(
                f"The session {name!r} is of the provider {found.info.provider}; choose another name by --session."
            )
        return found

    @property
    def providers(self) -> list[str]:
        """Names of the providers among which a cell may choose. Raises ConfigurationError."""
        from sandbox_kernel.library.settings import allowed_providers

        return allowed_providers()

    @property
    def can_ask(self) -> bool:
        """Whether somebody can answer `input()`."""
        return bool(getattr(getattr(self.shell, "kernel", None), "_allow_stdin", True))

    def _approve(self, question: str) -> str:
        """Ask the person in front of the notebook whether a cell may call a tool."""
        return input(question) if self.can_ask else "n"

    def close(self) -> list[str]:
        """End all of them; return the names of those that ran."""
        names = sorted(name for name, one in self._sandboxes.items() if one.state is not State.INACTIVE)
        while self._sandboxes:
            self._sandboxes.popitem()[1].close()
        return names

    def _require_allowed(self, provider: str) -> None:
        if provider not in self.providers:
            raise CommandError(
                f"The configuration does not let a cell choose the provider {provider!r}; it allows: "
                f"{', '.join(self.providers)} (SandboxSession.allowed_providers)."
            )


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise CommandError(f"{name[:50]!r} is no name of a session: letters from a to z, digits, _ and -, 40 at most.")


class NotebookContext:
    """The CommandContext of an ordinary kernel: shows and asks in the thread of the cell, which waits."""

    def __init__(self, notebook: Notebook, sandbox: Sandbox, turn: Turn, name: str) -> None:
        """``name`` is the session's."""
        self._notebook = notebook
        self._turn = turn
        self._name = name
        self.sandbox = sandbox
        self.rest: str | None = None
        """What a command wants to be run in the sandbox as the rest of the cell."""
        self.on_rest_ended: Callable[[RunCell], None] | None = None

    @property
    def session(self) -> SandboxSession:
        """The session that the command is about."""
        return self.sandbox.session

    @property
    def namespace(self) -> MutableMapping[str, Any]:
        """The notebook's variables."""
        namespace: MutableMapping[str, Any] = self._notebook.shell.user_ns
        return namespace

    def write(self, text: str, *, error: bool = False) -> None:
        """Show text as it is, at once."""
        self._turn.tell(lambda: (sys.stderr if error else sys.stdout).write(text))

    def display(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *,
        display_id: str = "",
        update: bool = False,
    ) -> None:
        """Show a MIME bundle, under an id where it will be updated."""
        publish: Callable[..., None] = self._notebook.shell.display_pub.publish
        transient = {"display_id": display_id} if display_id else {}
        self._turn.tell(lambda: publish(data=data, metadata=metadata or {}, transient=transient, update=update))

    async def show_past(self, count: int | None) -> None:
        """Refuse: an ordinary kernel's cells get what their sandbox sends at once, or not at all."""
        raise CommandError("Past outputs are shown in notebooks of the kernel Python (sandbox).")

    def add_cell(self, text: str) -> None:
        """Put a new cell with this text below, for the sandbox: in this kernel it could do anything."""
        session = "" if self._name == DEFAULT_SESSION else f" --session {self._name}"
        self._turn.tell(lambda: self._notebook.shell.set_next_input(f"%%sandbox{session}\n{text}", replace=False))

    def run_rest(self, code: str, on_ended: Callable[[RunCell], None] | None = None) -> None:
        """Run code in the sandbox when the command is done; its output is the cell's."""
        if self.rest is not None:
            raise CommandError("Only one command in a cell can run something behind itself.")
        self.rest, self.on_rest_ended = code, on_ended

    async def ask(self, prompt: str) -> str:
        """Ask the person in front of the notebook. Raises CommandError where nobody can answer."""
        if not self._notebook.can_ask:
            raise CommandError("Nobody can be asked here; allow the command in the configuration.")
        return await self._turn.call(lambda: input(prompt))
