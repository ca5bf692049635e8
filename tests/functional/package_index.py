"""A package index on the loopback address, with wheels that are made here, and environments in which pip asks it."""

from __future__ import annotations

import io
import sysconfig
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import files as files_of
from pathlib import Path

NATIVE_TAG = f"{{}}-{{}}-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def wheel(
    name: str,
    version: str = "1.0",
    *,
    requires: Sequence[str] = (),
    files: Mapping[str, bytes] | None = None,
    tag: str = "py3-none-any",
    scripts: Mapping[str, str] | None = None,
) -> tuple[str, bytes]:
    """Return a wheel's file name and content. Without FILES it has one module, which knows its version."""
    metadata = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    contents = dict(files if files is not None else {f"{name}.py": f"version = {version!r}\n".encode()})
    contents[f"{metadata}/METADATA"] = "\n".join([*lines, *(f"Requires-Dist: {one}" for one in requires), ""]).encode()
    pure = str(tag.endswith("any")).lower()
    contents[f"{metadata}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\nTag: {tag}\n".encode()
    if scripts:
        entries = "".join(f"{script} = {entry}\n" for script, entry in scripts.items())
        contents[f"{metadata}/entry_points.txt"] = f"[console_scripts]\n{entries}".encode()
    contents[f"{metadata}/RECORD"] = "".join(f"{path},,\n" for path in [*contents, f"{metadata}/RECORD"]).encode()
    return f"{name}-{version}-{tag}.whl", packed(contents)


def packed(contents: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in contents.items():
            archive.writestr(path, content)
    return buffer.getvalue()


def native_wheel(name: str) -> tuple[str, bytes]:
    """Return a wheel with compiled code: a module that lies in this environment anyway, under another name."""
    (extension,) = (file for file in files_of("markupsafe") or () if file.suffix in (".so", ".pyd"))
    files = {
        f"{name}/__init__.py": b"from ._speedups import _escape_inner\n",
        f"{name}/{extension.name}": Path(str(extension.locate())).read_bytes(),
    }
    interpreter = f"cp{sysconfig.get_config_var('py_version_nodot')}"
    return wheel(name, files=files, tag=NATIVE_TAG.format(interpreter, interpreter))


def source_distribution(name: str, marker: Path, version: str = "1.0") -> tuple[str, bytes]:
    """Return a source distribution whose build, and even whose question for metadata, would leave a file."""
    buffer = io.BytesIO()
    setup = f"open({str(marker)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name={name!r})\n".encode()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, content in {"setup.py": setup, "PKG-INFO": f"Name: {name}\nVersion: {version}\n".encode()}.items():
            info = tarfile.TarInfo(f"{name}-{version}/{path}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return f"{name}-{version}.tar.gz", buffer.getvalue()


class Index:
    """Files by name; an index page for each project."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.address = ""

    def add(self, *files: tuple[str, bytes]) -> None:
        self.files.update(files)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which pip knows this index and no other."""
        ours = {
            "INDEX_URL": f"{self.address}/simple",
            "EXTRA_INDEX_URL": "",
            "FIND_LINKS": "",
            "CONFIG_FILE": "/dev/null",
        }
        return {f"PIP_{name}": value for name, value in ours.items()} | {
            "PIP_NO_CACHE_DIR": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def page(self, path: str) -> bytes | None:
        self.asked.append(path)
        kind, _, name = path.strip("/").partition("/")
        if kind == "files":
            return self.files.get(name)
        found = [file for file in self.files if file.split("-")[0].replace("_", "-").lower() == name.lower()]
        return "".join(f'<a href="/files/{file}">{file}</a>\n' for file in found).encode() if found else None


@contextmanager
def serving() -> Iterator[Index]:
    """An index that answers."""
    index = Index()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = index.page(self.path)
            self.send_response(404 if page is None else 200)
            self.send_header("Content-Type", "text/html" if self.path.startswith("/simple") else "application/zip")
            self.end_headers()
            self.wfile.write(page or b"")

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    index.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
