"""Messages besides cells: answered at once, beside and behind cells; subshells; many, slow and hostile front ends."""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

import pytest
import zmq
from jupyter_client.session import Session

from .client import Exchange, FrontEnd, KernelProcess

COMM_ECHO = """
def on_open(comm, msg):
    def answer(msg):
        buffers = [bytes(buffer) for buffer in msg["buffers"]]
        comm.send({"sizes": [len(buffer) for buffer in buffers]}, buffers=[buffer[::-1] for buffer in buffers])
    comm.on_msg(answer)
get_ipython().kernel.comm_manager.register_target("echo", on_open)
"""


class Running:
    """A cell that runs until it is told to end."""

    def __init__(self, notebook: FrontEnd) -> None:
        self._notebook = notebook
        self.cell = notebook.cell(
            "try:\n    print('begun', flush=True)\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    pass\n'ended'"
        )
        notebook.until(lambda: "begun" in self.cell.stream())

    def __enter__(self) -> Exchange:
        return self.cell

    def __exit__(self, *exc: object) -> None:
        assert not self.cell.done
        self._notebook.interrupt()
        assert self._notebook.finish(self.cell).result == "'ended'"


def connection(kernel: KernelProcess) -> dict[str, Any]:
    info: dict[str, Any] = json.loads(kernel.connection_file.read_text())
    return info


def beat(kernel: KernelProcess, content: bytes = b"beat") -> bytes:
    """Send a heartbeat and return its echo."""
    info = connection(kernel)
    with zmq.Context() as context, context.socket(zmq.REQ) as sock:
        sock.linger = 0
        sock.connect(f"tcp://{info['ip']}:{info['hb_port']}")
        sock.send(content)
        assert sock.poll(10_000)
        return sock.recv()


# ---- answered at once


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_kernel_info_is_answered_while_a_cell_runs(notebook: FrontEnd, channel: str) -> None:
    with Running(notebook):
        request = notebook.finish(notebook.send("kernel_info_request", channel=channel))
        request.assert_ended_once()
        assert request.reply["language_info"]["name"] == "python"
        assert request.reply["protocol_version"].startswith("5.")
        assert "debugger" in request.reply["supported_features"]


def test_kernel_info_and_heartbeat_are_answered_before_there_is_a_sandbox(
    notebook: FrontEnd, kernel: KernelProcess
) -> None:
    notebook.run("%sandbox stop")
    for channel in ("shell", "control"):
        assert notebook.ask("kernel_info_request", channel=channel)["status"] == "ok"
    cell = notebook.cell("1")
    # It starts now; what follows is answered before the cell is.
    infos = [notebook.finish(notebook.send("kernel_info_request", channel=channel)) for channel in ("shell", "control")]
    assert beat(kernel) == b"beat"
    assert notebook.ask("is_complete_request", {"code": "for x in y:"}) == {"status": "incomplete", "indent": "    "}
    notebook.finish(cell)
    assert cell.result == "1"
    for info in infos:
        assert notebook.position(info, "kernel_info_reply") < notebook.position(cell, "execute_reply")


def test_heartbeats_are_echoed_while_a_cell_runs(notebook: FrontEnd, kernel: KernelProcess) -> None:
    with Running(notebook):
        for content in (b"beat", b"", b"x" * 100_000):
            assert beat(kernel, content) == content


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("1 + 1", "complete"), ("for x in y:", "incomplete"), ("(1", "incomplete"), ("1 +* 1", "invalid"),
        ("", "complete"),
        ("%%timeit\n", "incomplete"), ("!ls", "complete"), ("x?", "complete"), ("%sandbox status", "complete"),
    ],
)  # fmt: skip
def test_completeness_is_judged_alike_with_and_without_a_sandbox(notebook: FrontEnd, code: str, expected: str) -> None:
    with Running(notebook):
        assert notebook.ask("is_complete_request", {"code": code})["status"] == expected
    notebook.run("%sandbox pause")
    # Nothing of the paused sandbox is asked.
    assert notebook.ask("is_complete_request", {"code": code})["status"] == expected


def test_completion_inspection_and_history_are_answered_beside_a_running_cell(notebook: FrontEnd) -> None:
    notebook.run("beside = 'a text'")
    with Running(notebook):
        for prefix, whole in (("beside.upp", "upper"), ("besi", "beside")):
            reply = notebook.ask("complete_request", {"code": prefix, "cursor_pos": len(prefix)})
            assert any(match.endswith(whole) for match in reply["matches"])
        reply = notebook.ask("inspect_request", {"code": "beside", "cursor_pos": 3, "detail_level": 0})
        assert "a text" in reply["data"]["text/plain"]
        reply = notebook.ask("history_request", {"hist_access_type": "tail", "n": 5, "raw": True, "output": False})
        assert "beside = 'a text'" in [entry[2] for entry in reply["history"]]


def test_completion_is_answered_before_there_is_a_sandbox(own_kernel: KernelProcess) -> None:
    notebook = own_kernel.front_end()
    reply = notebook.ask("complete_request", {"code": "prin", "cursor_pos": 4})
    assert any("print" in match for match in reply["matches"])


def test_commands_are_completed(notebook: FrontEnd) -> None:
    reply = notebook.ask("complete_request", {"code": "%sandbox sta", "cursor_pos": 12})
    assert set(reply["matches"]) == {"start", "status"}


@pytest.mark.parametrize(
    ("line", "matches"),
    [
        ("%sandbox diff --", {"--help", "--stat"}),
        ("%%sandbox --", set()),
        ("%%sandbox gen", {"generate"}),
        ("%sandbox upload ../", set()),
        ("%sandbox upload in", set()),
        ("x = 1\n%sandbox help rest", {"restart", "restore"}),
    ],
)
def test_nothing_but_its_words_is_completed_on_a_command_line(notebook: FrontEnd, line: str, matches: set[str]) -> None:
    reply = notebook.ask("complete_request", {"code": line, "cursor_pos": len(line)})
    assert set(reply["matches"]) == matches
    assert line[reply["cursor_start"] :] == line.rsplit(maxsplit=1)[-1] or not matches


def test_no_words_of_python_are_among_the_commands(notebook: FrontEnd) -> None:
    reply = notebook.ask("complete_request", {"code": "%sandbox ", "cursor_pos": 9})
    assert {"status", "diff"} < set(reply["matches"])
    assert not {"and", "if", "print", "abs"} & set(reply["matches"])


def test_all_messages_are_of_one_session(notebook: FrontEnd) -> None:
    cells = [
        notebook.cell(code)
        for code in ("print('here'); 1", "%sandbox status", "import ipywidgets; ipywidgets.Label('x')")
    ]
    for cell in cells:
        notebook.finish(cell)
    messages = [message for cell in cells for message in [*cell.messages, *cell.replies]]
    assert len({message["header"]["session"] for message in messages}) == 1


def test_comms_are_listed(notebook: FrontEnd) -> None:
    notebook.run(COMM_ECHO)
    notebook.send("comm_open", {"comm_id": "listed", "target_name": "echo", "data": {}})
    assert notebook.ask("comm_info_request", {"target_name": "echo"})["comms"]["listed"] == {"target_name": "echo"}
    notebook.send("comm_close", {"comm_id": "listed", "data": {}})
    assert "listed" not in notebook.ask("comm_info_request")["comms"]


def test_connect_and_usage_requests_are_answered(notebook: FrontEnd, kernel: KernelProcess) -> None:
    reply = notebook.ask("connect_request")
    info = connection(kernel)
    for name in ("shell", "iopub", "stdin", "hb", "control"):
        assert reply[name] == reply[f"{name}_port"] == info[f"{name}_port"]
    usage = notebook.ask("usage_request", channel="control")
    assert usage["kernel_memory"] > 0
    assert usage["cpu_count"] > 0
    with Running(notebook):
        assert notebook.ask("usage_request", channel="control")["pid"] > 0
    notebook.run("%sandbox stop")
    assert "kernel_cpu" in notebook.ask("usage_request", channel="control")


def test_messages_of_unknown_type_become_busy_and_idle(notebook: FrontEnd) -> None:
    for channel in ("shell", "control"):
        request = notebook.send("unheard_of_request", channel=channel)
        notebook.until(lambda request=request: "idle" in request.statuses)  # type: ignore[misc]
        assert request.statuses == ["busy", "idle"]
        assert request.replies == []
    assert notebook.run("1").result == "1"


def test_a_cell_without_code_in_its_message_hurts_nobody(notebook: FrontEnd) -> None:
    notebook.send("execute_request", {"silent": False})
    notebook.send("execute_request", {"code": None})
    assert notebook.run("%sandbox shell echo goes on").stream() == "goes on\n"
    assert notebook.run("1").result == "1"


def test_a_reply_that_cannot_be_sent_blocks_no_command(notebook: FrontEnd) -> None:
    # ipykernel fails to make the reply, and says so in its log only.
    notebook.run("class Odd:\n    def _repr_mimebundle_(self, **_): return {'application/json': object()}")
    cell = notebook.cell("1", user_expressions={"odd": "Odd()"})
    notebook.until(lambda: "idle" in cell.statuses)
    assert notebook.run("%sandbox shell echo goes on").stream() == "goes on\n"


def test_debugger_requests_are_answered_without_a_sandbox(notebook: FrontEnd) -> None:
    notebook.run("%sandbox pause")
    reply = notebook.ask(
        "debug_request", {"type": "request", "seq": 7, "command": "debugInfo", "arguments": {}}, channel="control"
    )
    assert (reply["request_seq"], reply["success"], reply["body"]["isStarted"]) == (7, True, False)


# ---- subshells


def subshell(notebook: FrontEnd) -> dict[str, str]:
    """Create a subshell and return the header that messages to it have."""
    return {"subshell_id": notebook.ask("create_subshell_request", channel="control")["subshell_id"]}


def test_subshells_run_beside_the_main_shell_and_each_other(notebook: FrontEnd) -> None:
    one, two = subshell(notebook), subshell(notebook)
    listed = notebook.ask("list_subshell_request", channel="control")["subshell_id"]
    assert {one["subshell_id"], two["subshell_id"]} <= set(listed)
    notebook.run("import threading\nmeeting = threading.Barrier(2, timeout=20)\nmet = []")
    with Running(notebook):
        # They meet only if both run at once. No values: ipykernel mixes up those of subshells.
        both = [notebook.cell("met.append(meeting.wait())", header=header) for header in (one, two)]
        notebook.finish(*both)
        assert [cell.status for cell in both] == ["ok", "ok"]
    assert notebook.run("sorted(met)").result == "[0, 1]"
    for header in (one, two):
        assert notebook.ask("delete_subshell_request", dict(header), channel="control")["status"] == "ok"
    left = notebook.ask("list_subshell_request", channel="control")["subshell_id"]
    assert not {one["subshell_id"], two["subshell_id"]} & set(left)
    assert notebook.run("1").result == "1"


def test_an_error_in_a_subshell_aborts_nothing_on_the_main_shell(notebook: FrontEnd) -> None:
    aside = subshell(notebook)
    first = notebook.cell("time.sleep(0.4)")
    second, command = notebook.cell("'second'"), notebook.cell("%sandbox shell echo third")
    failing = notebook.cell("1/0", header=aside)
    notebook.finish(first, second, command, failing)
    assert failing.status == "error"
    assert (second.status, command.status) == ("ok", "ok")
    notebook.ask("delete_subshell_request", aside, channel="control")


def test_a_subshell_is_created_before_there_is_a_sandbox(own_kernel: KernelProcess) -> None:
    notebook = own_kernel.front_end()
    aside = subshell(notebook)
    main = notebook.cell("import time\ntime.sleep(0.3)")
    cell = notebook.cell("'aside'", header=aside)
    notebook.finish(main, cell)
    assert cell.result == "'aside'"


# ---- several front ends


def test_two_front_ends_see_all_outputs_and_their_own_replies(own_kernel: KernelProcess) -> None:
    one, two = own_kernel.front_end(), own_kernel.front_end()
    # Their first messages were not heard by both.
    one.others.clear()
    first, second = one.cell("print('of one')"), two.cell("print('of two')")
    one.finish(first)
    two.finish(second)
    for front_end, own, text in ((one, first, "of two"), (two, second, "of one")):
        front_end.until(lambda front_end=front_end, text=text: text in str(front_end.others))  # type: ignore[misc]
        assert {channel for channel, _ in front_end.others} == {"iopub"}
        assert len(own.replies) == 1
    asking_one = one.cell("one = input('one?')\none")
    one.until(lambda: bool(asking_one.questions))
    asking_two = two.cell("input('two?') + one")
    one.answer("1")
    two.until(lambda: bool(asking_two.questions))
    two.answer("2")
    assert one.finish(asking_one).result == "'1'"
    assert two.finish(asking_two).result == "'21'"
    assert {channel for channel, _ in (*one.others, *two.others)} == {"iopub"}


def test_each_subscription_is_welcomed(kernel: KernelProcess) -> None:
    info = connection(kernel)
    session = Session(key=info["key"].encode())
    with zmq.Context() as context:
        # Of equal subscriptions ZeroMQ tells only the first, as with ipykernel.
        for topic in (b"stream", b"kernel."):
            with context.socket(zmq.SUB) as sock:
                sock.linger = 0
                sock.subscribe(topic)
                sock.connect(f"tcp://{info['ip']}:{info['iopub_port']}")
                while True:
                    assert sock.poll(10_000)
                    _, frames = session.feed_identities(sock.recv_multipart())
                    msg = session.deserialize(frames)
                    if msg["msg_type"] == "iopub_welcome" and msg["content"]["subscription"] == topic.decode():
                        break
                assert msg["parent_header"] == {}


def test_a_client_that_comes_back_under_its_name_gets_its_replies(kernel: KernelProcess, notebook: FrontEnd) -> None:
    info = connection(kernel)
    session = Session(key=info["key"].encode())
    with zmq.Context() as context:
        for _ in range(3):
            with context.socket(zmq.DEALER) as sock:
                sock.linger = 0
                sock.identity = b"the same"
                sock.connect(f"tcp://{info['ip']}:{info['shell_port']}")
                session.send(sock, "kernel_info_request", {})
                assert sock.poll(10_000)
                sock.recv_multipart()


# ---- binary messages


@pytest.mark.parametrize("size", [0, 1, 1000, 60_000_000], ids=["empty", "one byte", "small", "60 MB"])
def test_buffers_travel_both_ways(notebook: FrontEnd, size: int) -> None:
    notebook.run(COMM_ECHO)
    notebook.send("comm_open", {"comm_id": "echo", "target_name": "echo", "data": {}})
    data = os.urandom(1000)[:size] if size <= 1000 else os.urandom(1000) * (size // 1000)
    message = notebook.send("comm_msg", {"comm_id": "echo", "data": {}}, buffers=[data, b"", b"second"])
    notebook.until(lambda: "idle" in message.statuses)
    (answer,) = message.of_type("comm_msg")
    assert answer["content"]["data"] == {"sizes": [len(data), 0, 6]}
    assert [bytes(buffer) for buffer in answer["buffers"]] == [data[::-1], b"", b"dnoces"]


@pytest.mark.parametrize("count", [5000], ids=["5000 buffers"])
def test_a_message_of_many_parts_costs_no_variables(notebook: FrontEnd, count: int) -> None:
    notebook.run(COMM_ECHO)
    notebook.run("kept = 1")
    notebook.send("comm_open", {"comm_id": "many", "target_name": "echo", "data": {}})
    message = notebook.send("comm_msg", {"comm_id": "many", "data": {}}, buffers=[b"x"] * count)
    notebook.until(lambda: "idle" in message.statuses)
    cell = notebook.run(
        f"from comm import create_comm\ncreate_comm(target_name='many').send({{}}, buffers=[b'x'] * {count})"
    )
    assert cell.status in ("ok", "error")
    assert notebook.run("kept").result == "1"


# ---- nonsense


def test_what_is_signed_wrongly_or_twice_is_dropped(kernel: KernelProcess, notebook: FrontEnd) -> None:
    info = connection(kernel)
    notebook.run("marks = []")
    right, wrong = Session(key=info["key"].encode()), Session(key=b"wrong")
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.linger = 0
        sock.connect(f"tcp://{info['ip']}:{info['shell_port']}")

        def frames(session: Session, mark: str) -> list[bytes]:
            return [
                bytes(part)
                for part in session.serialize(session.msg("execute_request", {"code": f"marks.append({mark!r})"}))
            ]

        once = frames(right, "once")
        for message in (
            once,
            once,
            frames(wrong, "wrong"),
            [*frames(right, "changed")[:5], b'{"code": "marks.append(1)"}'],
        ):
            sock.send_multipart(message)
        sock.send_multipart(frames(right, "last"))
        replies: list[list[bytes]] = []
        while len(replies) < 2:
            assert sock.poll(10_000)
            replies.append(sock.recv_multipart())
    assert notebook.run("marks").result == "['once', 'last']"


def test_garbage_on_every_socket_does_not_hurt(own_kernel: KernelProcess) -> None:
    notebook = own_kernel.front_end()
    info = connection(own_kernel)
    session = Session(key=info["key"].encode())

    def signed(*parts: bytes) -> list[bytes]:
        return [b"<IDS|MSG>", session.sign(list(parts)), *parts]

    deep = b"[" * 100_000
    header = b'{"msg_id": "a", "msg_type": "execute_request"}'
    nonsense = [
        [], [b""], [b"<IDS|MSG>"], [b"x"] * 50, [b"<IDS|MSG>", b""], [b"<IDS|MSG>", b"sig", b"{}", b"{}", b"{}", b"{}"],
        signed(b"{}", b"{}", b"{}", b"{}"), signed(b"[]", b"{}", b"{}", b"{}"), signed(*[b"null"] * 4),
        signed(b'"text"', b"{}", b"{}", b"{}"), signed(b"\xff\xfe", b"{}", b"{}", b"{}"),
        signed(deep, b"{}", b"{}", b"{}"), signed(header, b"{}", b"{}", deep), signed(header, b"{}", b"{}", b"[]"),
        signed(header, b"{}", b"{}", b'{"code": 5}'),
        signed(header.replace(b"execute", b"complete"), b"{}", b"{}", b"no json"),
        signed(header.replace(b"execute", b"is_complete"), b"{}", b"{}", b"[]"),
        signed(header.replace(b"execute", b"shutdown"), b"{}", b"{}"),
        signed(b'{"msg_id": [1], "msg_type": {"a": 1}}', b"{}", b"{}", b"{}"),
        signed(b'{"msg_id": "b", "msg_type": "x", "subshell_id": {"a": []}}', b"{}", b"{}", b"{}"),
    ]  # fmt: skip
    with zmq.Context() as context:
        for name in ("shell", "control", "stdin", "hb", "iopub"):
            with context.socket(zmq.XSUB if name == "iopub" else zmq.DEALER) as sock:
                sock.linger = 1000
                sock.connect(f"tcp://{info['ip']}:{info[f'{name}_port']}")
                for parts in nonsense:
                    sock.send_multipart(parts or [b""])
                sock.send(b"\x01" + b"\xff" * 1000)
                sock.send(b"\x00never subscribed")
            # And what is not ZeroMQ at all.
            with socket.create_connection((info["ip"], info[f"{name}_port"])) as raw:
                raw.sendall(b"GET / HTTP/1.1\r\nHost: kernel\r\n\r\n" + os.urandom(1000))
    for channel in ("shell", "control"):
        assert notebook.ask("kernel_info_request", channel=channel)["status"] == "ok"
    assert beat(own_kernel) == b"beat"
    question = notebook.cell("input()")
    notebook.until(lambda: bool(question.questions))
    notebook.answer("heard")
    assert notebook.finish(question).result == "'heard'"


def test_garbage_that_a_cell_publishes_hurts_nobody_else(notebook: FrontEnd) -> None:
    for frames in (
        "[b'x', b'<IDS|MSG>', b'', b'no json', b'{}', b'{}', b'{}']",
        "[b'x', b'<IDS|MSG>', b'', b'{}', b'{}', b'{}', b'{}']",
        "[b'x', b'<IDS|MSG>', b'', b'[]', b'[]', b'[]', b'[]']",
        "[b'x', b'<IDS|MSG>', b'', b'[' * 100_000, b'{}', b'{}', b'{}']",
        "[b'x', b'<IDS|MSG>']",
        "[b'']",
    ):
        cell = notebook.run(f"get_ipython().kernel.iopub_thread.send_multipart({frames})\nprint('goes on')")
        assert cell.stream() == "goes on\n"


# ---- slow front ends


def test_a_slow_front_end_slows_the_cell_down_and_loses_nothing(own_kernel: KernelProcess) -> None:
    notebook = own_kernel.front_end(queue=2)
    notebook.run("1")
    before = own_kernel.memory()
    cell = notebook.cell("line = 'x' * 999\nfor number in range(200_000): print(line)\n'end'")
    peak = 0
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        peak = max(peak, own_kernel.memory())
        time.sleep(0.05)
    assert peak < 120_000_000, (before, peak)
    notebook.finish(cell)
    assert cell.result == "'end'"
    assert cell.stream() == ("x" * 999 + "\n") * 200_000


def test_large_displays_for_a_slow_front_end_fill_no_memory(own_kernel: KernelProcess) -> None:
    notebook = own_kernel.front_end(queue=2)
    notebook.run("1")
    notebook.run("from IPython.display import display")
    cell = notebook.cell("for number in range(150): display({'text/plain': 'x' * 2_000_000}, raw=True)")
    peak = 0
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        peak = max(peak, own_kernel.memory())
        time.sleep(0.05)
    assert peak < 120_000_000, peak
    notebook.finish(cell)
    assert len(cell.contents("display_data")) == 150


def test_a_front_end_that_hangs_for_good_is_given_up_for_the_others_sake(own_kernel: KernelProcess) -> None:
    hanging, notebook = own_kernel.front_end(queue=2), own_kernel.front_end()
    # 30 MB are more than the hanging one's sockets hold; it is given up after STALLED_AFTER (10 s).
    notebook.run("from IPython.display import display")
    flood = notebook.cell("for number in range(1_500): display({'text/plain': 'x' * 20_000}, raw=True)")
    notebook.finish(flood, timeout=60)
    assert len(flood.contents("display_data")) == 1_500
    began = time.monotonic()
    for number in range(10):
        assert notebook.run(str(number)).result == str(number)
    assert time.monotonic() - began < 10
    hanging.close()


def test_outputs_are_complete_when_many_threads_print(notebook: FrontEnd) -> None:
    cell = notebook.run(
        "import threading\n"
        "threads = [threading.Thread(target=lambda: [print('x' * 99) for _ in range(500)]) for _ in range(8)]\n"
        "for thread in threads: thread.start()\nfor thread in threads: thread.join()"
    )
    notebook.until(lambda: len(cell.stream().replace("\n", "")) == 99 * 500 * 8)


def test_many_requests_at_once_are_all_answered(notebook: FrontEnd) -> None:
    cells = [notebook.cell(f"print({number})") for number in range(300)]
    infos = [notebook.send("kernel_info_request", channel="control") for _ in range(300)]
    completions = [notebook.send("complete_request", {"code": "pri", "cursor_pos": 3}) for _ in range(10)]
    notebook.finish(*cells, *infos, *completions)
    for number, cell in enumerate(cells):
        cell.assert_ended_once()
        assert cell.stream() == f"{number}\n"
    assert [cell.count for cell in cells] == list(range(cells[0].count, cells[0].count + 300))


def test_a_front_end_that_reads_while_it_is_flooded_gets_everything_in_order(notebook: FrontEnd) -> None:
    cell = notebook.run("for number in range(100_000): print(number)")
    assert cell.stream() == "".join(f"{number}\n" for number in range(100_000))
    assert cell.messages[-1]["msg_type"] == "status"
