"""Starting bubblewrap: the descriptors that it inherits, and the process with our ends of them."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

from sandbox_kernel.providers.local import command
from sandbox_kernel.providers.local.command import Layout
from sandbox_kernel.providers.local.janitor import Entrance

_MAIN = """\
{prologue}
os.chdir({work!r})
os.environ["PWD"] = {work!r}
os.write({ready}, b"1")
os.close({ready})
{program}
"""


@dataclass(eq=False, repr=False)
class Spawned:
    """A bubblewrap that was started, and what connects us with it."""

    process: subprocess.Popen[bytes]
    link: socket.socket
    """The stream to its bridge; in a sandbox that is kept the socket over which streams are passed."""
    status: int
    """What bubblewrap tells about its child, for us."""
    ready: int
    """One byte comes when Python runs inside with its limits set; the end if it does not get that far."""
    output: int
    """What bubblewrap and the bridge write to their standard outputs."""

    def close(self) -> None:
        """Close our ends but the link."""
        for descriptor in (self.status, self.ready, self.output):
            with suppress(OSError):
                os.close(descriptor)

    def abort(self) -> None:
        """End it; the janitor does the rest."""
        self.process.kill()
        self.process.wait()
        self.link.close()
        self.close()


@dataclass(eq=False, repr=False)
class _Inherited:
    """The descriptors that a child inherits, and our ends of those that lead to it."""

    theirs: list[int] = field(default_factory=list)
    ours: list[int] = field(default_factory=list)

    def data(self, content: bytes) -> int:
        """Return a descriptor from which the child reads this."""
        descriptor = os.memfd_create("sandbox", os.MFD_CLOEXEC)
        self.theirs.append(descriptor)
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def file(self, path: str) -> int:
        """Return a descriptor from which the child reads a file. Raises OSError."""
        self.theirs.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        return self.theirs[-1]

    def pipe(self) -> int:
        """Return the child's end of a pipe to us; our end does not block."""
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        self.ours.append(ours)
        self.theirs.append(theirs)
        os.set_blocking(ours, False)
        return theirs

    def socket(self, kind: socket.SocketKind) -> int:
        """Return the child's end of a pair of sockets; ours comes first of all."""
        ours, theirs = socket.socketpair(type=kind)
        self.ours.insert(0, ours.detach())
        self.theirs.append(theirs.detach())
        return self.theirs[-1]


def spawn(
    binary: str,
    name: str,
    layout: Layout,
    prologue: str,
    program: str,
    entrance: Entrance,
    before: Callable[[], None] | None = None,
    *,
    kept: bool = False,
) -> Spawned:
    """Start bubblewrap as ``name``; inside it runs ``prologue`` and then ``program``, two Python texts.

    One that is ``kept`` outlives its stream, and ends with our end of the link or with this process.
    ``before`` is called in the process that is going to be bubblewrap. Raises subprocess.SubprocessError if it raises.
    Must be called from the main thread: the kernel ends bubblewrap when the thread that started it ends.
    """
    inherited = _Inherited()
    try:
        status, ready, output = inherited.pipe(), inherited.pipe(), inherited.pipe()
        arguments = [*_link(inherited, kept=kept), "--runtime-dir", command.RUNTIME, *layout.kernel_arguments]
        main = _MAIN.format(prologue=prologue, work=layout.inside, ready=ready, program=program)
        full = replace(
            layout,
            status_fd=status,
            copies=tuple(_copies(inherited, layout, main)),
            seccomp_fd=inherited.data(layout.seccomp),
            told_fd=entrance.telling,
            waiting_fd=entrance.waiting,
        )
        # Through a descriptor, because everyone on the machine can read a command line.
        options = "".join(f"{option}\0" for option in command.bubblewrap_options(full))
        line = [name, "--args", str(inherited.data(options.encode())), "--"]
        line += command.inner_command(full, arguments)
        descriptors = [*inherited.theirs, entrance.telling, entrance.waiting]
        process = _popen(binary, line, descriptors, output, before)
    except BaseException:
        for descriptor in inherited.ours:
            os.close(descriptor)
        raise
    finally:
        for descriptor in inherited.theirs:
            os.close(descriptor)
    link, *pipes = inherited.ours
    return Spawned(process, socket.socket(fileno=link), *pipes)


def _link(inherited: _Inherited, *, kept: bool) -> list[str]:
    if kept:
        # Messages, not a stream: each is one descriptor.
        # The journal lies beside packages that are added: that folder is on a disk, whichever the work folder is on.
        return ["--control-fd", str(inherited.socket(socket.SOCK_SEQPACKET)), "--journal-dir", command.PACKAGES]
    return ["--link-fd", str(inherited.socket(socket.SOCK_STREAM))]


def _copies(inherited: _Inherited, layout: Layout, main: str) -> Iterator[tuple[int, str]]:
    for path, content in command.made_files(layout, main).items():
        yield inherited.data(content), path
    for path, source in command.copied_files(layout).items():
        with suppress(OSError):
            yield inherited.file(source), path


def _popen(
    binary: str, line: list[str], descriptors: list[int], output: int, before: Callable[[], None] | None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        line,
        executable=binary,
        # What is started first inside would show this environment to everyone inside.
        env={},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=[descriptor for descriptor in descriptors if descriptor not in (output, -1)],
        # A terminal's Ctrl-C is for the kernel process.
        start_new_session=True,
        preexec_fn=before,  # noqa: PLW1509 - in root mode only, where no other thread holds a lock that it needs
    )
