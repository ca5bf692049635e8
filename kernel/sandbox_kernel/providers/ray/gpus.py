"""Which device nodes of a machine belong to the GPUs that Ray granted, and what their programs see them as."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SHARED = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
"""Device nodes that programs need whichever GPU they use; none of them gives access to a GPU by itself."""
CARDS = Path("/proc/driver/nvidia/gpus")
DEVICES = Path("/dev")


@dataclass(frozen=True)
class Granted:
    """What goes into a sandbox."""

    devices: tuple[str, ...]
    variables: dict[str, str]


@dataclass(frozen=True)
class _Card:
    minor: int
    uuid: str


def granted(ids: Sequence[str], cards: Path = CARDS, devices: Path = DEVICES) -> Granted:
    """Return the device nodes and variables of GPUs with these ids: Ray's numbers, or the vendor's UUIDs.

    Raises LookupError where this machine has no such GPU; without any ids nothing is granted.
    """
    if not ids:
        # An empty text hides every GPU, should a device node be there all the same.
        return Granted((), {"CUDA_VISIBLE_DEVICES": ""})
    found = _cards(cards)
    chosen = [_find(found, one, devices) for one in ids]
    nodes = [devices / f"nvidia{card.minor}" for card in chosen]
    missing = [str(node) for node in nodes if not node.exists()]
    if missing:
        raise LookupError(f"there is no {' and no '.join(missing)}")
    shared = [devices / name for name in SHARED if (devices / name).exists()]
    # By UUID, since inside the numbers begin anew: only these GPUs are there.
    named = all(card.uuid for card in chosen)
    seen = [card.uuid for card in chosen] if named else [str(number) for number in range(len(chosen))]
    return Granted(tuple(map(str, [*nodes, *shared])), {"CUDA_VISIBLE_DEVICES": ",".join(seen)})


def _cards(folder: Path) -> list[_Card]:
    """Return the machine's GPUs in the order of their places on the bus, which is how Ray counts them."""
    return [_read(place / "information") for place in sorted(folder.iterdir())] if folder.is_dir() else []


def _read(file: Path) -> _Card:
    text = file.read_text()
    minor = re.search(r"^Device Minor:\s*(\d+)", text, re.MULTILINE)
    # Where nobody has used it since the machine started, the driver shows question marks.
    uuid = re.search(r"^GPU UUID:\s*(GPU-[0-9a-fA-F-]+)\s*$", text, re.MULTILINE)
    if minor is None:
        raise LookupError(f"{file} names no device")
    return _Card(int(minor[1]), uuid[1] if uuid else "")


def _find(cards: Sequence[_Card], wanted: str, devices: Path) -> _Card:
    if wanted.isdecimal():
        number = int(wanted)
        if number < len(cards):
            return cards[number]
        if not cards and (devices / f"nvidia{number}").exists():
            # In a container whose /proc does not show the driver.
            return _Card(number, "")
    for card in cards:
        if card.uuid and card.uuid.startswith(wanted):
            return card
    raise LookupError(f"there is no GPU {wanted}; the driver shows {len(cards)}")
