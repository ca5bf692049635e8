"""Which of the host's files a Python environment needs, found by looking at them: nothing is run or imported."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from sandbox_kernel.errors import ConfigurationError

REQUIRED = ("ipykernel", "zmq")
"""Packages without which no kernel can run in an environment."""

SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""Shown to every sandbox, so never mounted for an environment's sake."""

# Where packages refer to each other by absolute paths, all of them are shown.
_STORES = ("/nix/store", "/gnu/store", "/home/linuxbrew/.linuxbrew")

_MAX_LINKS = 40


@dataclass(frozen=True)
class PythonEnvironment:
    """A Python environment as a sandbox is to see it, under its own paths."""

    python: str
    prefix: str
    version: str
    """Of Python, as far as the files tell: "3.11.7", else "3.11"."""
    site_packages: tuple[str, ...]
    mounts: tuple[str, ...]
    """Folders and files to show read-only; real paths, none inside another."""
    links: dict[str, str] = field(default_factory=dict)
    """Symbolic links on the way to them: path and target."""
    user_base: str = ""
    """Value for PYTHONUSERBASE where packages lie in the user's own folder."""

    @property
    def is_virtual(self) -> bool:
        """Whether it is a virtual environment, and not an installation of Python itself."""
        return os.path.isfile(os.path.join(self.prefix, "pyvenv.cfg"))

    def implementation_version(self) -> str:
        """Return the version of IPython, "" if it cannot be seen."""
        for folder in self.site_packages:
            for name in _names(folder):
                if name.lower().startswith("ipython-") and name.endswith(".dist-info"):
                    return name[len("ipython-") : -len(".dist-info")]
        return ""


def examine(python: str) -> PythonEnvironment:
    """Return what the interpreter at this path needs.

    Raises ConfigurationError if there is none, or if its environment has no ipykernel.
    """
    python = os.path.abspath(os.path.expanduser(python))
    if not os.access(python, os.X_OK):
        raise ConfigurationError(f"There is no Python interpreter at {python}; set LocalProvider.python to one.")
    prefix, bases, version = _own_prefixes() if python == sys.executable else _prefixes(python)
    minor = ".".join(version.split(".")[:2])
    user_base = _user_base(prefix, minor)
    site_packages = tuple(_site_packages(prefix, bases, minor, user_base))
    for package in REQUIRED:
        if not any(os.path.isdir(os.path.join(folder, package)) for folder in site_packages):
            raise ConfigurationError(
                f"The Python environment {prefix} has no {package}: run `{python} -m pip install ipykernel`."
            )
    if not any(folder.startswith(user_base) for folder in site_packages):
        user_base = ""
    links: dict[str, str] = {}
    wanted = [trace(python, links), *_trees((prefix, *bases), minor), *_stores(prefix, *bases)]
    wanted += [*site_packages, *_linked_packages(site_packages)]
    mounts = outermost(trace(path, links) for path in wanted if os.path.exists(path))
    return PythonEnvironment(
        python=python,
        prefix=prefix,
        version=version,
        site_packages=site_packages,
        mounts=tuple(mounts),
        links={path: target for path, target in links.items() if not _is_inside(path, (*mounts, *SYSTEM_FOLDERS))},
        user_base=user_base,
    )


def trace(path: str, links: dict[str, str]) -> str:
    """Return the real path, noting in ``links`` every symbolic link on the way."""
    pending, done = path.split("/")[::-1], ""
    followed = 0
    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = os.path.dirname(done).rstrip("/")
            continue
        step = f"{done}/{part}"
        try:
            target = os.readlink(step)
        except OSError:
            done = step
            continue
        followed += 1
        if followed > _MAX_LINKS:
            raise ConfigurationError(f"{path} is a loop of symbolic links.")
        links[step] = target
        pending.extend(target.split("/")[::-1])
        if target.startswith("/"):
            done = ""
    return done or "/"


def outermost(paths: Iterator[str]) -> list[str]:
    """Return the paths that are neither inside another one nor shown anyway."""
    kept: list[str] = []
    for path in sorted(set(paths)):
        if not _is_inside(path, (*kept, *SYSTEM_FOLDERS)):
            kept.append(path)
    return kept


def _is_inside(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def _own_prefixes() -> tuple[str, tuple[str, ...], str]:
    version = "{}.{}.{}".format(*sys.version_info)
    return sys.prefix, tuple({sys.base_prefix, sys.base_exec_prefix, sys.exec_prefix} - {sys.prefix}), version


def _prefixes(python: str) -> tuple[str, tuple[str, ...], str]:
    """Return the prefix, the base prefixes and the version of an interpreter that is not ours."""
    prefix = os.path.dirname(os.path.dirname(python))
    real = os.path.realpath(python)
    base = os.path.dirname(os.path.dirname(real))
    settings = _read_pyvenv(prefix)
    if not settings:
        return base, (), _version(base, real, "")
    bases = {base, os.path.dirname(settings.get("home", "")) or base}
    known = settings.get("version_info") or settings.get("version") or ""
    return prefix, tuple(sorted(bases)), _version(base, real, known)


def _read_pyvenv(prefix: str) -> dict[str, str]:
    try:
        with open(os.path.join(prefix, "pyvenv.cfg"), encoding="utf-8") as file:
            lines = [line.partition("=") for line in file]
    except OSError:
        return {}
    return {key.strip().lower(): value.strip() for key, _, value in lines}


def _version(base: str, real: str, known: str) -> str:
    """Return "3.11.7" if a file says so, else "3.11"."""
    if found := re.match(r"\d+\.\d+(\.\d+)?", known):
        return found[0]
    minor = re.search(r"python(\d+\.\d+)$", real)
    candidates = (
        [minor[1]] if minor else [name[6:] for name in _names(base, "lib") if re.match(r"python\d+\.\d+$", name)]
    )
    for candidate in candidates:
        return _patch_level(base, candidate) or candidate
    raise ConfigurationError(f"Which version of Python {real} is cannot be seen from its files; name another one.")


def _patch_level(base: str, minor: str) -> str:
    try:
        with open(f"{base}/include/python{minor}/patchlevel.h", encoding="utf-8") as file:
            found = re.search(r'PY_VERSION\s+"(\d+\.\d+\.\d+)', file.read())
    except OSError:
        return ""
    return found[1] if found else ""


def _user_base(prefix: str, minor: str) -> str:
    """Return the user's own scheme (`pip install --user`), if this environment looks there."""
    settings = _read_pyvenv(prefix)
    if settings and settings.get("include-system-site-packages") != "true":
        return ""
    base = os.path.expanduser("~/.local")
    return base if os.path.isdir(f"{base}/lib/python{minor}/site-packages") else ""


def _site_packages(prefix: str, bases: tuple[str, ...], minor: str, user_base: str) -> Iterator[str]:
    """Yield the folders where the environment's packages can lie."""
    settings = _read_pyvenv(prefix)
    prefixes = [prefix]
    if not settings or settings.get("include-system-site-packages") == "true":
        prefixes += [*bases, user_base, "/usr/local"]
    for root in filter(None, prefixes):
        for library in ("lib", "lib64"):
            yield f"{root}/{library}/python{minor}/site-packages"
            yield f"{root}/{library}/python{minor}/dist-packages"
        yield f"{root}/lib/python3/dist-packages"


def _linked_packages(site_packages: tuple[str, ...]) -> Iterator[str]:
    """Yield what packages are links to, or what their files are links into, as installers with a store make them."""
    for folder in site_packages:
        # One look tells: an installer links all packages or none.
        required = [os.path.join(folder, name) for name in REQUIRED]
        if any(os.path.islink(path) or os.path.islink(f"{path}/__init__.py") for path in required):
            for name in _names(folder):
                path = os.path.join(folder, name)
                yield path if os.path.islink(path) else _linked_folder(path) or folder


def _linked_folder(folder: str, depth: int = 2) -> str:
    """Return the folder whose files those in a folder are links to, under the same names; "" if there is none."""
    for name in _names(folder):
        path = os.path.join(folder, name)
        target = os.path.realpath(path) if os.path.islink(path) else depth and _linked_folder(path, depth - 1)
        if target:
            return os.path.dirname(target) if os.path.basename(target) == name else ""
    return ""


def _trees(prefixes: tuple[str, ...], minor: str) -> Iterator[str]:
    """Yield the prefixes; of one that holds more than Python, such as a home, only the parts that are Python's."""
    for prefix in prefixes:
        if not _is_broad(os.path.realpath(prefix)):
            yield prefix
            continue
        for library in ("lib", "lib64"):
            if os.path.isdir(f"{prefix}/{library}/python{minor}"):
                yield f"{prefix}/{library}/python{minor}"
            for name in _names(prefix, library):
                if name.startswith("libpython"):
                    yield f"{prefix}/{library}/{name}"


def _is_broad(path: str) -> bool:
    home = os.path.realpath(os.path.expanduser("~"))
    return path.count("/") < 2 or _is_inside(home, (path,)) or os.path.basename(path) == ".local"


def _stores(*prefixes: str) -> list[str]:
    real = [os.path.realpath(prefix) for prefix in prefixes]
    return [store for store in _STORES if any(_is_inside(path, (store,)) for path in real)]


def _names(*parts: str) -> list[str]:
    try:
        return os.listdir(os.path.join(*parts))
    except OSError:
        return []
