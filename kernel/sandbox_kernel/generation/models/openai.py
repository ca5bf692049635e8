"""Services that speak OpenAI's chat completions, as Ollama, vLLM, llama.cpp and others do; through httpx."""

from __future__ import annotations

import asyncio
import codecs
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from traitlets import Unicode, default

from sandbox_kernel.errors import ModelError

from .addresses import below_address, shown_address, without_secrets_of
from .base import CUTS, End, Model, ModelRequest, Piece, Reason, Text, reason_of_complaint, whole

if TYPE_CHECKING:
    import httpx

REASONS = {
    400: Reason.REFUSED,
    401: Reason.CREDENTIALS,
    402: Reason.UNPAID,
    403: Reason.DENIED,
    404: Reason.UNKNOWN,
    408: Reason.TIMEOUT,
    410: Reason.UNKNOWN,
    413: Reason.TOO_LONG,
    422: Reason.REFUSED,
    429: Reason.THROTTLED,
}
"""By HTTP status; for any other there is no such service at this address, or none at this time."""
TELLING = (Reason.REFUSED, Reason.THROTTLED, Reason.UNKNOWN)
"""Reasons by status that the service's words tell more exactly."""
MAX_LINE = 1024 * 1024
"""Characters of one event."""
MAX_ERROR = 20_000
"""Bytes of an error's body that are read."""


class OpenAIModel(Model):
    """A model behind an OpenAI-compatible address."""

    endpoint_url = Unicode(
        "http://localhost:11434/v1",
        config=True,
        help="The address with its version, as in https://api.openai.com/v1. Default: Ollama on this machine.",
    )
    api_key_variable = Unicode(
        "OPENAI_API_KEY",
        config=True,
        help="The environment variable that holds the key; it is sent only to an endpoint_url that you have set.",
    )
    api_key = Unicode()
    """From the environment, see api_key_variable."""

    @default("api_key")
    def _key_from_environment(self) -> str:
        # A key of another service's is no business of a server on this machine.
        is_default = self.endpoint_url == self.traits()["endpoint_url"].default_value
        return "" if is_default else os.environ.get(self.api_key_variable, "")

    @property
    def place(self) -> str:
        return shown_address(self.endpoint_url)

    @property
    def account(self) -> str:
        # The address may hold who logs in: told apart, and not told.
        whole = sha256(self.endpoint_url.encode(errors="replace")).hexdigest()
        return f"{self.kind} {self.place} {whole[:16]} {self.api_key_variable}"

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece, None]:
        # In a thread: httpx is imported there, and reads the system's certificates.
        client = await asyncio.to_thread(self._client)
        with self._told():
            async with (
                client,
                client.stream("POST", self._address, json=self._body(request), headers=self._headers) as response,
            ):
                if response.status_code != 200:
                    raise await self._refusal(response)
                end = End()
                async for event in self._events(response):
                    end = _noted(event, end)
                    text = _text(event)
                    if text:
                        yield Text(text)
        yield end

    async def _refusal(self, response: httpx.Response) -> ModelError:
        """Return what another status than 200 means."""
        status = response.status_code
        said, code = await _complaint(response)
        if response.has_redirect_location:
            target = shown_address(response.headers["location"])
            said = f"the address leads on to {target}; set endpoint_url accordingly"
        return self.error(
            _reason(status, f"{code} {said}"), f"{said or code or response.reason_phrase} (HTTP {status})"
        )

    def _client(self) -> httpx.AsyncClient:
        with self._told():
            import httpx

            # A connection for each request: one that was kept may have been closed by the service meanwhile.
            limits = httpx.Limits(max_keepalive_connections=0)
            return httpx.AsyncClient(timeout=self.request_timeout, follow_redirects=False, limits=limits)

    @property
    def _address(self) -> str:
        return below_address(self.endpoint_url, "chat/completions")

    def error(self, reason: Reason, detail: str = "") -> ModelError:
        """Return an error about this model. A service may repeat the key, or the address, that it was sent."""
        detail = detail.replace(self.api_key, "…") if self.api_key else detail
        return super().error(reason, without_secrets_of(self.endpoint_url, detail))

    @property
    def _headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        # Not compressed: a few bytes could become any number.
        return {**key, "Accept": "text/event-stream", "Accept-Encoding": "identity"}

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        said = [{"role": one.role, "content": one.text} for one in request.messages]
        return {
            "model": self.model,
            "messages": [{"role": "system", "content": request.system}, *said],
            "max_tokens": min(request.max_tokens, self.max_tokens),
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    async def _events(self, response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
        """Yield the events of a stream. Raises ModelError where it does not end as one should."""
        finished = False
        async for data in self._data(response):
            if data == "[DONE]":
                return
            event = json.loads(data)
            if not isinstance(event, dict):
                raise self.error(Reason.BROKEN, "an event is no object")
            if event.get("error"):
                raise self._stream_error(event["error"])
            finished = finished or bool(_choice(event).get("finish_reason"))
            yield event
        # Some servers leave the last line out.
        if not finished:
            raise self.error(Reason.BROKEN)

    async def _data(self, response: httpx.Response) -> AsyncIterator[str]:
        """Yield what each event holds, as text; of a service that does not stream, the whole answer."""
        whole: list[str] = []
        size = 0
        async for line in _lines(response):
            size = len(line) + (size if whole else 0)
            if size > MAX_LINE:
                raise self.error(Reason.BROKEN, "an event is too long")
            if whole or line.lstrip().startswith("{"):
                whole.append(line)
            elif line.startswith("data:"):
                yield line[5:].strip()
        if whole:
            yield "\n".join(whole)

    def _stream_error(self, error: Any) -> Exception:
        said = error if isinstance(error, dict) else {"message": error}
        code, message = said.get("code"), str(said.get("message", ""))
        words = f"{code} {said.get('type')} {message}"
        reason = _reason(code, words) if isinstance(code, int) else reason_of_complaint(words, Reason.BROKEN)
        return self.error(reason, message)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn httpx's errors into ours."""
        try:
            import httpx
        except ImportError as exc:
            raise self.error(Reason.UNAVAILABLE, f"httpx is not installed ({exc})") from exc
        try:
            yield
        except httpx.TimeoutException as exc:
            raise self.error(Reason.TIMEOUT) from exc
        except (httpx.RemoteProtocolError, httpx.ReadError) as exc:
            raise self.error(Reason.BROKEN, str(exc)) from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise self.error(Reason.UNAVAILABLE, str(exc)) from exc
        except (ValueError, RecursionError) as exc:
            raise self.error(Reason.BROKEN, "it sent what is no JSON") from exc


def _reason(status: int, words: str) -> Reason:
    reason = REASONS.get(status, Reason.UNAVAILABLE)
    return reason_of_complaint(words, reason) if reason in TELLING else reason


async def _lines(response: httpx.Response) -> AsyncIterator[str]:
    """Yield the lines of a response; its sender may make one as long as he likes, and that ends it."""
    rest = ""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    async for piece in response.aiter_raw():
        *lines, rest = (rest + decoder.decode(piece)).split("\n")
        for line in lines:
            yield line.rstrip("\r")
        if len(rest) > MAX_LINE:
            yield rest
            return
    if rest:
        yield rest


async def _complaint(response: httpx.Response) -> tuple[str, str]:
    """Return what an error's body says, as far as it is read, and by which code."""
    body = b""
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > MAX_ERROR:
            break
    try:
        said = json.loads(body)["error"]
    except (ValueError, LookupError, TypeError, RecursionError):
        # A web server's own page says less than its status.
        return "" if body.lstrip().startswith(b"<") else body[:300].decode(errors="replace"), ""
    if not isinstance(said, dict):
        return str(said), ""
    return str(said.get("message") or ""), " ".join(str(said[name]) for name in ("code", "type") if said.get(name))


def _choice(event: dict[str, Any]) -> dict[str, Any]:
    """Return the event's first choice; empty where it has none, as the last one of a stream."""
    choices = event.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    return first if isinstance(first, dict) else {}


def _text(event: dict[str, Any]) -> str:
    # Of a service that does not stream, the message is there at once.
    choice = _choice(event)
    delta = choice.get("delta") or choice.get("message")
    text = delta.get("content") if isinstance(delta, dict) else None
    return text if isinstance(text, str) else ""


def _noted(event: dict[str, Any], end: End) -> End:
    """Return what is known of an answer's end after one more event."""
    usage = event.get("usage")
    cut = end.cut or CUTS.get(str(_choice(event).get("finish_reason")), "")
    if not isinstance(usage, dict):
        return End(end.input_tokens, end.output_tokens, cut)
    return End(whole(usage.get("prompt_tokens")), whole(usage.get("completion_tokens")), cut)
