"""Layers: found again, never shared, removed by age and size; and what a layer says that no sandbox uses."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from pathlib import Path

import pytest

from sandbox_kernel.workspace.applying import apply_changes, settle
from sandbox_kernel.workspace.changes import Action, ChangeReader
from sandbox_kernel.workspace.layers import Layer, LayerStore
from sandbox_kernel.workspace.owners import Owner
from sandbox_kernel.workspace.patterns import Patterns
from sandbox_kernel.workspace.secrets import Secrets

if sys.platform != "linux":
    pytest.skip("layers are those of Linux's overlays", allow_module_level=True)

from sandbox_kernel.providers.local.folders import try_lock

DAY = 86400


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    return LayerStore(str(tmp_path / "layers"), try_lock, settle)


def written(store: LayerStore, folder: str, notebook: str = "", *, size: int = 1, days: float = 0) -> Layer:
    """Make a layer with a file in it that was used some days ago; return it, unlocked."""
    layer = store.open(Owner.now(folder, notebook, ""))
    Path(layer.upper, "file").write_bytes(b"x" * size)
    used = time.time() - days * DAY
    os.utime(Path(layer.path, "layer.json"), (used, used))
    layer.close()
    return layer


def test_a_layer_belongs_to_a_notebook_or_else_to_a_folder(store: LayerStore) -> None:
    kept = written(store, "/project", "/project/one.ipynb")
    for folder, notebook in (("/project", "/project/two.ipynb"), ("/project", ""), ("/other", "/project/one.ipynb")):
        assert store.open(Owner(folder, notebook)).name != kept.name
    assert store.open(Owner("/project", "/project/one.ipynb")).name == kept.name


def test_a_layer_in_use_is_not_shared_or_removed(store: LayerStore) -> None:
    layer = store.open(Owner("/project", ""))
    Path(layer.upper, "file").touch()
    second = store.open(Owner("/project", ""))
    assert second.name != layer.name
    assert not store.remove(layer)
    assert store.clean(0, 0) == []
    assert Path(layer.upper, "file").exists()


def test_only_its_owner_can_enter(store: LayerStore) -> None:
    layer = store.open(Owner("/project", ""))
    assert {Path(path).stat().st_mode & 0o777 for path in (store.root, layer.path, layer.data)} == {0o700}


def test_old_layers_and_then_the_oldest_of_too_large_ones_go(store: LayerStore) -> None:
    old = written(store, "/old", days=8)
    first = written(store, "/first", size=100_000, days=3)
    second = written(store, "/second", size=100_000, days=2)
    third = written(store, "/third", size=100_000, days=1)
    empty = store.open(Owner("/empty", ""))
    empty.close()
    assert {layer.name for layer in store.clean(7, 250_000)} == {old.name, first.name}
    assert {layer.name for layer in store.all()} == {second.name, third.name}


def test_layer_that_passes_is_nobodys_and_goes_when_nobody_uses_it(store: LayerStore) -> None:
    owner = Owner("/project", "")
    first, second = store.make_passing(owner), store.make_passing(owner)
    for folder in (store.root, Path(first.path).parent, first.path):
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
    for layer in (first, second):
        (Path(layer.upper) / "file").write_text("passing")
    first.close()
    assert store.kept_for(owner) is None
    assert list(store.free()) == []
    assert store.clean(7, 1024**3) == []
    assert not Path(first.path).exists()
    assert Path(second.upper, "file").exists()
    second.close()
    store.clean(7, 1024**3)
    assert not Path(second.path).exists()


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
    layer = store.open(Owner(str(folder), ""))
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
    settle(layer)
    assert sorted(path.name for path in upper.rglob("*")) == ["one", "two"]
    assert layer.applied() == {}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "project"
    (path / "sub").mkdir(parents=True)
    (path / "one.ipynb").touch()
    return path


def test_the_next_layer_with_changes_is_offered_when_those_of_the_last_were_applied(
    store: LayerStore, folder: Path
) -> None:
    owner = Owner(str(folder))
    first, second = store.open(owner), store.open(owner)
    for layer, name in ((first, "a"), (second, "sub/b")):
        Path(layer.upper, "sub").mkdir()
        Path(layer.upper, name).write_text(name)
        layer.touch()
    secrets = Secrets(str(folder), Patterns([]))
    secrets.search()
    assert apply_changes(second, secrets, ChangeReader(second, secrets, 1000).read()).refused == []
    second.close()
    first.close()
    used = time.time() - 60
    os.utime(Path(first.path, "layer.json"), (used, used))
    again = store.open(owner)
    assert again.name == first.name
    # Nothing is left of the other one, not even the folder that was not changed itself.
    assert list(Path(second.upper).iterdir()) == []
    assert Path(first.upper, "a").exists()


def test_a_notebook_that_was_renamed_gets_its_changes(store: LayerStore, folder: Path) -> None:
    notebook = folder / "one.ipynb"
    kept = written(store, str(folder), str(notebook))
    (folder / "copy.ipynb").write_bytes(notebook.read_bytes())
    copy = Owner.now(str(folder), str(folder / "copy.ipynb"), "")
    assert store.kept_for(copy) is None
    notebook.rename(folder / "two.ipynb")
    assert store.kept_for(copy) is None
    found = store.kept_for(Owner.now(str(folder), str(folder / "two.ipynb"), ""))
    assert found is not None
    assert found.name == kept.name
    assert found.owner.notebook == str(folder / "two.ipynb")


def test_a_folder_that_was_moved_gets_its_changes(store: LayerStore, folder: Path, tmp_path: Path) -> None:
    kept = written(store, str(folder))
    folder.rename(tmp_path / "moved")
    found = store.kept_for(Owner.now(str(tmp_path / "moved"), "", ""))
    assert found is not None
    assert found.name == kept.name


def test_each_session_has_a_layer_of_its_own(store: LayerStore, folder: Path) -> None:
    kept = written(store, str(folder))
    assert store.open(Owner.now(str(folder), "", "two")).name != kept.name
    assert store.open(Owner.now(str(folder), "", "")).name == kept.name


def test_a_layer_that_was_removed_before_it_was_locked_is_not_used(
    store: LayerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process removes the empty layer between its being opened and being locked."""
    empty = store.open(Owner("/project", ""))
    empty.close()

    def late_lock(descriptor: int) -> bool:
        shutil.rmtree(empty.path, ignore_errors=True)
        return try_lock(descriptor)

    monkeypatch.setattr(store, "_try_lock", late_lock)
    layer = store.open(Owner("/project", ""))
    assert layer.name != empty.name
    assert Path(layer.path, "layer.json").exists()
