"""Parts of the provider gateway: messages on the wire, addresses, ids, what is known of requests that were sent."""

from __future__ import annotations

import json
import ssl

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_kernel.errors import AuthenticationError, ConfigurationError, SandboxConnectionError
from sandbox_kernel.link import envelope, websocket
from sandbox_kernel.providers.gateway import messages
from sandbox_kernel.providers.gateway.failures import error_of, refusal_of, translated
from sandbox_kernel.providers.gateway.place import Place, is_kernel_id, is_ours, new_kernel_id
from sandbox_kernel.providers.gateway.sent import Lane, SentRequests
from sandbox_kernel.providers.gateway.starting import NoBridgeError, said

TOKEN = "token-of-tests"  # noqa: S105 - of the tests
HEADER = {"msg_id": "m1", "msg_type": "execute_request", "session": "s", "version": "5.3"}
FIELDS = st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.integers(), max_size=3)


@given(
    st.sampled_from(sorted(messages.CHANNELS)),
    st.lists(FIELDS, min_size=4, max_size=4),
    st.lists(st.binary(max_size=50), max_size=3),
    st.sampled_from((messages.V1, "")),
)
def test_messages_arrive_as_they_were(
    channel: str, fields: list[dict[str, object]], buffers: list[bytes], protocol: str
) -> None:
    parts = [*(json.dumps(field).encode() for field in fields), *buffers]
    read = messages.decode(protocol, *messages.encode(protocol, channel, parts))
    assert read.channel == channel
    assert [json.loads(bytes(part)) for part in read.parts[:4]] == fields
    assert [bytes(part) for part in read.parts[4:]] == buffers


@given(st.binary(max_size=200), st.sampled_from((messages.V1, "")), st.sampled_from((websocket.TEXT, websocket.DATA)))
def test_what_is_no_message_is_refused(data: bytes, protocol: str, kind: int) -> None:
    with pytest.raises(ValueError):
        messages.decode(protocol, kind, data)


def test_messages_are_those_of_jupyter_server() -> None:
    base = pytest.importorskip("jupyter_server.services.kernels.connection.base")
    parts = [b'{"a": 1}', b"{}", b"{}", b'{"b": 2}', b"\x00\xff"]
    _, sent = messages.encode(messages.V1, "shell", parts)
    assert base.deserialize_msg_from_ws_v1(sent) == ("shell", parts)
    assert messages.decode(messages.V1, websocket.DATA, base.serialize_msg_to_ws_v1(parts, "iopub")) == ("iopub", parts)
    _, old = messages.encode("", "shell", [b'{"date": ""}', *parts[1:]])
    assert base.deserialize_binary_message(old)["buffers"] == [b"\x00\xff"]


@given(st.lists(st.tuples(st.sampled_from((1, 2)), st.binary(max_size=200)), max_size=4), st.integers(1, 300))
def test_fragments_are_put_together(sent: list[tuple[int, bytes]], size: int) -> None:
    stream = bytearray()
    for kind, payload in sent:
        middle = len(payload) // 2
        first = bytearray(websocket.encode(kind, payload[:middle], masked=False))
        first[0] &= 0x7F
        # A control frame may come between them.
        stream += first + websocket.encode(websocket.PING, b"?", masked=False)
        stream += websocket.encode(0, payload[middle:], masked=False)
    decoder = websocket.MessageDecoder(1000)
    got = [one for at in range(0, len(stream), size) for one in decoder.receive(stream[at : at + size])]
    assert [one for one in got if one[0] != websocket.PING] == sent


def test_a_message_that_is_too_large_or_out_of_place_is_refused() -> None:
    for frames in (
        websocket.encode(websocket.TEXT, b"x" * 1001, masked=False),
        b"\x01\x7e\x02\x58" + b"x" * 600 + b"\x80\x7e\x02\x58" + b"x" * 600,
        websocket.encode(0, b"x", masked=False),
        b"\x01\x01x\x81\x01y",
    ):
        with pytest.raises(websocket.WebSocketError):
            websocket.MessageDecoder(1000).receive(frames)


@pytest.mark.parametrize(
    "url",
    ["", "gateway", "ftp://a", "http://", "http://me:secret@a", "http://a/?token=secret", "http://a:x", "http://a#b"],
)
def test_addresses_that_cannot_be_are_refused_without_their_secrets(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Place(url).check()
    assert "secret" not in str(caught.value)


def test_tokens_and_headers_are_checked_and_in_no_repr() -> None:
    place = Place("https://a/base/", TOKEN, {"X-A": "secret"})
    place.check()
    assert place.request_headers["Authorization"] == f"token {TOKEN}"
    assert place.channels_url("i d", "s") == "https://a/base/api/kernels/i%20d/channels?session_id=s"
    assert TOKEN not in repr(place)
    assert "secret" not in repr(place)
    for wrong in (Place("http://a", "a b"), Place("http://a", "a\nb"), Place("http://a", "", {"a": "b\r\nc: d"})):
        with pytest.raises(ConfigurationError):
            wrong.check()
    with pytest.raises(ConfigurationError, match="http, not https"):
        Place("http://a", ca_file=__file__).check()


def test_kernels_of_ours_have_ids_that_say_so() -> None:
    made = new_kernel_id()
    assert is_kernel_id(made)
    assert is_ours(made)
    assert not is_ours("0e6f2a1c-7f5e-4b7a-9d77-2f3ad3a3b001")
    assert not any(map(is_kernel_id, ("", "../x", "a/b", "a?b", None, "-a")))


def test_refusals_and_faults_of_the_network_become_our_errors() -> None:
    place = Place("https://a")
    login = error_of(place, refusal_of(302, b"", "/hub/login"), "start a kernel")
    assert isinstance(login, AuthenticationError)
    assert "wants a login" in str(login)
    stopped = error_of(place, refusal_of(302, b"", "/base/hub/user/ann/api"), "start a kernel")
    assert "start it at the hub" in str(stopped)
    assert "<html" not in str(error_of(place, refusal_of(502, b"<html>secret page</html>"), "start a kernel"))
    with pytest.raises(SandboxConnectionError), translated(place, "start a kernel"):
        raise httpx.ConnectError("refused")
    broken = ssl.SSLCertVerificationError(1, "failed")
    broken.verify_message = "certificate has expired"
    with pytest.raises(ConfigurationError, match="renew it"), translated(place, "start a kernel"):
        raise httpx.ConnectError("failed") from broken


def test_requests_are_remembered_until_reply_and_idle_have_come() -> None:
    def output(msg_type: str, **content: object) -> list[bytes]:
        header = {**HEADER, "msg_id": "o", "msg_type": msg_type}
        return [json.dumps(part).encode() for part in (header, HEADER, {}, content)]

    sent = SentRequests()
    kind = envelope.SHELL + b"abcd"
    sent.add(kind, "shell", json.dumps(HEADER).encode(), 1)
    assert sent.add(kind, "shell", json.dumps({**HEADER, "msg_type": "comm_msg"}).encode(), 1) is None
    sent.on_output(output("status", execution_state="busy"))
    sent.on_output(output("execute_input", code="1", execution_count=7))
    running = sent.running()
    assert running is not None
    assert (running.lane, running.count) == (Lane("shell"), 7)
    assert sent.doubtful(1) == []
    assert sent.doubtful(2) == [running]
    sent.on_output(output("status", execution_state="idle"))
    assert len(sent) == 1
    assert sent.on_reply(HEADER) is running
    assert len(sent) == 0


def shown_value(text: object) -> dict[str, object]:
    """Return a reply in which an expression has this value."""
    return {"status": "ok", "user_expressions": {"said": {"status": "ok", "data": {"text/plain": text}}}}


def test_what_a_kernel_says_of_a_bridge_is_read() -> None:
    assert said(shown_value(repr(b"true".hex()))) is True
    assert said(shown_value(repr(json.dumps("it has no zmq").encode().hex()))) == "it has no zmq"
    for content in ({"status": "error", "ename": "NameError", "evalue": "x" * 1000}, {"status": "ok"}, {}):
        with pytest.raises(NoBridgeError):
            said(content)


@pytest.mark.parametrize(
    "text", ["", "True", "'tr'", "[" * 100_000, "-" * 100_000 + "1", repr(b"[".hex() * 1500), 5, None, ["'74'"]]
)
def test_a_hostile_kernel_says_nothing_of_a_bridge(text: object) -> None:
    with pytest.raises(NoBridgeError):
        said(shown_value(text))
