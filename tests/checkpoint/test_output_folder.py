"""Output folders: complete or absent, and nothing is replaced that no command of ours wrote."""

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bertsurgeon import load_model, save_model
from bertsurgeon.checkpoint import (
    check_output,
    check_work_folder,
    holds_training,
    load_tokenizer,
    new_folder,
    new_work_folder,
    remove_work_folder,
)
from bertsurgeon.checkpoint import exchange as exchange_module
from bertsurgeon.checkpoint.folder_record import RECORD
from bertsurgeon.errors import CheckpointError
from cli_helpers import files, run, succeed, write_data, write_model

RELEASED = Path(__file__).parents[1] / "data" / "checkpoints-0.1.0"


def write(folder: Path, *names: str, overwrite: bool = False, error: BaseException | None = None) -> Path:
    """Writes an output folder whose files contain their own names."""
    with new_folder(folder, overwrite) as temporary:
        for name in names:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_text(name)
        if error is not None:
            raise error
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Returns all files but the records, by path."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def one_sentence(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert text.strip()
    assert "\n" not in text
    return text


@pytest.fixture(params=[True, False], ids=["exchange", "two renames"])
def exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without a file system that exchanges folders atomically."""
    if not request.param:
        monkeypatch.setattr(exchange_module, "_exchange_atomically", lambda first, second: False)


# writing


@pytest.mark.usefixtures("exchange")
def test_new_folder_replaces_the_old_one(tmp_path: Path) -> None:
    for name in ("old", "new"):
        write(tmp_path / "deep" / "out", name, "1_Pooling/config.json", overwrite=name == "new")
    assert contents(tmp_path) == {"deep/out/new": b"new", "deep/out/1_Pooling/config.json": b"1_Pooling/config.json"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_the_record(tmp_path: Path) -> None:
    for overwrite in (False, True):
        with new_folder(tmp_path / "out", overwrite, kind="export") as folder:
            (folder / "1_Pooling").mkdir()
            (folder / "1_Pooling" / "config.json").touch()
            (folder / "2_Normalize").mkdir()
            (folder / "b.json").touch()
        record = json.loads((tmp_path / "out" / RECORD).read_text())
        files = ["1_Pooling/config.json", "2_Normalize", "b.json"]
        assert record == {"format_version": 1, "kind": "export", "files": files}


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format_version": 2, "kind": "model", "files": ["config.json"]}']
)
def test_damaged_records_allow_nothing(content: str, tmp_path: Path) -> None:
    write(tmp_path / "out", "config.json")
    (tmp_path / "out" / RECORD).write_text(content)
    with pytest.raises(CheckpointError, match=f"holds {RECORD}"):
        write(tmp_path / "out", "new", overwrite=True)
    assert contents(tmp_path) == {"out/config.json": b"config.json"}


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
@pytest.mark.parametrize("is_there", [True, False], ids=["old folder", "no folder"])
def test_new_folder_leaves_nothing_behind(is_there: bool, error: BaseException, tmp_path: Path) -> None:
    if is_there:
        write(tmp_path / "out", "kept")
    before = contents(tmp_path)
    with pytest.raises(type(error)):
        write(tmp_path / "out", "half", overwrite=True, error=error)
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"] * is_there


def test_a_full_disk_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be written") as error:
        write(tmp_path / "out", error=OSError(errno.ENOSPC, "No space left on device"))
    assert "the disk is full" in one_sentence(error)
    assert "free some space" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "models")
    for name in ("old", "new"):
        write(tmp_path / "out", name, overwrite=True)
    assert (tmp_path / "out").is_symlink()
    assert contents(tmp_path / "disk") == {"models/new": b"new"}


@pytest.mark.skipif(sys.platform != "linux", reason="needs renameat2")
def test_linux_exchanges_folders(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not exchange_module._exchange_atomically(tmp_path / "first", tmp_path / "second"):
        pytest.skip("this file system cannot")
    assert set(contents(tmp_path)) == {"first/second", "second/first"}


def fail_on(monkeypatch: pytest.MonkeyPatch, condition: Callable[[Path, Path], bool]) -> None:
    """Makes moves fail with an error of the disk."""
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if condition(self, Path(target)):
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    monkeypatch.setattr(exchange_module, "_exchange_atomically", lambda first, second: False)


def test_the_old_folder_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "out", "old")
    fail_on(monkeypatch, lambda source, target: "-new-" in source.name)
    with pytest.raises(CheckpointError, match="input/output error"):
        write(tmp_path / "out", "new", overwrite=True)
    assert contents(tmp_path) == {"out/old": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_only_copy_is_never_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the new folder nor, afterwards, the old one can be moved to its place; the error says where it is."""
    write(tmp_path / "out", "old")
    fail_on(monkeypatch, lambda source, target: target == tmp_path / "out")
    with pytest.raises(CheckpointError, match="old files are safe in") as error:
        write(tmp_path / "out", "new", overwrite=True)
    (file,) = tmp_path.rglob("old")
    assert file.read_text() == "old"
    assert str(file.parents[1]) in one_sentence(error)
    monkeypatch.undo()  # and the next run puts it back
    with pytest.raises(CheckpointError, match=r"--overwrite \(overwrite=True in Python\)"):
        check_output(tmp_path / "out", overwrite=False)
    assert contents(tmp_path) == {"out/old": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_renamed_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory; mounted folders are the same."""
    monkeypatch.chdir(tmp_path)
    write(Path(), "first")
    assert contents(tmp_path) == {"first": b"first"}
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, "half", overwrite=True, error=KeyboardInterrupt())
    assert contents(tmp_path) == {"first": b"first"}
    write(tmp_path, "second", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [RECORD, "second"]
    fail_on(monkeypatch, lambda source, target: source.name == "b")
    with pytest.raises(CheckpointError, match="input/output error"):
        write(tmp_path, "a", "b", "second", overwrite=True)
    assert contents(tmp_path) == {"second": b"second"}
    fail_on(monkeypatch, lambda source, target: source.name == "b" or target == tmp_path / "second")
    with pytest.raises(CheckpointError, match="old files are safe in"):
        write(tmp_path, "a", "b", overwrite=True)
    (file,) = tmp_path.rglob("second")
    assert file.read_text() == "second"


# what may be replaced


def test_output_folders_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    write(tmp_path / "ours", "kept")
    for folder, overwrite in (
        (tmp_path / "file", False),
        (tmp_path / "file", True),
        (tmp_path / "file" / "below", False),
        (tmp_path / "ours", False),
    ):
        with pytest.raises(CheckpointError) as error:
            check_output(folder, overwrite)
        assert str(folder) in one_sentence(error)
    assert set(contents(tmp_path)) == {"file", "ours/kept"}


def test_output_folders_that_are_fine(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "ours", "kept")
    check_output(tmp_path / "new" / "deep", overwrite=False)
    check_output(tmp_path / "empty", overwrite=False)
    check_output(tmp_path / "ours", overwrite=True)
    assert set(contents(tmp_path)) == {"ours/kept"}
    assert not (tmp_path / "new").exists()


def test_folders_with_more_than_a_model_are_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "work" / "here").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work" / "here")
    for folder in (Path("/"), tmp_path / "home", tmp_path / "work", Path("..")):
        with pytest.raises(CheckpointError, match="holds more than a model"):
            check_output(folder, overwrite=True)


def add(folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("precious")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.tex", ".env", "data/train.csv", "config.json.bak", "model.safetensors"])
@pytest.mark.parametrize("is_recorded", [True, False], ids=["recorded", "0.1.0"])
def test_foreign_files_are_never_deleted(is_recorded: bool, name: str, overwrite: bool, tmp_path: Path) -> None:
    if is_recorded:
        write(tmp_path / "out", "config.json", "tokenizer.json")
    add(tmp_path / "out", name)
    before = contents(tmp_path)
    for attempt in (
        lambda: check_output(tmp_path / "out", overwrite),
        lambda: write(tmp_path / "out", "new", overwrite=overwrite),
    ):
        with pytest.raises(CheckpointError, match="choose another folder, or remove this one yourself") as error:
            attempt()
        assert name in one_sentence(error)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", ["empty folder", "link to a folder", "link to a file"])
def test_folders_and_links_are_foreign_too(kind: str, tmp_path: Path) -> None:
    write(tmp_path / "out", "config.json")
    (tmp_path / "data").mkdir()
    add(tmp_path / "data", "file")
    extra = tmp_path / "out" / "extra"
    if kind == "empty folder":
        extra.mkdir()
    else:
        extra.symlink_to(tmp_path / "data" / ("file" if kind == "link to a file" else ""))
    with pytest.raises(CheckpointError, match="holds extra"):
        write(tmp_path / "out", "new", overwrite=True)
    assert contents(tmp_path / "data") == {"file": b"precious"}


def test_files_that_come_while_a_folder_is_written(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")
    with pytest.raises(CheckpointError, match="holds notes"), new_folder(tmp_path / "out", overwrite=True):
        add(tmp_path / "out", "notes")
    assert contents(tmp_path) == {"out/old": b"old", "out/notes": b"precious"}


@pytest.mark.parametrize("name", sorted(path.name for path in RELEASED.iterdir() if path.is_dir()))
def test_models_of_0_1_0_are_replaced(name: str, tmp_path: Path) -> None:
    for file in (RELEASED / name).iterdir():
        add(tmp_path / "out", file.name)
        (tmp_path / "out" / file.name).write_bytes(file.read_bytes())
    write(tmp_path / "out", "new", overwrite=True)
    assert contents(tmp_path) == {"out/new": b"new"}


def test_other_models_are_never_replaced(tmp_path: Path) -> None:
    """A folder of transformers or sentence-transformers may be the only copy of somebody's model."""
    write_model(tmp_path / "model")
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds config\.json, which bertsurgeon did not write"):
        save_model(load_model(tmp_path / "model"), tmp_path / "model", overwrite=True)
    assert contents(tmp_path) == before


def test_saved_models_are_replaced(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    model, tokenizer = load_model(tmp_path / "model"), load_tokenizer(tmp_path / "model")
    for reports in ({"report.json": {"a": 1}}, {"training_report.json": {"b": 2}}):
        save_model(model, tmp_path / "out", tokenizer, reports, overwrite=True)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "training_report.json"} <= names
    assert "report.json" not in names


# inputs


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("output", ["model", "model/1_Pooling", ".", "model/../model", "link", "data"])
def test_inputs_are_never_replaced(output: str, overwrite: bool, tmp_path: Path) -> None:
    for name in ("model/config.json", "model/1_Pooling/config.json", "data/train.csv"):
        add(tmp_path / "work", name)
    (tmp_path / "work" / "link").symlink_to(tmp_path / "work" / "model")
    before = contents(tmp_path)
    inputs = [tmp_path / "work" / "model", tmp_path / "work" / "data" / "train.csv", Path("hub/id")]
    with pytest.raises(CheckpointError, match="would replace the input") as error:
        check_output(tmp_path / "work" / output, overwrite, inputs)
    one_sentence(error)
    with (
        pytest.raises(CheckpointError, match="would replace the input"),
        new_folder(tmp_path / "work" / output, overwrite, inputs),
    ):
        pass
    with pytest.raises(CheckpointError, match="would replace the input"):
        check_work_folder(tmp_path / "work" / output, inputs=inputs)
    assert contents(tmp_path) == before


def test_outputs_beside_and_below_inputs(tmp_path: Path) -> None:
    add(tmp_path, "model/config.json")
    inputs = [tmp_path / "model"]
    for name in ("model-pruned", "other", "model/pruned"):
        check_output(tmp_path / name, overwrite=False, inputs=inputs)
    write(tmp_path / "model" / "pruned", "config.json")
    check_output(tmp_path / "model" / "pruned", overwrite=True, inputs=inputs)


# work folders


def test_work_folders(tmp_path: Path) -> None:
    work = tmp_path / "out.training"
    check_work_folder(work)
    for _ in range(2):
        new_work_folder(work)
        assert holds_training(work)
        assert contents(work) == {}
        for name in ("checkpoint-8/model.safetensors", "checkpoint-8/trainer_state.json", "recipe.json"):
            add(work, name)
    check_work_folder(work)
    remove_work_folder(work, only_if_empty=True)
    assert holds_training(work)
    remove_work_folder(work)
    assert not work.exists()
    remove_work_folder(work)


@pytest.mark.parametrize("is_recorded", [True, False])
@pytest.mark.parametrize("name", ["notes.txt", "checkpoint-5", "runs/thesis.tex"])
def test_foreign_files_in_work_folders(is_recorded: bool, name: str, tmp_path: Path) -> None:
    work = tmp_path / "out.training"
    if is_recorded:
        new_work_folder(work)
    add(work, name)
    for attempt in (lambda: check_work_folder(work), lambda: new_work_folder(work)):
        with pytest.raises(CheckpointError, match="remove this one yourself") as error:
            attempt()
        assert name in one_sentence(error)
    remove_work_folder(work)
    assert contents(work) == {name: b"precious"}


def test_output_folders_are_no_work_folders(tmp_path: Path) -> None:
    write(tmp_path / "out.training", "config.json")
    assert not holds_training(tmp_path / "out.training")
    with pytest.raises(CheckpointError, match="no training of bertsurgeon"):
        new_work_folder(tmp_path / "out.training")
    assert contents(tmp_path) == {"out.training/config.json": b"config.json"}


def test_work_folders_of_0_1_0_are_continued_but_not_removed(tmp_path: Path) -> None:
    work = tmp_path / "out.training"
    add(work, "checkpoint-8/trainer_state.json")
    assert holds_training(work)
    check_work_folder(work, keep=True)
    with pytest.raises(CheckpointError, match="remove this one yourself"):
        check_work_folder(work)
    remove_work_folder(work)
    assert contents(work) == {"checkpoint-8/trainer_state.json": b"precious"}


# commands


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_model(tmp_path / "dense")
    write_data(tmp_path / "train.csv", 32, seed=1)
    write_data(tmp_path / "validation.csv", 16, seed=2)
    return tmp_path


@pytest.mark.parametrize("name", ["out", "out.training"])
@pytest.mark.parametrize("options", [(), ("--resume",), ("--overwrite",)], ids=["", "resume", "overwrite"])
def test_training_deletes_no_thesis(name: str, options: tuple[str, ...], data: Path) -> None:
    add(data / name, "thesis.tex")
    result = run("finetune", data / "dense", "-o", data / "out", "--epochs", "1", *files(data), *options)
    assert result.exit_code == 2, result.output
    assert "thesis.tex" in result.stderr
    assert contents(data / name) == {"thesis.tex": b"precious"}
    assert (data / "out").exists() == (name == "out")


def test_training_overwrites_its_own(data: Path) -> None:
    command = ("finetune", data / "dense", "-o", data / "out", "--epochs", "1", *files(data))
    succeed(*command)
    first = contents(data / "out")
    succeed(*command, "--seed", "1", "--overwrite")
    assert contents(data / "out").keys() == first.keys()
    assert contents(data / "out") != first
    assert not (data / "out.training").exists()
