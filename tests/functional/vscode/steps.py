"""What the steps share."""

from __future__ import annotations

import itertools

from tests.functional.vscode.client import (
    JsonObject,
    Request,
    VSCodeClient,
)


def reply_status(request: Request) -> str:
    return str(request.reply["status"])


def bundle(request: Request, mime: str) -> object:
    """Return the one value of a MIME type that a cell has shown."""
    (value,) = [shown[mime] for shown in request.shown if mime in shown]
    return value


def started_loop(client: VSCodeClient, code: str) -> Request:
    """Send a cell that announces itself and goes on, and wait for the announcement."""
    running = client.send_execute(f"print('running', flush=True)\n{code}")
    client.wait_until(lambda: "running" in running.stream(), "start of the cell")
    return running


def assert_idle_comes_last(request: Request) -> None:
    kinds = [msg.type for msg in request.published]
    states = [msg.content["execution_state"] for msg in request.published if msg.type == "status"]
    assert states == ["busy", "idle"]
    assert (kinds[0], kinds[-1]) == ("status", "status")


def error_of(request: Request) -> JsonObject:
    """Return the one error that a cell shows, which has to be that of its reply."""
    (error,) = [msg.content for msg in request.outputs if msg.type == "error"]
    assert reply_status(request) == "error"
    assert (error["ename"], error["evalue"]) == (request.reply["ename"], request.reply["evalue"])
    return error


background_numbers = itertools.count(1)
