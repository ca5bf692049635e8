"""Attacks that reach for an address outside the sandbox. No packet of theirs leaves the machine, in or out of it."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable

from .toolbox import (
    BLOCKED,
    PATIENCE,
    UnavailableError,
    Verdict,
    World,
    attack,
    checked,
    first_success,
    in_child,
    libc,
    must,
    read,
    stolen,
)

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
IPPROTO_MPTCP = 262
AF_ALG = 38
MSG_FASTOPEN = 0x20000000


def _converse(end: socket.socket, address: tuple[str, int] | str | bytes) -> Verdict:
    """Connect to a server of the test, which answers with the secret."""
    with end:
        end.settimeout(PATIENCE)
        end.connect(address)
        return stolen(end.recv(4096), "the server said nothing")


@attack()
def reaches_a_tcp_server_on_loopback(world: World) -> Verdict:
    return _converse(socket.socket(socket.AF_INET, socket.SOCK_STREAM), ("127.0.0.1", world["tcp_port"]))


@attack()
def reaches_a_tcp_server_by_another_address_of_the_host(world: World) -> Verdict:
    return _converse(socket.socket(socket.AF_INET, socket.SOCK_STREAM), (world["host_address"], world["tcp_port"]))


@attack()
def reaches_a_tcp_server_by_ip_version_6(world: World) -> Verdict:
    if not world["tcp6_port"]:
        raise UnavailableError("this machine has no IPv6")
    return _converse(socket.socket(socket.AF_INET6, socket.SOCK_STREAM), ("::1", world["tcp6_port"]))


@attack()
def reaches_a_tcp_server_by_multipath_tcp(world: World) -> Verdict:
    try:
        end = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
    except OSError as exc:
        if exc.errno in (errno.EPROTONOSUPPORT, errno.ENOPROTOOPT, errno.EINVAL):
            raise UnavailableError("this kernel has no MPTCP") from exc
        raise
    return _converse(end, ("127.0.0.1", world["tcp_port"]))


@attack()
def reaches_a_tcp_server_by_fast_open(world: World) -> Verdict:
    """Sending connects here, so a filter of `connect` alone does not see it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as end:
        # Python's own time-out would make the socket a non-blocking one, whose call returns before it connected.
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(PATIENCE), 0))
        end.sendto(b"hello", MSG_FASTOPEN, ("127.0.0.1", world["tcp_port"]))
        return stolen(end.recv(4096))


@attack()
def reaches_a_udp_server_on_loopback(world: World) -> Verdict:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.settimeout(0.5)
        end.sendto(b"hello", ("127.0.0.1", world["udp_port"]))
        return stolen(end.recv(4096))


@attack()
def reaches_a_unix_socket(world: World) -> Verdict:
    return _converse(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), world["unix_path"])


@attack()
def reaches_an_abstract_unix_socket(world: World) -> Verdict:
    return _converse(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), b"\0" + world["abstract_name"].encode())


@attack()
def resolves_a_name(world: World) -> Verdict:
    """The server that the host's resolver asks is the test's, and knows this name."""
    try:
        found = socket.getaddrinfo(world["known_name"], 80, socket.AF_INET, socket.SOCK_STREAM)
    except socket.gaierror as exc:
        return False, str(exc)
    addresses = {entry[4][0] for entry in found}
    return world["known_address"] in addresses, str(addresses)


@attack()
def asks_the_name_server_itself(world: World) -> Verdict:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in world["known_name"].split("."))
    question = struct.pack("!HHHHHH", 77, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.settimeout(PATIENCE)
        # Connected, so that the refusal of a machine where nobody listens is told.
        end.connect(("127.0.0.1", 53))
        end.send(question)
        answer = end.recv(512)
    return socket.inet_aton(world["known_address"]) in answer, repr(answer)


@attack()
def has_a_route_to_the_clouds_metadata_service(world: World) -> Verdict:
    return _has_route(socket.AF_INET, "169.254.169.254")


@attack()
def has_a_route_to_any_address(world: World) -> Verdict:
    targets = {"192.0.2.1": socket.AF_INET, "10.0.0.1": socket.AF_INET, "8.8.8.8": socket.AF_INET}
    targets["2001:db8::1"] = socket.AF_INET6
    return first_success(lambda address: _has_route(targets[address], address), targets)


def _has_route(family: int, address: str) -> Verdict:
    """Connecting a datagram socket looks for the route and sends nothing."""
    with socket.socket(family, socket.SOCK_DGRAM) as end:
        end.connect((address, 80))
        return True, f"from {end.getsockname()}"


@attack()
def sees_an_interface_other_than_loopback(world: World) -> Verdict:
    others = [name for _, name in socket.if_nameindex() if name != "lo"]
    return bool(others), str(others)


@attack()
def sees_the_hosts_sockets(world: World) -> Verdict:
    """The kernel lists what is listening, also by unix path."""
    listed = b"".join(read(f"/proc/net/{name}") for name in ("tcp", "udp", "unix"))
    wanted = (
        f"0100007F:{world['tcp_port']:04X}".encode(),
        world["unix_path"].encode(),
        world["abstract_name"].encode(),
    )
    found = [text.decode() for text in wanted if text in listed]
    return bool(found), str(found)


@attack()
def opens_a_packet_socket(world: World) -> Verdict:
    """As it is, or in a network namespace of its own."""
    return _directly_or_in_own_network(_packet_socket)


@attack()
def opens_a_raw_socket(world: World) -> Verdict:
    return _directly_or_in_own_network(_raw_socket)


def _packet_socket() -> Verdict:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)).close()
    return True, "opened"


def _raw_socket() -> Verdict:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return True, "opened"


def _directly_or_in_own_network(attempt: Callable[[], Verdict]) -> Verdict:
    def enter_and_try() -> Verdict:
        checked(libc.unshare(CLONE_NEWUSER | CLONE_NEWNET), "unshare")
        return attempt()

    attempts: dict[str, Callable[[], Verdict]] = {
        "directly": attempt,
        "in a user namespace": lambda: must(in_child(enter_and_try)),
    }
    return first_success(lambda name: attempts[name](), attempts)


@attack()
def opens_a_socket_to_the_hypervisor(world: World) -> Verdict:
    """AF_VSOCK has no namespaces: what can open one talks to whatever runs the machine. Nothing is connected here."""
    try:
        end = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    except OSError as exc:
        return _unless_missing(exc, "AF_VSOCK", world)
    with end:
        end.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
        return True, f"bound to {end.getsockname()}"


@attack()
def opens_a_socket_to_the_kernels_cryptography(world: World) -> Verdict:
    try:
        end = socket.socket(AF_ALG, socket.SOCK_SEQPACKET)
    except OSError as exc:
        return _unless_missing(exc, "AF_ALG", world)
    end.close()
    return True, "opened"


def _unless_missing(exc: OSError, family: str, world: World) -> Verdict:
    """In a sandbox the refusal may look like a kernel without the family; only outside does it mean that."""
    if exc.errno == errno.EAFNOSUPPORT and world["outside"]:
        raise UnavailableError(f"this kernel has no {family}") from exc
    return False, str(exc)


@attack()
def sends_a_datagram_to_a_unix_socket(world: World) -> Verdict:
    """Unconnected: the address is in the message."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        own = os.path.abspath(f"answer-{os.getpid()}.sock")
        end.bind(own)
        try:
            end.settimeout(1)
            end.sendto(b"hello", world["unix_datagram_path"])
            return stolen(end.recv(4096))
        except BLOCKED as exc:
            return False, str(exc)
        finally:
            os.unlink(own)
