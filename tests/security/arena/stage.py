"""Prepares the throw-away namespaces while it may, then becomes the person: files, network, process numbers.

Run with the Python of the tests, as the first process of the namespaces, with one argument: the plan as JSON.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

MS_BIND = 0x1000
SIOCSIFADDR, SIOCSIFFLAGS, SIOCSIFNETMASK, SIOCADDRT, IFF_UP = 0x8916, 0x8914, 0x891C, 0x890B, 1
RTM_NEWLINK, NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE = 16, 0x1, 0x4, 0x400
INTERFACE = "attack0"

libc = ctypes.CDLL(None, use_errno=True)


def main(plan: dict[str, Any]) -> None:
    for source, target in plan["over"].items():
        mount(source, os.path.realpath(target), "", MS_BIND)
    # In memory, because what an overlay leaves on a disk only root can remove.
    layers = Path(plan["base"], "layers")
    layers.mkdir()
    mount("none", str(layers), "tmpfs", data="mode=755")
    for number, folder in enumerate(plan["throw_away"]):
        overlay(layers / str(number), folder, plan["user"])
    mount("none", "/dev/shm", "tmpfs", data="size=1g,mode=1777")
    prepare_network(plan["address"])
    # Numbers that no process of a sandbox has, so that an attack by number means one out here.
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(plan["first_pid"]))
    os.chdir(plan["code"])
    os.execvpe(plan["command"][0], plan["command"], plan["environment"])  # noqa: S606 - no shell is wanted


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"mount of {target}")


def overlay(layers: Path, folder: str, user: int) -> None:
    """Make the folder one whose changes are lost."""
    upper, work = layers / "upper", layers / "work"
    for path in (upper, work):
        path.mkdir(parents=True)
    if os.getuid() == 0:
        os.chown(upper, user, -1)
    upper.chmod(0o755)
    option = "" if os.getuid() == 0 else ",userxattr"
    mount("overlay", folder, "overlay", data=f"lowerdir={folder},upperdir={upper},workdir={work}{option}")


def prepare_network(address: str) -> None:
    """Loopback, an interface with an address and routes that lead nowhere, and port 53 for anybody."""
    configure("lo", None)
    add_interface(INTERFACE)
    configure(INTERFACE, address)
    add_default_route(INTERFACE)
    Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")


def add_interface(name: str) -> None:
    """Ask the kernel for a virtual interface of the first kind that it has."""
    for kind in ("dummy", "veth", "bridge"):
        number = request_interface(name, kind)
        if number == 0:
            return
    raise OSError(number, os.strerror(number), name)


def request_interface(name: str, kind_name: str) -> int:
    """Return 0, or the error number."""
    kind = attribute(18, attribute(1, kind_name.encode()))
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attribute(3, name.encode() + b"\0") + kind
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as end:
        end.send(struct.pack("=IHHII", 16 + len(body), RTM_NEWLINK, flags, 1, 0) + body)
        return -int(struct.unpack_from("=i", end.recv(4096), 16)[0])


def attribute(number: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), number) + value + b"\0" * (-len(value) % 4)


def configure(name: str, address: str | None) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        if address:
            fcntl.ioctl(end, SIOCSIFADDR, interface_request(name) + internet_address(address))
            fcntl.ioctl(end, SIOCSIFNETMASK, interface_request(name) + internet_address("255.255.0.0"))
        fcntl.ioctl(end, SIOCSIFFLAGS, interface_request(name) + struct.pack("=H22x", IFF_UP))


def interface_request(name: str) -> bytes:
    return struct.pack("16s", name.encode())


def internet_address(address: str) -> bytes:
    return struct.pack("=HH4s16x", socket.AF_INET, 0, socket.inet_aton(address))


def add_default_route(name: str) -> None:
    device = ctypes.create_string_buffer(name.encode())
    anywhere = internet_address("0.0.0.0")[:16]
    # struct rtentry, natively aligned: pad, destination, gateway, mask, flags, ..., metric, device, mtu, window, irtt.
    route = struct.pack(
        "@L16s16s16sHhLhhhLPLLH",
        0,
        anywhere,
        anywhere,
        anywhere,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
        ctypes.addressof(device),
        0,
        0,
        0,
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        fcntl.ioctl(end, SIOCADDRT, route)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
