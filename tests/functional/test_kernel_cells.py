"""Cells over real sockets: outputs, questions, errors, counting, queue, `%sandbox` lines, and a pause in mid-loop."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from .client import FrontEnd, KernelProcess, kernel_environment, running

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def plain(error: dict[str, object]) -> str:
    return ANSI.sub("", "\n".join(error["traceback"]))  # type: ignore[arg-type]


def sandbox_id(notebook: FrontEnd) -> str:
    (table,) = notebook.run("%sandbox status").contents("display_data")
    match = re.search(r"^Sandbox\s+(\S+)", table["data"]["text/plain"], re.MULTILINE)
    assert match, table
    return match[1]


# ---- outputs


def test_outputs_come_in_order_between_busy_and_idle(notebook: FrontEnd) -> None:
    cell = notebook.run("import sys\nprint('one')\nprint('two', file=sys.stderr)\nprint('three')\n4")
    cell.assert_ended_once()
    assert cell.stream() == "one\nthree\n"
    assert cell.stream("stderr") == "two\n"
    assert cell.result == "4"
    types = [msg["msg_type"] for msg in cell.messages]
    assert types[:2] == ["status", "execute_input"]
    assert types[-2:] == ["execute_result", "status"]
    assert all(msg["parent_header"]["msg_id"] == cell.msg_id for msg in cell.messages)


def test_a_display_is_updated_and_cleared(notebook: FrontEnd) -> None:
    cell = notebook.run(
        "from IPython.display import clear_output, display\n"
        "handle = display('first', display_id='mine')\nhandle.update('second')\n"
        "clear_output(wait=True)\ndisplay('third')"
    )
    assert cell.outputs == ["display_data", "update_display_data", "clear_output", "display_data"]
    (update,) = cell.contents("update_display_data")
    assert update["transient"] == {"display_id": "mine"}
    assert cell.contents("clear_output") == [{"wait": True}]


def test_a_display_of_an_earlier_cell_is_updated(notebook: FrontEnd) -> None:
    notebook.run("from IPython.display import display\nearlier = display(1, display_id=True)")
    assert notebook.run("earlier.update(2)").outputs == ["update_display_data"]


def test_output_of_programs_that_a_cell_starts_is_shown(notebook: FrontEnd) -> None:
    cell = notebook.run(
        "import subprocess\nsubprocess.run(['sh', '-c', 'echo from outside; echo wrong >&2'])\n!echo shell"
    )
    assert "from outside\n" in cell.stream()
    assert "shell" in cell.stream()
    assert "wrong\n" in cell.stream("stderr")


def test_output_that_a_thread_prints_after_its_cell_arrives(notebook: FrontEnd) -> None:
    cell = notebook.run("import threading\nthreading.Timer(0.3, lambda: print('late')).start()")
    notebook.until(lambda: "late" in cell.stream())


def test_an_error_is_published_and_told_in_the_reply(notebook: FrontEnd) -> None:
    cell = notebook.run("before = 1\n1/0")
    cell.assert_ended_once()
    assert cell.error["ename"] == "ZeroDivisionError"
    assert "----> 2" in plain(cell.error)
    assert notebook.run("before").result == "1"


def test_large_outputs_arrive_whole(notebook: FrontEnd) -> None:
    cell = notebook.run(
        "print('x' * 30_000_000)\nfrom IPython.display import display\n"
        "display({'text/plain': 'y' * 5_000_000}, raw=True)"
    )
    assert len(cell.stream()) == 30_000_001
    assert len(cell.contents("display_data")[0]["data"]["text/plain"]) == 5_000_000


def test_text_beyond_ascii_survives(notebook: FrontEnd) -> None:
    assert notebook.run("print('ü 漢 🦀 \\x00')").stream() == "ü 漢 🦀 \x00\n"


# ---- questions


def test_input_is_asked_for_and_answered(notebook: FrontEnd) -> None:
    cell = notebook.cell("name = input('who? ')\nprint('hello', name)")
    notebook.until(lambda: bool(cell.questions))
    assert cell.questions[0]["content"] == {"prompt": "who? ", "password": False}
    notebook.answer("me")
    assert notebook.finish(cell).stream() == "hello me\n"


def test_a_password_is_asked_for_as_one(notebook: FrontEnd) -> None:
    cell = notebook.cell("from getpass import getpass\nlen(getpass('secret: '))")
    notebook.until(lambda: bool(cell.questions))
    assert cell.questions[0]["content"] == {"prompt": "secret: ", "password": True}
    notebook.answer("four")
    assert notebook.finish(cell).result == "4"


def test_a_front_end_whose_stdin_socket_connects_last_is_asked_all_the_same(kernel: KernelProcess) -> None:
    late = kernel.front_end(stdin=False)
    cell = late.cell("print('begun', flush=True)\ninput('who? ')")
    late.until(lambda: "begun" in cell.stream())
    late.drain()
    late.connect_stdin()
    late.until(lambda: bool(cell.questions))
    late.answer("you")
    assert late.finish(cell).result == "'you'"


def test_input_where_nobody_can_answer_is_an_error(notebook: FrontEnd) -> None:
    assert notebook.run("input()", allow_stdin=False).error["ename"] == "StdinNotImplementedError"


# ---- the reply


def test_help_and_the_next_cell_travel_in_the_payload(notebook: FrontEnd) -> None:
    (page,) = notebook.run("len?").reply["payload"]
    assert page["source"] == "page"
    assert "Signature" in page["data"]["text/plain"]
    (following,) = notebook.run("get_ipython().set_next_input('more')").reply["payload"]
    mark, _, text = following["text"].partition("\n")
    assert (following["source"], text) == ("set_next_input", "more")
    assert mark.startswith("#")


def test_user_expressions_are_evaluated(notebook: FrontEnd) -> None:
    reply = notebook.run("six = 6", user_expressions={"good": "six * 7", "bad": "nothing"}).reply
    assert reply["user_expressions"]["good"]["data"]["text/plain"] == "42"
    assert reply["user_expressions"]["bad"]["status"] == "error"


# ---- counting and history


def test_hidden_cells_neither_count_nor_enter_the_history(notebook: FrontEnd) -> None:
    first = notebook.run("'first'").count
    silent = notebook.run("hidden = 1", silent=True)
    assert silent.outputs == []
    assert not silent.of_type("execute_input")
    assert notebook.run("hidden + 1", store_history=False).result == "2"
    last = notebook.run(f"In[{first}:], hidden")
    assert last.count == first + 1
    assert last.result == repr((["'first'", last.request["content"]["code"]], 1))


def test_history_is_what_was_run(notebook: FrontEnd) -> None:
    count = notebook.run("40 + 2").count
    assert notebook.run(f"_, Out[{count}], In[{count}], _{count}").result == "(42, 42, '40 + 2', 42)"
    reply = notebook.ask("history_request", {"hist_access_type": "tail", "n": 2, "raw": True, "output": False})
    assert reply["history"][0][2] == "40 + 2"


def test_an_empty_cell_does_not_count(notebook: FrontEnd) -> None:
    count = notebook.run("1").count
    for nothing in ("", "  \n"):
        assert notebook.run(nothing).count == count
    assert notebook.run("%sandbox shell true").count == count + 1
    assert notebook.run("2").count == count + 2


# ---- the queue


def test_an_error_aborts_the_cells_behind_it(notebook: FrontEnd) -> None:
    failing = notebook.cell("import time\ntime.sleep(0.3)\n1/0")
    behind = [notebook.cell("aborted = 1"), notebook.cell("%sandbox shell true"), notebook.cell("'aborted' in dir()")]
    notebook.finish(failing, *behind)
    assert [cell.status for cell in behind] == ["aborted"] * 3
    for cell in behind:
        cell.assert_ended_once()
        assert [msg["msg_type"] for msg in cell.messages] == ["status", "status"]
    assert notebook.run("'aborted' in dir()").result == "False"


def test_an_error_that_was_expected_aborts_nothing(notebook: FrontEnd) -> None:
    failing = notebook.cell("import time\ntime.sleep(0.3)\n1/0", stop_on_error=False)
    behind = notebook.cell("'goes on'")
    notebook.finish(failing, behind)
    assert behind.result == "'goes on'"


def test_an_error_aborts_cells_that_were_sent_before_there_was_a_sandbox(own_kernel: KernelProcess) -> None:
    notebook = own_kernel.front_end()
    cells = [notebook.cell(code) for code in ("1/0", "2", "%sandbox status", "3")]
    notebook.finish(*cells)
    assert [cell.status for cell in cells] == ["error", "aborted", "aborted", "aborted"]
    notebook.run("%sandbox stop")
    # Now they certainly wait.
    cells = [notebook.cell(code) for code in ("1/0", "2", "%sandbox status", "3")]
    notebook.finish(*cells)
    assert [cell.status for cell in cells] == ["error", "aborted", "aborted", "aborted"]
    for cell in cells:
        cell.assert_ended_once()
    assert notebook.run("4").result == "4"


def test_a_comm_message_keeps_its_place_among_cells(own_kernel: KernelProcess) -> None:
    notebook = own_kernel.front_end()
    for _ in range(2):
        register = notebook.cell(
            "place = []\ndef on_open(comm, msg):\n    place.append('open')\n"
            "    comm.on_msg(lambda msg: place.append('message'))\n"
            "get_ipython().kernel.comm_manager.register_target('queue', on_open)"
        )
        notebook.send("comm_open", {"comm_id": "c1", "target_name": "queue", "data": {}})
        first = notebook.cell("import time\ntime.sleep(0.2)\nplace.append('first')")
        notebook.send("comm_msg", {"comm_id": "c1", "data": {}})
        second = notebook.cell("place.append('second')\nplace")
        notebook.finish(register, first, second)
        assert second.result == "['open', 'first', 'message', 'second']"
        # The second time round they wait for a sandbox, certainly.
        notebook.run("%sandbox stop")


# ---- `%sandbox`


def test_a_command_cell_shows_its_output_and_counts(notebook: FrontEnd) -> None:
    count = notebook.run("before = 1").count
    cell = notebook.run("%sandbox shell echo hello; echo wrong >&2")
    cell.assert_ended_once()
    assert cell.stream() == "hello\nwrong\n"
    assert cell.input_count == cell.count == count + 1
    after = notebook.run(f"len(In), In[{count}:{count + 2}], before")
    assert after.count == count + 2
    assert after.result == repr((count + 3, ["before = 1", "%sandbox shell echo hello; echo wrong >&2"], 1))


def test_hidden_command_cells_do_not_count(notebook: FrontEnd) -> None:
    count = notebook.run("1").count
    notebook.run("%sandbox shell true", store_history=False)
    notebook.run("%sandbox shell true", silent=True)
    assert notebook.run("%sandbox shell true").count == count + 1
    assert notebook.run("2").count == count + 2


def test_code_behind_command_lines_keeps_its_line_numbers(notebook: FrontEnd) -> None:
    count = notebook.run("1").count
    cell = notebook.run("# a comment\n%sandbox shell echo first\n\n%sandbox shell echo second\nvalue = 1\n1/0\n")
    assert cell.stream() == "first\nsecond\n"
    assert "----> 6 1/0" in plain(cell.error)
    cell.assert_ended_once()
    assert cell.count == cell.input_count == count + 1
    assert notebook.run("value").count == count + 2


def test_the_value_of_a_mixed_cell_is_its_codes(notebook: FrontEnd) -> None:
    cell = notebook.run("%sandbox shell echo shell\nmixed = 5\nmixed * 2", user_expressions={"it": "mixed"})
    assert (cell.stream(), cell.result) == ("shell\n", "10")
    assert cell.reply["user_expressions"]["it"]["data"]["text/plain"] == "5"


def test_a_failing_command_line_keeps_the_code_from_running(notebook: FrontEnd) -> None:
    count = notebook.run("1").count
    cell = notebook.cell("%sandbox shell exit 3\nnot_run = 1")
    behind = notebook.cell("2")
    notebook.finish(cell, behind)
    assert "exit code 3" in cell.error["evalue"]
    cell.assert_ended_once()
    assert behind.status == "aborted"
    after = notebook.run("'not_run' in dir()")
    assert (after.result, after.count) == ("False", count + 2)


def test_a_command_cell_waits_behind_a_running_cell(notebook: FrontEnd) -> None:
    running_cell = notebook.cell(
        "import time\nopen('mark', 'w').close()\ntime.sleep(0.4)\nopen('mark', 'w').write('done')"
    )
    command = notebook.cell("%sandbox shell cat mark")
    last = notebook.cell("'last'")
    notebook.finish(running_cell, command, last)
    assert command.stream() == "done"
    places = [notebook.position(cell, "execute_reply") for cell in (running_cell, command, last)]
    assert places == sorted(places)


def test_a_command_cell_is_interrupted(notebook: FrontEnd) -> None:
    notebook.run("kept = 1")
    cell = notebook.cell("%sandbox shell echo started; sleep 61")
    behind = notebook.cell("2")
    notebook.until(lambda: "started" in cell.stream())
    assert notebook.interrupt() == {"status": "ok"}
    notebook.finish(cell, behind)
    assert cell.error["ename"] == "KeyboardInterrupt"
    assert behind.status == "aborted"
    notebook.run(
        "import pathlib, time\ndef sleeping():\n"
        "    commands = pathlib.Path('/proc').glob('[0-9]*/cmdline')\n"
        "    return any(b'sleep\\0' + b'61' in command.read_bytes() for command in commands)"
    )
    assert (
        notebook.run(
            "deadline = time.time() + 20\n"
            "while sleeping() and time.time() < deadline: time.sleep(0.05)\n"
            "sleeping(), kept"
        ).result
        == "(False, 1)"
    )


def test_an_unknown_command_is_answered_with_the_nearest_name(notebook: FrontEnd) -> None:
    error = notebook.run("%sandbox statsu").error
    assert "`status`" in error["evalue"]
    assert "Traceback" not in plain(error)


def test_a_command_line_later_in_a_cell_says_where_it_belongs(notebook: FrontEnd) -> None:
    cell = notebook.run("done = 1\n%sandbox status")
    assert "beginning of the cell" in cell.stream("stderr") + str(cell.contents("error"))
    assert "remove the line" in str(notebook.run("%%sandbox\n1").messages)


def test_text_that_looks_like_a_command_is_left_alone(notebook: FrontEnd) -> None:
    assert notebook.run('text = """\n%sandbox stop\n"""\ntext').result == repr("\n%sandbox stop\n")


@pytest.mark.parametrize("command", ["echo a\0b", "echo " + "x" * 200_000], ids=["a zero byte", "too long"])
def test_a_shell_command_that_cannot_be_run_costs_no_variables(notebook: FrontEnd, command: str) -> None:
    notebook.run("kept = 'kept'")
    cell = notebook.run(f"%sandbox shell {command}")
    cell.assert_ended_once()
    assert cell.status in ("ok", "error")
    assert notebook.run("kept").result == "'kept'"


def test_commands_work_in_every_state(own_kernel: KernelProcess) -> None:
    notebook = own_kernel.front_end()

    def state() -> str:
        (table,) = notebook.run("%sandbox status").contents("display_data")
        match = re.search(r"^State\s+(\S+)", table["data"]["text/plain"], re.MULTILINE)
        assert match
        return match[1]

    assert notebook.run("kept = 1").status == "ok"
    assert notebook.run("%sandbox pause").status == "ok"
    assert state() == "paused"
    assert notebook.run("%sandbox resume").status == "ok"
    assert state() == "active"
    assert notebook.run("%sandbox pause\nkept").result == "1"
    notebook.run("%sandbox pause")
    assert notebook.run("kept").result == "1"
    notebook.run("%sandbox pause")
    assert notebook.run("%sandbox shell echo resumed").stream() == "resumed\n"
    assert notebook.run("%sandbox stop").status == "ok"
    assert state() == "inactive"
    assert notebook.run("%sandbox start").status == "ok"
    assert "NameError" in str(notebook.run("kept").messages)
    assert notebook.run("import os; os._exit(1)").status == "error"
    assert notebook.run("%sandbox help").status == "ok"
    assert state() == "active"
    assert notebook.run("%sandbox restart\n'fresh'").result == "'fresh'"
    assert notebook.run("%sandbox stop\n'another'").result == "'another'"


# ---- pausing


def test_a_loop_is_paused_and_goes_on_where_it_was(own_kernel: KernelProcess) -> None:
    notebook = own_kernel.front_end()
    sandbox = sandbox_id(notebook) if notebook.run("1").status == "ok" else ""

    def from_terminal(command: str) -> None:
        folder = own_kernel.connection_file.parent
        argv = [sys.executable, "-m", "sandbox_kernel.cli", command, sandbox]
        subprocess.run(argv, check=True, env=kernel_environment(folder), stdout=subprocess.DEVNULL)

    loop = notebook.cell("n = 0\nwhile True:\n    n += 1\n    if n % 1_000_000 == 0: print(n)")
    notebook.until(lambda: bool(loop.stream()))
    from_terminal("pause")
    notebook.drain()
    printed, computed = loop.stream(), own_kernel.processor_time()
    time.sleep(5)  # The bound: it stands still for five seconds.
    notebook.drain()
    assert own_kernel.processor_time() == pytest.approx(computed, abs=0.02)
    assert loop.stream() == printed
    from_terminal("resume")
    notebook.until(lambda: len(loop.stream()) > len(printed))
    from_terminal("pause")
    # A cell that is sent meanwhile resumes it.
    notebook.drain()
    printed = loop.stream()
    behind = notebook.cell("'behind'")
    notebook.until(lambda: len(loop.stream()) > len(printed))
    notebook.interrupt()
    notebook.finish(loop, behind)
    assert loop.error["ename"] == "KeyboardInterrupt"
    assert notebook.run("n >= int(1_000_000)").result == "True"
    numbers = [int(line) for line in loop.stream().split()]
    assert numbers == list(range(1_000_000, numbers[-1] + 1, 1_000_000))


def test_a_cell_with_commands_is_echoed_once_and_first_as_it_was_written(notebook: FrontEnd) -> None:
    code = "%sandbox help\n%%bash\necho behind"
    cell = notebook.run(code)
    assert [content["code"] for content in cell.contents("execute_input")] == [code]
    assert [msg["msg_type"] for msg in cell.messages][1] == "execute_input"
    assert cell.stream().endswith("behind\n")
    assert cell.contents("execute_input")[0]["execution_count"] == cell.count


def test_a_cell_without_text_is_answered_with_an_error(notebook: FrontEnd) -> None:
    cell = notebook.send("execute_request", {"code": 5})
    notebook.finish(cell)
    assert cell.status == "error"
    assert "cannot be used" in cell.reply["evalue"]


def test_debugpy_is_imported_when_somebody_debugs(tmp_path: Path) -> None:
    def debug(command: str, **arguments: object) -> dict[str, Any]:
        request = {"type": "request", "seq": 1, "command": command, "arguments": arguments}
        return front_end.ask("debug_request", request, channel="control")

    with running(tmp_path) as kernel:
        front_end = kernel.front_end()
        imported = "import sys; 'debugpy' in sys.modules"
        assert front_end.run(f"answer = 42\n{imported}").result == "False"
        assert debug("debugInfo")["success"]
        assert front_end.run(imported).result == "False"
        variables = debug("inspectVariables")["body"]["variables"]
        assert ("answer", "42") in [(variable["name"], variable["value"]) for variable in variables]
        assert front_end.run(imported).result == "True"
        assert debug("initialize", clientID="test", adapterID="")["success"]
        assert debug("attach")["command"] == "attach"
        front_end.drain()
        assert [msg["content"] for _, msg in front_end.others if msg["msg_type"] == "stream"] == []


def test_breakpoint_goes_on_where_nobody_debugs(notebook: FrontEnd) -> None:
    assert notebook.run("breakpoint(); 1 + 1", allow_stdin=False).result == "2"


@pytest.mark.parametrize("pause", [0, 0.05, 0.2])
def test_a_cell_sent_right_after_quit_runs_in_a_fresh_python(notebook: FrontEnd, pause: float) -> None:
    assert notebook.run("left = 1; quit()").status == "ok"
    time.sleep(pause)
    cell = notebook.run("'left' in dir()")
    assert cell.result == "False"
    assert "a fresh one" in cell.stream("stderr")


def test_quitting_but_keeping_the_kernel_keeps_it(notebook: FrontEnd) -> None:
    assert notebook.run("kept = 1; exit(keep_kernel=True)").status == "ok"
    assert notebook.run("kept").result == "1"
