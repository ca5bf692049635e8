"""The guard: one policy, read from the configuration, and what it does with each message of a sandbox."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from traitlets import Bool, Dict, Integer, List, TraitError, Unicode, validate
from traitlets.config import Config
from traitlets.config.configurable import Configurable

from sandbox_kernel.errors import ConfigurationError, InvocationError
from sandbox_kernel.link.protocol import Buffer

from . import messages
from .bounds import Cell, Cells, Limits
from .json_text import Json, RefusedError, dump, parse

if TYPE_CHECKING:
    from .bundles import BundleGuard, Cleaned
    from .replies import ReplyGuard
    from .widgets import CommGuard

DISPLAYS = frozenset({"display_data", "update_display_data", "execute_result"})
COMMS = frozenset({"comm_open", "comm_msg", "comm_close"})
BUNDLE_REPLIES = frozenset({"execute_request", "inspect_request", "debug_request", "is_complete_request"})
"""Requests whose replies hold something to be cleaned."""
BROKEN = (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError)
"""What reading a hostile message may raise."""
MAX_TRANSIENT = 4096
_HOST = re.compile(r"(?:https?://)?[\w*.-]+(?::\d+)?(?:/[\w./@%+-]*)?")

OnNotice = Callable[[str, Json], None]
"""Called with a sentence for people and the parent header of the message that it is about."""


class Guard(Configurable):
    """Decides what may leave a sandbox. It belongs to one session; everything in it is set by the configuration."""

    trusted_output = Bool(
        False,
        config=True,
        help="Whether output of the sandbox may act in the front end as the user: nothing is checked or changed then.",
    )
    widget_modules = List(
        Unicode(),
        ["@jupyter-widgets/base", "@jupyter-widgets/controls", "@jupyter-widgets/output"],
        config=True,
        help="Front-end modules whose widgets may be shown. The state of those that are added is not cleaned.",
    )
    comm_targets = List(
        Unicode(), ["jupyter.widget", "jupyter.widget.control"], config=True, help="Comm targets that may be opened."
    )
    mime_types = List(
        Unicode(), config=True, help="MIME types that pass unchanged in addition to those that the guard knows."
    )
    script_hosts = List(
        Unicode(),
        config=True,
        help="Hosts, such as https://cdn.plot.ly, from which framed outputs may load scripts. "
        "An address that is loaded can carry data out of the sandbox.",
    )
    framed_scripts = Bool(
        True,
        config=True,
        help="Whether scripts of outputs run in their frames. They can send nothing. But where one tries to leave its "
        "frame, Chromium looks up the host's name and connects to it, and a name can carry data out of the sandbox.",
    )
    max_message_size = Integer(256_000_000, config=True, help="Bytes of one message; larger ones are dropped. 0: any.")
    max_cell_output = Integer(
        1_000_000_000, config=True, help="Bytes of all messages of one cell; what follows is dropped. 0: any."
    )
    max_message_rate = Integer(
        50_000, config=True, help="Messages of one cell in a second; those beyond are dropped. 0: any."
    )
    providers = Dict(
        key_trait=Unicode(),
        value_trait=Dict(key_trait=Unicode()),
        config=True,
        help='Options that differ by provider, such as {"e2b": {"trusted_output": True}}.',
    )

    def __init__(self, provider: str = "", *, config: Config | None = None, **options: Any) -> None:
        """``options`` are traits. Raises ConfigurationError where the options for the provider are wrong."""
        super().__init__(config=config, **options)
        self._apply(self.providers.get(provider, {}), provider)
        self.dropped = 0
        """Messages that were broken, forged or forbidden."""
        self.on_notice: OnNotice = lambda text, parent: None
        self._cells = Cells()
        self._limits = Limits(self.max_message_size, self.max_cell_output, self.max_message_rate)

    def _apply(self, options: Mapping[str, object], provider: str) -> None:
        known = self.class_traits(config=True).keys() - {"providers"}
        for name, value in options.items():
            if name not in known:
                raise ConfigurationError(f"Guard.providers[{provider!r}]: there is no option {name}.")
            try:
                setattr(self, name, value)
            except TraitError as exc:
                raise ConfigurationError(f"Guard.providers[{provider!r}]: {exc}") from exc

    @validate("script_hosts")
    def _valid_hosts(self, proposal: Mapping[str, Any]) -> list[str]:
        hosts: list[str] = proposal["value"]
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise TraitError(f"Guard.script_hosts: {host!r} is no host, such as https://cdn.plot.ly")
        return hosts

    @property
    def description(self) -> str:
        """The policy in a few words, for `%sandbox status`."""
        if self.trusted_output:
            return "off: output is trusted"
        added = [
            f"{name}: {', '.join(values)}"
            for name, values in (
                ("widgets", [one for one in self.widget_modules if not one.startswith("@jupyter-widgets/")]),
                ("comms", [one for one in self.comm_targets if not one.startswith("jupyter.widget")]),
                ("MIME types", self.mime_types),
                ("scripts from", self.script_hosts),
            )
            if values
        ]
        scripts = "on" if self.framed_scripts else "on, without scripts in frames"
        return f"{scripts}; also allowed: {'; '.join(added)}" if added else scripts

    @property
    def largest(self) -> int:
        """Bytes that a message may have at most; 0 for any number."""
        return 0 if self.trusted_output else self.max_message_size

    # ---- the parts, made when they are needed

    @cached_property
    def _bundles(self) -> BundleGuard:
        from .bundles import BundleGuard

        return BundleGuard(self.mime_types, self.script_hosts if self.framed_scripts else None)

    @cached_property
    def _replies(self) -> ReplyGuard:
        from .replies import ReplyGuard

        return ReplyGuard(self._bundles)

    @cached_property
    def _comms(self) -> CommGuard:
        from .widgets import CommGuard

        return CommGuard(self.widget_modules, self.comm_targets, self._bundles)

    # ---- messages

    def output(self, message: list[Buffer], header: Json, parent: Json) -> list[Buffer] | None:
        """Check a message of iopub: [header, parent header, metadata, content, buffers …], the first two also parsed.

        Return what may pass, the same list if nothing was changed, or None. Never raises.
        """
        if self.trusted_output:
            return message
        try:
            return self._checked_output(message, header, parent)
        except BROKEN:
            self.dropped += 1
            return None

    def excess(self, size: int, parts: Sequence[Buffer]) -> None:
        """Tell of an output of ``size`` bytes that was dropped before it was here; ``parts`` are its first two."""
        try:
            header, parent = parse(parts[0]).content, parse(parts[1]).content
            messages.check_header(header, parts[0])
            messages.check_parent(parent, parts[1])
        except BROKEN:
            pass
        else:
            cell = self._cells.of(str(parent.get("msg_id", "")))
            self._note(cell, cell.excess(size, self._limits), parent)
        self.dropped += 1

    def too_large(self, size: int) -> InvocationError:
        """Return the error of a request whose reply, of ``size`` bytes, was dropped before it was here."""
        return InvocationError(
            f"The sandbox's answer was dropped: its {size} bytes are more than {self.largest} (Guard.max_message_size)."
        )

    def _checked_output(self, message: list[Buffer], header: Json, parent: Json) -> list[Buffer] | None:
        msg_type = header["msg_type"]
        if msg_type not in messages.OUTPUTS or len(message) < 4:
            raise RefusedError("no message of a kernel")
        messages.check_header(header, message[0])
        messages.check_parent(parent, message[1])
        messages.check_metadata(message[2])
        cell = self._cells.of(str(parent.get("msg_id", "")))
        if msg_type != "status":
            excess = cell.excess(sum(map(len, message)), self._limits)
            if excess:
                self.dropped += 1
                self._note(cell, excess, parent)
                return None
        if msg_type in DISPLAYS:
            return self._checked_display(message, msg_type, cell)
        if msg_type in COMMS:
            return self._checked_comm(message, msg_type, cell, parent)
        messages.CHECKS[msg_type](message[3])
        return message

    def _checked_display(self, message: list[Buffer], msg_type: str, cell: Cell) -> list[Buffer]:
        parsed = messages.parse_display(message[3])
        content = parsed.content
        _check_display(content, msg_type)
        cleaned = self._bundles.clean(content.get("data"), content.get("metadata", {}))
        if not cleaned.changed and parsed.exact:
            return message
        if len(message[3]) >= messages.BIG:
            # Images were left out when it was read.
            content = parse(message[3]).content
            cleaned = self._bundles.clean(content.get("data"), content.get("metadata", {}))
        self._add_note(cleaned, cell)
        content["data"], content["metadata"] = cleaned.data, cleaned.metadata
        return [*message[:3], dump(content), *message[4:]]

    def _add_note(self, cleaned: Cleaned, cell: Cell) -> None:
        from .bundles import add_note

        new = [note for note in cleaned.notes if note not in cell.noted]
        cell.noted.update(new)
        # An output of which nothing is left says why, each time.
        cleaned.notes = new if cleaned.data else cleaned.notes
        if cleaned.notes:
            add_note(cleaned)

    def _checked_comm(self, message: list[Buffer], msg_type: str, cell: Cell, parent: Json) -> list[Buffer] | None:
        from .widgets import RefusedCommError

        parsed = parse(message[3])
        content = parsed.content
        buffers = len(message) - 4

        def note(text: str) -> None:
            self._note(cell, text, parent)

        try:
            if msg_type == "comm_open":
                changed = self._comms.open(content, buffers, note)
            elif msg_type == "comm_msg":
                changed = self._comms.message(content, buffers, note)
            else:
                changed = self._comms.close(content)
        except RefusedCommError as exc:
            note(str(exc))
            raise
        if not changed and parsed.exact:
            return message
        return [*message[:3], dump(content), *message[4:]]

    def reply(self, msg_type: str, request_header: Buffer, message: list[Buffer]) -> list[Buffer] | None:
        """Check a reply to a request of that type; None if it is no such reply. Never raises."""
        if self.trusted_output:
            return message
        try:
            return self._checked_reply(msg_type, request_header, message)
        except BROKEN:
            self.dropped += 1
            return None

    def _checked_reply(self, msg_type: str, request_header: Buffer, message: list[Buffer]) -> list[Buffer]:
        header = parse(message[0]).content
        messages.check_header(header, message[0])
        if header["msg_type"] != msg_type.removesuffix("_request") + "_reply":
            raise RefusedError("the reply to another request")
        messages.check_metadata(message[2])
        checked = [message[0], request_header, *message[2:]]
        if self._limits.message and sum(map(len, message)) > self._limits.message:
            raise RefusedError("too large")
        parsed = parse(message[3])
        if msg_type not in BUNDLE_REPLIES:
            return checked
        content = parsed.content
        notes = self._replies.clean(msg_type, content) if _holds_something(content) else None
        if notes is not None or not parsed.exact:
            checked[3] = dump(content)
        return checked

    def question(self, request_header: Buffer, message: list[Buffer]) -> list[Buffer] | None:
        """Check a message of the stdin channel, which may only be a question. Never raises."""
        if self.trusted_output:
            return message
        try:
            header = parse(message[0]).content
            messages.check_header(header, message[0])
            if header["msg_type"] != "input_request":
                raise RefusedError("no question")
            return [message[0], request_header, b"{}", dump(messages.check_input_request(message[3]))]
        except BROKEN:
            self.dropped += 1
            return None

    def message(self, message: Json, buffers: int = 0) -> Json | None:
        """Check an iopub message as jupyter_client's dictionaries have it; return what may pass. Never raises."""
        frames: list[Buffer] = [
            dump({key: str(value) for key, value in message["header"].items() if value is not None}),
            dump({key: str(value) for key, value in message.get("parent_header", {}).items() if value is not None}),
            dump(message.get("metadata", {})),
            dump(message["content"]),
            *([b""] * max(buffers, len(message.get("buffers") or ()))),
        ]
        checked = self.output(frames, message["header"] | parse(frames[0]).content, parse(frames[1]).content)
        if checked is None:
            return None
        return message if checked is frames else {**message, "content": parse(checked[3]).content}

    def bundle(self, data: Json, metadata: Json | None = None) -> tuple[Json, Json]:
        """Return what may be shown of a MIME bundle, with a note if it was changed. Raises ValueError if it is none."""
        if self.trusted_output:
            return data, metadata or {}
        cleaned = self._bundles.clean(data, metadata or {})
        self._add_note(cleaned, Cell())
        return cleaned.data, cleaned.metadata

    def _note(self, cell: Cell, text: str, parent: Json) -> None:
        """Tell people, once per cell."""
        if text not in cell.noted:
            cell.noted.add(text)
            self.on_notice(f"sandbox: {text}", parent)


def _check_display(content: Json, msg_type: str) -> None:
    transient = content.get("transient", {})
    if type(transient) is not dict or len(transient) > 10:
        raise RefusedError("no display")
    display_id = transient.get("display_id", "")
    if type(display_id) is not str or len(display_id) > MAX_TRANSIENT:
        raise RefusedError("no display id")
    if msg_type == "execute_result" and type(content.get("execution_count")) is not int:
        raise RefusedError("no result")


def _holds_something(content: Json) -> bool:
    """Whether a reply has a part that the guard looks into; most have none."""
    return any(content.get(key) for key in ("payload", "user_expressions", "data", "body", "indent"))
