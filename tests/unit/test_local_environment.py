"""What is mounted for a Python environment, on file systems of many layouts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sandbox_kernel.errors import ConfigurationError
from sandbox_kernel.providers.local.environment import examine, outermost, trace


def install(prefix: Path, minor: str = "3.11", *, packages: tuple[str, ...] = ("ipykernel", "zmq")) -> Path:
    """Lay out what looks like an installation of Python; return its interpreter."""
    (prefix / "bin").mkdir(parents=True)
    python = prefix / f"bin/python{minor}"
    python.touch(0o755)
    (prefix / "bin/python3").symlink_to(python.name)
    site = prefix / f"lib/python{minor}/site-packages"
    site.mkdir(parents=True)
    for package in packages:
        (site / package).mkdir()
    return python


def make_virtual(prefix: Path, base: Path, minor: str = "3.11", extra: str = "version = 3.11.7") -> Path:
    """Lay out what looks like a virtual environment of an interpreter; return its own."""
    site = prefix / f"lib/python{minor}/site-packages"
    for folder in (prefix / "bin", site / "ipykernel", site / "zmq", site / "ipython-9.1.0.dist-info"):
        folder.mkdir(parents=True)
    (prefix / "bin/python").symlink_to(base)
    (prefix / "pyvenv.cfg").write_text(f"home = {base.parent}\n{extra}\n")
    return prefix / "bin/python"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home/someone"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    return folder


def test_own_environment_is_described_by_the_running_interpreter() -> None:
    environment = examine(sys.executable)
    assert environment.version == "{}.{}.{}".format(*sys.version_info)
    assert environment.prefix == sys.prefix
    assert environment.implementation_version().count(".") >= 1


def test_virtual_environment_and_its_base_are_mounted(home: Path) -> None:
    base = install(home / ".pyenv/versions/3.11.7", packages=())
    python = make_virtual(home / "project/.venv", base)
    environment = examine(str(python))
    assert environment.is_virtual
    assert environment.version == "3.11.7"
    assert environment.implementation_version() == "9.1.0"
    assert environment.mounts == (str(home / ".pyenv/versions/3.11.7"), str(home / "project/.venv"))
    assert environment.links == {}


def test_links_on_the_way_are_made_inside_too(home: Path) -> None:
    store = home / ".local/share/uv/python"
    base = install(store / "cpython-3.11.7-linux", packages=())
    (store / "cpython-3.11-linux").symlink_to("cpython-3.11.7-linux")
    python = make_virtual(home / "venv", store / "cpython-3.11-linux/bin" / base.name)
    environment = examine(str(python))
    assert environment.links == {str(store / "cpython-3.11-linux"): "cpython-3.11.7-linux"}
    assert environment.mounts == (str(store / "cpython-3.11.7-linux"), str(home / "venv"))


def test_environment_behind_a_link_is_mounted_where_it_is(home: Path, tmp_path: Path) -> None:
    base = install(tmp_path / "disk/python", packages=())
    make_virtual(tmp_path / "disk/venv", base)
    (home / "venv").symlink_to(tmp_path / "disk/venv")
    environment = examine(str(home / "venv/bin/python"))
    assert environment.prefix == str(home / "venv")
    assert environment.links == {str(home / "venv"): str(tmp_path / "disk/venv")}
    assert environment.mounts == (str(tmp_path / "disk/python"), str(tmp_path / "disk/venv"))


@pytest.mark.parametrize("prefix", ["", ".local"])
def test_of_a_prefix_that_holds_more_than_python_only_python_is_mounted(home: Path, prefix: str) -> None:
    python = install(home / prefix)
    (home / prefix / "lib/libpython3.11.so.1.0").touch()
    (home / prefix / "secrets").touch()
    environment = examine(str(python))
    base = home / prefix
    assert environment.mounts == (
        str(python),
        str(base / "lib/libpython3.11.so.1.0"),
        str(base / "lib/python3.11"),
    )


def test_packages_of_the_users_own_are_mounted_for_an_interpreter_that_looks_there(home: Path, tmp_path: Path) -> None:
    python = install(tmp_path / "opt/python", packages=())
    packages = home / ".local/lib/python3.11/site-packages"
    for name in ("ipykernel", "zmq"):
        (packages / name).mkdir(parents=True)
    environment = examine(str(python))
    assert environment.user_base == str(home / ".local")
    assert str(packages) in environment.mounts
    assert str(home / ".local") not in environment.mounts


def test_version_is_found_without_running_the_interpreter(home: Path, tmp_path: Path) -> None:
    python = install(tmp_path / "a", "3.12")
    assert examine(str(python)).version == "3.12"
    (tmp_path / "a/include/python3.12").mkdir(parents=True)
    (tmp_path / "a/include/python3.12/patchlevel.h").write_text('#define PY_VERSION      "3.12.4"\n')
    assert examine(str(python)).version == "3.12.4"


@pytest.mark.parametrize("setting", ["version = 3.13.0", "version_info = 3.13.0.final.0"])
def test_version_of_a_virtual_environment_stands_in_its_settings(home: Path, tmp_path: Path, setting: str) -> None:
    base = install(tmp_path / "a", "3.13", packages=())
    assert examine(str(make_virtual(home / "v", base, "3.13", setting))).version == "3.13.0"


@pytest.mark.parametrize("missing", ["ipykernel", "zmq"])
def test_environment_without_ipykernel_is_refused_with_what_to_run(home: Path, tmp_path: Path, missing: str) -> None:
    packages = tuple({"ipykernel", "zmq"} - {missing})
    python = install(tmp_path / "a", packages=packages)
    with pytest.raises(ConfigurationError, match=f"has no {missing}: run `{python} -m pip install ipykernel`"):
        examine(str(python))


def test_missing_interpreter_and_endless_links_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no Python interpreter"):
        examine(str(tmp_path / "python"))
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigurationError, match="loop"):
        trace(str(tmp_path / "a"), {})


def test_trace_follows_each_link_and_climbs_after_it(tmp_path: Path) -> None:
    (tmp_path / "x/y").mkdir(parents=True)
    (tmp_path / "link").symlink_to("x/y/../y")
    links: dict[str, str] = {}
    assert trace(f"{tmp_path}/./link/..//y", links) == os.path.realpath(tmp_path / "x/y")
    assert links[str(tmp_path / "link")] == "x/y/../y"


def test_outermost_drops_what_is_inside_another_or_shown_anyway() -> None:
    assert outermost(iter(["/a/b", "/a", "/ab", "/usr/lib/python3", "/a"])) == ["/a", "/ab"]


def test_packages_that_are_links_into_a_store_are_mounted(home: Path) -> None:
    """As `uv pip install --link-mode symlink` makes them: folders of the environment's own, each file a link."""
    base = install(home / "python", packages=())
    python = make_virtual(home / "venv", base)
    site = home / "venv/lib/python3.11/site-packages"
    stored = [(1, "zmq/__init__.py"), (2, "six.py"), (3, "attr/deep/__init__.py"), (4, "attr.dist-info/METADATA")]
    for number, name in stored:
        for path in (site / name, home / f"store/{number}/{name}"):
            path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        (site / name).symlink_to(path)
    (site / "attr.dist-info/INSTALLER").touch()
    mounts = examine(str(python)).mounts
    paths = ["python", "store/1/zmq", "store/2/six.py", "store/3/attr", "store/4/attr.dist-info", "venv"]
    assert mounts == tuple(str(home / path) for path in paths)


def test_packages_that_are_links_themselves_are_mounted(home: Path) -> None:
    base = install(home / "python", packages=())
    python = make_virtual(home / "venv", base)
    site = home / "venv/lib/python3.11/site-packages"
    (home / "store/zmq").mkdir(parents=True)
    (site / "zmq").rmdir()
    (site / "zmq").symlink_to(home / "store/zmq")
    assert examine(str(python)).mounts == tuple(str(home / path) for path in ("python", "store/zmq", "venv"))
