"""Layers: found again, never shared, removed by age and size; and what a layer says that no sandbox uses."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from sandbox_kernel.workspace.applying import apply_changes, forget_applied
from sandbox_kernel.workspace.changes import Action, ChangeReader
from sandbox_kernel.workspace.layers import Layer, LayerStore
from sandbox_kernel.workspace.patterns import Patterns
from sandbox_kernel.workspace.secrets import Secrets

if sys.platform != "linux":
    pytest.skip("layers are those of Linux's overlays", allow_module_level=True)

from sandbox_kernel.providers.local.folders import try_lock

DAY = 86400


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    return LayerStore(str(tmp_path / "layers"), try_lock)


def written(store: LayerStore, folder: str, notebook: str = "", *, size: int = 1, days: float = 0) -> Layer:
    """Make a layer with a file in it that was used some days ago; return it, unlocked."""
    layer = store.open(folder, notebook)
    Path(layer.upper, "file").write_bytes(b"x" * size)
    used = time.time() - days * DAY
    os.utime(Path(layer.path, "layer.json"), (used, used))
    layer.close()
    return layer


def test_a_layer_belongs_to_a_notebook_or_else_to_a_folder(store: LayerStore) -> None:
    kept = written(store, "/project", "/project/one.ipynb")
    for folder, notebook in (("/project", "/project/two.ipynb"), ("/project", ""), ("/other", "/project/one.ipynb")):
        assert store.open(folder, notebook).name != kept.name
    assert store.open("/project", "/project/one.ipynb").name == kept.name


def test_a_layer_in_use_is_not_shared_or_removed(store: LayerStore) -> None:
    layer = store.open("/project", "")
    Path(layer.upper, "file").touch()
    second = store.open("/project", "")
    assert second.name != layer.name
    assert not store.remove(layer)
    assert store.clean(0, 0) == []
    assert Path(layer.upper, "file").exists()


def test_only_its_owner_can_enter(store: LayerStore) -> None:
    layer = store.open("/project", "")
    assert {Path(path).stat().st_mode & 0o777 for path in (store.root, layer.path, layer.data)} == {0o700}


def test_old_layers_and_then_the_oldest_of_too_large_ones_go(store: LayerStore) -> None:
    old = written(store, "/old", days=8)
    first = written(store, "/first", size=100_000, days=3)
    second = written(store, "/second", size=100_000, days=2)
    third = written(store, "/third", size=100_000, days=1)
    empty = store.open("/empty", "")
    empty.close()
    assert {layer.name for layer in store.clean(7, 250_000)} == {old.name, first.name}
    assert {layer.name for layer in store.all()} == {second.name, third.name}


def test_what_a_cell_made_unreadable_is_removed_too(store: LayerStore) -> None:
    layer = written(store, "/project")
    deep = Path(layer.upper, "a/b")
    deep.mkdir(parents=True)
    (deep / "file").touch()
    deep.chmod(0)
    deep.parent.chmod(0)
    Path(layer.work).chmod(0)
    assert store.remove(layer)
    assert list(store.all()) == []


def test_what_was_applied_leaves_the_layer_and_the_rest_stays(store: LayerStore, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    layer = store.open(str(folder), "")
    upper = Path(layer.upper)
    (upper / "new").mkdir()
    for name in ("one", "two", "new/three"):
        (upper / name).write_text(name)
    secrets = Secrets(str(folder), Patterns([]))
    secrets.search()
    reader = ChangeReader(layer, secrets, 1000)
    changes = [change for change in reader.read() if change.path != "two"]
    assert apply_changes(layer, secrets, changes).refused == []
    (upper / "one").write_text("changed by a cell")
    assert {change.path: change.action for change in ChangeReader(layer, secrets, 1000).read()} == {
        "one": Action.CHANGE,
        "two": Action.ADD,
    }
    forget_applied(layer)
    assert sorted(path.name for path in upper.rglob("*")) == ["one", "two"]
    assert layer.applied() == {}
