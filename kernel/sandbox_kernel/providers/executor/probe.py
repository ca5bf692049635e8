"""Why an executor cannot be reached: tried with a connection of our own, since gRPC's words differ by version."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress

from .connection import Connection

TIMEOUT = 1.0
"""Seconds for each attempt."""
ALERT = 0.3
"""Seconds to wait for what comes behind a handshake."""


class Refusal(Exception):  # noqa: N818 - it is an answer, which only travels like an error
    """Why no connection works, as a clause; trying again will not help."""


async def explain(connection: Connection) -> str:
    """Return why the executor cannot be reached now, as a clause; "" if it seems that it can.

    Raises Refusal where that will not change by itself.
    """
    try:
        await asyncio.wait_for(_connect(connection, None), TIMEOUT)
    except asyncio.TimeoutError:
        return "it does not answer"
    except socket.gaierror as exc:
        return f"the name {connection.host} is not known ({exc.strerror})"
    except OSError as exc:
        return f"nothing listens there ({exc.strerror or exc})"
    with suppress(asyncio.TimeoutError):
        return await asyncio.wait_for(_try(connection), TIMEOUT)
    return "it does not answer"


async def _try(connection: Connection) -> str:
    if connection.plaintext:
        return await _try_plaintext(connection)
    try:
        accepted = await _connect(connection, _context(connection))
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
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        await _connect(connection, context)
    except ssl.SSLError as exc:
        if "alert" not in str(exc).lower():
            return ""
    except OSError:
        return ""
    raise Refusal(
        "it speaks TLS and this client was told not to: set ExecutorProvider.plaintext to False, and ca_file if its "
        "certificate is your own"
    )


def _context(connection: Connection) -> ssl.SSLContext:
    """Return what makes the same demands as gRPC's own connection."""
    context = ssl.create_default_context(cafile=str(connection.ca_file) if connection.ca_file else None)
    if connection.certificate_file and connection.private_key_file:
        context.load_cert_chain(connection.certificate_file, connection.private_key_file)
    context.set_alpn_protocols(["h2"])
    return context


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
