"""Whatever is wrong, the user reads one sentence that names the cause, and no half-written folder is left."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from click.testing import Result
from datasets import Dataset
from safetensors.torch import load_file, save_file

import bertsurgeon
from bertsurgeon import PgbConfig, Sparsity
from bertsurgeon.checkpoint import load_model, load_tokenizer
from bertsurgeon.errors import DataError
from bertsurgeon.runtime import MANIFEST, MODEL_FILES, Manifest, Runtime
from cli_helpers import files, run, start, succeed, write_data, write_model

PATIENCE = 120.0
"""Seconds that a separate process may take for one step."""


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dense model, a pruned one, and data; tests must not write into it."""
    folder = tmp_path_factory.mktemp("stock")
    write_model(folder / "dense")
    write_data(folder / "train.csv", 64, seed=1)
    write_data(folder / "validation.csv", 32, seed=2)
    succeed("prune", folder / "dense", "-o", folder / "pruned", "--sparsity", "0.5", *files(folder))
    return folder


@pytest.fixture
def work(stock: Path, tmp_path: Path) -> Path:
    """A copy of ``stock`` that a test may damage."""
    return shutil.copytree(stock, tmp_path / "work")


@pytest.fixture
def rejects(tmp_path: Path) -> Callable[..., None]:
    """Runs a command with an output folder and checks that it is refused and leaves nothing."""

    def check(*arguments: object, words: tuple[str, ...]) -> None:
        parent = tmp_path / "parent"
        parent.mkdir()
        assert_refused(run(*arguments, "-o", parent / "out"), *words)
        assert list(parent.iterdir()) == []

    return check


def assert_refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert_sentence(result.stderr, *words)


def assert_sentence(text: str, *words: str) -> None:
    assert "Traceback" not in text
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert re.fullmatch(r"Error: \S.*\.", lines[0]), text
    for word in words:
        assert word in lines[0]


def set_config(folder: Path, **entries: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


# models


@pytest.mark.parametrize("command", ["prune", "finetune", "recover"])
def test_missing_model(stock: Path, rejects: Callable[..., None], command: str) -> None:
    sparsity = ("--sparsity", "0.5") if command == "prune" else ()
    missing = stock / "no-such-model"
    rejects(command, missing, *sparsity, *files(stock), words=("no model folder", str(missing)))


def test_folder_without_model(stock: Path, tmp_path: Path, rejects: Callable[..., None]) -> None:
    rejects("prune", tmp_path, "--sparsity", "0.5", *files(stock), words=("no config.json", str(tmp_path)))


@pytest.mark.parametrize("command", ["evaluate", "inspect", "bench"])
def test_missing_model_without_output(stock: Path, command: str) -> None:
    data = files(stock) if command == "evaluate" else []
    assert_refused(run(command, stock / "no-such-model", *data), "no model folder", "no-such-model")


@pytest.mark.parametrize("model_type", ["albert", "t5"])
def test_unsupported_architecture(work: Path, rejects: Callable[..., None], model_type: str) -> None:
    set_config(work / "dense", model_type=model_type)
    words = (f"'{model_type}'", "bert, camembert, deberta-v2")
    rejects("prune", work / "dense", "--sparsity", "0.5", *files(work), words=words)


@pytest.mark.parametrize("command", ["prune", "evaluate"])
def test_regression_head_for_a_classification(
    stock: Path, tmp_path: Path, rejects: Callable[..., None], command: str
) -> None:
    model = write_model(tmp_path / "regression", num_labels=1)
    words = ("a regression with one output", "classification into 2 classes")
    if command == "prune":
        rejects("prune", model, "--sparsity", "0.5", *files(stock), words=words)
    else:
        assert_refused(run("evaluate", model, *files(stock)), *words)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights(work: Path, rejects: Callable[..., None], value: float) -> None:
    path = work / "dense" / "model.safetensors"
    name = "bert.encoder.layer.1.output.dense.weight"
    weights = load_file(path)
    weights[name][3, 5] = value
    save_file(weights, path, {"format": "pt"})
    words = ("NaN or infinity", name)
    rejects("prune", work / "dense", "--sparsity", "0.5", *files(work), words=words)


@pytest.mark.parametrize("command", ["evaluate", "inspect", "bench", "recover"])
def test_truncated_pruned_model(work: Path, rejects: Callable[..., None], command: str) -> None:
    truncate(work / "pruned" / "model.safetensors")
    words = ("model.safetensors", "truncated")
    if command == "recover":
        rejects("recover", work / "pruned", *files(work), words=words)
    else:
        assert_refused(run(command, work / "pruned", *(files(work) if command == "evaluate" else ())), *words)


@pytest.mark.parametrize("command", ["prune", "finetune", "evaluate"])
def test_truncated_dense_model(work: Path, rejects: Callable[..., None], command: str) -> None:
    truncate(work / "dense" / "model.safetensors")
    words = ("model.safetensors", "truncated")
    if command == "evaluate":
        assert_refused(run("evaluate", work / "dense", *files(work)), *words)
    else:
        sparsity = ("--sparsity", "0.5") if command == "prune" else ()
        rejects(command, work / "dense", *sparsity, *files(work), words=words)


def test_pruned_model_without_weights(work: Path) -> None:
    (work / "pruned" / "model.safetensors").unlink()
    assert_refused(run("inspect", work / "pruned"), "model.safetensors")


@pytest.mark.parametrize("command", ["evaluate", "inspect"])
def test_newer_format(work: Path, command: str) -> None:
    entry = json.loads((work / "pruned" / "config.json").read_text())["quantization_config"]
    set_config(work / "pruned", quantization_config={**entry, "format_version": 99})
    data = files(work) if command == "evaluate" else []
    assert_refused(run(command, work / "pruned", *data), "format 99", "update bertsurgeon")


def test_pruning_twice(stock: Path, rejects: Callable[..., None]) -> None:
    rejects("prune", stock / "pruned", "--sparsity", "0.5", *files(stock), words=("pruned already", "dense"))


def test_recovering_a_dense_model(stock: Path, rejects: Callable[..., None]) -> None:
    rejects("recover", stock / "dense", *files(stock), words=("is a dense model", "prune it first"))


def write_export(dense: Path, folder: Path, runtime: Runtime) -> Path:
    """Writes the files of an export, with a graph of one product, which is read after all others."""
    shutil.copytree(dense, folder)
    if runtime == "onnx":
        (folder / MODEL_FILES[runtime]).touch()
    else:
        inputs = openvino.opset13.parameter([1, 4], np.float32)
        product = openvino.opset13.matmul(inputs, np.ones((4, 64), np.float32), False, False)
        openvino.save_model(openvino.Model([product], [inputs]), folder / MODEL_FILES[runtime], compress_to_fp16=False)
    Manifest(runtime, "fp32", ("input_ids",), ("logits",), 0).save(folder)
    return folder


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"model_type": "bert", "hidden_size": "x"}', b"\xff"])
def test_exports_with_a_broken_configuration(content: bytes | None, stock: Path, tmp_path: Path) -> None:
    folder = write_export(stock / "dense", tmp_path / "exported", "onnx")
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_bytes(content)
    assert_refused(run("evaluate", folder, *files(stock)), "config.json", "export the model again")


def test_an_export_with_a_broken_manifest(stock: Path, tmp_path: Path) -> None:
    folder = write_export(stock / "dense", tmp_path / "exported", "onnx")
    (folder / MANIFEST).write_bytes(b'{"\xff": 1}')
    assert_refused(run("evaluate", folder, *files(stock)), MANIFEST, "export the model again")


@pytest.mark.parametrize(("length", "word"), [(None, "cannot be found"), (0, "weights in bin"), (5, "weights in bin")])
def test_exports_without_all_weights(length: int | None, word: str, stock: Path, tmp_path: Path) -> None:
    folder = write_export(stock / "dense", tmp_path / "exported", "openvino")
    weights = folder / "openvino_model.bin"
    content = weights.read_bytes()
    weights.unlink()
    if length is not None:
        weights.write_bytes(content[:length])
    assert_refused(run("evaluate", folder, *files(stock)), "openvino_model.bin is damaged", "export the model again")
    Manifest.load(folder).save(folder)  # with the digests of the damaged files
    words = ("OpenVINO cannot load", "openvino_model.xml", word, "export the model again")
    assert_refused(run("evaluate", folder, *files(stock)), *words)


# data


@pytest.mark.parametrize(("content", "word"), [("", "is empty"), ("text,label\n", "no rows")])
def test_empty_data_file(stock: Path, tmp_path: Path, rejects: Callable[..., None], content: str, word: str) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text(content)
    data = ("--train-file", empty, "--validation-file", stock / "validation.csv")
    rejects("prune", stock / "dense", "--sparsity", "0.5", *data, words=(str(empty), word))


def test_missing_data_file(stock: Path, rejects: Callable[..., None]) -> None:
    data = ("--train-file", stock / "none.csv", "--validation-file", stock / "validation.csv")
    rejects("prune", stock / "dense", "--sparsity", "0.5", *data, words=("none.csv", "does not exist"))


@pytest.mark.parametrize("command", ["prune", "finetune", "recover"])
def test_wrong_column(stock: Path, rejects: Callable[..., None], command: str) -> None:
    model = stock / ("pruned" if command == "recover" else "dense")
    sparsity = ("--sparsity", "0.5") if command == "prune" else ()
    words = ("'sentence'", "text, label", "--text-column")
    rejects(command, model, *sparsity, *files(stock), "--text-column", "sentence", words=words)


def test_no_data_named(stock: Path, rejects: Callable[..., None]) -> None:
    rejects("prune", stock / "dense", "--sparsity", "0.5", words=("--task", "--train-file"))


@pytest.mark.parametrize("empty", [[], Dataset.from_dict({"input_ids": [], "attention_mask": []})])
def test_empty_calibration(stock: Path, empty: object) -> None:
    model, tokenizer = load_model(stock / "dense"), load_tokenizer(stock / "dense")
    with pytest.raises(DataError, match="data is empty"):
        bertsurgeon.prune(model, PgbConfig(Sparsity(0.5)), empty, tokenizer)  # type: ignore[arg-type]


# options and output


@pytest.mark.parametrize("sparsity", ["0", "1", "1.5"])
def test_impossible_sparsity(stock: Path, rejects: Callable[..., None], sparsity: str) -> None:
    words = ("between 0 and 1", f"not {sparsity}")
    rejects("prune", stock / "dense", "--sparsity", sparsity, *files(stock), words=words)


@pytest.mark.parametrize("options", [(), ("--sparsity", "0.5", "--groups", "2")])
def test_budget_named_not_once(stock: Path, rejects: Callable[..., None], options: tuple[str, ...]) -> None:
    words = ("exactly one",) if options else ("such as --sparsity 0.5", "'bertsurgeon compress'")
    rejects("prune", stock / "dense", *options, *files(stock), words=(*words, "sparsity", "groups"))


@pytest.mark.parametrize("command", ["prune", "finetune", "recover"])
def test_output_below_a_file(stock: Path, tmp_path: Path, command: str) -> None:
    model = stock / ("pruned" if command == "recover" else "dense")
    sparsity = ("--sparsity", "0.5") if command == "prune" else ()
    blocker = tmp_path / "blocker"
    blocker.write_text("kept")
    output = blocker / "out"
    assert_refused(run(command, model, "-o", output, *sparsity, *files(stock)), str(output), "cannot be written")
    assert blocker.read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["blocker"]


def test_output_is_a_file(stock: Path, tmp_path: Path) -> None:
    output = tmp_path / "file"
    output.write_text("kept")
    result = run("prune", stock / "dense", "-o", output, "--sparsity", "0.5", *files(stock), "--overwrite")
    assert_refused(result, "is a file")
    assert output.read_text() == "kept"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_output_in_a_read_only_folder(stock: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    result = run("prune", stock / "dense", "-o", closed / "out", "--sparsity", "0.5", *files(stock))
    assert_refused(result, "cannot be written")
    assert list(closed.iterdir()) == []


@pytest.mark.parametrize("command", ["prune", "finetune", "recover"])
def test_existing_output(stock: Path, tmp_path: Path, command: str) -> None:
    model = stock / ("pruned" if command == "recover" else "dense")
    sparsity = ("--sparsity", "0.5") if command == "prune" else ()
    output = shutil.copytree(stock / "pruned", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    assert_refused(run(command, model, "-o", output, *sparsity, *files(stock)), "not empty", "--overwrite")
    (output / "precious").write_text("kept")
    for options in ((), ("--overwrite",)):
        result = run(command, model, "-o", output, *sparsity, *files(stock), *options)
        assert_refused(result, "precious", "did not write", "remove this one yourself")
    assert {path.name: path.read_bytes() for path in output.iterdir()} == {**before, "precious": b"kept"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# runs that are cut off


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < deadline, log.read_text(errors="replace")
        time.sleep(0.02)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Folders in which a separate process writes its output and its temporary files."""
    parent, temporary = tmp_path / "parent", tmp_path / "temporary"
    parent.mkdir()
    temporary.mkdir()
    return parent, temporary


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_prune(stock: Path, tmp_path: Path, folders: tuple[Path, Path], sent: signal.Signals) -> None:
    parent, temporary = folders
    log = tmp_path / "log"
    command = ("prune", stock / "dense", "-o", parent / "out", "--sparsity", "0.5", *files(stock))
    with start(*command, "--recover-epochs", "100000", log=log, temporary=temporary) as process:
        wait_until(lambda: b"Recovering" in log.read_bytes(), process, log)
        process.send_signal(sent)
        assert process.wait(PATIENCE) == 130
    text = log.read_text(errors="replace")
    assert "Interrupted; no output was written." in text
    assert "Traceback" not in text
    assert list(parent.iterdir()) == []
    assert not [path for path in temporary.rglob("*") if path.name.startswith("checkpoint") or path.is_file()]


@pytest.mark.parametrize(("epochs", "cut_off"), [(0, False), (1, True)], ids=["at once", "after an epoch"])
def test_killed_recovery_resumes(
    stock: Path, tmp_path: Path, folders: tuple[Path, Path], epochs: int, cut_off: bool
) -> None:
    """The weights are those of an uninterrupted run, so the order of the data is, too."""
    parent, temporary = folders
    log, output = tmp_path / "log", parent / "out"
    work_dir = parent / "out.training"
    command = ("recover", stock / "pruned", "--teacher", stock / "dense", *files(stock))
    options = ("--epochs", "12", "--batch-size", "4", "--learning-rate", "1e-3", "--seed", "3")
    steps = 64 // 4

    def checkpoints() -> list[int]:
        """Returns the steps of the complete checkpoints, whose state is written last."""
        return sorted(int(path.parent.name[11:]) for path in work_dir.glob("checkpoint-*/trainer_state.json"))

    def far_enough() -> bool:
        return any(step >= epochs * steps for step in checkpoints())

    with start(*command, "-o", output, *options, log=log, temporary=temporary) as process:
        wait_until(far_enough, process, log)
        process.kill()
        process.wait(PATIENCE)
    assert not output.exists()
    steps_before = checkpoints()
    assert steps_before
    assert epochs * steps <= steps_before[-1] < 12 * steps
    if cut_off:  # killed while it wrote a checkpoint: there are weights, but not all of the rest
        broken = shutil.copytree(
            work_dir / f"checkpoint-{steps_before[-1]}", work_dir / f"checkpoint-{steps_before[-1] + 1}"
        )
        (broken / "trainer_state.json").unlink()
        (broken / "optimizer.pt").unlink()

    assert_refused(run(*command, "-o", output, *options), "unfinished run", "--resume")
    assert checkpoints() == steps_before

    succeed(*command, "-o", output, *options, "--resume")
    assert [path.name for path in parent.iterdir()] == ["out"]
    succeed(*command, "-o", tmp_path / "uninterrupted", *options)
    resumed, whole = (load_file(folder / "model.safetensors") for folder in (output, tmp_path / "uninterrupted"))
    assert resumed.keys() == whole.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_model_without_a_trained_head(work: Path, rejects: Callable[..., None]) -> None:
    path = work / "dense" / "model.safetensors"
    save_file({name: t for name, t in load_file(path).items() if "classifier" not in name}, path, {"format": "pt"})
    rejects("prune", work / "dense", "--sparsity", "0.5", *files(work), words=("head", "fine-tune"))


def test_resuming_nothing_replaces_nothing(work: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (work / "pruned").iterdir()}
    result = run("recover", work / "pruned", "-o", work / "pruned", "--resume", "--epochs", "1", *files(work))
    assert_refused(result, "would replace", "choose another output folder")
    assert {path.name: path.stat().st_mtime_ns for path in (work / "pruned").iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sparsity", "half"), ("--sparsity", "number")),
        (("--sparsity", "0.5,0.5"), ("twice",)),
        (("--sparsity", "0.5", "--calibration", "nowhere"), ("nowhere", "bertsurgeon calibrate")),
        (("--sparsity", "0.5", "--method", "pgb", "--calibration", "nowhere"), ("--calibration has no effect", "pgb")),
        (("--sparsity", "0.5", "--structures", "magic"), ("structures",)),
        (("--sparsity", "0.5", "--text-file", "none.txt"), ("none.txt", "does not exist")),
        (("--sparsity", "0.5", "--max-groups", "3"), ("--max-groups", "pgb")),
    ],
)
def test_options_that_make_no_sense(
    arguments: tuple[str, ...], words: tuple[str, ...], stock: Path, rejects: Callable[..., None]
) -> None:
    rejects("prune", stock / "dense", *arguments, *files(stock), words=words)
