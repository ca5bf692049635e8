"""Code that is run in a gateway's ipykernel: starts the bridge there, or says whether one was started."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

from sandbox_kernel.providers.parcel import bridge_archive

from .own import Json

_START = """\
import json, sys
def start():
    if sys.version_info < (3, 10):
        return "its Python is %d.%d, and 3.10 is needed" % sys.version_info[:2]
    import base64, importlib.util, io, shutil, tempfile, zipfile
    from IPython import get_ipython
    kernel = get_ipython().kernel
    missing = [name for name in ("ipykernel", "zmq", "tornado") if importlib.util.find_spec(name) is None]
    if missing:
        return "its Python has no " + ", ".join(missing)
    folder = tempfile.mkdtemp(prefix="sbx-")
    # Its own copies of these modules may be of another version.
    own = {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] == "sandbox_kernel"}
    sys.path.insert(0, folder)
    try:
        zipfile.ZipFile(io.BytesIO(base64.b64decode(archive))).extractall(folder)
        from sandbox_kernel.bridge import carrier
        carrier.Carrier(kernel, folder, arguments).begin()
        sys.modules["_sandbox_carrier"] = carrier
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        sys.path.remove(folder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "sandbox_kernel"]:
            del sys.modules[name]
        sys.modules.update(own)
    return ""
said = json.dumps(start()).encode().hex()
"""
_EVALUATED = "(lambda names: (exec(names['source'], names), names['said'])[1])({names!r})"
_FIND = "__import__('json').dumps('_sandbox_carrier' in __import__('sys').modules).encode().hex()"
MAX_SAID = 4000
"""Hexadecimal digits of what is said; a kernel may send anything, and no more of it is read."""


class NoBridgeError(Exception):
    """The bridge cannot run in this kernel; why, as a clause."""


def starting(arguments: Sequence[str]) -> Json:
    """Return the content of a request that starts a bridge, whose inner ipykernel gets these arguments."""
    archive = base64.b64encode(bridge_archive()).decode()
    names = {"source": _START, "archive": archive, "arguments": list(arguments)}
    return _silent(_EVALUATED.format(names=names))


def finding() -> Json:
    """Return the content of a request that asks whether a bridge was started."""
    return _silent(_FIND)


def said(content: Json) -> object:
    """Return what such a request's reply says. Raises NoBridgeError."""
    try:
        value = content["user_expressions"]["said"] if content.get("status") == "ok" else content
        if value.get("status") != "ok":
            raise NoBridgeError(f"{value.get('ename')}: {str(value.get('evalue'))[:200]}")
        # What IPython shows of a text is in quotes.
        return json.loads(bytes.fromhex(value["data"]["text/plain"][1:-1][:MAX_SAID]))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as exc:
        raise NoBridgeError("it evaluates nothing for others") from exc


def _silent(expression: str) -> Json:
    # An expression leaves no names, and its value comes with the reply.
    return {
        "code": "",
        "silent": True,
        "store_history": False,
        "user_expressions": {"said": expression},
        "allow_stdin": False,
        "stop_on_error": False,
    }
