"""The output guard in a running kernel: what a cell forges or displays, as a front end receives it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from .client import FrontEnd, running

FORGE = """\
from ipykernel.kernelapp import IPKernelApp
app = IPKernelApp.instance()
kernel = app.kernel
session, parent = kernel.session, kernel.get_parent()

def publish(msg_type, content, parent=parent):
    session.send(kernel.iopub_socket, msg_type, content, parent=parent, ident=b"topic")
"""


@pytest.fixture(scope="module")
def front_end(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontEnd]:
    with running(tmp_path_factory.mktemp("guarded")) as kernel:
        yield kernel.front_end()


@pytest.fixture
def trusting(tmp_path: Path) -> Iterator[FrontEnd]:
    with running(tmp_path, "--Guard.trusted_output=True") as kernel:
        yield kernel.front_end()


def test_displayed_html_is_cleaned_or_framed(front_end: FrontEnd) -> None:
    cell = front_end.run(
        "from IPython.display import HTML, display\n"
        "display(HTML('<b>same</b>'))\n"
        "handle = display(HTML('<img src=\"https://e.example\">'), display_id=True)\n"
        "handle.update(HTML('<script>x</script>'))\n"
        "HTML('<a href=\"javascript:x\">y</a>')"
    )
    same, image = (content["data"]["text/html"] for content in cell.contents("display_data"))
    (script,) = (content["data"]["text/html"] for content in cell.contents("update_display_data"))
    (result,) = (content["data"]["text/html"] for content in cell.contents("execute_result"))
    assert same == "<b>same</b>"
    assert image.startswith("<img><div")
    assert "sandboxed frame" in script
    # The note on what was cut stands once per cell.
    assert result == "<a>y</a>"


def test_forged_messages_do_not_arrive(front_end: FrontEnd) -> None:
    cell = front_end.run(
        FORGE + "publish('shutdown_reply', {'restart': True})\n"
        "publish('status', {'execution_state': 'dead'})\n"
        "publish('display_data', {'data': 'none', 'metadata': {}})\n"
        "publish('stream', {'name': 'stdout', 'text': 'nobody asked'}, {'msg_id': 'invented'})\n"
        "publish('stream', {'name': 'stdout', 'text': 'kept'})"
    )
    assert cell.status == "ok"
    assert cell.outputs == ["stream"]
    assert cell.stream() == "kept"
    front_end.drain()
    assert "nobody asked" not in json.dumps(front_end.others, default=str)


def test_cell_made_by_the_sandbox_is_marked(front_end: FrontEnd) -> None:
    cell = front_end.run("get_ipython().set_next_input('%sandbox stop')")
    (payload,) = cell.reply["payload"]
    assert payload["text"] == "# This cell was written by the sandbox.\n# %sandbox stop"


def test_refused_widget_is_announced_once(front_end: FrontEnd) -> None:
    cell = front_end.run("from comm import create_comm\nfor _ in range(2): create_comm('mine')")
    notices = [content["data"]["text/plain"] for content in cell.contents("display_data")]
    assert notices == ["sandbox: the comm target mine is not allowed (Guard.comm_targets)"]
    assert cell.of_type("comm_open") == []


def test_status_tells_the_policy(front_end: FrontEnd, trusting: FrontEnd) -> None:
    for client, policy in ((front_end, "on"), (trusting, "off: output is trusted")):
        (table,) = client.run("%sandbox status").contents("display_data")
        assert any(
            line.split() == ["Output", "guard", *policy.split()] for line in table["data"]["text/plain"].split("\n")
        )


def test_trusted_output_arrives_as_it_is(trusting: FrontEnd) -> None:
    cell = trusting.run("from IPython.display import HTML\nHTML('<script>x</script>')")
    (result,) = cell.contents("execute_result")
    assert result["data"]["text/html"] == "<script>x</script>"


def test_cell_cannot_change_the_policy(front_end: FrontEnd) -> None:
    front_end.run("%sandbox config Guard.trusted_output=True", stop_on_error=False)
    front_end.run("import os; os.environ['SANDBOX_GUARD'] = 'off'")
    (result,) = front_end.run("from IPython.display import HTML\nHTML('<script>x</script>')").contents("execute_result")
    assert "srcdoc" in result["data"]["text/html"]


def test_output_beyond_the_bound_is_cut_with_a_word(tmp_path: Path) -> None:
    with running(tmp_path, "--Guard.max_cell_output=100000") as kernel:
        client = kernel.front_end()
        cell = client.run("for _ in range(50): print('x' * 10_000, flush=True)")
        assert 10_000 < len(cell.stream()) < 100_000
        (notice,) = cell.contents("display_data")
        assert "Guard.max_cell_output" in notice["data"]["text/plain"]
        assert client.run("print('next')").stream() == "next\n"


def test_forged_reply_ends_its_cell_with_an_error(front_end: FrontEnd) -> None:
    cell = front_end.run(
        "kernel = get_ipython().kernel\n"
        "send = kernel.session.send\n"
        "def forge(stream, msg_or_type, *args, **options):\n"
        "    if msg_or_type == 'execute_reply':\n"
        "        kernel.session.send = send\n"
        "        msg_or_type = 'inspect_reply'\n"
        "    return send(stream, msg_or_type, *args, **options)\n"
        "kernel.session.send = forge"
    )
    assert cell.status == "error"
    assert "broken" in cell.reply["evalue"]
    assert front_end.run("1 + 1").result == "2"


@pytest.mark.parametrize("options", [("--Guard.max_message_size=1000000",), ()])
def test_a_message_that_is_too_large_is_told_and_the_sandbox_goes_on(tmp_path: Path, options: tuple[str, ...]) -> None:
    size = 3_000_000 if options else 300_000_000
    with running(tmp_path, *options) as kernel:
        front_end = kernel.front_end()
        cell = front_end.run(f"from IPython.display import display\ndisplay('x' * {size}); kept = 1")
        (notice,) = (content["data"]["text/plain"] for content in cell.contents("display_data"))
        assert "was dropped" in notice
        assert "Guard.max_message_size" in notice
        asked = front_end.cell("kept", user_expressions={"large": f"'x' * {size}"})
        front_end.finish(asked)
        assert "Guard.max_message_size" in asked.reply["evalue"]
        assert front_end.run("kept").result == "1"
