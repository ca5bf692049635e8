"""Starts kernels as VS Code's Jupyter extension does, with the cells that it hides."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.functional.vscode.client import (
    Connection,
    KernelProcess,
    KernelSpec,
    Request,
    VSCodeClient,
    launch,
    wait_for_ports,
)

NOTEBOOK = "/home/someone/projects/local.ipynb"  # a path of the user's machine: it need not exist where cells run

IPYWIDGETS_VERSION = """
try:
    import ipywidgets as _vscode_widgets
    print("ipywidgets", _vscode_widgets.__version__)
    del _vscode_widgets
except ImportError:
    print("ipywidgets", None)
"""
START_CELL = f"""
import sys as _vscode_sys, types as _vscode_types
import IPython.display as _vscode_display
_vscode_module = _vscode_types.ModuleType("vscode")
_vscode_module.chat = _vscode_types.SimpleNamespace(display=_vscode_display.display)
_vscode_sys.modules["vscode"] = _vscode_module
del _vscode_sys, _vscode_types, _vscode_display, _vscode_module
__vsc_ipynb_file__ = {NOTEBOOK!r}
%config Completer.use_jedi = False
try:
    import matplotlib as _vscode_matplotlib
    get_ipython().run_line_magic("matplotlib", "inline")
    _vscode_matplotlib.rcParams["figure.facecolor"] = "none"
    del _vscode_matplotlib
except ImportError:
    pass
"""
FIRST_CELL = """name_of_first_cell = 1
names = %who_ls
print(len(In), In[1].startswith("name_of_first_cell"), Out, names)
print(len(list(get_ipython().history_manager.get_range())))
print(__vsc_ipynb_file__, get_ipython().Completer.use_jedi)
import vscode
"""


@dataclass
class Started:
    """A running kernel and the traffic of its start."""

    client: VSCodeClient
    connects: list[Request]
    hidden: list[Request]
    first: Request


@dataclass
class Launcher:
    """Starts kernels of one kernelspec as the extension does, and leaves none behind."""

    spec: KernelSpec
    folder: Path
    runtime_folder: Path
    env: dict[str, str]
    processes: list[KernelProcess] = field(default_factory=list)
    clients: list[VSCodeClient] = field(default_factory=list)

    def launch(self, connection: Connection | None = None) -> tuple[Connection, KernelProcess]:
        """Spawn a kernel."""
        connection, process = launch(self.spec, self.folder, self.runtime_folder, self.env, connection)
        self.processes.append(process)
        return connection, process

    def connect(self) -> tuple[VSCodeClient, list[Request]]:
        """Spawn a kernel and connect to it."""
        connection, process = self.launch()
        wait_for_ports(connection, process)
        client = VSCodeClient(connection, process)
        self.clients.append(client)
        return client, client.connect()

    def start(self) -> Started:
        """Spawn, connect, run what the extension hides at the start, then the user's first cell."""
        client, connects = self.connect()
        hidden = [client.execute(code, hidden=True) for code in (IPYWIDGETS_VERSION, START_CELL)]
        client.request("shell", "kernel_info_request")
        # The warm-up of the completer: sent, its reply not awaited before the first cell.
        warm_up = client.send("shell", "complete_request", {"code": "__file__.", "cursor_pos": 9})
        first = client.execute(FIRST_CELL)
        # A cell beside which it is answered is said to be busy once more.
        client.wait_done(warm_up)
        return Started(client, connects, hidden, first)

    def close(self) -> None:
        """End everything that was started."""
        for client in self.clients:
            client.close()
        for process in self.processes:
            process.close()


def make_launcher(spec: KernelSpec, folder: Path) -> Launcher:
    """Prepare a notebook folder and a runtime folder, both with a space in their name."""
    folders = {name: folder / name for name in ("my notebooks", "jupyter runtime", "ipython")}
    for path in folders.values():
        path.mkdir()
    env = {"JUPYTER_RUNTIME_DIR": str(folders["jupyter runtime"]), "IPYTHONDIR": str(folders["ipython"])}
    return Launcher(spec, folders["my notebooks"], folders["jupyter runtime"], env)
