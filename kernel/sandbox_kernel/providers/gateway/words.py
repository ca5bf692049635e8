"""What the relay says to people, and to kernels."""

from __future__ import annotations

LACKS = (
    "no journal and not exactly-once: what is lost with a connection is told; no files, shell commands, packages, "
    "tools, variables both ways, and no copy of the notebook's folder"
)
REFUSED = "this needs bridge mode; in relay mode there is nothing but the gateway's own kernel"
DIED = "the gateway says so and has started it anew, and does not say why"
DEAD = "the gateway says that it is dead"
RENEWED = (
    "its gateway's kernel, in which the bridge was started, has been restarted by somebody else than this notebook"
)
RENEWED_BY_GATEWAY = "the gateway's kernel, in which the bridge was started, has ended; the gateway has started it anew"
RESTARTED = "somebody else than this notebook has restarted the gateway's kernel"
RESTARTED_IN_CELL = (
    "Somebody else than this notebook has restarted the gateway's kernel while this cell ran. Its variables are gone."
)
BEGINNING_LOST = (
    "Output of this cell may be missing: the gateway's kernel was restarted just then, and the gateway heard the new "
    "one too late."
)
FRESH = (
    "The sandbox's Python is a fresh one, since somebody else than this notebook has restarted the gateway's kernel: "
    "the variables of earlier cells are gone; files and packages are kept.\n"
)
TOO_LARGE = (
    "The message is larger than the gateway takes, so it was not sent; use less at a time, or raise "
    "GatewayProvider.largest_message where the gateway's own limit is higher."
)
END_LOST = (
    "The gateway has not passed on that this cell ended, and perhaps not all of its output: more was sent at once than "
    "it could take. The cell ran to its end."
)
BUSY = (
    "The kernel is busy with what somebody else, or an earlier kernel process, has begun; cells wait until that is "
    "done, and what it prints is not shown here.\n"
)


def relayed(reason: str) -> str:
    """Return what the first cell says where the bridge could not be had."""
    return f"The bridge does not run in the gateway's kernel ({reason}), so this is relay mode: {LACKS}.\n"


def cut(seconds: float) -> str:
    """Return what a cell says that ran while the connection was lost."""
    return (
        f"sandbox: the connection to the gateway was lost for {seconds:.1f} s and is there again. What the cell sent "
        "just then may be missing here.\n"
    )


def lost(*, begun: bool) -> str:
    """Return what a cell says of which nothing more will come; ``begun``: it is known that it ran."""
    if begun:
        return (
            "The connection to the gateway was lost while this cell ran, and with it the cell's end and perhaps some "
            "of its output. It ran once and is not run again; look at its variables before you do."
        )
    return (
        "The connection to the gateway was lost when this cell was sent, and nothing was heard of it since, so nobody "
        "knows whether it ran. It is not run again; look at its variables before you do."
    )


def ended(reason: str) -> str:
    """Return what a cell says with whose error its kernel ended; ``reason`` is a clause."""
    return f"The kernel ended while this cell ran: {reason}.\n"


def swallowed(*, begun: bool) -> str:
    """Return what a cell says that was sent when the kernel was restarted; ``begun``: the new one has run it."""
    if begun:
        return "The end of this cell was lost when the gateway's kernel was restarted; it is not run again."
    return "The gateway's kernel was restarted when this cell was sent, so it did not run there; run it again."


SET_COUNT = """\
history = shell.history_manager
for name in ("input_hist_raw", "input_hist_parsed"):
    texts = getattr(history, name)
    del texts[count:]
    texts.extend([""] * (count - len(texts)))
    if inputs:
        texts[count - len(inputs) :] = inputs
shell.execution_count = count
"""


def set_count(count: int, inputs: list[str]) -> str:
    """Return a cell that lets IPython go on counting, and leaves no names."""
    return f"exec({SET_COUNT!r}, {{'shell': get_ipython(), 'count': {count!r}, 'inputs': {inputs!r}}})"
