"""Shows in a cell of an ordinary notebook what its `%%sandbox` body produces in the sandbox."""

from __future__ import annotations

import sys
from typing import Any

from sandbox_kernel.library.outputs import Clear, Display, Error, ExecuteResult, Notice, Other, Output, Status, Stream

WIDGET = "application/vnd.jupyter.widget-view+json"
NO_WIDGETS = (
    "Widgets of a sandbox work in the kernel Python (sandbox) only; in this notebook their text is shown instead.\n"
)


class Value:
    """The value of the last expression of a `%%sandbox` cell, as the sandbox showed it. The value itself is there."""

    def __init__(self, result: ExecuteResult) -> None:
        self._result = result

    def _repr_mimebundle_(self, **_options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """What IPython shows."""
        return dict(self._result.data), dict(self._result.metadata)

    def __repr__(self) -> str:
        return str(self._result.data.get("text/plain", ""))


class Screen:
    """Takes a cell's outputs one by one; `value` and `error` are what it came to."""

    def __init__(self, shell: Any, name: str) -> None:
        """``name`` is the sandbox's: two of them may have displays of the same id."""
        self._publisher = shell.display_pub
        self._name = name
        self._result: ExecuteResult | None = None
        self._told = False
        self.error: Error | None = None
        self.ended = False
        """The cell came to its end."""

    def show(self, output: Output) -> None:
        """Show one output, or keep it where the outer cell shows it by itself at its end."""
        match output:
            case Status("idle"):
                self.ended = True
            case Notice(text):
                sys.stderr.write(text)
                # Before what the cell prints, which goes another way.
                sys.stderr.flush()
            case Stream(name, text):
                self._show_result()
                (sys.stderr if name == "stderr" else sys.stdout).write(text)
            case Display(data, metadata, display_id, update):
                self._show_result()
                self._publish(data, metadata, display_id, update=update)
            case Clear(wait):
                self._result = None
                self._publisher.clear_output(wait)
            case ExecuteResult():
                self._show_result()
                self._result = output
            case Error():
                self._show_result()
                self.error = output
            case Other(msg_type) if msg_type.startswith("comm_"):
                self._tell_of_widgets()

    @property
    def value(self) -> Value | None:
        """What the outer cell returns, so that it is its result, too."""
        if self._result is None:
            return None
        data = self._without_widgets(self._result.data)
        return Value(ExecuteResult(data, self._result.metadata, self._result.execution_count))

    def _show_result(self) -> None:
        """Show the result as an output like others, because another one comes behind it."""
        result, self._result = self._result, None
        if result is not None:
            self._publish(result.data, result.metadata, result.display_id)

    def _publish(self, data: Any, metadata: Any, display_id: str, *, update: bool = False) -> None:
        transient = {"display_id": f"{self._name}:{display_id}"} if display_id else {}
        shown = self._without_widgets(data)
        self._publisher.publish(data=shown, metadata=dict(metadata), transient=transient, update=update)

    def _without_widgets(self, data: Any) -> dict[str, Any]:
        if WIDGET in data:
            self._tell_of_widgets()
        return {kind: content for kind, content in data.items() if kind != WIDGET}

    def _tell_of_widgets(self) -> None:
        if not self._told:
            self._told = True
            sys.stderr.write(NO_WIDGETS)
