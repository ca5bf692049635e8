"""Subshells that front ends made, kept across the lives of the inner kernel, which knows them by other ids then."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from .link.protocol import Buffer
from .requests import Request

MAX_SUBSHELLS = 1000


class Subshells:
    """Translates between a front end's subshell ids and those of the inner kernel that lives now.

    Until an inner kernel dies there is nothing to translate. Afterwards each subshell is made anew, and its id is
    replaced in requests and put back in what comes for them.
    """

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        """The inner id of each subshell that a front end knows; "" while it is being made anew."""
        self._outer: dict[str, str] = {}
        """The other way round, only where they differ."""
        self._waiting: list[Request] = []

    def is_renewed_for(self, request: Request) -> bool:
        """Whether the subshell that a request is for is there; else the request is kept until it is."""
        if request.subshell is None or self._known.get(request.subshell) != "":
            return True
        self._waiting.append(request)
        return False

    def take_waiting(self) -> list[Request]:
        """Return the requests that were kept."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def on_reply(self, request: Request, content: dict[str, Any]) -> list[Request]:
        """Take the reply to a request that makes or deletes a subshell; return the requests that waited for it."""
        subshell = content.get("subshell_id")
        if request.msg_type == "create_subshell_request" and isinstance(subshell, str):
            if request.deferred:
                outer = json.loads(bytes(request.frames[3]))["sandbox_subshell"]
                self._known[outer] = subshell
                self._outer[subshell] = outer
            elif len(self._known) < MAX_SUBSHELLS:
                self._known[subshell] = subshell
        elif request.msg_type == "delete_subshell_request":
            outer = json.loads(bytes(request.frames[3])).get("subshell_id")
            self._outer.pop(self._known.pop(outer, ""), None)
        ready = [waiting for waiting in self._waiting if self._known.get(str(waiting.subshell)) != ""]
        self._waiting = [waiting for waiting in self._waiting if waiting not in ready]
        return ready

    def renewals(self) -> Iterator[Request]:
        """Yield the requests that make all subshells anew in a fresh inner kernel."""
        self._outer.clear()
        for subshell in self._known:
            self._known[subshell] = ""
            header = {"msg_id": f"subshell-{os.urandom(8).hex()}", "msg_type": "create_subshell_request"}
            header |= {"session": "sandbox", "username": "sandbox", "version": "5.4", "date": ""}
            content = {"sandbox_subshell": subshell}
            frames = [json.dumps(header).encode(), b"{}", b"{}", json.dumps(content).encode()]
            request = Request("control", [], frames, header)
            request.deferred = True
            yield request

    def translated(self, request: Request) -> list[Buffer]:
        """Return a request's frames as the inner kernel understands them."""
        frames = request.frames
        if request.subshell in self._known and self._known[request.subshell] != request.subshell:
            header = json.loads(bytes(frames[0]))
            header["subshell_id"] = self._known[request.subshell]
            return [json.dumps(header).encode(), *frames[1:]]
        if request.msg_type == "delete_subshell_request" and not request.deferred:
            content = json.loads(bytes(frames[3]))
            inner = self._known.get(content.get("subshell_id"), "")
            if inner:
                return [*frames[:3], json.dumps({**content, "subshell_id": inner}).encode(), *frames[4:]]
        return frames

    def restore(self, parent: dict[str, Any], message: list[Buffer]) -> None:
        """Put the front end's id back into the parent header of an output."""
        outer = self._outer.get(parent.get("subshell_id") or "")
        if outer is not None:
            parent["subshell_id"] = outer
            message[1] = json.dumps(parent).encode()
