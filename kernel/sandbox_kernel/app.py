"""Start-up and end of the kernel process. What a front end waits for is done first; imports follow that order."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from traitlets import TraitError
from traitlets.config import Config

from .configuration import USAGE, check, jupyter_folders, load_configuration
from .errors import ConfigurationError, SandboxKernelError
from .providers.broken import BrokenProvider
from .providers.registry import SECTIONS, create_provider, find_provider, provider_classes, provider_name
from .workspace.settings import Workspace

if TYPE_CHECKING:
    from traitlets.config.configurable import Configurable

    from .frontend import Frontend
    from .kernel import Kernel
    from .providers.base import Provider
    from .session import SandboxSession

PARENT_POLL = 1.0
"""Seconds between looks whether the process that started this one is still there."""


def main() -> None:
    """Run a kernel until it is shut down."""
    parent = os.getppid()
    start = Start(sys.argv[1:])
    path = connection_file(start.connection_file)
    # What takes longest is begun first: the sandbox starts while the rest of this process is imported.
    start.prepare()
    from .frontend import Connection, Frontend

    frontend = Frontend(Connection(path))
    frontend.bind()
    import asyncio

    if sys.platform == "win32":
        # ZeroMQ needs readiness callbacks, which only the selector loop has there.
        asyncio.set_event_loop_policy(asyncio.WindowsSelectorEventLoopPolicy())
    asyncio.run(serve(frontend, start, parent))


def connection_file(name: str) -> Path:
    """Return the path of the connection file, which is relative to here or to Jupyter's runtime directory.

    Ends the program with the usage where there is no name.
    """
    if not name:
        sys.exit(f"usage: {USAGE}")
    path = Path(name)
    if path.exists() or path.is_absolute():
        return path
    from jupyter_core.paths import jupyter_runtime_dir

    return Path(jupyter_runtime_dir()) / name


class Start:
    """The configuration and the provider. A mistake in them becomes the first cell's error, not a dead kernel."""

    def __init__(self, arguments: list[str]) -> None:
        self._config, self._options = load_configuration(arguments)
        self.connection_file = self._options.connection_file
        self._error: SandboxKernelError | None = self._options.error
        self._provider: Provider | None = None

    def prepare(self) -> None:
        """Make the provider and let it begin with a sandbox if that costs nothing."""
        if self._error is not None:
            return
        try:
            name = provider_name(self._config)
            # Before it is made: traitlets only warns of an option that it does not know.
            names = {*provider_classes(self._config), *SECTIONS}
            check(self._config, [find_provider(name), Workspace], self._options, names=names)
            self._provider = create_provider(name, self._config)
            self._provider.private_paths = self._private_paths()
            self._provider.kernel_arguments = tuple(self._options.kernel_arguments)
            if not self._provider.capabilities.billed:
                self._provider.prepare()
        except SandboxKernelError as exc:
            self._error = exc
        except TraitError as exc:
            self._error = ConfigurationError(str(exc))

    def _private_paths(self) -> tuple[str, ...]:
        """Return where keys of Jupyter's lie, which no sandbox may see."""
        key = [str(connection_file(self.connection_file).absolute())] if self.connection_file else []
        return (*key, *jupyter_folders())

    def make_session(self, kernel: Kernel) -> SandboxSession:
        """Return the session that the configuration asks for."""
        from .events import EventLog
        from .guard import Guard
        from .recording import Recorder
        from .session import SandboxSession

        config, directory = self._config, Path.cwd()
        if self._error is None:
            self._check([SandboxSession, EventLog, Guard, *_tools(config)])
        try:
            log = EventLog(config=config)
        except TraitError as exc:
            self.abandon()
            self._error = self._error or ConfigurationError(f"The log, or SANDBOX_KERNEL_LOG_LEVEL: {exc}")
            log = EventLog(level="info")
        if self._error is not None:
            config, self._provider = Config(), BrokenProvider(self._error)
        for name, value in self._options.ignored:
            log.write("option_ignored", option=name, value=value)
        recorder = Recorder(log, kernel.frontend.connection.path.absolute(), directory)
        return SandboxSession(kernel, config=config, log=log, provider=self._provider, recorder=recorder)

    def _check(self, classes: list[type[Configurable]]) -> None:
        try:
            names = {*provider_classes(self._config), *SECTIONS}
            check(self._config, classes, self._options, names=names)
        except SandboxKernelError as exc:
            self.abandon()
            self._error = exc

    def abandon(self) -> None:
        """End what `prepare` began, where nobody took it over."""
        if self._provider is not None:
            self._provider.abandon()


def _tools(config: Config) -> list[type[Configurable]]:
    """Return the class that reads the configuration of tools; not imported where nothing is configured."""
    if "Tools" not in config:
        return []
    from .tools.settings import Tools

    return [Tools]


async def serve(frontend: Frontend, start: Start, parent: int) -> None:
    """Make kernel and session, and serve until the kernel has ended or a signal or the parent's death ends it."""
    import asyncio

    from .kernel import Kernel

    kernel = Kernel(frontend)
    session = start.make_session(kernel)
    kernel.start(session)
    _watch_signals(kernel, session)
    # What the start made stays for good: never look through it again.
    gc.freeze()
    gc.enable()
    watch = asyncio.create_task(_watch_parent(kernel, session, parent))
    try:
        await kernel.ended.wait()
    finally:
        watch.cancel()
        if session.lingers:
            # Another process is about to take the ports.
            frontend.close()
        await session.close()
        start.abandon()
        frontend.close()


def _watch_signals(kernel: Kernel, session: SandboxSession) -> None:
    if sys.platform == "win32":
        return
    import asyncio

    loop = asyncio.get_running_loop()

    def end() -> None:
        # Without waiting for anything: who sends SIGTERM may kill next.
        session.kill()
        kernel.ended.set()

    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGINT, kernel.interrupt)


async def _watch_parent(kernel: Kernel, session: SandboxSession, parent: int) -> None:
    """End with the process that started this one. Some front ends die without a word, and not all name themselves."""
    import asyncio

    if parent <= 1:
        return
    while os.getppid() == parent:  # noqa: ASYNC110 - the system tells nobody of it
        await asyncio.sleep(PARENT_POLL)
    session.leave()
    kernel.ended.set()
