"""A cell that is debugged."""

from __future__ import annotations

import re

from tests.functional.vscode.client import (
    JsonObject,
    VSCodeClient,
)

from .steps import reply_status

DEBUGGED_CELL = """
def double(number):
    result = number * 2
    return result
debugged_sum = 1
debugged_sum += double(20)
debugged_sum += 1
print(debugged_sum)
""".strip()


def start_debugging(client: VSCodeClient, code: str, line: int) -> str:
    """Attach the debugger and set one breakpoint in a cell; return the path under which the cell was dumped."""
    client.debug("initialize", {"clientID": "vscode", "adapterID": "Python Kernel Debug Adapter", "pathFormat": "path"})
    client.debug("attach", {"justMyCode": True})
    path = str(client.debug("dumpCell", {"code": code})["sourcePath"])
    source = {"source": {"path": path}, "breakpoints": [{"line": line}], "sourceModified": False}
    (breakpoint_set,) = client.debug("setBreakpoints", source)["breakpoints"]
    assert (breakpoint_set["verified"], breakpoint_set["line"]) == (True, line)
    client.debug("configurationDone")
    assert reply_status(client.execute("import debugpy\ndebugpy.debug_this_thread()", hidden=True)) == "ok"
    return path


def wait_for_stop(client: VSCodeClient, count: int) -> int:
    """Wait for the n-th stopped event of the session; return the thread that stopped."""
    client.wait_until(lambda: len(client.debug_events("stopped")) >= count, f"stopped event {count}")
    return int(client.debug_events("stopped")[-1]["body"]["threadId"])


def top_frame(client: VSCodeClient, thread_id: int) -> JsonObject:
    frame: JsonObject = client.debug("stackTrace", {"threadId": thread_id})["stackFrames"][0]
    return frame


def variables_of(client: VSCodeClient, frame: JsonObject) -> dict[str, str]:
    """Read the innermost scope of a frame: names and values."""
    scope = client.debug("scopes", {"frameId": frame["id"]})["scopes"][0]
    listed = client.debug("variables", {"variablesReference": scope["variablesReference"]})["variables"]
    return {variable["name"]: variable["value"] for variable in listed}


def test_ipykernel_where_the_cells_run_is_new_enough_for_the_debugger(vscode: VSCodeClient) -> None:
    asked = vscode.execute("import ipykernel as _vscode_ik; print(_vscode_ik.__version__); del _vscode_ik", hidden=True)
    version = re.fullmatch(r"(\d+)\.\d+\.\d+", asked.stream().strip())
    assert version is not None
    assert int(version[1]) >= 6


def test_cell_is_debugged_from_breakpoint_to_end(debugged: VSCodeClient) -> None:
    stops = len(debugged.debug_events("stopped"))
    path = start_debugging(debugged, DEBUGGED_CELL, line=5)
    running = debugged.send_execute(DEBUGGED_CELL)

    thread_id = wait_for_stop(debugged, stops + 1)
    frame = top_frame(debugged, thread_id)
    assert (frame["source"]["path"], frame["line"]) == (path, 5)
    assert variables_of(debugged, frame)["debugged_sum"] == "1"
    # The shell stands still; control must not.
    assert debugged.request("control", "kernel_info_request")["status"] == "ok"
    assert not running.replies

    debugged.debug("stepIn", {"threadId": thread_id})
    inside = top_frame(debugged, wait_for_stop(debugged, stops + 2))
    assert inside["name"] == "double"
    assert variables_of(debugged, inside)["number"] == "20"

    debugged.debug("continue", {"threadId": thread_id})
    assert debugged.wait_done(running).stream() == "42\n"
    end_debugging(debugged, path)
    assert debugged.execute(DEBUGGED_CELL).stream() == "42\n"
    assert len(debugged.debug_events("stopped")) == stops + 2


def end_debugging(client: VSCodeClient, path: str) -> None:
    """Disconnect and remove the dumped cell, as the extension does at the end of a session."""
    client.debug("disconnect", {"restart": False, "terminateDebuggee": False})
    removed = client.execute(f"import os as _vscode_os; _vscode_os.remove({path!r}); del _vscode_os", hidden=True)
    assert reply_status(removed) == "ok"


def test_second_debugging_session_of_the_same_kernel_stops_again(debugged: VSCodeClient) -> None:
    code = "counted = 5\ncounted += 1"
    for _ in range(2):
        stops = len(debugged.debug_events("stopped"))
        path = start_debugging(debugged, code, line=2)
        running = debugged.send_execute(code)
        thread_id = wait_for_stop(debugged, stops + 1)
        assert top_frame(debugged, thread_id)["line"] == 2
        debugged.debug("continue", {"threadId": thread_id})
        debugged.wait_done(running)
        end_debugging(debugged, path)
