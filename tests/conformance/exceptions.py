"""Upstream tests that do not apply to this kernel, each with its reason. Data only.

A name is an upstream test without its parameters, or with them to mean one case only.
"""

from __future__ import annotations

AT_MOST = 5
AT_MOST_ON_A_SERVICE = 10
_ENDS_ITSELF = (
    "a cell ends the process that the front end started, and the client is to notice; from inside a sandbox a cell "
    "cannot reach that process, and what such a cell gets instead is tested in tests/functional"
)
_IN_PROCESS_LOOP = (
    "integrates an event loop with a Kernel object in the test's own process; no other process takes part"
)

ABOUT_IPYKERNELS_PROCESS: dict[str, str] = {
    "test_eventloop.py::test_tk_loop": _IN_PROCESS_LOOP,
    "test_eventloop.py::test_asyncio_loop": _IN_PROCESS_LOOP,
    "test_eventloop.py::test_enable_gui": _IN_PROCESS_LOOP,
    "test_eventloop.py::test_cocoa_loop": _IN_PROCESS_LOOP,
    "test_eventloop.py::test_qt_enable_gui": _IN_PROCESS_LOOP,
    "test_kernel.py::test_help_output": "runs `ipython kernel --help-all`, ipykernel's own command line",
    "test_client.py::TestExecute::test_kernel_death_during_execution": _ENDS_ITSELF,
    "test_client.py::TestExecute::test_error_notebook_hook": _ENDS_ITSELF,
    "test_debugger.py::test_convert_to_long_pathname": "calls a function of ipykernel.compiler in the test's process",
}
"""Never run: whatever kernel is installed, these would only ever test ipykernel."""

EXCEPTIONS: dict[str, str] = {
    "test_kernel.py::test_save_history": (
        "reads on the host a file that the cell wrote into the host's temporary folder; a sandbox has its own"
    ),
    "test_message_spec.py::test_non_execute_stop_on_error": (
        "expects kernel_info and inspect to be answered only after the cells before them; here they are answered while "
        "a cell runs, and so come first"
    ),
    "test_kernel.py::test_parent_header_and_ident": (
        "reads inside the kernel the routing identity of a front end, and a control request that is answered before it "
        "gets there; neither enters a sandbox"
    ),
    "test_client.py::test_async_parallel_notebooks": (
        "two notebooks meet in a host folder named by a host environment variable; a sandbox sees neither"
    ),
}
"""Real differences from ipykernel, at most five. They are run all the same, and must fail: one that passes is none."""

ELSEWHERE: dict[str, str] = {
    "test_client.py::test_run_all_notebooks[Skip Exceptions with Cell Tags.ipynb-opts8]": (
        "names cells by an environment variable of the front end's, which is not the executor's"
    ),
}
"""The same for a sandbox that is not on the front end's machine, in addition."""

_MANY = "gives each first cell five seconds, in which four sandboxes of the service have to start at one time"
_SOON = "is about its first cell's first seconds, in which a sandbox of the service still starts, which may be shown"

SLOW_START: dict[str, str] = {
    "test_client.py::test_many_async_parallel_notebooks": _MANY,
    "test_client.py::test_many_parallel_notebooks": _MANY,
    "test_client.py::test_run_all_notebooks[Interrupt.ipynb-opts6]": _SOON,
    "test_async.py::test_async_interrupt": _SOON,
}
"""The same, in addition, for sandboxes that take seconds to start; on a quick machine they pass."""

AT_A_GATEWAY: dict[str, str] = {
    "test_client.py::test_run_all_notebooks[Inline Image.ipynb-opts5]": (
        "shows a file of the notebook's folder; a gateway's kernels run in a folder of the gateway's"
    ),
}
"""The same, in addition, for kernels of a gateway."""

IN_RELAY_MODE: dict[str, str] = {
    "test_client.py::test_run_all_notebooks[Check History in Memory.ipynb-opts15]": (
        "gives the kernel a command line, which the gateway's kernel has from the gateway's kernelspec alone"
    ),
}
"""The same, in addition, where that is relay mode."""

NOT_ISOLATED = frozenset(("test_kernel.py::test_save_history",))
"""Exceptions that are none where nothing is between a cell and the host's files, as at a gateway on this machine."""

AFTER_A_CELL: dict[str, str] = {
    "test_kernel.py::test_interrupt_during_pdb_set_trace": (
        "interrupts the first cell a second after it was sent, and expects that it waits for input by then"
    ),
}
"""Run, with ipykernel too, once a first cell was answered: they are not about how soon a kernel has started."""

_OWN_TARGET = "opens a comm of a target of its own, which Guard.comm_targets would have to name"

GUARD_DIFFERENCES: dict[str, str] = {
    "test_kernel.py::test_async_cell_waiting_for_comm_reply": _OWN_TARGET,
    "test_subshells.py::test_comm_reply_follows_requesting_subshell": _OWN_TARGET,
    "test_client.py::test_run_all_notebooks[Other Comms.ipynb-opts0]": _OWN_TARGET,
}
"""What the default policy of the output guard is about. Each is run with that policy, and must fail, and then with
trusted output, where it must pass as all the others do."""

BASIC_MODE: dict[str, str] = {
    "TestKernel::test_history": "AgentCore's interpreter keeps no history that could be asked for",
}
"""What of the package jupyter_kernel_test AgentCore's basic mode lacks. It is run all the same, and must fail."""

E2B_BASIC_MODE: dict[str, str] = {
    "TestKernel::test_clear_output": "E2B's interpreter does not pass clear_output on",
    "TestKernel::test_completion": "it completes nothing",
    "TestKernel::test_history": "it keeps no history that could be asked for",
    "TestKernel::test_inspect": "it describes nothing",
    "TestKernel::test_pager": "it passes no payloads on, which is what `?` shows",
}
"""The same for E2B."""


def of_place(*, elsewhere: bool, gateway_mode: str = "") -> dict[str, str]:
    """Return the exceptions of sandboxes that are there; ``gateway_mode`` is "bridge", "relay", or "" at no gateway."""
    if not gateway_mode:
        return {**EXCEPTIONS, **ELSEWHERE} if elsewhere else EXCEPTIONS
    there = {**EXCEPTIONS, **ELSEWHERE, **AT_A_GATEWAY, **(IN_RELAY_MODE if gateway_mode == "relay" else {})}
    return {name: why for name, why in there.items() if name not in NOT_ISOLATED}


def reason(table: dict[str, str], name: str) -> str | None:
    """Why `table` leaves the upstream test `name` out, or None if it does not."""
    return table.get(name) or table.get(name.split("[", 1)[0])
