"""How long an empty cell takes, and how late what one prints is: as a front end sees it."""

from __future__ import annotations

import time

from tests.functional.client import FrontEnd

FLUSHED = "import time\nfor n in range(20):\n    print(time.time(), flush=True); time.sleep(0.02)"


def seconds(front_end: FrontEnd) -> float:
    """Return how long an empty cell takes."""
    began = time.perf_counter()
    front_end.run("1")
    return time.perf_counter() - began


def lag(front_end: FrontEnd) -> list[float]:
    """Return how late printed lines came, in milliseconds."""
    cell, seen, found = front_end.cell(FLUSHED), 0, []
    while not cell.done:
        front_end._take(0.5)
        texts = [content["text"] for content in cell.contents("stream")]
        found += [1000 * (time.time() - float(text.split()[0])) for text in texts[seen:] if text.strip()]
        seen = len(texts)
    return found
