"""The command line of bubblewrap for one sandbox: what is in its file system, environment and namespaces."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from sandbox_kernel.providers.local.environment import SYSTEM_FOLDERS, PythonEnvironment
from sandbox_kernel.providers.local.view import View

BRIDGE = "/opt/sandbox-bridge"
RUNTIME = "/run/bridge"
PACKAGES = "/opt/sandbox-packages"
"""Where packages are added to the environment, which is read-only."""
HOME = "/home/user"
WORK_FOLDERS = ("/work", "/workspace", "/sandbox/work")
"""Where the work folder appears: the first that no mount is in the way of."""
SCRATCH = "/scratch"
"""Where a sandbox writes that can only read its work folder."""
HOST_NAME = "sandbox"
USER_ID = 1000
"""The sandbox's user, inside; in root mode it has the number that it has outside."""

_RUNTIME_SIZE = 16 * 1024 * 1024

_ETC_FOLDERS = "alternatives fonts pki/ca-trust/extracted pki/tls/certs ssl/certs".split()
_ETC_FILES = (
    "ld.so.cache localtime manpath.config mime.types os-release protocols services ssl/openssl.cnf timezone".split()
)
"""Of /etc: what programs look up and what tells nothing about the user or the network."""

_KEYS = "/proc/keys"
_INIT = "/proc/1"

_SETPRIV = ("/usr/bin/setpriv", "/bin/setpriv")
_RAISED = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")
"""What it takes to become another user and to give this up; nothing of it is left when Python starts."""


@dataclass(frozen=True, eq=False, repr=False)
class Layout:
    """What a sandbox is made of. The descriptors are those that bubblewrap inherits, set when it is started."""

    environment: PythonEnvironment
    work: str
    packages: str
    """Folder on the host for packages that are added."""
    package: str
    """Folder of this package, which the bridge's files are taken from."""
    variables: dict[str, str]
    seccomp: bytes
    """The filter, assembled."""
    tmp_size: int
    shm_size: int
    home_size: int
    view: View | None = None
    """The notebook's folder as the work folder; else ``work`` is."""
    inside: str = WORK_FOLDERS[0]
    """The work folder's path in the sandbox."""
    user: int | None = None
    """In root mode the user to become, who owns ``work``; else None, and there is a user namespace."""
    read_only: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    """Device nodes of the host that programs inside can use."""
    kernel_arguments: tuple[str, ...] = ()
    fonts: tuple[str, ...] = ()
    copies: tuple[tuple[int, str], ...] = ()
    """Descriptors of files to copy, and where to. A file that is copied takes bubblewrap less time than a mount."""
    seccomp_fd: int = -1
    status_fd: int = -1
    told_fd: int = -1
    waiting_fd: int = -1
    """Where to tell the janitor the child's number, and what to wait for, if not -1, before anything is run."""


def font_lists() -> list[str]:
    """Return the lists of fonts that matplotlib made for this user; to make one takes it a second."""
    folder = os.path.expanduser("~/.cache/matplotlib")
    try:
        return [os.path.join(folder, name) for name in os.listdir(folder) if name.startswith("fontlist-")]
    except OSError:
        return []


def work_folder(mounts: Iterable[str]) -> str:
    """Return the work folder's path inside, where none of these mounts is in it or around it."""
    paths = [f"{path}/" for path in mounts]
    for folder in WORK_FOLDERS:
        if not any(path.startswith(f"{folder}/") or f"{folder}/".startswith(path) for path in paths):
            return folder
    return WORK_FOLDERS[-1]


def bubblewrap_options(layout: Layout) -> list[str]:
    """Return everything before the ``--`` of bubblewrap's command line."""
    options = _Options()
    _add_namespaces(options, layout)
    _add_system(options, layout)
    _add_temporary(options, layout)
    _add_environment(options, layout)
    _add_bridge(options, layout)
    options.add("--remount-ro", "/dev")
    options.add("--remount-ro", "/")
    options.add("--clearenv")
    for name, value in sorted(_variables(layout).items()):
        options.add("--setenv", name, value)
    # Not the work folder, which in root mode the user who changes into it here may not enter.
    options.add("--chdir", "/")
    options.add("--seccomp", str(layout.seccomp_fd))
    options.add("--json-status-fd", str(layout.status_fd))
    options.add("--info-fd", str(layout.told_fd))
    if layout.waiting_fd >= 0:
        options.add("--block-fd", str(layout.waiting_fd))
    return options.arguments


def inner_command(layout: Layout, arguments: Iterable[str]) -> list[str]:
    """Return what bubblewrap is to run: in root mode, behind what drops the last privileges."""
    # -S: the bridge adds the environment's packages when it has started the kernel, which needs them first.
    command = [layout.environment.python, "-S", f"{BRIDGE}/__main__.py", *arguments]
    if layout.user is None:
        return command
    return [*_dropping_privileges(layout.user, layout.environment.python), *command]


def _dropping_privileges(user: int, python: str) -> list[str]:
    for setpriv in _SETPRIV:
        if os.access(setpriv, os.X_OK):
            options = f"--reuid {user} --regid {user} --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all"
            return [setpriv, *options.split()]
    return [python, "-I", "-S", "-c", _DROP_PRIVILEGES, str(user)]


# Where there is no setpriv. Changing from user 0 to another one empties all sets but the bounding and inheritable ones;
# 23 and 24 are PR_CAPBSET_READ and PR_CAPBSET_DROP, 38 is PR_SET_NO_NEW_PRIVS.
_DROP_PRIVILEGES = """\
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
for capability in range(64):
    if libc.prctl(23, capability, 0, 0, 0) >= 0:
        check(libc.prctl(24, capability, 0, 0, 0))
user = int(sys.argv[1])
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
check(libc.prctl(38, 1, 0, 0, 0))
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
check(libc.capset(header, (ctypes.c_uint32 * 6)()))
os.execv(sys.argv[2], sys.argv[2:])
"""


class _Options:
    """A list of options that makes each parent folder once, readable for everyone (bubblewrap's own are not)."""

    def __init__(self) -> None:
        self.arguments: list[str] = []
        self._made: set[str] = {"/"}

    def add(self, *arguments: str) -> None:
        self.arguments.extend(arguments)

    def parents(self, path: str) -> None:
        parent = os.path.dirname(path)
        if parent not in self._made:
            self.parents(parent)
            self._made.add(parent)
            self.add("--perms", "0755", "--dir", parent)

    def made(self, path: str) -> None:
        self._made.add(path)

    def mount(self, source: str, target: str = "", *, how: str = "--ro-bind") -> None:
        self.parents(target or source)
        self.add(how, source, target or source)
        self.made(target or source)

    def copy(self, descriptor: int, target: str) -> None:
        self.parents(target)
        self.add("--perms", "0644", "--file", str(descriptor), target)

    def temporary(self, target: str, size: int, mode: str) -> None:
        self.parents(target)
        self.add("--size", str(size), "--perms", mode, "--tmpfs", target)
        self.made(target)

    def writable(self, path: str, layout: Layout) -> None:
        if path not in self._made:
            self.made(path)
            self.add("--perms", _private(layout), "--dir", path)

    def link(self, path: str, target: str) -> None:
        self.parents(path)
        self.add("--symlink", target, path)


def _add_namespaces(options: _Options, layout: Layout) -> None:
    options.add(*["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"])
    options.add("--die-with-parent", "--new-session", "--hostname", HOST_NAME, "--cap-drop", "ALL")
    if layout.user is None:
        options.add("--unshare-user", "--disable-userns", "--uid", str(USER_ID), "--gid", str(USER_ID))
        return
    for capability in _RAISED:
        options.add("--cap-add", capability)


def _add_system(options: _Options, layout: Layout) -> None:
    for folder in SYSTEM_FOLDERS:
        if os.path.islink(folder):
            options.link(folder, os.readlink(folder))
        elif os.path.isdir(folder):
            options.mount(folder)
    for name in _ETC_FOLDERS:
        # Followed here, because the link's target may not be shown.
        path = f"/etc/{name}"
        if os.path.isdir(path):
            options.mount(os.path.realpath(path), path)
    for descriptor, path in layout.copies:
        options.copy(descriptor, path)
    options.add("--proc", "/proc", "--dev", "/dev")
    for path in layout.devices:
        options.add("--dev-bind", path, path)
    # The first process inside is the host's bubblewrap, and its `exe` leads to the host's file past all our mounts:
    # whoever owns that file can change it through this.
    options.add("--size", "4096", "--perms", "0555", "--tmpfs", _INIT, "--remount-ro", _INIT)
    if os.path.exists(_KEYS):
        # The names of the keys that the user holds outside.
        options.add("--ro-bind", "/dev/null", _KEYS)


def _add_temporary(options: _Options, layout: Layout) -> None:
    options.temporary("/dev/shm", layout.shm_size, "1777")
    options.temporary("/tmp", layout.tmp_size, "1777")
    options.temporary(HOME, layout.home_size, _private(layout))
    options.temporary(RUNTIME, _RUNTIME_SIZE, _private(layout))
    if layout.view is None:
        options.mount(layout.work, layout.inside, how="--bind")
    else:
        _add_view(options, layout, layout.view)
    options.mount(layout.packages, PACKAGES, how="--bind")


def _add_view(options: _Options, layout: Layout, view: View) -> None:
    """Mount the notebook's folder."""
    options.parents(layout.inside)
    options.made(layout.inside)
    if view.whiteouts:
        # The uppermost comes last.
        options.add("--overlay-src", view.source, "--overlay-src", view.whiteouts)
        how = ["--overlay", view.upper, view.work] if view.upper else ["--ro-overlay"]
        options.add(*how, layout.inside)
    else:
        options.add("--bind" if view.writable else "--ro-bind", view.source, layout.inside)
    for path, folder in view.masks.items():
        options.add("--ro-bind", view.empty_folder if folder else view.empty_file, f"{layout.inside}/{path}")
    if not view.upper and not view.writable:
        options.mount(layout.work, SCRATCH, how="--bind")


def _private(layout: Layout) -> str:
    """Return the mode of the sandbox's own folders: in root mode they belong to user 0, and no third user is there."""
    return "0700" if layout.user is None else "0777"


def _add_environment(options: _Options, layout: Layout) -> None:
    for path in (*layout.environment.mounts, *layout.read_only):
        options.mount(path)
    for path, target in layout.environment.links.items():
        options.link(path, target)
    for path in layout.fonts:
        folder = f"{HOME}/.cache/matplotlib"
        options.writable(os.path.dirname(folder), layout)
        options.writable(folder, layout)
        options.mount(path, f"{folder}/{os.path.basename(path)}")


def _add_bridge(options: _Options, layout: Layout) -> None:
    for name in ("link", "bridge"):
        options.mount(os.path.join(layout.package, name), f"{BRIDGE}/sandbox_kernel/{name}")


def _variables(layout: Layout) -> dict[str, str]:
    """Return the whole environment inside; the host's is not handed on."""
    environment = layout.environment
    scripts = os.path.dirname(environment.python)
    variables = {
        "PATH": ":".join(dict.fromkeys([scripts, "/usr/local/bin", "/usr/bin", "/bin"])),
        "HOME": HOME,
        "USER": "user",
        "LOGNAME": "user",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",
        "SANDBOX_PACKAGES": PACKAGES,
    }
    if environment.is_virtual:
        variables["VIRTUAL_ENV"] = environment.prefix
    if environment.user_base:
        variables["PYTHONUSERBASE"] = environment.user_base
    return {**variables, **layout.variables}


def made_files(layout: Layout, main: str) -> dict[str, bytes]:
    """Return the contents of files that are made for a sandbox, by path; ``main`` is what Python runs."""
    user = USER_ID if layout.user is None else layout.user
    texts = {
        "/etc/passwd": f"root:x:0:0:root:/:/usr/sbin/nologin\nuser:x:{user}:{user}:user:{HOME}:/bin/sh\n",
        "/etc/group": f"root:x:0:\nuser:x:{user}:\n",
        "/etc/hosts": f"127.0.0.1 localhost {HOST_NAME}\n::1 localhost ip6-localhost\n",
        f"{BRIDGE}/__main__.py": main,
    }
    return {path: text.encode() for path, text in texts.items()}


def copied_files(layout: Layout) -> dict[str, str]:
    """Return the host's small files that are copied, if they are there: where to, and from where."""
    files = {f"/etc/{name}": f"/etc/{name}" for name in _ETC_FILES}
    return {**files, f"{BRIDGE}/sandbox_kernel/__init__.py": os.path.join(layout.package, "__init__.py")}
