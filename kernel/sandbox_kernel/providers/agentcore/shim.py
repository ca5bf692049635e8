"""Runs in the service's interpreter in basic mode, and says on standard output what happens besides printing.

The service returns printed text and nothing else: no displayed objects, no figures, no error but as text. So cells are
run by `run`, and what they display is printed as *marks*: base64 of JSON between two tags. Imports nothing of ours.
"""

from __future__ import annotations

import ast
import base64
import json
import sys
import traceback
from typing import Any

BEGIN, END = "<sbx-out:", ":sbx-out>"


def as_mark(kind: str, **content: object) -> str:
    """Return what is printed of something that is not for reading."""
    said = json.dumps({"kind": kind, **content}, default=repr).encode()
    return f"{BEGIN}{base64.b64encode(said).decode()}{END}"


def mark(kind: str, **content: object) -> None:
    """Print something that is not for reading."""
    sys.stdout.write(as_mark(kind, **content))
    sys.stdout.flush()


def run(code: str, count: int, silent: bool) -> None:
    """Run a cell, and say what came of it."""
    stderr, sys.stderr = sys.stderr, _Errors()
    try:
        shell = _shell()
        failed = _run_in_shell(shell, code, count, silent) if shell is not None else _run_plain(code, count)
        _show_figures()
    finally:
        sys.stderr = stderr
    mark("end", ok=not failed, payload=_payload(shell))


def complete(code: str, position: int) -> None:
    """Say how a word may go on."""
    shell = _shell()
    matches: list[str] = []
    start = end = position
    if shell is not None:
        from IPython.core.completer import provisionalcompleter, rectify_completions

        with provisionalcompleter():
            found = list(rectify_completions(code, shell.Completer.completions(code, position)))
        if found:
            start, end = found[0].start, found[0].end
            matches = [one.text for one in found]
    mark("complete", matches=matches[:500], start=start, end=end)


def is_complete(code: str) -> None:
    """Say whether a cell is whole."""
    shell = _shell()
    status, indent = shell.check_complete(code) if shell is not None else ("unknown", "")
    mark("is_complete", status=status, indent=indent if status == "incomplete" else "")


def inspect(name: str) -> None:
    """Say what a name stands for."""
    shell = _shell()
    found = shell.object_inspect_mime(name) if shell is not None else {}
    mark("inspect", data=found)


class _Errors:
    """Standard error, whose text keeps its place among the other output."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        if text:
            mark("stderr", text=text)
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    def isatty(self) -> bool:
        return False


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def _run_in_shell(shell: Any, code: str, count: int, silent: bool) -> bool:
    publisher, hook = shell.display_pub, shell.displayhook
    publish, clear = publisher.publish, publisher.clear_output
    write_format_data, write_output_prompt = hook.write_format_data, hook.write_output_prompt
    finish, show = getattr(hook, "finish_displayhook", None), shell._showtraceback  # noqa: SLF001

    def say(data: Any, metadata: Any = None, *_: Any, transient: Any = None, update: bool = False, **__: Any) -> None:
        mark("display", data=_plain(data), metadata=metadata or {}, transient=transient or {}, update=update)

    def say_result(data: Any, metadata: Any = None) -> None:
        mark("result", data=_plain(data), metadata=metadata or {}, count=count)

    def say_error(kind: Any, value: Any, lines: Any) -> None:
        mark("error", ename=getattr(kind, "__name__", str(kind)), evalue=str(value), traceback=list(lines))

    publisher.publish, publisher.clear_output = say, lambda wait=False: mark("clear", wait=bool(wait))
    hook.write_format_data, hook.write_output_prompt = say_result, lambda: None
    if finish is not None:
        hook.finish_displayhook = lambda: None
    shell._showtraceback = say_error  # noqa: SLF001
    try:
        done = shell.run_cell(code, store_history=False, silent=silent)
    finally:
        publisher.publish, publisher.clear_output = publish, clear
        hook.write_format_data, hook.write_output_prompt = write_format_data, write_output_prompt
        if finish is not None:
            hook.finish_displayhook = finish
        shell._showtraceback = show  # noqa: SLF001
    return not done.success


def _payload(shell: Any) -> list[Any]:
    """Return what the cell left for its reply, such as help to be shown, where the interpreter is a kernel's."""
    manager = getattr(shell, "payload_manager", None)
    if manager is None:
        return []
    payload = list(manager.read_payload())
    manager.clear_payload()
    return payload


def _plain(data: Any) -> dict[str, Any]:
    """Return a MIME bundle as JSON can hold it."""
    return {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value for name, value in data.items()
    }


def _run_plain(code: str, count: int) -> bool:
    """Run a cell where there is no IPython."""
    names = sys.modules["__main__"].__dict__
    try:
        tree = ast.parse(code, "<cell>")
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "<cell>", "exec"), names)  # noqa: S102 - it is the cell
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)  # noqa: S307
            if value is not None:
                names["_"] = value
                mark("result", data={"text/plain": repr(value)}, metadata={}, count=count)
    except BaseException as exc:  # noqa: BLE001 - whatever it is, the person who ran the cell has to see it
        lines = traceback.format_exception(type(exc), exc, exc.__traceback__)
        mark("error", ename=type(exc).__name__, evalue=str(exc), traceback="".join(lines).splitlines())
        return True
    return False


def _show_figures() -> None:
    """Show figures that were drawn and not shown: the service has no front end that would do it."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    import io

    for number in pyplot.get_fignums():
        image = io.BytesIO()
        pyplot.figure(number).savefig(image, format="png", bbox_inches="tight")
        data = {"image/png": base64.b64encode(image.getvalue()).decode(), "text/plain": f"<Figure {number}>"}
        mark("display", data=data, metadata={}, transient={}, update=False)
    pyplot.close("all")
