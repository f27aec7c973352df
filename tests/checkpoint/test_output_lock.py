"""One run at a time for each output folder; what a killed run left is removed by the next one, and nothing else."""

import json
import os
import signal
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from bertsurgeon.checkpoint import check_output, lock_outputs, locks_output, new_folder, new_work_folder, write_report
from bertsurgeon.checkpoint import exchange as exchange_module
from bertsurgeon.errors import CheckpointError
from bertsurgeon.storage import existing_lock, private_temporary_files, remove_abandoned, temporary_folder, try_lock


def die(program: str, *arguments: object, folder: Path, temporary: Path | None = None) -> None:
    """Runs lines of Python in a forked process, which is killed at their end; the libraries are imported already."""
    child = os.fork()
    if child == 0:
        try:
            os.chdir(folder)
            if temporary is not None:
                os.environ["TMPDIR"] = str(temporary)
            exec(textwrap.dedent(program), {"arguments": arguments})
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@contextmanager
def holding(folder: Path) -> Iterator[int]:
    """Locks an output folder in another process, which is killed at the end of the block; yields its id."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with lock_outputs(folder):
            os.write(write, b"locked")
            signal.pause()
    try:
        assert os.read(read, 6) == b"locked"
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(folder: Path, *files: str) -> None:
    with new_folder(folder, overwrite=True) as temporary:
        for file in files:
            (temporary / file).write_text(file)


def refused_in_another_thread(folder: Path) -> str:
    def attempt() -> None:
        with lock_outputs(folder):
            pass

    with ThreadPoolExecutor(1) as other, pytest.raises(CheckpointError) as error:
        other.submit(attempt).result()
    return str(error.value)


def test_the_second_run_is_told_who_the_first_is(tmp_path: Path) -> None:
    with holding(tmp_path / "out") as pid:
        for attempt in (
            lambda: check_output(tmp_path / "out", overwrite=True),
            lambda: write(tmp_path / "out", "mine"),
            lambda: new_work_folder(tmp_path / "out.training"),
            lambda: new_work_folder(tmp_path / "out.search", "search"),
        ):
            with pytest.raises(CheckpointError, match=rf"in use by process {pid} on .* since 20\d\d-"):
                attempt()
        write(tmp_path / "other", "mine")
    write(tmp_path / "out", "mine")
    assert names(tmp_path) == ["other", "out"]


def test_locks_within_one_process(tmp_path: Path) -> None:
    """The holder may lock again, also what is inside; another thread may not, until the last lock is released."""
    with lock_outputs(tmp_path / "deep" / "out"):
        with lock_outputs(tmp_path / "deep" / "out.search", tmp_path / "deep" / "out.search" / "candidate"):
            pass
        assert names(tmp_path / "deep") == [".out.bertsurgeon-lock"]
        assert "another thread of this process" in refused_in_another_thread(tmp_path / "deep" / "out")
        assert "another thread of this process" in refused_in_another_thread(tmp_path / "deep" / "out.training")
    assert names(tmp_path) == []
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "out")
    with lock_outputs(link):
        refused_in_another_thread(tmp_path / "out")
    assert names(tmp_path) == ["link"]


def test_an_output_inside_an_output(tmp_path: Path) -> None:
    """Several budgets are written into folders of a folder, which is no output while one of them is written."""

    with holding(tmp_path / "out" / "sparsity-0.5"):
        with pytest.raises(CheckpointError, match=r"sparsity-0\.5 is in use by process"):
            check_output(tmp_path / "out", overwrite=True)
        assert names(tmp_path / "out") == [".sparsity-0.5.bertsurgeon-lock"]
    check_output(tmp_path / "out", overwrite=True)
    assert names(tmp_path / "out") == []


def test_functions_lock_their_output(tmp_path: Path) -> None:
    @locks_output
    def run(model: str, *, output: str | Path) -> str:
        return refused_in_another_thread(Path(output))

    assert "in use" in run("model", output=str(tmp_path / "out"))
    assert "in use" in run(model="model", output=tmp_path / "out")
    assert names(tmp_path) == []


def test_a_child_does_not_keep_the_lock_of_a_dead_process(tmp_path: Path) -> None:
    program = """
    import os, signal
    from pathlib import Path
    from bertsurgeon.storage import try_lock
    lock = try_lock(Path("lock"))
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.alarm(60)
        signal.pause()
    Path("child").write_text(str(child))
    """
    die(program, folder=tmp_path)
    try:
        lock = try_lock(tmp_path / "lock")
        assert lock.is_abandoned
        lock.release()
    finally:
        os.kill(int((tmp_path / "child").read_text()), 9)
    assert names(tmp_path) == ["child"]
    assert existing_lock(tmp_path / "lock") is None


BEGUN = """
from pathlib import Path
import os
from bertsurgeon.checkpoint import new_folder
with new_folder(Path("out"), overwrite=True) as folder:
    (folder / "half").touch()
    Path(".out.bertsurgeon-old-0123abcd").mkdir()
    Path(".out.training.bertsurgeon-new-0123abcd").mkdir()
    os._exit(9)
"""

FOREIGN = (".out.bertsurgeon-new-", ".out.bertsurgeon-notes", ".outer.bertsurgeon-new-0123abcd", ".out-abc", "out.new")


@pytest.mark.parametrize("is_there", [True, False], ids=["old folder", "no folder"])
def test_what_a_killed_run_left_is_removed(is_there: bool, tmp_path: Path) -> None:
    if is_there:
        write(tmp_path / "out", "old")
    for name in FOREIGN:
        (tmp_path / name).mkdir()
    die(BEGUN, folder=tmp_path)
    assert len(names(tmp_path)) == len(FOREIGN) + 4 + is_there
    check_output(tmp_path / "out", overwrite=True)
    assert names(tmp_path) == sorted([*FOREIGN, *["out"] * is_there])


def test_nothing_is_removed_without_the_lock_of_a_dead_process(tmp_path: Path) -> None:
    """The hidden name alone proves nothing."""
    (tmp_path / ".out.bertsurgeon-new-0123abcd").mkdir()
    write(tmp_path / "out", "new")
    assert names(tmp_path) == [".out.bertsurgeon-new-0123abcd", "out"]


def test_a_link_is_removed_but_not_followed(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    (tmp_path / ".out.bertsurgeon-new-0123abcd").symlink_to(tmp_path / "thesis")
    (tmp_path / ".out.bertsurgeon-lock").touch()
    write(tmp_path / "out", "new")
    assert names(tmp_path) == ["out", "thesis"]
    assert names(tmp_path / "thesis") == ["thesis.tex"]


FILLED = """
from pathlib import Path
import os
from bertsurgeon.checkpoint import new_folder
replace, count = Path.replace, 0
def kill_after(self, target):
    global count
    count += 1
    if count > arguments[0]:
        os._exit(9)
    return replace(self, target)
with new_folder(Path.cwd(), overwrite=True) as folder:
    for name in ("both", "new"):
        (folder / name).write_text("new")
    Path.replace = kill_after
"""


@pytest.mark.parametrize("moves", range(7))
def test_a_folder_that_is_filled_is_old_or_new(moves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory cannot be renamed; a process dies after some of the moves."""
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.chdir(out)
    write(out, "both", "old")
    before = {name: (out / name).read_text() for name in names(out)}
    die(FILLED, moves, folder=out)
    check_output(out, overwrite=True)
    after = {name: (out / name).read_text() for name in names(out)}
    if moves < 6:
        assert after == before
    else:
        assert {name: text for name, text in after.items() if "." not in name} == {"both": "new", "new": "new"}
    assert names(tmp_path) == ["out"]


def test_files_are_replaced_at_once_under_the_lock(tmp_path: Path) -> None:
    program = """
    from pathlib import Path
    from bertsurgeon.checkpoint import write_report
    Path.replace = lambda self, target: os._exit(9)
    import os
    write_report(Path("out/report.json"), {"a": 2})
    """
    write(tmp_path / "out", "config.json")
    write_report(tmp_path / "out" / "report.json", {"a": 1})
    die(program, folder=tmp_path)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == {"a": 1}
    write(tmp_path / "out", "config.json")
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        with new_folder(tmp_path / "out") as folder:
            (folder / "1_Pooling").mkdir()
            for name in ("model.safetensors", "1_Pooling/config.json"):
                (folder / name).touch()
                (folder / name).chmod(0o600)  # as safetensors does
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in [tmp_path / "out", *(tmp_path / "out").rglob("*")]}
    folders = {name: modes.pop(name) for name in ("out", "1_Pooling")}
    assert set(folders.values()) == {0o777 & ~mask}
    assert set(modes.values()) == {0o666 & ~mask}


@pytest.mark.parametrize("overwrite", [False, True])
def test_moved_files_are_put_back_before_anything_is_removed(
    overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process dies between the two renames; the next run puts the old folder back before it looks."""
    program = """
    from pathlib import Path
    import os
    from bertsurgeon.checkpoint import exchange, new_folder
    exchange._exchange_atomically = lambda first, second: False
    replace = Path.replace
    def kill_after(self, target):
        replace(self, target)
        os._exit(9)
    with new_folder(Path("out[1]"), overwrite=True) as folder:
        Path.replace = kill_after
    """
    write(tmp_path / "out[1]", "old")
    die(program, folder=tmp_path)
    assert "out[1]" not in names(tmp_path)
    monkeypatch.setattr(exchange_module, "_exchange_atomically", lambda first, second: False)
    with nullcontext() if overwrite else pytest.raises(CheckpointError, match="not empty"):
        check_output(tmp_path / "out[1]", overwrite=overwrite)
    assert names(tmp_path) == ["out[1]"]
    assert "old" in names(tmp_path / "out[1]")


# temporary folders


def test_temporary_folders_of_dead_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
    import tempfile
    from pathlib import Path
    from bertsurgeon.storage import private_temporary_files, temporary_folder
    tempfile.tempdir = None
    with private_temporary_files(), temporary_folder() as folder:
        (folder / "dense.safetensors").touch()
        Path(tempfile.mkdtemp()).joinpath("of another library").touch()
        os._exit(9)
    """
    die("import os\n" + textwrap.dedent(program), folder=tmp_path, temporary=tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "bertsurgeon-00000000").mkdir()  # without a lock: nobody knows whose it is
    assert len(names(tmp_path)) == 3
    with temporary_folder() as alive:
        (alive / "file").touch()
        remove_abandoned()
        assert (alive / "file").exists()
    assert names(tmp_path) == ["bertsurgeon-00000000"]
    with private_temporary_files():
        assert Path(os.environ["TMPDIR"]).parent == tmp_path
    assert names(tmp_path) == ["bertsurgeon-00000000"]
