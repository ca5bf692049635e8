"""Cells as the extension runs them: outputs, questions, errors, widgets."""

from __future__ import annotations

import textwrap

import pytest

from tests.functional.vscode.client import (
    ANSI,
    INTERRUPT_TIMEOUT,
    JsonObject,
    VSCodeClient,
)

from .steps import assert_idle_comes_last, bundle, error_of, reply_status, started_loop


def test_outputs_of_a_cell_come_before_its_idle_status(vscode: VSCodeClient) -> None:
    code = """
    import sys
    from IPython.display import display
    print("to stdout"); print("to stderr", file=sys.stderr)
    display({"text/plain": "a picture", "image/png": "iVBORw0KGgo="}, raw=True)
    1 + 1
    """
    cell = vscode.execute(textwrap.dedent(code))
    assert_idle_comes_last(cell)
    assert (cell.stream(), cell.stream("stderr")) == ("to stdout\n", "to stderr\n")
    assert bundle(cell, "image/png") == "iVBORw0KGgo="
    (result,) = [msg.content for msg in cell.outputs if msg.type == "execute_result"]
    assert result["data"] == {"text/plain": "2"}
    assert result["execution_count"] == cell.reply["execution_count"]


def test_display_of_an_earlier_cell_is_updated_by_a_later_one(vscode: VSCodeClient) -> None:
    first = vscode.execute("from IPython.display import display\nshown = display('old', display_id=True)")
    second = vscode.execute("shown.update('new')")
    (displayed,), (update,) = first.outputs, second.outputs
    assert update.type == "update_display_data"
    assert update.content["data"]["text/plain"] == "'new'"
    assert update.content["transient"] == displayed.content["transient"]


def test_failed_cell_does_not_abort_the_cells_queued_behind_it(vscode: VSCodeClient) -> None:
    failing = vscode.send_execute("import time; time.sleep(0.2); 1 / 0")
    following = vscode.send_execute("print('still runs')")
    assert reply_status(vscode.wait_done(failing)) == "error"
    assert vscode.wait_done(following).stream() == "still runs\n"


def test_late_output_of_a_thread_goes_to_the_cell_that_has_ended(vscode: VSCodeClient) -> None:
    code = """
    import threading, time
    def speak_later():
        time.sleep(0.4); print("late", flush=True)
    threading.Thread(target=speak_later).start()
    """
    cell = vscode.execute(textwrap.dedent(code))
    vscode.wait_until(cell.stream, "late output")
    assert cell.stream() == "late\n"


def test_late_output_of_a_task_goes_to_its_own_cell_while_another_runs(vscode: VSCodeClient) -> None:
    code = """
    import asyncio
    async def speak_later():
        await asyncio.sleep(0.3); print("late", flush=True)
    speaking = asyncio.create_task(speak_later())
    """
    cell = vscode.execute(textwrap.dedent(code))
    following = vscode.execute("await speaking; print('on time')")
    assert (cell.stream(), following.stream()) == ("late\n", "on time\n")


def test_next_input_and_pages_are_payloads_of_the_reply(vscode: VSCodeClient) -> None:
    next_input = vscode.execute("get_ipython().set_next_input('x = 1')").reply["payload"]
    page = vscode.execute("len?").reply["payload"]
    # Ours says in a comment above it whose cell that is.
    assert [(item["source"], item["text"].splitlines()[-1]) for item in next_input] == [("set_next_input", "x = 1")]
    assert [item["source"] for item in page] == ["page"]
    assert "number of items" in page[0]["data"]["text/plain"]


@pytest.mark.parametrize(
    ("call", "password"), [("input('Who? ')", False), ("__import__('getpass').getpass('Who? ')", True)]
)
def test_input_box_shows_the_prompt_and_returns_what_was_typed(vscode: VSCodeClient, call: str, password: bool) -> None:
    cell = vscode.send_execute(f"answer = {call}; print(f'<{{answer}}>')")
    (asked,) = vscode.wait_until(lambda: cell.input_requests, "input request")
    assert asked.content == {"prompt": "Who? ", "password": password}
    vscode.answer_input(asked, "m\u00e9")
    assert vscode.wait_done(cell).stream() == "<m\u00e9>\n"


def test_cancelled_input_box_gives_the_empty_string(vscode: VSCodeClient) -> None:
    cell = vscode.send_execute("print([input()])")
    (asked,) = vscode.wait_until(lambda: cell.input_requests, "input request")
    vscode.answer_input(asked, "")
    assert vscode.wait_done(cell).stream() == "['']\n"


def test_input_that_is_never_answered_ends_with_an_interrupt(vscode: VSCodeClient) -> None:
    cell = vscode.send_execute("input()")
    vscode.wait_until(lambda: cell.input_requests, "input request")
    assert vscode.interrupt()["status"] == "ok"
    assert error_of(vscode.wait_done(cell, INTERRUPT_TIMEOUT))["ename"] == "KeyboardInterrupt"


def test_traceback_names_cell_and_line_of_each_frame_in_colour(vscode: VSCodeClient) -> None:
    defined = vscode.execute("def divide(number):\n    return number / 0").reply["execution_count"]
    failed = vscode.execute("# a comment\n\ndivide(1)")
    error = error_of(failed)
    traceback = "\n".join(error["traceback"])
    assert error["ename"] == "ZeroDivisionError"
    assert ANSI.search(traceback)
    plain = ANSI.sub("", traceback)
    assert f"Cell In[{failed.reply['execution_count']}], line 3" in plain
    assert f"Cell In[{defined}], line 2, in divide" in plain


def test_widget_travels_both_ways_with_its_binary_buffers(vscode: VSCodeClient) -> None:
    code = """
    from comm import create_comm
    state = {"_model_module": "@jupyter-widgets/controls", "_model_module_version": "2.0.0",
             "_model_name": "ImageModel", "_view_module": "@jupyter-widgets/controls",
             "_view_module_version": "2.0.0", "_view_name": "ImageView", "format": "png"}
    picture = create_comm(target_name="jupyter.widget", metadata={"version": "2.1.0"},
                          data={"state": state, "buffer_paths": [["value"]]}, buffers=[b"\\x89PNG\\x00"])
    def reverse(msg):
        state = {"format": msg["content"]["data"]["state"]["format"]}
        buffers = [bytes(buffer)[::-1] for buffer in msg["buffers"]]
        picture.send({"method": "update", "state": state, "buffer_paths": [["value"]]}, buffers=buffers)
    picture.on_msg(reverse)
    """
    cell = vscode.execute(textwrap.dedent(code))
    (opened,) = [msg for msg in cell.published if msg.type == "comm_open"]
    assert opened.content["target_name"] == "jupyter.widget"
    assert opened.content["data"]["state"]["_model_name"] == "ImageModel"
    assert opened.metadata["version"] == "2.1.0"
    assert opened.buffers == [b"\x89PNG\x00"]

    comm_id = opened.content["comm_id"]
    update = {"method": "update", "state": {"format": "jpeg"}, "buffer_paths": [["value"]]}
    sent = vscode.send("shell", "comm_msg", {"comm_id": comm_id, "data": update}, buffers=[b"\x00\xff\x01"])
    (answer,) = vscode.wait_until(lambda: [m for m in sent.published if m.type == "comm_msg"], "answer of the widget")
    assert answer.content["comm_id"] == comm_id
    assert answer.content["data"]["state"]["format"] == "jpeg"
    assert answer.buffers == [b"\x01\xff\x00"]

    assert comm_id in comms_of(vscode, "jupyter.widget")
    vscode.send("shell", "comm_close", {"comm_id": comm_id, "data": {}})
    assert comm_id not in comms_of(vscode, "jupyter.widget")


def comms_of(client: VSCodeClient, target_name: str) -> JsonObject:
    """Ask which comms of a target are open."""
    reply = client.wait_done(client.send("shell", "comm_info_request", {"target_name": target_name})).reply
    comms: JsonObject = reply["comms"]
    assert {comm["target_name"] for comm in comms.values()} <= {target_name}
    return comms


def test_renderer_opens_the_widget_control_comm_and_gets_all_states(vscode: VSCodeClient) -> None:
    code = """
    from comm import get_comm_manager
    def control_opened(comm, msg):
        comm.on_msg(lambda asked: comm.send({"method": "update_states", "states": {}, "buffer_paths": []}))
    get_comm_manager().register_target("jupyter.widget.control", control_opened)
    """
    vscode.execute(textwrap.dedent(code))
    opened = {"comm_id": "a" * 32, "target_name": "jupyter.widget.control", "data": {}}
    vscode.send("shell", "comm_open", opened, metadata={"version": "1.0.0"})
    asked = vscode.send("shell", "comm_msg", {"comm_id": "a" * 32, "data": {"method": "request_states"}})
    (answer,) = vscode.wait_until(lambda: [m for m in asked.published if m.type == "comm_msg"], "states of widgets")
    assert answer.content["data"] == {"method": "update_states", "states": {}, "buffer_paths": []}


def test_subshells_if_advertised_answer_comms_while_a_cell_runs(vscode: VSCodeClient) -> None:
    features = vscode.request("control", "kernel_info_request").get("supported_features", [])
    if "kernel subshells" not in features:
        return
    code = """
    from comm import create_comm
    echo = create_comm(target_name="jupyter.widget.control")
    echo.on_msg(lambda msg: echo.send(msg["content"]["data"]))
    """
    vscode.execute("import threading; released = threading.Event()")
    subshell_id = vscode.request("control", "create_subshell_request")["subshell_id"]
    running = started_loop(vscode, "assert released.wait(30)")
    # Opened in the subshell: ipykernel sends a comm's messages to the shell that last used it.
    content = {"code": textwrap.dedent(code), "store_history": False}
    opening = vscode.wait_done(vscode.send("shell", "execute_request", content, subshell_id=subshell_id))
    (comm_id,) = [msg.content["comm_id"] for msg in opening.published if msg.type == "comm_open"]
    sent = vscode.send("shell", "comm_msg", {"comm_id": comm_id, "data": {"n": 1}}, subshell_id=subshell_id)
    vscode.wait_until(lambda: [m for m in sent.published if m.type == "comm_msg"], "echo by the subshell")
    assert not running.replies
    vscode.wait_done(vscode.send("shell", "execute_request", {"code": "released.set()"}, subshell_id=subshell_id))
    assert reply_status(vscode.wait_done(running)) == "ok"
    deleted = vscode.send("control", "delete_subshell_request", {"subshell_id": subshell_id})
    assert reply_status(vscode.wait_done(deleted)) == "ok"
