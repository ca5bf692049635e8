"""The contract between a session and what creates sandboxes. Vendor SDKs and operating-system calls stay behind it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from traitlets.config.configurable import Configurable

from sandbox_kernel.errors import ConfigurationError, InvocationError
from sandbox_kernel.link.transport import Transport

if TYPE_CHECKING:
    from sandbox_kernel.workspace.applying import Outcome
    from sandbox_kernel.workspace.changes import Change
    from sandbox_kernel.workspace.folder import NotebookFolder

GOES_ON = "The sandbox was paused and goes on: variables, files and packages are kept.\n"
"""What people are told then, by whoever has resumed it."""


class IsolationLevel(str, Enum):
    """How a sandbox is separated from the machine it runs on, strongest first (architecture.md, section 7)."""

    SEPARATE_KERNEL = "separate kernel"
    SHARED_KERNEL = "isolated process, shared kernel"
    RESTRICTED = "restricted process"
    NONE = "none"
    OF_GATEWAY = "the gateway's own"
    """Nobody here knows how strong it is: whoever runs the gateway does."""


@dataclass(frozen=True)
class Capabilities:
    """What a provider's sandboxes can do. A capability that is absent is refused with a sentence, never ignored."""

    pause: bool = False
    outlives_kernel: bool = False
    """The sandbox goes on when the kernel process ends; a restart renews the inner ipykernel only."""
    billed: bool = False
    """Creating one costs money, so only a cell that a person ran may do it; others are warmed in the background."""
    network: bool = False
    distant: bool = False
    """Its sandboxes do not share this machine's disk: the session copies the notebook's folder to them and back."""
    languages: tuple[str, ...] = ("python",)
    snapshots: bool = False
    """The provider itself keeps snapshots of sandboxes, of which others can be made."""


@dataclass(frozen=True)
class SandboxSpec:
    """What a session asks for when it has a sandbox created."""

    correlation_id: str
    notebook: Path | None = None
    """The notebook's file on this machine, where it is known."""
    directory: Path = field(default_factory=Path.cwd)
    """The notebook's folder, else the kernel process's working directory."""
    kept: bool = False
    """It is to outlive its stream, until whoever made it closes it or ends: `Sandbox.open_link` is called again."""


@dataclass(frozen=True)
class SandboxRecord:
    """A sandbox that exists at a provider, as its `list` tells it."""

    sandbox_id: str
    state: str
    created: float
    """Seconds since the epoch."""
    idle: float | None = None
    """Seconds since anybody used it; None if the provider does not know."""


@dataclass(frozen=True)
class FileEntry:
    """A file in a sandbox, as its `list` tells it. Every field is the sandbox's word, which may be a lie."""

    path: str
    kind: str
    """"file", "folder", "link" or "special" (a fifo, device or socket)."""
    size: int
    """Bytes; 0 for what is no file."""
    modified: float
    """Seconds since the epoch."""
    mode: int
    """Permission bits."""


@dataclass(frozen=True)
class Template:
    """What a sandbox can be made of. Every text is the service's word."""

    template_id: str
    names: tuple[str, ...]
    tags: tuple[str, ...] = ()
    description: str = ""
    cpus: float = 0.0
    memory: int = 0
    """MiB."""
    updated: str = ""
    entrypoint: str = ""
    """The program that is the agent, in /app; "" where no agent is deployed in it."""
    metadata: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What people call it."""
        return self.names[0] if self.names else self.template_id

    def matches(self, tags: Sequence[str] = (), name: str = "") -> bool:
        """Whether it has all these tags, and this text in its name or id."""
        return set(tags) <= set(self.tags) and any(name in one for one in (self.template_id, *self.names))


@dataclass(frozen=True)
class Resources:
    """What a person asks for with `%sandbox start`; None leaves it at what the configuration says."""

    cpus: float | None = None
    gpus: float | None = None
    memory: int | None = None
    """Bytes."""


@dataclass(frozen=True)
class ClusterNode:
    """One machine of a cluster. Resources by the cluster's names; memory in bytes."""

    name: str
    total: Mapping[str, float]
    free: Mapping[str, float]
    sandboxes: tuple[str, ...] = ()
    """Ids of this user's."""
    others: int = 0
    """Sandboxes of other users."""
    actors: int = 0
    """What else the cluster runs there."""


@dataclass(frozen=True)
class ClusterView:
    """A cluster at one time."""

    address: str
    nodes: tuple[ClusterNode, ...]
    waiting: tuple[str, ...] = ()
    """Ids of this user's sandboxes that wait for room."""
    others_waiting: int = 0


@dataclass(frozen=True)
class CodeOutcome:
    """What became of code in another language."""

    stdout: str
    stderr: str
    failed: bool


class SandboxFiles(ABC):
    """The files of a running sandbox. Relative paths begin in its working folder, `~` is its home.

    Nothing is kept in memory as a whole. Besides what is named below, each method raises SandboxConnectionError where
    no sandbox is running, SandboxLostError when it ends meanwhile, and InvocationError for what else goes wrong.
    """

    @abstractmethod
    def read(self, path: str, *, limit: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield a regular file's content in pieces.

        Raises NotFoundError; InvocationError for a folder, fifo, device or socket, and where the file got shorter
        meanwhile; QuotaError where it has more than ``limit`` bytes.
        """

    @abstractmethod
    async def write(self, path: str, chunks: AsyncIterable[bytes], *, mode: int = 0o644) -> int:
        """Write a file from pieces, with the folders on its way, and return its size.

        It gets its name when it is whole; until then a file of that name is as it was. Raises QuotaError where there
        is no room.
        """

    @abstractmethod
    def list(self, pattern: str, *, recursive: bool = False, limit: int = 100_000) -> AsyncGenerator[FileEntry, None]:
        """Yield what matches a pattern (``*``, ``?``, ``[…]``, ``**``), with ``recursive`` also what is in folders.

        Wildcards do not stand for names that begin with a dot; links to folders are not entered. The order is any.
        Raises NotFoundError where nothing matches; QuotaError, at the end, where more than ``limit`` do.
        """

    @abstractmethod
    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file or an empty folder, with ``recursive`` also what is in it. Raises NotFoundError."""


def _nobody_hears(text: str) -> None:
    """Drop what is said before anybody listens."""


class Sandbox(ABC):
    """One running isolated environment with a bridge in it."""

    provider_name: str
    sandbox_id: str
    owner: str = ""
    """Whose it is, as its provider knows people; "" if it does not tell them apart."""
    isolation: IsolationLevel
    mode: str = "bridge"
    """"basic" where the provider's own call runs the code, and much is missing (architecture.md, section 1); "relay"
    where a gateway's kernel does, with nothing of ours beside it."""
    is_foreign: bool = False
    """Somebody else made it, without this package: it is never ended from here."""
    is_gone: bool = False
    """It is known that it exists no more, so that its link cannot be made again."""
    on_news: Callable[[str], None] = staticmethod(_nobody_hears)
    """Set by the session: takes lines that people should read now, such as that its time is running out."""
    files: SandboxFiles | None = None
    """The provider's own way to files, where it has a quicker one than the link; None: they go through the bridge."""

    @abstractmethod
    async def open_link(self) -> Transport:
        """Return a new byte stream to this sandbox's bridge.

        The session calls it once after `create` or `connect`, and again after each loss of the stream where the sandbox
        lives on. The bridge goes on with the peer that it knows, and begins anew with another: the newest one wins.

        Raises SandboxConnectionError (worth another try) or SandboxLostError (it is not).
        """

    @abstractmethod
    async def pause(self) -> None:
        """Freeze every process, keeping memory. Raises InvocationError when a process cannot be frozen."""

    @abstractmethod
    async def resume(self) -> None:
        """Undo `pause`. Raises SandboxLostError when the sandbox ended meanwhile."""

    @abstractmethod
    async def close(self) -> None:
        """Give the sandbox back and leave nothing behind. Idempotent; also for one that is half created or dead."""

    @abstractmethod
    def kill(self) -> None:
        """What `close` does, as far as it can be done without waiting: for signal handlers and interpreter exit."""

    @abstractmethod
    async def loss_reason(self) -> str:
        """After the stream ended without our doing: why, as one clause ("it used more than its 2 GiB of memory").

        Waits briefly (at most a second) for the operating system or provider to tell.
        """

    async def kernel_death_reason(self, exit_code: int) -> str:
        """After the inner kernel ended by itself: why, as one clause, where only the provider knows; else "".

        ``exit_code`` is negative for a signal. A kernel that was killed for want of memory is the usual case.
        """
        return ""

    async def run_code(self, code: str, language: str) -> CodeOutcome:
        """Run code of one of the provider's languages (`Capabilities.languages`) outside of the notebook's interpreter.

        Raises InvocationError where it cannot be done.
        """
        raise InvocationError(f"Sandboxes of the provider {self.provider_name} run no cells in {language}.")

    def open_pipe(self, path: str, flags: int) -> int | None:
        """Open a pipe by its path in the sandbox's /proc, without blocking; the caller closes the descriptor.

        None where that is no pipe, or the sandbox not on this machine: then it is the bridge's matter alone.
        """
        return None

    def greeting(self) -> str:
        """What the notebook's first cell has to say, as lines; said once. "" if nothing."""
        return ""

    async def fork(self) -> str:
        """Make a copy that runs by itself, and return its id. Raises InvocationError where this kind cannot."""
        raise InvocationError(
            f"Sandboxes of the provider {self.provider_name} cannot be copied.",
            provider=self.provider_name,
            sandbox_id=self.sandbox_id,
        )

    async def snapshot(self, name: str = "") -> str:
        """Keep it as it is; return what another one can be made of. Raises InvocationError where this kind cannot."""
        raise InvocationError(
            f"Of sandboxes of the provider {self.provider_name} no snapshots can be kept.",
            provider=self.provider_name,
            sandbox_id=self.sandbox_id,
        )

    async def prolong(self) -> None:  # noqa: B027 - most have no limited time
        """Let it be there for longer, where its time is limited: called every few seconds while a cell runs.

        Raises SandboxError, which is logged.
        """

    def before_cell(self) -> str:
        """Make ready for a cell that a person ran, in well under a millisecond; return what it has to say, or "".

        Raises SandboxLostError where the sandbox has to be given up instead.
        """
        return ""

    @property
    def changes(self) -> WorkspaceChanges | None:
        """What its cells changed in the notebook's folder and nobody applied; None if this kind keeps none."""
        return None

    def describe(self) -> dict[str, str]:
        """Rows for the status table that only this provider knows, such as memory in use and limits."""
        return {}


class WorkspaceChanges(Protocol):
    """What the cells of one sandbox changed in the notebook's folder and nobody applied.

    Cells stand still meanwhile. Each method may raise CommandError and OSError.
    """

    @property
    def folder(self) -> str:
        """The notebook's folder on this machine."""

    async def read(self) -> list[Change]:
        """Compare the sandbox's files with this machine's."""

    async def texts(self, change: Change) -> tuple[bytes, bytes]:
        """Return the beginning of a file's content on this machine and in the sandbox."""

    async def apply(self, changes: list[Change]) -> Outcome:
        """Make changes on this machine, exactly as they were read."""

    async def discard(self, changes: list[Change]) -> Outcome:
        """Take changes back in the sandbox."""


class Provider(Configurable):
    """Creates sandboxes of one kind. Instances are made by `registry.create_provider` with the user's configuration.

    Traits tagged ``config=True`` are the provider's options; credentials never are.
    """

    name: str
    capabilities: Capabilities
    kernel_arguments: Sequence[str] = ()
    """Options for the ipykernel in each sandbox, such as "--InteractiveShell.colors=nocolor"."""
    hourly_cost: float = 0.0
    """US dollars for an hour of a sandbox, as the configuration or the provider says; 0 if none are known."""
    language: str = "python"
    """Of cells."""
    idle_timeout: float = 0.0
    """Seconds without a cell after which the session pauses its sandbox; 0: it does not."""
    instead_of_pause: str = ""
    """What people can do where its sandboxes cannot be paused, as a sentence."""
    not_tried: str = ""
    """Why `jupyter sandbox doctor` starts no sandbox to see whether that works, as a clause."""
    place: str = ""
    """Where its sandboxes are, such as a server's address, for a provider that can be at several places."""
    session_name: str = ""
    """Which of a notebook's sandboxes it makes, where that has several with names: each keeps changes of its own."""
    keeps_changes: bool = True
    """Whether what cells change in the notebook's folder outlives their sandbox; set before the first one."""
    private_paths: Sequence[str] = ()
    """Absolute paths on this machine that no sandbox may be shown, wherever they lie."""
    directory: str = ""
    """The notebook's folder on this machine, set before the first sandbox; "" is the working directory."""
    on_waiting: Callable[[str], None] = staticmethod(_nobody_hears)
    """Set by the session: takes what a `create` waits for, again whenever that changes; "" when the wait is over."""

    def stop_waiting(self) -> bool:
        """Give up a `create` that waits for room at the provider: it raises SandboxCreationError soon.

        Called on the event loop's thread. Returns whether there was one; most providers never wait.
        """
        return False

    def choose_resources(self, resources: Resources) -> None:
        """Have the next sandboxes made with so much, until this is called again; `Resources()` asks for nothing.

        Raises ConfigurationError, also where this kind of provider cannot.
        """
        if resources == Resources():
            return
        raise ConfigurationError(
            f"The provider {self.name} takes no --cpus, --gpus or --memory from a notebook; what its sandboxes get "
            "stands in the configuration."
        )

    async def cluster(self) -> ClusterView:
        """Return what the machines of the provider have and hold. Raises ConfigurationError where it has none."""
        raise ConfigurationError(f"The provider {self.name} has no cluster whose nodes could be shown.")

    def prepare(self) -> None:
        """Begin with a sandbox ahead of the first `create`, which takes it over. Optional.

        Called at most once, on the main thread, before there is an event loop, and only where it costs nothing. What
        goes wrong is kept for `create` to raise.
        """

    def abandon(self) -> None:
        """End what `prepare` began and no `create` took over."""

    def close(self) -> None:
        """Let go of what is kept from one sandbox to the next. Called once, when the last of them has ended."""

    async def disconnect(self) -> None:
        """Close connections that are kept for further calls; a call makes others. Called before `close`."""

    def belongs_to(self, notebook: str) -> bool:
        """Take note of the notebook's file, which some front ends tell only when the kernel runs.

        Returns whether the notebook has kept changes that only a new sandbox can show.
        """
        return False

    def notebook_folder(self) -> NotebookFolder | None:
        """Return the notebook's folder with the changes that are kept of it; None if this kind keeps none.

        Raises ConfigurationError.
        """
        return None

    @abstractmethod
    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Create one sandbox with its bridge started or about to start.

        Called once per start attempt; must leave nothing behind when it raises.

        Raises ConfigurationError or AuthenticationError (not retried) or SandboxError (retried if ``retryable``).
        """

    async def templates(self, tags: Sequence[str] = (), name: str = "") -> Sequence[Template]:
        """Return what sandboxes can be made of, with all these tags and this text in the name.

        Raises ConfigurationError where this kind knows no templates.
        """
        raise ConfigurationError(f"The provider {self.name} has no templates.")

    def choose_template(self, name: str) -> None:
        """Have the next sandbox made of this template. Raises ConfigurationError where this kind knows none."""
        raise ConfigurationError(f"The provider {self.name} has no templates.")

    @abstractmethod
    async def connect(self, sandbox_id: str) -> Sandbox:
        """Return an existing sandbox by id; one that was paused goes on.

        Raises NotFoundError, SandboxConnectionError, or SandboxError where the kind cannot do it.
        """

    @abstractmethod
    async def list(self) -> Sequence[SandboxRecord]:
        """Return the sandboxes of this user that exist at the provider now."""

    async def owner(self) -> str:
        """Return whose sandboxes `connect` and `list` find, as the provider knows this user; "" if that is all one.

        Asked where a recorded sandbox is not found: another's may live on. Raises SandboxError.
        """
        return ""

    def host_python(self) -> str:
        """Return the interpreter on this machine whose environment the cells see; "" if it is not on this machine.

        Its pip says which packages are missing for `%sandbox install`.
        """
        return ""

    def language_version(self) -> str:
        """Return the Python version ("3.11.7") that cells will see, without starting anything; "" if unknown."""
        return ""

    def implementation_version(self) -> str:
        """Return the IPython version ("9.1.0") that cells will see, without starting anything; "" if unknown."""
        return ""

    async def others(self) -> Sequence[SandboxRecord]:
        """Return what others than this package have made there and can be attached; for `%sandbox list`."""
        return []

    @abstractmethod
    def diagnose(self) -> Sequence[Diagnosis]:
        """Try, without creating anything that is billed, what is needed; for `jupyter sandbox doctor`."""


@dataclass(frozen=True)
class Diagnosis:
    """One line of `jupyter sandbox doctor`."""

    subject: str
    works: bool
    detail: str
    """Why not and what to install, or what was found."""
