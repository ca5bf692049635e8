"""Packages that are added to the sandbox: a folder of its own on the path, and the program that unpacks wheels into it.

No pip is needed inside, and no network. Run as a program, it says what it did in one JSON object::

    packages.py describe            which wheels fit this Python, and what the folder holds
    packages.py install FOLDER      unpack the wheels of a folder, in place of other versions of the same packages
"""

from __future__ import annotations

import os
import sys

PROGRAM = [sys.executable, "-I", os.path.abspath(__file__)]

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Not imported at the start: the kernel that a user waits for imports this module, too.
    import zipfile
    from collections.abc import Iterator
    from typing import Any

OLDEST_GLIBC = 5
"""Minor version of the oldest glibc that wheels are built for (manylinux1, in the words of PEP 600)."""
LEGACY = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}
SCRIPT = """\
#!{python}
import sys
from {module} import {name}
sys.exit({call}())
"""


def folder() -> str:
    """Return where packages are added: what the provider made for them, else a folder in the home."""
    return os.environ.get("SANDBOX_PACKAGES") or os.path.expanduser("~/.sandbox-packages")


def add_to_path(path: list[str]) -> None:
    """Put the folder before the environment's packages and behind the standard library; children get it, too."""
    added = folder()
    at = next((index for index, entry in enumerate(path) if entry.endswith(("site-packages", "dist-packages"))), None)
    path.insert(len(path) if at is None else at, added)
    for name, entry in (("PYTHONPATH", added), ("PATH", os.path.join(added, "bin"))):
        before = os.environ.get(name)
        os.environ[name] = f"{entry}:{before}" if before else entry


def main() -> None:
    """Do what the command line says."""
    import json

    if sys.argv[1] == "describe":
        print(json.dumps(description()))  # noqa: T201 - read by the kernel process
    else:
        print(json.dumps(install(sys.argv[2])))  # noqa: T201 - read by the kernel process


def description() -> dict[str, Any]:
    """Return what pip has to know of this Python, and the folder's packages with their versions."""
    import sysconfig

    # Such as cpython-313t-x86_64-linux-gnu.
    soabi = str(sysconfig.get_config_var("SOABI") or "")
    return {
        "folder": folder(),
        "version": "{}.{}.{}".format(*sys.version_info),
        "implementation": "cp" if sys.implementation.name == "cpython" else sys.implementation.name,
        "abi": "cp" + soabi.split("-")[1] if soabi.startswith("cpython-") else "",
        "platforms": list(platforms()),
        "installed": {name: version for name, version, _ in installed()},
    }


def platforms() -> Iterator[str]:
    """Yield the platform tags of wheels that run here, the most demanding first (PEP 600)."""
    import sysconfig

    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    machine = platform.removeprefix("linux_")
    try:
        glibc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        glibc = ""
    if platform.startswith("linux_") and glibc.startswith("glibc 2."):
        for minor in range(int(glibc.split(".")[1]), OLDEST_GLIBC - 1, -1):
            yield f"manylinux_2_{minor}_{machine}"
            if minor in LEGACY:
                yield f"{LEGACY[minor]}_{machine}"
    yield platform


def installed() -> Iterator[tuple[str, str, str]]:
    """Yield name, version and metadata folder of each package in the folder."""
    try:
        names = sorted(os.listdir(folder()))
    except OSError:
        return
    for entry in names:
        if entry.endswith(".dist-info"):
            name, _, version = entry.removesuffix(".dist-info").partition("-")
            yield canonical(name), version, os.path.join(folder(), entry)


def canonical(name: str) -> str:
    """Return a package's name as it is compared (PEP 503)."""
    import re

    return re.sub(r"[-_.]+", "-", name).lower()


def install(wheels: str) -> dict[str, Any]:
    """Unpack all wheels of a folder and remove it; return what is there now, and its modules' names."""
    import shutil
    import zipfile

    os.makedirs(folder(), exist_ok=True)
    modules: set[str] = set()
    packages = []
    for name in sorted(os.listdir(wheels)):
        project, version = name.split("-")[:2]
        remove(canonical(project))
        with zipfile.ZipFile(os.path.join(wheels, name)) as wheel:
            modules.update(unpack(wheel))
        packages.append(f"{project} {version}")
    shutil.rmtree(wheels)
    return {"packages": packages, "modules": sorted(modules)}


def remove(project: str) -> None:
    """Remove another version of a package from the folder, as its RECORD says."""
    import csv
    import shutil

    for name, _, metadata in list(installed()):
        if name != project:
            continue
        with open(os.path.join(metadata, "RECORD"), newline="", encoding="utf-8") as record:
            paths = [row[0] for row in csv.reader(record) if row]
        for path in paths:
            try:
                os.unlink(inside(path))
            except OSError:
                # Removed by hand.
                pass
        shutil.rmtree(metadata)


def inside(path: str) -> str:
    """Return the path in the folder that a wheel's path means. Raises ValueError where it leads out."""
    root = os.path.realpath(folder())
    full = os.path.normpath(os.path.join(root, path))
    if not full.startswith(root + os.sep):
        raise ValueError(f"the wheel has a file outside the packages' folder: {path!r}")
    return full


def unpack(wheel: zipfile.ZipFile) -> Iterator[str]:
    """Put a wheel's files where they belong; yield the names that can be imported then (binary distribution format)."""
    import shutil

    written = []
    for info in wheel.infolist():
        target, is_script = place(info.filename)
        if info.is_dir() or not target:
            continue
        full = inside(target)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with wheel.open(info) as source, open(full, "wb") as file:
            if is_script:
                file.write(first_line(source.readline()))
            shutil.copyfileobj(source, file)
        mode = info.external_attr >> 16
        os.chmod(full, 0o755 if is_script or mode & 0o111 else 0o644)
        written.append(target)
        if (module := module_of(target)) != "":
            yield module
    written += scripts(wheel)
    record(wheel, written)


def place(path: str) -> tuple[str, bool]:
    """Return where a wheel's file goes in the folder ("": nowhere), and whether it is a script."""
    first, _, rest = path.partition("/")
    if not first.endswith(".data"):
        return path, False
    key, _, rest = rest.partition("/")
    if key == "scripts":
        return f"bin/{rest}", True
    return (rest, False) if key in ("purelib", "platlib", "data") else ("", False)


def first_line(line: bytes) -> bytes:
    """Return a script's first line with this interpreter, where the wheel leaves it open."""
    return b"#!" + sys.executable.encode() + b"\n" if line.startswith(b"#!python") else line


def module_of(path: str) -> str:
    """Return the name of the top-level module or package that a file belongs to, "" if to none."""
    first, slash, _ = path.partition("/")
    if slash:
        return first if first.isidentifier() and first != "bin" else ""
    stem, dot, ending = first.partition(".")
    return stem if dot and ending.endswith(("py", "so", "pyd")) and stem.isidentifier() else ""


def scripts(wheel: zipfile.ZipFile) -> list[str]:
    """Write the programs that the wheel's entry points name; return their paths."""
    import configparser

    parser = configparser.ConfigParser(delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    for name in wheel.namelist():
        if name.endswith(".dist-info/entry_points.txt"):
            parser.read_string(wheel.read(name).decode())
    written = []
    for name, value in parser["console_scripts"].items() if parser.has_section("console_scripts") else ():
        module, _, attribute = value.partition("[")[0].strip().partition(":")
        text = SCRIPT.format(python=sys.executable, module=module, name=attribute.split(".")[0], call=attribute)
        path = inside(f"bin/{name}")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, 0o755)
        written.append(f"bin/{name}")
    return written


def record(wheel: zipfile.ZipFile, written: list[str]) -> None:
    """Write which files the package has, for its removal, and who installed it."""
    import csv

    (metadata,) = {name.split("/")[0] for name in wheel.namelist() if name.split("/")[0].endswith(".dist-info")}
    with open(inside(f"{metadata}/INSTALLER"), "w", encoding="utf-8") as file:
        file.write("sandbox-kernel\n")
    with open(inside(f"{metadata}/RECORD"), "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([path, "", ""] for path in [*written, f"{metadata}/INSTALLER", f"{metadata}/RECORD"])


if __name__ == "__main__":
    main()
