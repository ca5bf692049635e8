"""`tools` and `agents` in a cell: functions that live outside the sandbox, called through the bridge.

Loaded by stub.py with the first use of either name, so that the kernel's start does not pay for it; hence it imports
nothing but the standard library. A frame is its lengths, a JSON object and bytes that belong to it (see `FRAME`).
"""

from __future__ import annotations

import asyncio
import builtins
import difflib
import html
import inspect
import itertools
import json
import os
import queue
import socket
import struct
import sys
import threading
from typing import Any

FRAME = struct.Struct("!II")
"""Bytes of the JSON object, and of what follows it."""
MAX_ARGUMENTS = 4 * 1024 * 1024
"""Bytes of one call; more is refused outside."""
LIST_TIMEOUT = 10.0
"""Seconds in which the list of the tools must have come."""
FIND_TIMEOUT = 45.0
"""Seconds in which it must be known outside whether there is a tool: an MCP server may have to start first."""
SHOWN = 100
"""Characters of a description in the table of the tools."""

TYPES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "array": "list", "object": "dict"}
RAISED = """
ArithmeticError AssertionError AttributeError BufferError ConnectionError EOFError FileExistsError FileNotFoundError
IndexError KeyError LookupError MemoryError NotImplementedError OSError OverflowError PermissionError RuntimeError
TimeoutError TypeError ValueError ZeroDivisionError
""".split()
"""Exceptions of a tool's that are raised here as such, and as a ToolError; others as a ToolError alone."""


class ToolError(Exception):
    """A call of a tool failed; the message is the tool's, or says why it was not called.

    ``error`` names what was raised outside, ``correlation_id`` names the call in the audit log.
    """

    error = ""
    correlation_id = ""

    def __str__(self) -> str:
        # Not as KeyError shows its message.
        return str(self.args[0]) if self.args else ""


class UnknownToolError(ToolError, AttributeError, LookupError):
    """No tool of that name may be used here."""


class ToolDeniedError(ToolError):
    """The configuration, or the person who was asked, does not allow the call."""


class ToolArgumentsError(ToolError, ValueError):
    """The arguments are not what the tool's schema describes."""


class ToolTimeoutError(ToolError, TimeoutError):
    """The tool took longer than it may."""


OWN = {kind.__name__: kind for kind in (UnknownToolError, ToolDeniedError, ToolArgumentsError, ToolTimeoutError)}


class Progress:
    """How far a call has come: ``fraction`` from 0 to 1, or None where nobody knows, and a ``message``."""

    def __init__(self, fraction: float | None, message: str) -> None:
        self.fraction = fraction
        self.message = message

    def __repr__(self) -> str:
        share = "" if self.fraction is None else f"{self.fraction:4.0%} "
        return f"{share}{self.message}"


# ---- the way out


class Call:
    """One request under way. What is said of it goes to ``take``, on the connection's thread."""

    def __init__(self, number: int, take: Any) -> None:
        self.number = number
        self.take = take


class Connection:
    """The socket to the bridge, with a thread that reads and one that writes: an interrupt cuts no frame in two."""

    def __init__(self, address: str) -> None:
        self.process = os.getpid()
        self.closed = False
        self.codec: dict[str, Any] = {}
        self._calls: dict[int, Call] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._leaving: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(address)
        for work in (self._read, self._write):
            threading.Thread(target=work, name="sandbox-tools", daemon=True).start()

    def begin(self, request: dict[str, Any], take: Any) -> Call:
        """Send a request; ``take`` is called with each answer (a dict) and its data, and with None at the end."""
        call = Call(next(self._numbers), take)
        # Before it is remembered: a request that cannot be written has no answer.
        # Its number first: there it is found also if the rest cannot be read outside.
        frame = _frame({"id": call.number, **request})
        with self._lock:
            lost = self.closed
            self._calls[call.number] = call
        if lost:
            self._lose(call)
        else:
            self._leaving.put(frame)
        return call

    def cancel(self, call: Call) -> None:
        """Let go of a request."""
        if self._calls.pop(call.number, None) is not None:
            self._leaving.put(_frame({"do": "cancel", "id": call.number}))

    def _write(self) -> None:
        try:
            while (frame := self._leaving.get()) is not None:
                self._socket.sendall(frame)
        except OSError:
            self._end()

    def _read(self) -> None:
        try:
            while True:
                sizes = FRAME.unpack(self._receive(FRAME.size))
                said = json.loads(self._receive(sizes[0]))
                self._on_answer(said, self._receive(sizes[1]))
        except (OSError, EOFError):
            self._end()

    def _receive(self, size: int) -> bytearray:
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            count = self._socket.recv_into(rest)
            if not count:
                raise EOFError
            rest = rest[count:]
        return data

    def _on_answer(self, said: dict[str, Any], data: bytearray) -> None:
        last = said["do"] != "progress"
        call = self._calls.pop(said["id"], None) if last else self._calls.get(said["id"])
        if call is not None:
            call.take(said, data)

    def _end(self) -> None:
        self._socket.close()
        self._leaving.put(None)
        with self._lock:
            self.closed = True
            calls = list(self._calls.values())
            self._calls.clear()
        for call in calls:
            self._lose(call)

    def _lose(self, call: Call) -> None:
        call.take({"do": "error", "error": "ToolError", "message": "the way out of the sandbox was closed"}, b"")


def _frame(request: dict[str, Any]) -> bytes:
    data = json.dumps(request, allow_nan=False, separators=(",", ":")).encode()
    if len(data) > MAX_ARGUMENTS:
        raise ToolArgumentsError(f"the arguments are {len(data)} bytes, and at most {MAX_ARGUMENTS} travel in a call")
    return FRAME.pack(len(data), 0) + data


def _is_inspected() -> bool:
    """Whether a debugger looks at a variable, and not a cell."""
    frame = inspect.currentframe() if "pydevd" in sys.modules else None
    while frame is not None:
        if os.path.basename(frame.f_code.co_filename).startswith("pydevd"):
            return True
        frame = frame.f_back
    return False


class Outside:
    """What there is outside, as this process knows it. All names share it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._listed: dict[str, dict[str, dict[str, Any]]] | None = None
        self._version: object = None
        self.missing: list[str] = []
        """What is configured and not there, as of the last list."""
        # A child has neither the threads nor the right to read this process's answers.
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._connection, self._lock = None, threading.Lock()

    def connection(self) -> Connection:
        """Return the connection, a new one where the last was closed."""
        with self._lock:
            if self._connection is None or self._connection.closed:
                try:
                    self._connection = Connection(self._address)
                except OSError as exc:
                    raise ToolError(f"tools cannot be reached from here: {exc}") from None
            return self._connection

    def listed(self, kind: str, name: object = "", *, fresh: bool = False) -> dict[str, dict[str, Any]]:
        """Return what may be used, by name. Sources that are not there yet are waited for if NAME may be theirs."""
        if _is_inspected():
            # Threads are stopped at a breakpoint, and nobody would take the answer.
            return {}
        if fresh or self._listed is None:
            wanted = {"kind": kind, "name": name} if isinstance(name, str) and name else {}
            said, data = self._ask({"do": "list", "codec": not self.connection().codec, **wanted})
            self.missing = said["missing"]
            self._listed = {key: {one["name"]: one for one in said[key]} for key in ("tool", "agent")}
            self._version = said["version"]
            if data:
                _load_codec(self.connection().codec, data)
        return self._listed[kind]

    @property
    def absence(self) -> str:
        """What is configured and not there, as a sentence after another one; "" where that is nothing."""
        return f" Not there: {', '.join(self.missing)}; `%sandbox tools` says why." if self.missing else ""

    def heard(self, said: dict[str, Any]) -> None:
        """Take notice of the version of the list that an answer names."""
        if said.get("version") != self._version:
            self._listed = None

    def value(self, said: dict[str, Any], data: Any) -> Any:
        """Return the value that an answer carries."""
        header = said["value"]
        if header["kind"] == "bytes":
            return bytes(data)
        if header["kind"] == "text":
            return data.decode("utf-8", "surrogatepass")
        codec = self.connection().codec
        if not codec:
            self.listed("tool", fresh=True)
            codec = self.connection().codec
        return codec["decode"](header, [data])

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        answers: queue.SimpleQueue[tuple[dict[str, Any], Any]] = queue.SimpleQueue()
        connection = self.connection()
        timeout = FIND_TIMEOUT if "name" in request else LIST_TIMEOUT
        call = connection.begin(request, lambda *answer: answers.put(answer))
        try:
            said, data = answers.get(timeout=timeout)
        except queue.Empty:
            raise ToolError(f"nobody outside the sandbox said within {timeout:g} s which tools there are") from None
        finally:
            connection.cancel(call)
        if said["do"] == "error":
            raise _error(said)
        return said, data


def _load_codec(codec: dict[str, Any], source: Any) -> None:
    exec(compile(bytes(source), "<sandbox values>", "exec"), codec)  # noqa: S102 - from the kernel process
    codec["WHERE"] = "in the sandbox's environment"


def _error(said: dict[str, Any]) -> ToolError:
    name, message = str(said.get("error", "")), str(said.get("message", ""))
    kind: Any = OWN.get(name, ToolError)
    if name in RAISED:
        kind = type(name, (ToolError, getattr(builtins, name)), {"__module__": "builtins"})
    error: ToolError = kind(message)
    error.error, error.correlation_id = name, str(said.get("correlation_id", ""))
    return error


# ---- tools


class Tool:
    """One tool: `run(…)` waits for its value, `await arun(…)` does so in a coroutine, `stream(…)` tells of progress."""

    def __init__(self, outside: Outside, kind: str, info: dict[str, Any], options: dict[str, Any]) -> None:
        self._outside, self._kind, self._info, self._options = outside, kind, info, options
        self.name: str = info["name"]
        self.input_schema: dict[str, Any] = info["input_schema"]
        self.__doc__ = describe(info)
        self.__signature__ = signature(info["input_schema"])
        for method in (self.run, self.arun, self.stream):
            # Of this object's own, so that each shows its tool's parameters.
            setattr(self, method.__name__, Method(method, self.__doc__, self.__signature__))

    def __call__(self, /, **arguments: Any) -> Any:
        return self.run(**arguments)

    def __repr__(self) -> str:
        return f"<{self._kind} {self.name}{self.__signature__}>"

    def options(
        self, *, timeout: float | None = None, context: dict[str, Any] | None = None, progress: Any = ""
    ) -> Tool:
        """Return the same tool with other settings for its calls.

        ``timeout`` in seconds, never more than the configuration allows; ``context`` are variables that the tool sees;
        ``progress`` is called with each `Progress`, None hides it, by default it is displayed.
        """
        if timeout is not None and not (isinstance(timeout, (int, float)) and 0 < timeout < float("inf")):
            raise ToolArgumentsError(f"timeout is a number of seconds greater than 0, not {timeout!r}")
        chosen = {"timeout": timeout, "context": context}
        kept = {name: value for name, value in chosen.items() if value is not None}
        options = {**self._options, **kept, **({} if progress == "" else {"progress": progress})}
        return Tool(self._outside, self._kind, self._info, options)

    def run(self, /, **arguments: Any) -> Any:
        """Call the tool and return its value."""
        __tracebackhide__ = True
        show = self._options.get("progress", show_progress())
        for item in self._answers(arguments):
            if not isinstance(item, Progress):
                return item[0]
            if show is not None:
                show(item)
        raise AssertionError("a call ends with its value")

    def stream(self, /, **arguments: Any) -> Any:
        """Call the tool; iterate over its `Progress`, and over its value at the end."""
        __tracebackhide__ = True
        for item in self._answers(arguments):
            yield item if isinstance(item, Progress) else item[0]

    def _answers(self, arguments: dict[str, Any]) -> Any:
        __tracebackhide__ = True
        answers: queue.SimpleQueue[tuple[dict[str, Any], Any]] = queue.SimpleQueue()
        connection = self._outside.connection()
        call = connection.begin(self._request(arguments), lambda *answer: answers.put(answer))
        try:
            while True:
                said, data = answers.get()
                item = self._item(said, data)
                yield item
                if not isinstance(item, Progress):
                    return
        finally:
            connection.cancel(call)

    async def arun(self, /, **arguments: Any) -> Any:
        """Call the tool and return its value, other tasks going on meanwhile."""
        __tracebackhide__ = True
        loop = asyncio.get_running_loop()
        answers: asyncio.Queue[tuple[dict[str, Any], Any]] = asyncio.Queue()

        def take(*answer: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(answers.put_nowait, answer)

        connection = self._outside.connection()
        show = self._options.get("progress", show_progress())
        call = connection.begin(self._request(arguments), take)
        try:
            while True:
                item = self._item(*await answers.get())
                if not isinstance(item, Progress):
                    return item[0]
                if show is not None:
                    show(item)
        finally:
            connection.cancel(call)

    def _request(self, arguments: dict[str, Any]) -> dict[str, Any]:
        settings = {name: value for name, value in self._options.items() if name != "progress"}
        try:
            json.dumps(arguments, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as exc:
            raise ToolArgumentsError(f"the arguments of a tool are what JSON holds: {exc}") from None
        try:
            json.dumps(settings, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as exc:
            raise ToolArgumentsError(f"the context of a call is what JSON holds: {exc}") from None
        call = {"do": "call", "kind": self._kind, "name": self.name, "arguments": arguments, "cell": cell_id()}
        return {**call, **settings}

    def _item(self, said: dict[str, Any], data: Any) -> Any:
        """Return a Progress, or a tuple of one value. Raises what the tool raised."""
        __tracebackhide__ = True
        if said["do"] == "progress":
            return Progress(said["fraction"], said["message"])
        self._outside.heard(said)
        if said["do"] == "error":
            raise _error(said)
        return (self._outside.value(said, data),)


class Method:
    """A method of one tool, with the parameters and the text of that tool."""

    def __init__(self, function: Any, doc: str, shown: inspect.Signature) -> None:
        self._function = function
        self.__doc__ = doc
        self.__name__ = function.__name__
        self.__signature__ = shown

    def __call__(self, /, **arguments: Any) -> Any:
        __tracebackhide__ = True
        return self._function(**arguments)


class Names:
    """The tools, or the agents, that may be used: ``tools.NAME`` or ``tools["NAME"]``; iterating gives their names."""

    ToolError = ToolError
    UnknownToolError = UnknownToolError
    ToolDeniedError = ToolDeniedError
    ToolArgumentsError = ToolArgumentsError
    ToolTimeoutError = ToolTimeoutError
    Progress = Progress

    def __init__(self, outside: Outside, kind: str) -> None:
        self._outside, self._kind = outside, kind

    def __getitem__(self, name: str) -> Tool:
        listed = self._outside.listed(self._kind, name)
        if name not in listed:
            listed = self._outside.listed(self._kind, name, fresh=True)
        if name not in listed:
            near = difflib.get_close_matches(str(name), listed, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(listed) or 'none'}."
            hint += self._outside.absence
            raise UnknownToolError(f"there is no {self._kind} {str(name)[:80]!r} that may be used here; {hint}")
        return Tool(self._outside, self._kind, listed[name], {})

    def __getattr__(self, name: str) -> Tool:
        # What Python and IPython look for is no tool's name.
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __iter__(self) -> Any:
        return iter(self._outside.listed(self._kind, fresh=True))

    def __len__(self) -> int:
        return len(self._outside.listed(self._kind, fresh=True))

    def __contains__(self, name: object) -> bool:
        return name in self._outside.listed(self._kind, fresh=True)

    def __dir__(self) -> list[str]:
        own = [name for name in vars(Names) if not name.startswith("_")]
        return [*(name for name in self if name.isidentifier()), *own]

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def __repr__(self) -> str:
        rows = self._rows()
        if not rows:
            return f"no {self._kind}s may be used here{self._outside.absence}"
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ("  ".join(f"{text:{width}}" for text, width in zip(row, widths)) for row in rows)  # noqa: B905 - as long
        return "\n".join([*(line.rstrip() for line in lines), *filter(None, [self._outside.absence.strip()])])

    def _repr_html_(self) -> str:
        rows = self._rows()
        absence = html.escape(self._outside.absence)
        if not rows:
            return f"<p>no {self._kind}s may be used here{absence}</p>"
        cells = ["".join(f"<td>{html.escape(text)}</td>" for text in row) for row in rows]
        heads = "".join(f"<th>{text}</th>" for text in (self._kind, "arguments", "calls", "what it does"))
        return (
            f"<table><thead><tr>{heads}</tr></thead><tbody><tr>{'</tr><tr>'.join(cells)}</tr></tbody></table>{absence}"
        )

    def _rows(self) -> list[tuple[str, ...]]:
        listed = self._outside.listed(self._kind, fresh=True)
        return [
            (name, str(signature(info["input_schema"])), info["policy"], info["description"].partition("\n")[0][:SHOWN])
            for name, info in listed.items()
        ]


def make(address: str) -> dict[str, Names]:
    """Return what the names in a cell stand for; ``address`` is the bridge's socket."""
    outside = Outside(address)
    return {"tools": Names(outside, "tool"), "agents": Names(outside, "agent")}


# ---- how they look


def signature(schema: dict[str, Any]) -> inspect.Signature:
    """Return the parameters that a schema describes, those that are needed first."""
    needed = set(schema.get("required") or ())
    found = []
    for name, one in (schema.get("properties") or {}).items():
        if not name.isidentifier():
            continue
        default = inspect.Parameter.empty if name in needed else one.get("default") if isinstance(one, dict) else None
        found.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Shown(one)))
    return inspect.Signature(sorted(found, key=lambda one: one.name not in needed))


class Shown:
    """A type as a signature shows it."""

    def __init__(self, schema: Any) -> None:
        self._text = type_text(schema)

    def __repr__(self) -> str:
        return self._text


def type_text(schema: Any) -> str:
    """Return a JSON schema's type in Python's words."""
    if not isinstance(schema, dict):
        return "Any"
    if "enum" in schema:
        return " | ".join(repr(value) for value in schema["enum"])
    kinds = schema.get("anyOf") or schema.get("oneOf")
    if kinds:
        return " | ".join(dict.fromkeys(type_text(kind) for kind in kinds))
    kind = schema.get("type", "")
    names = kind if isinstance(kind, list) else [kind]
    text = " | ".join("None" if name == "null" else TYPES.get(name, "Any") for name in names)
    return f"list[{type_text(schema['items'])}]" if text == "list" and "items" in schema else text


def describe(info: dict[str, Any]) -> str:
    """Return a tool's text: what it does, and what its parameters are."""
    lines = [info["description"]]
    for name, one in (info["input_schema"].get("properties") or {}).items():
        said = one.get("description", "") if isinstance(one, dict) else ""
        lines.append(f"    {name}: {type_text(one)}" + (f" - {said}" if said else ""))
    return "\n".join(lines)


def show_progress() -> Any:
    """Return what displays progress in the cell, one line that changes; None where nothing can be displayed."""
    display: Any = getattr(sys.modules.get("IPython.display"), "display", None)
    handle: list[Any] = []

    def show(progress: Progress) -> None:
        data = {"text/plain": repr(progress)}
        if handle:
            handle[0].update(data, raw=True)
        else:
            handle.append(display(data, raw=True, display_id=True))

    return show if display is not None else None


def cell_id() -> str:
    """Return the id of the request that runs, under whose name the kernel process knows the cell."""
    try:
        shell: Any = sys.modules["IPython"].get_ipython()  # type: ignore[attr-defined, unused-ignore]
        return str(shell.get_parent()["header"]["msg_id"])
    except (AttributeError, KeyError, TypeError):
        # Another process, or a thread that belongs to no cell.
        return ""
