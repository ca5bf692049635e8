"""Why an executor cannot be reached: tried with a connection of our own, since gRPC's words differ by version."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from pathlib import Path

from .connection import Connection

TIMEOUT = 1.0
"""Seconds for each attempt."""
ALERT = 0.3
"""Seconds to wait for what comes behind a handshake."""
SILENT = "it does not answer"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""With what a client begins HTTP/2: RFC 9113, section 3.4, and a SETTINGS frame that sets nothing."""
SETTINGS = 4
"""The type of the frame with which a server answers; it stands behind the three bytes of the frame's length."""


class Refusal(Exception):  # noqa: N818 - it is an answer, which only travels like an error
    """Why no connection works, as a clause; trying again will not help."""


async def explain(connection: Connection) -> str:
    """Return why the executor cannot be reached now, as a clause; "" if it seems that it can.

    Raises Refusal where that will not change by itself.
    """
    try:
        await asyncio.wait_for(_connect(connection, None), TIMEOUT)
    except asyncio.TimeoutError:
        return SILENT
    except socket.gaierror as exc:
        return f"the name {connection.host} is not known ({exc.strerror})"
    except OSError as exc:
        return f"nothing listens there ({exc.strerror or exc})"
    if connection.plaintext:
        return await _try_plaintext(connection)
    context = _context(connection)
    with suppress(asyncio.TimeoutError):
        return await asyncio.wait_for(_try_tls(connection, context), TIMEOUT)
    return SILENT


async def _try_tls(connection: Connection, context: ssl.SSLContext) -> str:
    try:
        accepted = await _connect(connection, context)
    except ssl.SSLCertVerificationError as exc:
        raise Refusal(f"its certificate is not accepted: {exc.verify_message}") from exc
    except ssl.SSLError as exc:
        if "alert" not in str(exc).lower():
            raise Refusal("it does not speak TLS: its certificate_file is not set, or it is another service") from exc
        accepted = False
    except OSError as exc:
        return f"it closes the connection ({exc.strerror or exc})"
    if not accepted:
        wanted = "another client certificate" if connection.certificate_file else "a client certificate"
        raise Refusal(f"it wants {wanted}: set ExecutorProvider.certificate_file and private_key_file")
    return ""


async def _try_plaintext(connection: Connection) -> str:
    try:
        answer = await asyncio.wait_for(_begin_http2(connection), TIMEOUT)
    except asyncio.TimeoutError:
        return SILENT
    except OSError:
        answer = b""
    if answer[3:4] == bytes([SETTINGS]):
        return ""
    if await _speaks_tls(connection):
        raise Refusal(
            "it speaks TLS and this client was told not to: set ExecutorProvider.plaintext to False, and ca_file if "
            "its certificate is your own"
        )
    if answer:
        raise Refusal("it is another service, which does not speak gRPC")
    return "it closes the connection"


async def _begin_http2(connection: Connection) -> bytes:
    """Return the beginning of what the other end says to a client that begins; b"" if it closes the connection."""
    reader, writer = await asyncio.open_connection(connection.host, connection.port)
    try:
        writer.write(PREFACE)
        return await reader.read(4)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _speaks_tls(connection: Connection) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        await asyncio.wait_for(_connect(connection, context), TIMEOUT)
    except ssl.SSLError as exc:
        return "alert" in str(exc).lower()
    except (OSError, asyncio.TimeoutError):
        return False
    return True


def _context(connection: Connection) -> ssl.SSLContext:
    """Return what makes the same demands as gRPC's own connection. Raises Refusal for files that cannot be used."""
    try:
        context = ssl.create_default_context(cafile=str(connection.ca_file) if connection.ca_file else None)
    except ssl.SSLError as exc:
        raise Refusal(f"ExecutorProvider.ca_file, {connection.ca_file}, holds no certificates in PEM") from exc
    if connection.certificate_file and connection.private_key_file:
        _load_pair(context, connection.certificate_file, connection.private_key_file)
    context.set_alpn_protocols(["h2"])
    return context


def _load_pair(context: ssl.SSLContext, certificate: Path, private_key: Path) -> None:
    try:
        # Without a password one would be asked for in the terminal; gRPC takes no encrypted keys.
        context.load_cert_chain(certificate, private_key, password="")
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise Refusal(
                f"the key in ExecutorProvider.private_key_file, {private_key}, is not that of the certificate in "
                f"certificate_file, {certificate}"
            ) from exc
        raise Refusal(
            f"ExecutorProvider.certificate_file, {certificate}, and private_key_file, {private_key}, are no "
            "certificate in PEM and its key without a password"
        ) from exc


async def _connect(connection: Connection, context: ssl.SSLContext | None) -> bool:
    """Connect, and return whether the other end has not closed the connection at once. Raises OSError, as SSLError is.

    What a server says of a client's certificate comes behind the handshake; else it says at once who it is.
    """
    reader, writer = await asyncio.open_connection(
        connection.host, connection.port, ssl=context, server_hostname=connection.host if context else None
    )
    try:
        if context is not None:
            with suppress(asyncio.TimeoutError):
                return bool(await asyncio.wait_for(reader.read(1), ALERT))
        return True
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
