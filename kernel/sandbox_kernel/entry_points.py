"""Finds classes by the names under which packages register them. A class's module is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from .errors import ConfigurationError


@dataclass(frozen=True)
class Registered:
    """What is registered in one entry point group."""

    group: str
    built_in: Mapping[str, str]
    """This package's own, by name: "module:Class". With them the usual start searches no installed packages."""
    what: str
    """What one of them is, for people: "provider"."""
    option: str
    """The option by which one is chosen."""
    error: type[ConfigurationError] = ConfigurationError

    def find(self, name: str) -> Any:
        """Return the class of that name. Raises the error, with the nearest name or with what to install."""
        target = self.built_in.get(name) or self.installed().get(name)
        if target is None:
            raise self.error(f"There is no {self.what} {name!r}; {nearest(name, self.names())} See {self.option}.")
        module, _, attribute = target.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except ImportError as exc:
            raise self.error(
                f"The {self.what} {name!r} needs a package that is not installed ({exc}); "
                f"try `pip install 'sandbox-kernel[{name}]'`."
            ) from exc
        except AttributeError as exc:
            raise self.error(f"The {self.what} {name!r} is not where its package says: {target}.") from exc

    def names(self) -> list[str]:
        """Return all names."""
        return sorted({*self.built_in, *self.installed()})

    def installed(self) -> dict[str, str]:
        """Search all installed packages."""
        from importlib.metadata import entry_points

        return {entry.name: entry.value for entry in entry_points(group=self.group)}


def nearest(name: str, known: list[str]) -> str:
    """Return what may have been meant, as the end of a sentence about a name that there is not."""
    import difflib

    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}."
