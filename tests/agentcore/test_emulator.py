"""The emulator takes boto3, the vendor's own package and a framework's tool for the service, none of them changed."""

from __future__ import annotations

import base64
import importlib
import json
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError, ReadTimeoutError
from urllib3.exceptions import ProtocolError

from tests.emulators.agentcore import AgentCore

# What clients leave behind, see conftest.py.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SYSTEM = "aws.codeinterpreter.v1"
Invoke = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def client(emulator: AgentCore) -> Any:
    config = Config(retries={"total_max_attempts": 1}, max_pool_connections=20)
    return boto3.client("bedrock-agentcore", endpoint_url=emulator.url, config=config)


@pytest.fixture
def session(client: Any) -> Iterator[str]:
    started = client.start_code_interpreter_session(codeInterpreterIdentifier=SYSTEM, name="test")
    yield str(started["sessionId"])
    client.stop_code_interpreter_session(codeInterpreterIdentifier=SYSTEM, sessionId=started["sessionId"])


@pytest.fixture
def invoke(client: Any, session: str) -> Invoke:
    def invoked(name: str, **arguments: object) -> list[dict[str, Any]]:
        answer = client.invoke_code_interpreter(
            codeInterpreterIdentifier=SYSTEM, sessionId=session, name=name, arguments=arguments
        )
        assert answer["sessionId"] == session
        return [event["result"] for event in answer["stream"]]

    return invoked


def test_boto3_runs_code_in_a_session_that_keeps_its_variables(invoke: Invoke) -> None:
    invoke("executeCode", code="x = 20")
    (result,) = invoke("executeCode", code="print('a'); print(x + 1)\n")
    assert result["structuredContent"]["stdout"] == "a\n21"
    assert result["content"] == [{"type": "text", "text": "a\n21"}]
    assert not result["isError"]
    (result,) = invoke("executeCode", code="1/0")
    assert result["isError"]
    assert "ZeroDivisionError" in result["content"][0]["text"]
    assert "x" not in invoke("executeCode", code="dir()", clearContext=True)[0]["structuredContent"]["stdout"].split(
        "'"
    )


def test_it_runs_typescript(invoke: Invoke) -> None:
    (result,) = invoke("executeCode", code="const a: number = 3; console.log(a)", language="typescript")
    assert result["structuredContent"]["stdout"] == "3"


def test_commands_go_through_a_terminal_and_leave_nothing_behind(invoke: Invoke) -> None:
    (result,) = invoke("executeCommand", command="echo out; echo err >&2; exit 3")
    assert result["structuredContent"]["stdout"] == "out\r\nerr"
    assert result["structuredContent"]["exitCode"] == 3
    invoke("executeCommand", command="setsid sleep 1234 & sleep 0.05")
    (result,) = invoke("executeCommand", command="ps ax | grep -c '[s]leep 1234'")
    assert result["structuredContent"]["stdout"] == "0"


def test_tasks_run_on_and_can_be_stopped(invoke: Invoke) -> None:
    (begun,) = invoke("startCommandExecution", command="echo begun; sleep 100")
    task = begun["structuredContent"]["taskId"]
    deadline = time.monotonic() + 20
    while "begun" not in invoke("getTask", taskId=task)[0]["structuredContent"]["stdout"]:
        assert time.monotonic() < deadline
    assert invoke("getTask", taskId=task)[0]["structuredContent"]["taskStatus"] == "working"
    invoke("stopTask", taskId=task)
    assert invoke("getTask", taskId=task)[0]["structuredContent"]["taskStatus"] == "canceled"


def test_long_command_lines_are_never_answered(client: Any, session: str, emulator: AgentCore) -> None:
    impatient = boto3.client(
        "bedrock-agentcore",
        endpoint_url=emulator.url,
        config=Config(retries={"total_max_attempts": 1}, read_timeout=1),
    )
    with pytest.raises(ReadTimeoutError, match=r"(?i)timed? ?out"):
        impatient.invoke_code_interpreter(
            codeInterpreterIdentifier=SYSTEM,
            sessionId=session,
            name="executeCommand",
            arguments={"command": f"echo {'x' * 131_072}"},
        )


def test_files_have_relative_paths_only(invoke: Invoke) -> None:
    invoke("writeFiles", content=[{"path": "a/b.txt", "text": "text"}, {"path": "c.bin", "blob": b"\xff\x00"}])
    (result,) = invoke("readFiles", paths=["a/b.txt", "/c.bin"])
    text, blob = (block["resource"] for block in result["content"])
    assert (text["uri"], text["text"]) == ("file:///a/b.txt", "text")
    found = blob["blob"]
    assert (found if isinstance(found, bytes) else base64.b64decode(found)) == b"\xff\x00"
    listed = {one["name"]: one["description"] for one in invoke("listFiles", directoryPath="")[0]["content"]}
    assert listed == {".ipython": "Directory", "log": "Directory", "a": "Directory", "c.bin": "File"}
    assert invoke("readFiles", paths=["/tmp/c.bin"])[0]["isError"]
    assert invoke("readFiles", paths=["../../etc/passwd"])[0]["isError"]
    invoke("removeFiles", paths=["a"])
    assert invoke("readFiles", paths=["a/b.txt"])[0]["isError"]


def test_sessions_have_a_life(client: Any, emulator: AgentCore) -> None:
    started = client.start_code_interpreter_session(codeInterpreterIdentifier=SYSTEM, sessionTimeoutSeconds=60)
    ids = {"codeInterpreterIdentifier": SYSTEM, "sessionId": started["sessionId"]}
    found = client.get_code_interpreter_session(**ids)
    assert (found["status"], found["sessionTimeoutSeconds"]) == ("READY", 60)
    listed = client.list_code_interpreter_sessions(codeInterpreterIdentifier=SYSTEM, status="READY", maxResults=1)
    assert len(listed["items"]) == 1
    emulator.tell("clock", advance=61)
    assert client.get_code_interpreter_session(**ids)["status"] == "TERMINATED"
    with pytest.raises(client.exceptions.ResourceNotFoundException, match="terminated"):
        client.invoke_code_interpreter(**ids, name="executeCode", arguments={"code": "1"})


def test_a_start_that_is_repeated_makes_one_session(client: Any) -> None:
    token = "t" * 40
    ids = {
        client.start_code_interpreter_session(codeInterpreterIdentifier=SYSTEM, clientToken=token)["sessionId"]
        for _ in range(2)
    }
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"codeInterpreterIdentifier": "absent-0123456789"}, "ResourceNotFoundException"),
        ({"codeInterpreterIdentifier": SYSTEM, "name": "x" * 101}, "ValidationException"),
        ({"codeInterpreterIdentifier": SYSTEM, "sessionTimeoutSeconds": 28801}, "ValidationException"),
    ],
)
def test_what_is_wrong_is_refused(emulator: AgentCore, arguments: dict[str, Any], code: str) -> None:
    lax = boto3.client(
        "bedrock-agentcore",
        endpoint_url=emulator.url,
        config=Config(retries={"total_max_attempts": 1}, parameter_validation=False),
    )
    with pytest.raises(ClientError) as caught:
        lax.start_code_interpreter_session(**arguments)
    assert caught.value.response["Error"]["Code"] == code


@pytest.mark.parametrize(
    ("kind", "kind_of_error", "text"),
    [
        ("throttle", ClientError, "ThrottlingException"),
        ("error", ClientError, "InternalServerException"),
        ("quota", ClientError, "ServiceQuotaExceededException"),
        ("deny", ClientError, "AccessDeniedException"),
        ("exception", EventStreamError, "throttlingException"),
        ("drop", Exception, "Connection|closed"),
        ("expire", ClientError, "ResourceNotFoundException"),
    ],
)
def test_faults_are_what_the_sdk_knows(
    kind: str, kind_of_error: type[Exception], text: str, invoke: Invoke, emulator: AgentCore
) -> None:
    emulator.plan(kind, operation="InvokeCodeInterpreter")
    with pytest.raises((kind_of_error, ProtocolError), match=text):
        invoke("executeCode", code="1")


@pytest.mark.parametrize("kind", ["empty", "truncate"])
def test_an_answer_that_is_cut_off_is_no_error_for_the_sdk(kind: str, invoke: Invoke, emulator: AgentCore) -> None:
    emulator.plan(kind, operation="InvokeCodeInterpreter")
    assert invoke("executeCode", code="open('ran', 'a').write('x')") == []
    # It was done all the same.
    assert invoke("executeCode", code="print(open('ran').read())")[0]["structuredContent"]["stdout"] == "x"


def test_results_come_as_they_are_made_where_that_is_wanted(invoke: Invoke, emulator: AgentCore) -> None:
    emulator.behave(several_events=True)
    code = "import time\nfor n in range(3): print(n, flush=True); time.sleep(0.1)"
    events = invoke("executeCode", code=code)
    assert len(events) > 2
    assert "".join(one["structuredContent"]["stdout"] for one in events) == "0\n1\n2\n"


def test_more_than_ten_operations_at_one_time_are_refused(invoke: Invoke) -> None:
    def wait(_: int) -> str:
        try:
            invoke("executeCommand", command="sleep 1")
        except ClientError as exc:
            return str(exc.response["Error"]["Code"])
        return "done"

    with ThreadPoolExecutor(12) as threads:
        said = list(threads.map(wait, range(12)))
    assert sorted(said) == ["ServiceQuotaExceededException"] * 2 + ["done"] * 10


def test_switches_say_what_there_is_not(emulator: AgentCore) -> None:
    for switch, content in (("faults", {"kind": "x"}), ("behaviour", {"x": 1}), ("absent", {})):
        body = json.dumps(content).encode()
        request = urllib.request.Request(f"{emulator.url}/_emulator/{switch}", body)  # noqa: S310 - it is HTTP
        with pytest.raises(urllib.error.HTTPError, match=r"40[04]"):
            urllib.request.urlopen(request)  # noqa: S310


# ---- those of others


@pytest.fixture
def official(emulator: AgentCore, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The vendor's module, which reads the endpoint when it is imported."""
    for name, value in emulator.environment.items():
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings():
        # What it is built with is its own affair.
        warnings.simplefilter("ignore")
        importlib.reload(importlib.import_module("bedrock_agentcore._utils.endpoints"))
        return importlib.reload(importlib.import_module("bedrock_agentcore.tools.code_interpreter_client"))


def outputs(answer: Any) -> str:
    """Return the text of all results."""
    return "".join(event["result"]["content"][0]["text"] for event in answer["stream"])


def test_the_vendors_client_does_everything(official: Any) -> None:
    client = official.CodeInterpreter("us-west-2")
    client.start(session_timeout_seconds=300)
    try:
        assert outputs(client.execute_code("x = 1; print(x)")) == "1"
        assert outputs(client.execute_command("echo hello")) == "hello"
        client.upload_file("data.csv", "a,b\n1,2\n")
        client.upload_files([{"path": "b.txt", "content": "b"}, {"path": "c.bin", "content": b"\xfe"}])
        assert client.download_file("data.csv") == "a,b\n1,2\n"
        assert client.download_files(["b.txt", "c.bin"]) == {"/b.txt": "b", "/c.bin": b"\xfe"}
        names = [
            one["name"]
            for event in client.invoke("listFiles", {"path": ""})["stream"]
            for one in event["result"]["content"]
        ]
        assert {"data.csv", "b.txt"} <= set(names)
        client.clear_context()
        assert outputs(client.execute_code("print('x' in dir())")) == "False"
        assert client.get_session()["status"] == "READY"
        assert client.session_id in {one["sessionId"] for one in client.list_sessions()["items"]}
    finally:
        session_id = client.session_id
        client.stop()
    assert client.get_session(session_id=session_id, interpreter_id=SYSTEM)["status"] == "TERMINATED"


def test_the_vendors_session_context_works(official: Any) -> None:
    with official.code_session("us-west-2") as client:
        assert outputs(client.execute_code("print(6 * 7)")) == "42"


def test_the_vendors_client_makes_interpreters_of_its_own(official: Any) -> None:
    client = official.CodeInterpreter("us-west-2")
    made = client.create_code_interpreter(name="mine", execution_role_arn="arn:aws:iam::123456789012:role/r")
    interpreter = made["codeInterpreterId"]
    assert client.get_code_interpreter(interpreter)["status"] == "READY"
    client.start(identifier=interpreter)
    assert outputs(client.execute_code("print(1)")) == "1"
    client.stop()
    client.delete_code_interpreter(interpreter)


def test_strands_tool_works(official: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = importlib.import_module("strands_tools.code_interpreter.models")
        module = importlib.import_module("strands_tools.code_interpreter.agent_core_code_interpreter")
        importlib.reload(module)
    tool = module.AgentCoreCodeInterpreter(region="us-west-2", persist_sessions=False)
    assert (
        tool.init_session(models.InitSessionAction(type="initSession", description="d", session_name="s"))["status"]
        == "success"
    )
    run = models.ExecuteCodeAction(type="executeCode", session_name="s", code="print(2 + 3)")
    assert "5" in tool.execute_code(run)["content"][0]["text"]
    command = models.ExecuteCommandAction(type="executeCommand", session_name="s", command="echo hi")
    assert "hi" in tool.execute_command(command)["content"][0]["text"]
    content = [models.FileContent(path="a.txt", text="abc")]
    tool.write_files(models.WriteFilesAction(type="writeFiles", session_name="s", content=content))
    read = tool.read_files(models.ReadFilesAction(type="readFiles", session_name="s", paths=["a.txt"]))
    assert "abc" in read["content"][0]["text"]
    tool.cleanup_platform()
