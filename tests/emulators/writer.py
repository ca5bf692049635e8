"""The model of the emulators: writes code from what it finds in a request, and wrong code where that is absent."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

FRAME = re.compile(r"^- (\w+): pandas\.DataFrame; shape \(\d+, \d+\), columns: (.+)$", re.MULTILINE)
COLUMN = re.compile(r"([\w ]+) \(\w+\)")
HEAD = re.compile(r"^## The first lines of (\S+)\n\n```\n(.*?)\n```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"```python\n(.*?)\n```", re.DOTALL)
ENDED = re.compile(r"^It ended by (\w+): (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Question:
    """A request, whatever protocol it came by; messages are (role, text)."""

    model: str
    system: str
    messages: tuple[tuple[str, str], ...]
    headers: dict[str, str]

    @property
    def text(self) -> str:
        """Everything that was sent, as one text."""
        return "\n".join([self.system, *(text for _, text in self.messages)])

    @property
    def last(self) -> str:
        """The last message: the notebook and the request."""
        return self.messages[-1][1]


def write(question: Question) -> str:
    """Return an answer in Markdown."""
    notebook, _, wish = question.last.rpartition("# The request")
    if wish.strip().startswith("Explain this cell"):
        return _explanation(wish)
    if wish.strip().startswith("Correct this cell"):
        return _block("The name was misspelt.", _corrected(wish, notebook))
    former = [code for role, text in question.messages[:-1] if role == "assistant" for code in CODE.findall(text)]
    if re.search(r"\b(title|red|instead)\b", wish):
        return _block("The same with that change.", _refined(wish, former))
    head = next((found for found in HEAD.findall(notebook) if found[0] in wish), None)
    if ".csv" in wish:
        return _block("The table is read and summed up.", _table(head))
    return _block("A bar chart.", _plot(FRAME.search(notebook)))


def _block(text: str, code: str) -> str:
    return f"{text}\n\n```python\n{code}\n```\n"


def _plot(frame: re.Match[str] | None) -> str:
    name, columns = ("no_frame_was_sent", ["x", "y"])
    if frame is not None:
        name, columns = frame[1], COLUMN.findall(frame[2])
    return (
        "import matplotlib.pyplot as plt\n\nfig, ax = plt.subplots()\n"
        f'ax.bar({name}["{columns[0].strip()}"], {name}["{columns[1].strip()}"])\nplt.show()'
    )


def _table(head: tuple[str, str] | None) -> str:
    path, columns = "no_head_was_sent.csv", ["a", "b"]
    if head is not None:
        path, columns = head[0], head[1].split("\n")[0].split(",")
    return f'import pandas as pd\n\ntable = pd.read_csv("{path}")\nprint("sum", table["{columns[1]}"].sum())'


def _refined(wish: str, former: Sequence[str]) -> str:
    if not former:
        return "no_former_code_was_sent"
    code = former[-1]
    if "title" in wish:
        title = re.search(r"title (\w+)", wish)
        return code.replace("plt.show()", f'ax.set_title("{title[1] if title else "Title"}")\nplt.show()')
    return code.replace("ax.bar(", 'ax.bar(color="red", x=', 1).replace('"], ', '"], height=', 1)


def _corrected(wish: str, notebook: str) -> str:
    """Put the nearest column, or name, in the place of the one that the traceback says is not there."""
    codes, ended = CODE.findall(wish), ENDED.search(wish)
    if not codes or ended is None or "Traceback" not in wish:
        return 'raise RuntimeError("no traceback was sent")'
    wrong = re.search(r"'([^']+)'", ended[2])
    known = [name for _, columns in FRAME.findall(notebook) for name in COLUMN.findall(columns)]
    known += re.findall(r"^- (\w+): ", notebook, re.MULTILINE)
    near = difflib.get_close_matches(wrong[1], [name.strip() for name in known], 1) if wrong else []
    corrected: str = codes[0].replace(wrong[1], near[0]) if wrong and near else "no_columns_were_sent"
    return corrected


def _explanation(wish: str) -> str:
    codes, ended = CODE.findall(wish), ENDED.search(wish)
    first = codes[0].strip().split("\n")[0] if codes else "nothing"
    failed = f" It failed: **{ended[1]}**." if ended else ""
    return f"The cell begins with `{first}`.{failed}"
