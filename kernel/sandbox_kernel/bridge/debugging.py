"""Lets ipykernel start without debugpy, whose import takes a fifth of the start, until somebody debugs.

ipykernel imports three modules of debugpy's for its debugger as soon as it starts. Here they are stand-ins at first,
and the first request that needs the real ones imports them. Where debugpy is not installed nothing is done: then
ipykernel says that it has no debugger.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextlib import redirect_stderr
from types import ModuleType
from typing import Any

_MODULES = ("debugpy.server", "_pydevd_bundle", "_pydevd_bundle.pydevd_suspended_frames")
_FIRST = "debugpy.server"
"""What has to be imported before the others can be found."""
_WITHOUT = {"debugInfo"}
"""Requests that front ends send to every kernel, and that need none of it."""


class _StandIn:
    """What a name in a module of debugpy's stands for until it is needed."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def load(self) -> Any:
        module = importlib.import_module(self._module)
        if not hasattr(module, self._name):
            return importlib.import_module(f"{self._module}.{self._name}")
        return getattr(module, self._name)


class _Module(ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandIn(self.__name__, name)


def postpone_debugpy() -> None:
    """Import ipykernel's debugger so that debugpy is imported with the first request to debug."""
    if "debugpy" in sys.modules or importlib.util.find_spec("debugpy") is None:
        return
    sys.modules.update({name: _Module(name) for name in _MODULES})
    try:
        debugger: Any = importlib.import_module("ipykernel.debugger")
    finally:
        for name in _MODULES:
            del sys.modules[name]
    explorer = getattr(debugger, "VariableExplorer", None)
    process = getattr(getattr(debugger, "Debugger", None), "process_request", None)
    if explorer is None or process is None:
        # Another release of ipykernel's: as it is.
        _load(debugger)
        return

    async def process_first(self: Any, message: dict[str, Any]) -> Any:
        if message["command"] not in _WITHOUT:
            debugger.Debugger.process_request, debugger.VariableExplorer = process, explorer
            # None of the user's: the debugger does not step into what belongs to the kernel.
            self.kernel_modules.extend(_load(debugger))
            self.variable_explorer = explorer()
        return await process(self, message)

    # As debugpy has it while nobody debugs.
    sys.breakpointhook = ignore_breakpoint
    # ipykernel makes an explorer with its debugger.
    debugger.VariableExplorer = lambda: None
    debugger.Debugger.process_request = process_first


def ignore_breakpoint(*_arguments: object, **_options: object) -> None:
    """Go on: there is no debugger that `breakpoint()` could stop in."""


def _load(debugger: Any) -> list[str]:
    """Import what the stand-ins stand for; return the files of all modules that this imported."""
    known = set(sys.modules)
    # What it warns of is for the log, where ipykernel has it, too: no cell is to show it.
    with redirect_stderr(sys.__stderr__):
        importlib.import_module(_FIRST)
    for name, value in list(vars(debugger).items()):
        if isinstance(value, _StandIn):
            setattr(debugger, name, value.load())
    files = (getattr(sys.modules[name], "__file__", None) for name in set(sys.modules) - known)
    return [file for file in files if file]
