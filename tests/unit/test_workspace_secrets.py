"""What of a folder is found to be secret, and found again when somebody changes the folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox_kernel.workspace.patterns import Patterns
from sandbox_kernel.workspace.secrets import Secrets

if sys.platform == "win32":
    pytest.skip("needs hard links and modes", allow_module_level=True)

Search = Callable[..., Secrets]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    (path / ".ssh").mkdir(parents=True)
    (path / ".ssh/id_own").write_text("key")
    monkeypatch.setenv("HOME", str(path))
    return path


@pytest.fixture
def folder(tmp_path: Path, home: Path) -> Path:
    path = tmp_path / "project"
    path.mkdir()
    return path


@pytest.fixture
def search(folder: Path) -> Search:
    def make(limit: int = 200_000) -> Secrets:
        secrets = Secrets(os.path.realpath(folder), Patterns([".env*", ".git", ".aws", "*.pem"]), limit=limit)
        secrets.search()
        return secrets

    return make


def again(secrets: Secrets) -> set[str]:
    """Look as it is done before each cell; return what has newly to be hidden."""
    return set(secrets.look_again(secrets.changed(0)))


def replace(path: Path, text: str) -> None:
    """Save a file as editors do."""
    path.with_name("saving").write_text(text)
    path.with_name("saving").rename(path)


def test_what_is_looked_at_again_counts_once(folder: Path, search: Search) -> None:
    (folder / "data").mkdir()
    for number in range(100):
        (folder / f"data/{number}").touch()
    secrets = search(limit=150)
    for number in range(20):
        (folder / f"data/new{number}").touch()
        (folder / f"new{number}").mkdir()
        assert again(secrets) == set()


def test_more_folders_than_the_limit_allows_are_not_shown(folder: Path, search: Search) -> None:
    secrets = search(limit=10)
    for number in range(12):
        (folder / f"{number}").touch()
    assert again(secrets) == set()
    (folder / "one").mkdir()
    (folder / "one/two").mkdir()
    assert again(secrets) == {"one"}
    assert secrets.unseen == ["one"]


def test_the_number_of_a_secret_that_is_gone_hides_nothing(folder: Path, search: Search) -> None:
    (folder / ".env").write_text("secret")
    secrets = search()
    # Only some file systems give a number again at once; a rename gives the same file an ordinary name on all.
    (folder / ".env").rename(folder / "data0.csv")
    assert again(secrets) == set()
    assert not secrets.holds("data0.csv", (folder / "data0.csv").stat())
    (folder / ".env").write_text("another secret")
    replace(folder / ".env", "a third one")
    made = [folder / f"data{count}.csv" for count in range(1, 40)]
    for path in made:
        path.touch()
    assert again(secrets) == set()
    assert [path for path in made if secrets.holds(path.name, path.stat())] == []


def test_another_name_of_a_replaced_secret_is_hidden(folder: Path, search: Search) -> None:
    (folder / ".env").write_text("secret")
    secrets = search()
    replace(folder / ".env", "another secret")
    os.link(folder / ".env", folder / "innocent")
    assert again(secrets) == {"innocent"}


def test_what_a_hidden_link_leads_to_next_is_hidden(folder: Path, search: Search) -> None:
    (folder / "sub").mkdir()
    for name in ("one", "sub/two"):
        (folder / name).write_text("secret")
    (folder / ".env").symlink_to("one")
    secrets = search()
    assert set(secrets.hidden) == {".env", "one"}
    (folder / ".env").unlink()
    (folder / ".env").symlink_to("sub/two")
    assert again(secrets) == {"sub/two"}
    replace(folder / "sub/two", "another secret")
    assert again(secrets) == set()
    assert secrets.holds("sub/three", (folder / "sub/two").stat())


def test_another_name_of_a_new_file_in_a_hidden_folder_is_hidden(folder: Path, search: Search) -> None:
    (folder / ".git/objects").mkdir(parents=True)
    (folder / "sub").mkdir()
    (folder / "sub/old").write_text("not secret yet")
    secrets = search()
    (folder / ".git/objects/new").write_text("secret")
    os.link(folder / ".git/objects/new", folder / "innocent")
    assert again(secrets) == {"innocent"}
    # And the other way round: an old file that becomes a secret.
    os.link(folder / "sub/old", folder / ".git/objects/old")
    assert again(secrets) == {"sub/old"}


def test_another_name_of_an_own_key_is_hidden_whenever_it_is_made(folder: Path, home: Path, search: Search) -> None:
    secrets = search()
    (home / ".ssh/id_new").write_text("key")
    for name in ("id_own", "id_new"):
        os.link(home / ".ssh" / name, folder / f"copy-of-{name}")
    assert again(secrets) == {"copy-of-id_own", "copy-of-id_new"}


@pytest.mark.parametrize("late", [False, True])
def test_a_folder_that_a_hidden_link_leads_to_is_hidden(folder: Path, search: Search, late: bool) -> None:
    (folder / "real/in").mkdir(parents=True)
    (folder / "real/in/key").write_text("secret")
    (folder / "real/token.pem").write_text("secret")
    secrets = search() if late else None
    (folder / ".aws").symlink_to("real")
    (folder / ".env.d").symlink_to(".")
    (folder / "second").mkdir()
    (folder / ".env.second").symlink_to("second")
    if secrets is None:
        secrets = search()
    else:
        again(secrets)
    assert set(secrets.hidden) == {".aws", ".env.d", "real", ".env.second", "second"}
    os.link(folder / "real/in/key", folder / "innocent")
    assert again(secrets) == {"innocent"}


def test_a_folder_whose_time_was_set_back_is_looked_at_again(folder: Path, search: Search) -> None:
    secrets = search()
    before = folder.stat()
    (folder / ".env").write_text("secret")
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert again(secrets) == {".env"}


def test_no_link_is_followed_out_of_the_folder(folder: Path, tmp_path: Path, search: Search) -> None:
    outside = tmp_path / "outside"
    (outside / "in").mkdir(parents=True)
    (outside / "in/token.pem").touch()
    (folder / "sub/in").mkdir(parents=True)
    secrets = search()
    (folder / "sub/in").rmdir()
    (folder / "sub").rmdir()
    (folder / "sub").symlink_to(outside)
    assert again(secrets) == set()
    assert list(secrets.folders) == [""]


def test_a_folder_that_took_the_place_of_another_one_is_looked_through(
    folder: Path, tmp_path: Path, search: Search
) -> None:
    (folder / "sub/in").mkdir(parents=True)
    (tmp_path / "other/in/deep").mkdir(parents=True)
    (tmp_path / "other/in/deep/token.pem").touch()
    secrets = search()
    (folder / "sub").rename(tmp_path / "away")
    (tmp_path / "other").rename(folder / "sub")
    assert again(secrets) == {"sub/in/deep/token.pem"}


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("mode", [0, 0o100, 0o300, 0o400, 0o600])
def test_a_folder_that_its_owner_may_not_read_is_hidden_as_a_whole(folder: Path, search: Search, mode: int) -> None:
    (folder / "locked/in").mkdir(parents=True)
    (folder / "locked/.env").write_text("secret")
    (folder / "locked").chmod(mode)
    try:
        secrets = search()
        assert (secrets.hidden, secrets.locked) == ({"locked": True}, ["locked"])
    finally:
        (folder / "locked").chmod(0o700)
