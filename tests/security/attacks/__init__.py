"""The attacks, and the text of a program that runs one of them wherever Python runs: in a cell, or outside of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import files, harmless, kernel, limits, network, privileges, processes
from .toolbox import ATTACKS, Attack

__all__ = ["ATTACKS", "Attack", "program", "verdict_of"]

_MODULES = (files, harmless, kernel, limits, network, privileges, processes)
"""Imported so that their attacks are registered."""
_MARK = "verdict of the attack: "

# A package of the same shape is built in memory, so that the attacks are ordinary modules here and need no file there.
_PROGRAM = """
import json, sys, types
for name, text in {sources!r}.items():
    module = sys.modules[name] = types.ModuleType(name)
    module.__package__ = "attacks"
    exec(compile(text, name + ".py", "exec"), module.__dict__)
print({mark!r} + json.dumps(sys.modules["attacks.toolbox"].run({attack!r}, {world!r})), flush=True)
"""


def program(attack: Attack, world: Mapping[str, Any]) -> str:
    """Return Python text that runs the attack with what the test prepared for it and prints its verdict."""
    module = attack.module.rpartition(".")[2]
    names = ["toolbox", module]
    sources = {"attacks": ""} | {
        f"attacks.{name}": Path(__file__).with_name(f"{name}.py").read_text() for name in names
    }
    return _PROGRAM.format(sources=sources, mark=_MARK, attack=attack.name, world=dict(world))


def verdict_of(output: str) -> dict[str, Any] | None:
    """Return the verdict found in what the program printed, None if it came to none."""
    for line in output.splitlines():
        if line.startswith(_MARK):
            verdict: dict[str, Any] = json.loads(line.removeprefix(_MARK))
            return verdict
    return None
