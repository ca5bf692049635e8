"""Amazon Bedrock's Converse API through boto3, whose streams are read in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Union

from traitlets import Bool, Unicode

from sandbox_kernel.errors import ModelError

from .addresses import shown_address, without_secrets_of
from .base import CUTS, End, Model, ModelRequest, Piece, Reason, Text, reason_of_complaint, whole

CONNECT_TIMEOUT = 10.0
"""Seconds."""

REASONS = {
    "throttling": Reason.THROTTLED,
    "toomanyrequests": Reason.THROTTLED,
    "servicequotaexceeded": Reason.THROTTLED,
    "serviceunavailable": Reason.UNAVAILABLE,
    "internalserver": Reason.UNAVAILABLE,
    "internalfailure": Reason.UNAVAILABLE,
    "modelnotready": Reason.UNAVAILABLE,
    "modelerror": Reason.UNAVAILABLE,
    "modelstreamerror": Reason.UNAVAILABLE,
    "resourcenotfound": Reason.UNKNOWN,
    "modeltimeout": Reason.TIMEOUT,
    "accessdenied": Reason.DENIED,
    "unrecognizedclient": Reason.CREDENTIALS,
    "expiredtoken": Reason.CREDENTIALS,
    "invalidsignature": Reason.CREDENTIALS,
    "missingauthenticationtoken": Reason.CREDENTIALS,
    "validation": Reason.REFUSED,
}
"""By the service's error code, in small letters and without "Exception": streams write them otherwise than replies."""

Item = Union[Piece, Exception]


class BedrockModel(Model):
    """A model, or an inference profile, of Amazon Bedrock. Credentials are those of the AWS SDK's own chain."""

    region = Unicode(config=True, help="The AWS region. Default: the SDK's own chain (AWS_REGION, profile).")
    profile = Unicode(config=True, help="The profile of AWS's configuration files. Default: the SDK's own chain.")
    endpoint_url = Unicode(config=True, help="Another address of the service, such as a VPC endpoint's.")
    streaming = Bool(
        True, config=True, help="Whether to use ConverseStream; else Converse, whose answer comes in one piece."
    )

    _client: Any = None

    @property
    def place(self) -> str:
        own = shown_address(self.endpoint_url) if self.endpoint_url else ""
        where = own or self.region or "the region of the AWS configuration"
        return f"Amazon Bedrock, {where}"

    def error(self, reason: Reason, detail: str = "") -> ModelError:
        """Return an error about this model. The SDK repeats the address that it could not reach."""
        return super().error(reason, without_secrets_of(self.endpoint_url, detail))

    @property
    def account(self) -> str:
        # A region that an account has not enabled refuses its credentials.
        return f"{self.kind} {self.profile} {self.region}"

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece, None]:
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[Item] = asyncio.Queue()
        reading = _Reading()

        def put(item: Item) -> None:
            # The loop may have ended while the thread was still waiting for the service.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(items.put_nowait, item)

        def read() -> None:
            try:
                for piece in self._answer(request, reading):
                    put(piece)
            except Exception as exc:  # noqa: BLE001 - raised where it is waited for
                put(exc)

        # Not one of the loop's own threads: at its end those are waited for, and this one may wait for the service.
        threading.Thread(target=read, name="bedrock", daemon=True).start()
        try:
            while True:
                item = await items.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if isinstance(item, End):
                    return
        finally:
            reading.stop()

    def _answer(self, request: ModelRequest, reading: _Reading) -> Iterator[Piece]:
        """Yield the pieces of an answer. In a thread."""
        with self._told():
            client = self._connected()
            if not self.streaming:
                yield from _whole_answer(client.converse(**self._arguments(request)))
                return
            stream = client.converse_stream(**self._arguments(request))["stream"]
            reading.begin(stream)
            ended, stopped = End(), False
            for event in stream:
                text = event.get("contentBlockDelta", {}).get("delta", {}).get("text")
                if text:
                    yield Text(str(text))
                stopped = stopped or "messageStop" in event
                ended = _noted(event, ended)
        if not stopped:
            # A stream that is cut off ends like one that is complete, but for its last events.
            raise self.error(Reason.BROKEN)
        yield ended

    def _arguments(self, request: ModelRequest) -> dict[str, Any]:
        return {
            "modelId": self.model,
            "system": [{"text": request.system}],
            "messages": [{"role": one.role, "content": [{"text": one.text}]} for one in request.messages],
            "inferenceConfig": {"maxTokens": min(request.max_tokens, self.max_tokens)},
        }

    def _connected(self) -> Any:
        if self._client is None:
            import boto3
            from botocore.config import Config

            session = boto3.session.Session(profile_name=self.profile or None, region_name=self.region or None)
            # Never tried again behind our back: who waits is told, and another model asked.
            config = Config(
                retries={"total_max_attempts": 1},
                read_timeout=self.request_timeout,
                connect_timeout=min(CONNECT_TIMEOUT, self.request_timeout),
            )
            self._client = session.client("bedrock-runtime", endpoint_url=self.endpoint_url or None, config=config)
        return self._client

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn the SDK's errors into ours."""
        try:
            import boto3.exceptions
            from botocore import exceptions as theirs
            from urllib3.exceptions import HTTPError
        except ImportError as exc:
            raise self.error(Reason.UNAVAILABLE, f"boto3 is not installed ({exc})") from exc
        try:
            yield
        except theirs.ClientError as exc:
            said = exc.response.get("Error", {})
            code, message = str(said.get("Code", "")), str(said.get("Message", ""))
            raise self.error(_reason(code, message), message or code) from exc
        except (theirs.ReadTimeoutError, theirs.ConnectTimeoutError) as exc:
            raise self.error(Reason.TIMEOUT) from exc
        except (
            theirs.NoCredentialsError,
            theirs.PartialCredentialsError,
            theirs.CredentialRetrievalError,
            theirs.ProfileNotFound,
            theirs.NoRegionError,
            theirs.SSOError,
            theirs.TokenRetrievalError,
        ) as exc:
            raise self.error(Reason.CREDENTIALS, str(exc)) from exc
        except theirs.ParamValidationError as exc:
            # The SDK itself refuses what cannot be the name of a model.
            raise self.error(Reason.UNKNOWN if "modelId" in str(exc) else Reason.REFUSED, str(exc)) from exc
        except (theirs.HTTPClientError, theirs.BotoCoreError, boto3.exceptions.Boto3Error) as exc:
            raise self.error(Reason.UNAVAILABLE, str(exc)) from exc
        except HTTPError as exc:
            # While a stream is read, the transport's errors come as they are.
            raise self.error(Reason.BROKEN) from exc


class _Reading:
    """A stream that a thread reads, and another one may end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stream: Any = None
        self._stopped = False

    def begin(self, stream: Any) -> None:
        """Note the stream; close it if nobody wants it any more."""
        with self._lock:
            self._stream = stream
            if self._stopped:
                stream.close()

    def stop(self) -> None:
        """End the stream, and with it the thread's waiting. Idempotent."""
        with self._lock:
            self._stopped = True
            if self._stream is None:
                return
            # Closing a socket does not wake who reads it; shutting it down does.
            shutdown = getattr(getattr(self._stream, "_raw_stream", None), "shutdown", None)
            with suppress(Exception):
                if shutdown is not None:
                    shutdown()
                self._stream.close()


def _reason(code: str, message: str) -> Reason:
    """Return what an error of the service means."""
    name = code.lower().removesuffix("exception").removesuffix("error")
    found = next((reason for known, reason in REASONS.items() if known in (name, f"{name}error")), None)
    if found is None and code[:1] in ("3", "5"):
        # A status instead of a code: no service of AWS's has answered.
        return Reason.UNAVAILABLE
    return reason_of_complaint(message, Reason.REFUSED) if found in (None, Reason.REFUSED) else found


def _noted(event: dict[str, Any], end: End) -> End:
    """Return what is known of an answer's end after one more event."""
    if "messageStop" in event:
        return replace(end, cut=CUTS.get(str(event["messageStop"].get("stopReason")), ""))
    usage = event.get("metadata", {}).get("usage")
    if usage is None:
        return end
    return replace(end, input_tokens=whole(usage.get("inputTokens")), output_tokens=whole(usage.get("outputTokens")))


def _whole_answer(response: dict[str, Any]) -> Iterator[Piece]:
    for block in response.get("output", {}).get("message", {}).get("content", []):
        if block.get("text"):
            yield Text(str(block["text"]))
    stop: dict[str, Any] = {"messageStop": {"stopReason": response.get("stopReason")}}
    yield _noted({"metadata": {"usage": response.get("usage", {})}}, _noted(stop, End()))
