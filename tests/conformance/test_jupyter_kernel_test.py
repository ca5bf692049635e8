"""The tests of the package jupyter_kernel_test, with every sample that it knows."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import jupyter_kernel_test  # type: ignore[import-untyped]
import pytest

_KERNEL = os.environ.get("SANDBOX_KERNEL_UNDER_TEST", "sandbox")
_NOT_SAMPLES = {"kernel_name", "kc", "km"}


@pytest.mark.usefixtures("kernel_under_test")
class TestKernel(jupyter_kernel_test.KernelTests):  # type: ignore[misc]
    """A sample for each kind of message; which answers are right is what an ipykernel gives."""

    kernel_name = _KERNEL
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('hello, error', file=sys.stderr)"
    completion_samples: ClassVar[list[dict[str, Any]]] = [
        {"text": "enumer", "matches": {"enumerate"}},
        {"text": "%%writef", "matches": {"%%writefile"}},
        {"text": "no_name_begins_like_this", "matches": set()},
    ]
    complete_code_samples: ClassVar[list[str]] = ["1", "x = [1, 2]", "def f(x):\n    return x\n\n", "%timeit 1"]
    incomplete_code_samples: ClassVar[list[str]] = [
        "def f(x):",
        "print('''text",
        "x = [1,",
        "for i in range(3):\n    i",
    ]
    invalid_code_samples: ClassVar[list[str]] = ["import = 1", "x = = 2"]
    code_page_something = "enumerate?"
    code_generate_error = "raise ValueError('sample')"
    code_execute_result: ClassVar[list[dict[str, Any]]] = [
        {"code": "40 + 2", "result": "42"},
        {"code": "40 * 2", "result": "80"},
        {"code": "sorted({3, 1, 2})", "result": "[1, 2, 3]"},
        {"code": "from IPython.display import HTML; HTML('<b>x</b>')", "mime": "text/html", "result": "<b>x</b>"},
    ]
    code_display_data: ClassVar[list[dict[str, Any]]] = [
        {"code": "from IPython.display import HTML, display; display(HTML('<i>sample</i>'))", "mime": "text/html"},
        {"code": "from IPython.display import Math, display; display(Math(r'\\frac{1}{2}'))", "mime": "text/latex"},
        {"code": "from IPython.display import JSON, display; display(JSON({'a': [1]}))", "mime": "application/json"},
        {"code": "from IPython.display import SVG, display; display(SVG('<svg/>'))", "mime": "image/svg+xml"},
    ]
    # One sample's code must match, however often it was executed.
    code_history_pattern = "40 + ?"
    # Not "range": ipykernel calls the current session 0 in that answer, which the library refuses. ipykernel's own
    # suite asks for it (test_history_range).
    supported_history_operations = ("tail", "search")
    code_inspect_sample = "enumerate"
    code_clear_output = "from IPython.display import clear_output; clear_output()"


@pytest.mark.usefixtures("kernel_under_test")
@pytest.mark.timeout(60)  # the library waits for the welcome without a limit
class TestWelcome(jupyter_kernel_test.IopubWelcomeTests):  # type: ignore[misc]
    """A new subscriber of the iopub channel is welcomed, as the protocol has it since version 5.4."""

    kernel_name = _KERNEL
    support_iopub_welcome = True


@pytest.mark.parametrize(
    ("ours", "library"),
    [(TestKernel, jupyter_kernel_test.KernelTests), (TestWelcome, jupyter_kernel_test.IopubWelcomeTests)],
)
def test_every_sample_of_the_library_is_set(ours: type, library: type) -> None:
    samples = {name for name, value in vars(library).items() if not (name.startswith("_") or callable(value))}
    samples -= {name for name, value in vars(library).items() if isinstance(value, classmethod)} | _NOT_SAMPLES
    assert samples
    assert [name for name in sorted(samples) if not getattr(ours, name)] == []
