"""Where the bridge begins. It spawns the kernel first, with next to nothing imported: that is what a user waits for."""

from __future__ import annotations

import os
import sys
import time

from sandbox_kernel.bridge.inner import InnerKernel

IMPORT_AFTER = 0.08
"""Seconds that the bridge leaves the processors to the kernel and to the kernel process, which start now, too."""


def main() -> None:
    """Run the bridge until its link ends.

    Arguments: ``--link-fd N`` (inherited descriptor of a connected stream socket) or ``--control-fd N`` (of a socket
    over which streams are passed, see wire.py) and ``--journal-dir FOLDER`` (on a disk), ``--runtime-dir FOLDER``
    (private, writable); the others go to the ipykernel. With ``--tells`` it says over the control socket whether it has
    anything to do; ``--beside NAMES`` (joined by ":") is what lies in the working folder and is nobody's copy.
    """
    options = sys.argv[1:]
    kept = "--control-fd" in options
    link = int(_take(options, "--control-fd" if kept else "--link-fd"))
    journal = _take(options, "--journal-dir") if kept else ""
    runtime = _take(options, "--runtime-dir")
    tells = _has(options, "--tells")
    beside = _take(options, "--beside").split(":") if "--beside" in options else []
    # A cell that inherited the link could write frames into it.
    os.set_inheritable(link, False)
    inner = InnerKernel(runtime, 1, options, lively=tells)
    time.sleep(IMPORT_AFTER)
    _add_site_packages()
    from sandbox_kernel.bridge.relay import Bridge

    def spawn(life: int) -> InnerKernel:
        return InnerKernel(runtime, life, options, lively=tells)

    if kept:
        bridge = Bridge(inner, spawn, control=link, journal=journal, tells=tells, beside=beside)
    else:
        bridge = Bridge(inner, spawn, stream=link)
    try:
        bridge.run()
    finally:
        bridge.close()


def _has(options: list[str], name: str) -> bool:
    found = name in options
    if found:
        options.remove(name)
    return found


def _take(options: list[str], name: str) -> str:
    if name not in options[:-1]:
        sys.exit(f"the bridge needs {name}")
    index = options.index(name)
    value = options[index + 1]
    del options[index : index + 2]
    return value


def _add_site_packages() -> None:
    """Make packages importable where the interpreter was started without them (-S), to be quicker."""
    if sys.flags.no_site:
        import site

        site.main()


if __name__ == "__main__":
    main()
