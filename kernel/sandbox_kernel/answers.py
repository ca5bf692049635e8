"""Answers that need no sandbox, or are given while there is none."""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

Json = dict[str, Any]

HELP_LINKS = [
    {"text": "Python Reference", "url": "https://docs.python.org/{version}"},
    {"text": "IPython Reference", "url": "https://ipython.readthedocs.io/en/stable/"},
    {"text": "NumPy Reference", "url": "https://docs.scipy.org/doc/numpy/reference/"},
    {"text": "SciPy Reference", "url": "https://docs.scipy.org/doc/scipy/reference/"},
    {"text": "Matplotlib Reference", "url": "https://matplotlib.org/contents.html"},
    {"text": "SymPy Reference", "url": "https://docs.sympy.org/latest/index.html"},
    {"text": "pandas Reference", "url": "https://pandas.pydata.org/pandas-docs/stable/"},
]
"""What ipykernel offers in a front end's Help menu."""


OTHER_LANGUAGES = {
    "javascript": ("text/javascript", ".js"),
    "typescript": ("text/typescript", ".ts"),
    "r": ("text/x-r-source", ".r"),
    "java": ("text/x-java", ".java"),
    "bash": ("text/x-sh", ".sh"),
}
"""MIME types and endings of files, for front ends to colour cells by."""


def kernel_info(python: str, ipython: str, language: str = "python") -> Json:
    """Return the content of kernel_info_reply for the given versions; "" means that one is not known yet.

    Then it is the one here, since front ends want one.
    """
    if language != "python":
        return _other_language(language)
    python, ipython = python or sys.version.split()[0], ipython or _version_of("ipython")
    short = ".".join(python.split(".")[:2])
    return {
        "status": "ok",
        "protocol_version": "5.5",
        "implementation": "ipython",
        "implementation_version": ipython,
        "language_info": {
            "name": "python",
            "version": python,
            "mimetype": "text/x-python",
            "codemirror_mode": {"name": "ipython", "version": 3},
            "pygments_lexer": "ipython3",
            "nbconvert_exporter": "python",
            "file_extension": ".py",
        },
        "banner": f"Python {python}\nIPython {ipython} -- An enhanced Interactive Python, in a sandbox.\n"
        "Type '%sandbox help' for the sandbox's commands.\n",
        "help_links": [{**link, "url": link["url"].format(version=short)} for link in HELP_LINKS],
        "supported_features": ["kernel subshells", "debugger"],
    }


def _version_of(package: str) -> str:
    # A kernel process that knows its sandbox's versions starts without it.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "0"


def _other_language(language: str) -> Json:
    mime, ending = OTHER_LANGUAGES.get(language, ("text/plain", ".txt"))
    return {
        "status": "ok",
        "protocol_version": "5.5",
        "implementation": "sandbox",
        "implementation_version": _version_of("sandbox-kernel"),
        "language_info": {"name": language, "version": "", "mimetype": mime, "file_extension": ending},
        "banner": f"{language} in a sandbox, in basic mode.\nType '%sandbox help' for the sandbox's commands.\n",
        "help_links": [],
        "supported_features": [],
    }


def ends_python(content: Json) -> bool:
    """Whether a cell's reply says that Python is going to end, as after `quit()`."""
    payload = content.get("payload")
    return isinstance(payload, list) and any(
        isinstance(one, dict) and one.get("source") == "ask_exit" and not one.get("keepkernel") for one in payload
    )


def usage() -> Json:
    """Return the content of usage_reply while no sandbox runs: there is nothing in use."""
    return {
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "cpu_count": os.cpu_count(),
        "kernel_cpu": 0.0,
        "kernel_memory": 0,
    }


def is_complete(code: str) -> Json:
    """Judge by Python's own rules. The inner kernel, when there is one, knows IPython's, too."""
    import codeop
    import warnings

    lines = [line for line in code.split("\n") if line.strip()]
    if not lines or lines[0].lstrip().startswith(("%", "!", "?")) or lines[-1].rstrip().endswith("?"):
        cell_magic = bool(lines) and lines[0].startswith("%%") and not code.endswith("\n\n")
        return {"status": "incomplete", "indent": ""} if cell_magic else {"status": "complete"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compiled = codeop.compile_command(code, "<cell>", "exec")
            goes_on = compiled is None or _may_go_on(code)
        except (SyntaxError, ValueError, OverflowError):
            return {"status": "invalid"}
    if not goes_on:
        return {"status": "complete"}
    last = lines[-1]
    indent = len(last) - len(last.lstrip()) + (4 if last.rstrip().endswith(":") else 0)
    return {"status": "incomplete", "indent": " " * indent}


def _may_go_on(code: str) -> bool:
    """Whether code that is whole ends in a block, which an empty line would end."""
    import ast

    last = ast.parse(code).body[-1:]
    return bool(last) and isinstance(getattr(last[0], "body", None), list) and code.splitlines()[-1][:1].isspace()


def without_sandbox(msg_type: str, content: Json) -> Json:  # noqa: PLR0911 - a table of replies
    """Return the content of the reply to a request that only a sandbox could answer with more."""
    match msg_type:
        case "complete_request":
            position = content.get("cursor_pos", 0)
            return {"status": "ok", "matches": [], "cursor_start": position, "cursor_end": position, "metadata": {}}
        case "inspect_request":
            return {"status": "ok", "found": False, "data": {}, "metadata": {}}
        case "history_request":
            return {"status": "ok", "history": []}
        case "comm_info_request":
            return {"status": "ok", "comms": {}}
        case "debug_request":
            return _debug_reply(content)
        case "usage_request":
            return usage()
    return {"status": "ok"}


def _debug_reply(content: Json) -> Json:
    command = content.get("command", "")
    reply: Json = {"type": "response", "command": command, "request_seq": content.get("seq", 0), "seq": 0}
    if command != "debugInfo":
        return {**reply, "success": False, "message": "No sandbox is running; run a cell first.", "body": {}}
    names = ("breakpoints", "stoppedThreads", "exceptionPaths")
    files = {"tmpFilePrefix": "", "tmpFileSuffix": ".py"}
    flags = {"isStarted": False, "richRendering": True, "copyToGlobals": True}
    body = {"hashMethod": "Murmur2", "hashSeed": 0, **files, **flags, **{name: [] for name in names}}
    return {**reply, "success": True, "body": body}


def error(exc: BaseException) -> Json:
    """Return the content of an `error` message: the error's name and one sentence, no traceback of ours."""
    name, text = type(exc).__name__, str(exc)
    return {"ename": name, "evalue": text, "traceback": [f"\x1b[0;31m{name}\x1b[0m: {text}"]}


def notice(text: str) -> Json:
    """Return the content of a display that says something in small print."""
    import html

    small = f'<div style="font-size: 80%; opacity: 0.6;">{html.escape(text)}</div>'
    return {"data": {"text/plain": text, "text/html": small}, "metadata": {}, "transient": {}}


def load(content: Any) -> Json:
    """Return a message's content; empty where it is none."""
    try:
        parsed = json.loads(bytes(content))
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}
