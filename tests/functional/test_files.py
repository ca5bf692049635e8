"""`%sandbox upload`, `download` and `files` from a front end's side, with questions, progress and hostile sandboxes."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from .client import Exchange, FrontEnd, KernelProcess, running

BIG = 1024**3
MEGABYTE = 1024**2
ALLOWED = "c.SandboxSession.approvals = {'upload': 'allow', 'download': 'allow'}\n"


PRIVATE = "--Workspace.mode=private"
"""Nothing of the notebook's folder is in the sandbox but what is uploaded."""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProcess]:
    """A kernel that asks, in a folder of its own."""
    with running(tmp_path_factory.mktemp("asking"), PRIVATE) as process:
        yield process


@pytest.fixture(scope="module")
def notebook(kernel: KernelProcess) -> FrontEnd:
    front_end = kernel.front_end()
    assert front_end.run("import os").status == "ok"
    return front_end


@pytest.fixture(scope="module")
def folder(kernel: KernelProcess) -> Path:
    """The notebook's folder."""
    return kernel.connection_file.parent


def asked(notebook: FrontEnd, line: str, answer: str) -> Exchange:
    """Run a line that asks one question, and answer it."""
    cell = notebook.cell(line)
    notebook.until(lambda: bool(cell.questions) or cell.done, state=lambda: cell.order)
    assert cell.questions, cell.reply
    notebook.answer(answer)
    return notebook.finish(cell)


def question(cell: Exchange) -> str:
    (msg,) = cell.questions
    return str(msg["content"]["prompt"])


# ---- uploads


def test_files_beside_the_notebook_are_uploaded_without_a_question(notebook: FrontEnd, folder: Path) -> None:
    (folder / "tables/deep").mkdir(parents=True)
    (folder / "tables/a.csv").write_text("a,b\n1,2\n")
    (folder / "tables/deep/b.csv").write_text("x" * 300_000)
    (folder / "tables/.hidden").write_text("no")
    cell = notebook.run("%sandbox upload tables\nprint(open('tables/a.csv').read())\nos.listdir('tables')")
    assert cell.status == "ok", cell.reply
    assert not cell.questions
    assert "Uploaded 2 files, 300 kB, to the working folder.\n" in cell.stream()
    assert "Left out: 1 hidden.\n" in cell.stream()
    assert "a,b\n1,2\n" in cell.stream()
    assert sorted(eval(cell.result)) == ["a.csv", "deep"]  # noqa: S307
    assert notebook.run("len(open('tables/deep/b.csv').read())").result == "300000"


def test_an_upload_shows_a_bar_that_is_updated(notebook: FrontEnd, folder: Path) -> None:
    (folder / "bar.bin").write_bytes(bytes(5 * MEGABYTE))
    cell = notebook.run("%sandbox upload bar.bin")
    (first,) = cell.contents("display_data")
    updates = cell.contents("update_display_data")
    assert updates
    assert {one["transient"]["display_id"] for one in [first, *updates]} == {first["transient"]["display_id"]}
    assert "5.2 MB of 5.2 MB" in updates[-1]["data"]["text/plain"]
    assert "100%" in updates[-1]["data"]["text/html"]


def test_patterns_and_a_target_folder(notebook: FrontEnd, folder: Path) -> None:
    for name in ("p1.txt", "p2.txt", "q1.txt"):
        (folder / name).write_text(name)
    cell = notebook.run("%sandbox upload 'p*.txt' q?.txt --to '/tmp/in there'")
    assert "Uploaded 3 files" in cell.stream()
    assert notebook.run("sorted(os.listdir('/tmp/in there'))").result == "['p1.txt', 'p2.txt', 'q1.txt']"


def test_what_matches_nothing_is_an_error(notebook: FrontEnd) -> None:
    assert "Nothing matches 'nothing*'" in notebook.run("%sandbox upload nothing*").error["evalue"]
    assert "sandbox matches 'nothing'" in notebook.run("%sandbox download nothing").error["evalue"]


def test_a_file_without_a_size_is_not_downloaded_and_says_why(notebook: FrontEnd) -> None:
    cell = asked(notebook, "%sandbox download /proc/self/status", "y")
    assert "as files in /proc have none" in cell.error["evalue"]


def test_a_file_from_elsewhere_is_asked_for(notebook: FrontEnd, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("other")
    cell = asked(notebook, f"%sandbox upload {tmp_path}/other.txt", "n")
    assert "other.txt" in question(cell)
    assert "was not confirmed" in cell.error["evalue"]
    assert "False" in notebook.run("os.path.exists('other.txt')").result
    assert asked(notebook, f"%sandbox upload {tmp_path}/other.txt", "y").status == "ok"
    assert notebook.run("open('other.txt').read()").result == "'other'"


@pytest.mark.parametrize("way", ["link", "folder", "dots"])
def test_a_way_out_of_the_folder_is_asked_for(notebook: FrontEnd, folder: Path, tmp_path: Path, way: str) -> None:
    (tmp_path / "far.txt").write_text("far")
    (folder / f"{way}-file").symlink_to(tmp_path / "far.txt")
    (folder / f"{way}-folder").symlink_to(tmp_path)
    pattern = {
        "link": f"{way}-file",
        "folder": f"{way}-folder/far.txt",
        "dots": os.path.relpath(tmp_path / "far.txt", folder),
    }[way]
    cell = asked(notebook, f"%sandbox upload {pattern}", "")
    assert "far.txt" in question(cell)
    assert "outside the notebook's folder" in cell.stream()
    assert cell.status == "error"


def test_links_in_an_uploaded_folder_are_left_out(notebook: FrontEnd, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (folder / "linked").mkdir()
    (folder / "linked/real").write_text("real")
    (folder / "linked/away").symlink_to(tmp_path / "secret")
    (folder / "linked/up").symlink_to(tmp_path)
    os.mkfifo(folder / "linked/fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "linked/sock"))
        cell = notebook.run("%sandbox upload linked\nsorted(os.listdir('linked'))")
    assert cell.result == "['real']"
    assert "2 links" in cell.stream()
    assert "2 no regular files" in cell.stream()


@pytest.mark.parametrize("pattern", ["globbed/*", "globbed/*.csv", "**/*.csv", "glob*/away/*"])
def test_wildcards_take_no_links(notebook: FrontEnd, folder: Path, tmp_path: Path, pattern: str) -> None:
    (tmp_path / "outside").mkdir(exist_ok=True)
    (tmp_path / "outside/far.csv").write_text("far")
    (folder / "globbed").mkdir(exist_ok=True)
    (folder / "globbed/near.csv").write_text("near")
    for name in ("link.csv", "away"):
        with suppress(FileExistsError):
            (folder / f"globbed/{name}").symlink_to(tmp_path / "outside" / ("far.csv" if name == "link.csv" else ""))
    cell = notebook.run(f"%sandbox upload {pattern}", stop_on_error=False)
    assert not cell.questions
    assert "far" not in cell.stream()
    if pattern != "glob*/away/*":
        assert cell.status == "ok"
        assert "link" in cell.stream()
    else:
        assert cell.status == "error"


def test_secrets_are_not_taken_by_patterns_and_asked_for_by_name(notebook: FrontEnd, folder: Path) -> None:
    (folder / "keys").mkdir()
    for name in ("server.PEM", "id_rsa", "plain.txt"):
        (folder / "keys" / name).write_text("s3cret")
    (folder / ".env").write_text("TOKEN=s3cret")
    for pattern in ("keys", "keys/*", "**/*.PEM keys/plain.txt"):
        cell = notebook.run(f"%sandbox upload {pattern}\nsorted(os.listdir('keys'))")
        assert cell.result == "['plain.txt']"
        assert "taken for secrets" in cell.stream()
    cell = asked(notebook, "%sandbox upload .env", "n")
    assert ".env" in question(cell)
    assert "taken for a secret" in cell.stream()


def test_a_fifo_by_its_name_is_refused_at_once(notebook: FrontEnd, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert "1 no regular files" in notebook.run("%sandbox upload pipe").error["evalue"]


# ---- downloads


def test_a_download_asks_and_lands_beside_the_notebook(notebook: FrontEnd, folder: Path) -> None:
    notebook.run(
        "os.makedirs('out/inner', exist_ok=True)\nopen('out/r.csv','w').write('result')\n"
        "open('out/inner/s.csv','w').write('s' * 1000)\nos.chmod('out/r.csv', 0o4777)"
    )
    cell = asked(notebook, "%sandbox download out", "y")
    assert question(cell).startswith("Download 2 files (1 kB) into ")
    assert "Downloaded 2 files, 1 kB, to the notebook's folder.\n" in cell.stream()
    assert (folder / "out/r.csv").read_text() == "result"
    assert (folder / "out/inner/s.csv").read_text() == "s" * 1000
    assert (folder / "out/r.csv").stat().st_mode & 0o7133 == 0
    assert not list(folder.rglob("*.part"))


def test_a_download_that_is_not_confirmed_changes_nothing(notebook: FrontEnd, folder: Path) -> None:
    notebook.run("open('refused.txt','w').write('x')")
    before = sorted(folder.rglob("*"))
    assert asked(notebook, "%sandbox download refused.txt", "no").status == "error"
    assert sorted(folder.rglob("*")) == before


def test_the_question_says_what_is_replaced(notebook: FrontEnd, folder: Path) -> None:
    (folder / "mine.txt").write_text("mine")
    notebook.run("open('mine.txt','w').write('theirs')")
    cell = asked(notebook, "%sandbox download mine.txt", "n")
    assert "REPLACING 1 file there" in question(cell)
    assert "mine.txt  6 bytes, replaces 4 bytes" in cell.stream()
    assert (folder / "mine.txt").read_text() == "mine"
    assert asked(notebook, "%sandbox download mine.txt", "yes").status == "ok"
    assert (folder / "mine.txt").read_text() == "theirs"


def test_a_file_that_changes_during_the_question_is_not_replaced(notebook: FrontEnd, folder: Path) -> None:
    (folder / "race.txt").write_text("before")
    notebook.run("open('race.txt','w').write('sandbox'); open('new.txt','w').write('sandbox')")
    for name in ("race.txt", "new.txt"):
        cell = notebook.cell(f"%sandbox download {name}")
        notebook.until(lambda cell=cell: bool(cell.questions))  # type: ignore[misc]
        (folder / name).write_text("the user's own, meanwhile")
        notebook.answer("y")
        assert "meanwhile, so it was not replaced" in notebook.finish(cell).error["evalue"]
        assert (folder / name).read_text() == "the user's own, meanwhile"


@pytest.mark.parametrize("target", ["..", "/tmp", "a/../../b", "a\nb"])
def test_a_download_lands_nowhere_else(notebook: FrontEnd, target: str) -> None:
    notebook.run("open('t.txt','w').write('x')")
    error = notebook.run(f"%sandbox download t.txt --to {target!a}").error["evalue"]
    assert "downloads land nowhere else" in error


def test_without_anybody_to_ask_it_says_how_to_allow_it(notebook: FrontEnd) -> None:
    notebook.run("open('t.txt','w').write('x')")
    cell = notebook.run("%sandbox download t.txt", allow_stdin=False)
    assert 'approvals = {"download": "allow"}' in cell.error["evalue"]


# ---- lists


def test_files_lists_what_is_there(notebook: FrontEnd) -> None:
    notebook.run("os.makedirs('many', exist_ok=True)\nfor i in range(30): open(f'many/{i:02}.txt', 'w').write('z' * i)")
    text = notebook.run("%sandbox files many").stream()
    assert text.count("\n") == 31
    assert "30 entries, 435 bytes.\n" in text
    assert "many/29.txt" in text
    assert "many/" in notebook.run("%sandbox files").stream()
    assert "no such files" in notebook.run("%sandbox files many/nothing*").stream()


# ---- what hostile cells leave


def test_traps_in_a_downloaded_folder_are_left_out(notebook: FrontEnd, folder: Path) -> None:
    code = r"""
import os, socket
os.makedirs('trap', exist_ok=True)
for name in (b'good.txt', b'new\nline', b'esc\x1b[2J', b'bad\xff', 'rtl\u202egnp.exe'.encode(), b'back\\slash', b' pad',
             b'.bashrc', b'Same', b'same'):
    open(b'trap/' + name, 'wb').write(b'x')
os.makedirs('trap/.git/hooks', exist_ok=True)
open('trap/.git/hooks/post-checkout', 'w').write('evil')
os.symlink('/etc/passwd', 'trap/passwd')
os.symlink('..', 'trap/up')
os.mkfifo('trap/fifo')
socket.socket(socket.AF_UNIX).bind('trap/sock')
"""
    assert notebook.run(code).status == "ok"
    cell = asked(notebook, "%sandbox download trap", "y")
    assert cell.status == "ok", cell.reply
    assert {path.name.lower() for path in (folder / "trap").iterdir()} == {"good.txt", "same"}
    text = cell.stream()
    for reason in ("2 hidden", "2 links", "2 no regular files", "6 with a name that is dangerous", "in letter case"):
        assert reason in text
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize("name", ["fifo", "/dev/zero", "/dev/stdin", "/proc/self/fd/0"])
def test_what_is_no_file_never_hangs(notebook: FrontEnd, name: str) -> None:
    notebook.run("import os\nif not os.path.exists('fifo'): os.mkfifo('fifo')")
    assert "left out were 1" in notebook.run(f"%sandbox download {name}").error["evalue"]
    assert notebook.run("1 + 1").result == "2"


def test_a_sparse_file_of_terabytes_is_refused_by_its_size(tmp_path: Path) -> None:
    config = tmp_path / "config.py"
    config.write_text(ALLOWED + "c.LocalProvider.file_size = 0\n")
    with running(tmp_path / "kernel", PRIVATE, f"--config={config}") as process:
        notebook = process.front_end()
        made = notebook.run("f = open('sparse', 'w'); f.truncate(8 * 10**12)")
        assert made.status == "ok", made.reply
        error = notebook.run("%sandbox download sparse").error["evalue"]
        assert "The files have 8 TB" in error
        assert not (tmp_path / "kernel/sparse").exists()


def test_a_link_of_this_machine_in_the_way_is_not_followed(notebook: FrontEnd, folder: Path, tmp_path: Path) -> None:
    (folder / "way").symlink_to(tmp_path)
    (folder / "end.txt").symlink_to(tmp_path / "end.txt")
    notebook.run("os.makedirs('way', exist_ok=True)\nopen('way/x.txt','w').write('x')\nopen('end.txt','w').write('x')")
    assert "in the way" in notebook.run("%sandbox download way").error["evalue"]
    assert "in their place" in notebook.run("%sandbox download end.txt").error["evalue"]
    assert list(tmp_path.iterdir()) == []


def test_a_hundred_thousand_files_are_listed_and_offered_and_twice_as_many_refused(notebook: FrontEnd) -> None:
    swarm = "os.makedirs('swarm', exist_ok=True)\nfor i in range(100_000): open(f'swarm/{i}', 'w').close()"
    assert notebook.run(swarm, timeout=300).status == "ok"
    assert "There are more" in notebook.run("%sandbox files swarm").stream()
    offered = notebook.cell("%sandbox download swarm", stop_on_error=False)
    notebook.until(lambda: bool(offered.questions) or offered.done, 300)
    assert offered.questions, offered.reply
    assert "100,000 files" in offered.stream() + str(offered.questions)
    notebook.answer("n")
    assert notebook.finish(offered).status == "error"
    links = "for i in range(100_001): os.link(f'swarm/{i % 100_000}', f'swarm/link-{i}')"
    assert notebook.run(links, timeout=300).status == "ok"
    assert "more than" in notebook.run("%sandbox download swarm", timeout=300).error["evalue"]
    assert notebook.run("import shutil; shutil.rmtree('swarm')", timeout=300).status == "ok"


def test_a_cell_that_races_with_the_download_changes_only_what_is_its_own(notebook: FrontEnd, folder: Path) -> None:
    code = """
import os, threading
os.makedirs('raced', exist_ok=True)
stop = False
def race():
    n = 0
    while not stop:
        n += 1
        for name in ('raced/a', 'raced/b'):
            try:
                os.unlink(name)
            except OSError:
                pass
            if n % 3 == 0: os.symlink('/etc/passwd', name)
            elif n % 3 == 1: os.mkfifo(name)
            else: open(name, 'w').write('x' * (n % 50))
thread = threading.Thread(target=race); thread.start()
"""
    assert notebook.run(code).status == "ok"
    for _ in range(10):
        cell = notebook.cell("%sandbox download raced", stop_on_error=False)
        notebook.until(lambda cell=cell: bool(cell.questions) or cell.done)  # type: ignore[misc]
        if cell.questions:
            notebook.answer("y")
        notebook.finish(cell)
    notebook.run("stop = True; thread.join()")
    for path in (folder / "raced").iterdir() if (folder / "raced").exists() else ():
        assert path.is_file()
        assert not path.is_symlink()
        assert path.stat().st_size <= 50


# ---- large files, interrupts and losses


def test_a_gigabyte_goes_up_and_down_in_little_memory(tmp_path: Path) -> None:
    config = tmp_path / "config.py"
    config.write_text(ALLOWED)
    with running(tmp_path / "kernel", PRIVATE, f"--config={config}") as process:
        notebook = process.front_end()
        folder = process.connection_file.parent
        block = os.urandom(MEGABYTE)
        with (folder / "big.bin").open("wb") as file:
            for _ in range(BIG // MEGABYTE):
                file.write(block)
        highest = 0
        for line in ("%sandbox upload big.bin", "%sandbox download big.bin --to back"):
            cell = notebook.cell(line)
            while not cell.done:
                notebook._take(0.05)
                highest = max(highest, process.memory())
            assert cell.status == "ok", cell.reply
            assert len(cell.contents("update_display_data")) > 1
        assert highest < 100 * MEGABYTE
        assert digest(folder / "back/big.bin") == digest(folder / "big.bin")


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_an_interrupted_transfer_leaves_nothing_and_the_sandbox_as_it_was(tmp_path: Path) -> None:
    config = tmp_path / "config.py"
    config.write_text(ALLOWED)
    with running(tmp_path / "kernel", PRIVATE, f"--config={config}") as process:
        notebook = process.front_end()
        folder = process.connection_file.parent
        with (folder / "big.bin").open("wb") as file:
            file.truncate(BIG)
        notebook.run("f = open('there.bin', 'w'); f.truncate(2**30); kept = 1")
        for line in ("%sandbox upload big.bin", "%sandbox download there.bin"):
            cell = notebook.cell(line)
            notebook.until(lambda cell=cell: bool(cell.of_type("update_display_data")))  # type: ignore[misc]
            notebook.interrupt()
            assert notebook.finish(cell).error["ename"] == "KeyboardInterrupt"
        assert notebook.run("import os; kept, os.listdir('.')").result == "(1, ['there.bin'])"
        assert not (folder / "there.bin").exists()
        assert not list(folder.glob(".*.part"))


def test_a_sandbox_that_ends_in_the_middle_is_told(tmp_path: Path) -> None:
    config = tmp_path / "config.py"
    config.write_text(ALLOWED)
    with running(tmp_path / "kernel", PRIVATE, f"--config={config}") as process:
        notebook = process.front_end()
        folder = process.connection_file.parent
        with (folder / "big.bin").open("wb") as file:
            file.truncate(BIG)
        notebook.run(
            "import os, signal, threading, time\nbridge = os.getppid()\n"
            "def end():\n    while not any(name.endswith('.part') for name in os.listdir('.')): time.sleep(0.001)\n"
            "    os.kill(bridge, signal.SIGKILL)\nthreading.Thread(target=end).start()"
        )
        error = notebook.run("%sandbox upload big.bin").error
        assert error["ename"] == "SandboxLostError"
        assert notebook.run("1 + 1").result == "2"


def test_files_travel_between_the_folder_and_its_layer(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        notebook = process.front_end()
        folder = process.connection_file.parent
        (folder / "input.txt").write_text("from here")
        assert (
            notebook.run("%sandbox upload input.txt --to copied\nopen('copied/input.txt').read()").result
            == "'from here'"
        )
        notebook.run("open('made.txt', 'w').write('from there')")
        asked(notebook, "%sandbox download made.txt", "y")
        assert (folder / "made.txt").read_text() == "from there"
        assert not (folder / "copied").exists()
