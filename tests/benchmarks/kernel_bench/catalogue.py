"""All measurements by the name that `--only` takes, in the order of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from kernel_bench.cells import cells, library_cells
from kernel_bench.comms import echoes
from kernel_bench.completion import at_rest, beside_loop, beside_sleep
from kernel_bench.files import files
from kernel_bench.footprint import idle, memory
from kernel_bench.guard import guard
from kernel_bench.interrupts import interrupts
from kernel_bench.lag import lags
from kernel_bench.plan import Effort
from kernel_bench.process import Contender
from kernel_bench.results import Row
from kernel_bench.start import restarts, starts, ten_at_once
from kernel_bench.throughput import throughput
from kernel_bench.tools import tools
from kernel_bench.transfer import transfer

Measurement = Callable[[Sequence[Contender], Effort], Iterator[Row]]

CATALOGUE: Mapping[str, Measurement] = {
    "start": starts,
    "restart": restarts,
    "ten": ten_at_once,
    "cell": cells,
    "library-cell": library_cells,
    "completion": at_rest,
    "completion-loop": beside_loop,
    "completion-sleep": beside_sleep,
    "lag": lags,
    "throughput": throughput,
    "guard": guard,
    "comm": echoes,
    "interrupt": interrupts,
    "files": files,
    "tools": tools,
    "transfer": transfer,
    "memory": memory,
    "idle": idle,
}
