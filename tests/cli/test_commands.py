"""The commands one after the other, as a user would type them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

import bertsurgeon
from bertsurgeon import get_plan, progress
from bertsurgeon.benchmark import measure_sizes
from bertsurgeon.checkpoint import check_output, load_tokenizer
from bertsurgeon.reporting import CARD
from cli_helpers import files, run, succeed, write_data, write_model

LAYERS, HIDDEN, INNER = 2, 32, 64
SMALL: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": INNER,
}
ENCODER = LAYERS * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER)
TRAINING = ("--epochs", "16", "--batch-size", "16", "--learning-rate", "2e-3")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data, and what the commands make of it: ``dense``, ``pruned`` and ``recovered``."""
    folder = tmp_path_factory.mktemp("place")
    write_model(folder / "raw")
    write_data(folder / "train.csv", 64, seed=1)
    write_data(folder / "validation.csv", 32, seed=2)
    succeed("finetune", folder / "raw", "-o", folder / "dense", *files(folder), *TRAINING)
    return folder


@pytest.fixture(scope="module")
def pruning(place: Path) -> dict[str, Any]:
    """What ``prune --json`` prints."""
    result = succeed("prune", place / "dense", "-o", place / "pruned", "--sparsity", "0.5", "--json", *files(place))
    printed: dict[str, Any] = json.loads(result.stdout)
    return printed


@pytest.fixture(scope="module")
def recovered(place: Path, pruning: dict[str, Any]) -> Path:
    output = place / "recovered"
    succeed("recover", place / "pruned", "-o", output, "--teacher", place / "dense", *files(place), *TRAINING)
    return output


def test_finetune_learns(place: Path) -> None:
    validation = ("--validation-file", place / "validation.csv")  # the classes are those of the model
    printed = json.loads(succeed("evaluate", place / "dense", *validation, "--json").stdout)
    assert printed["metrics"]["accuracy"] > 90
    report = json.loads((place / "dense" / "training_report.json").read_text())
    assert report["metrics"] == pytest.approx(printed["metrics"])
    assert report["training"]["epochs"] == 16
    assert not (place / "dense.training").exists()


def test_finetune_names_the_labels(tmp_path: Path, place: Path) -> None:
    data = []
    for part in ("train", "validation"):
        rows = (place / f"{part}.csv").read_text().replace(",0\n", ",bad\n").replace(",1\n", ",good\n")
        (tmp_path / f"{part}.csv").write_text(rows)
        data += [f"--{part}-file", tmp_path / f"{part}.csv"]
    succeed("finetune", place / "raw", "-o", tmp_path / "named", *data, "--epochs", "1")
    config = json.loads((tmp_path / "named" / "config.json").read_text())
    assert config["id2label"] == {"0": "bad", "1": "good"}


def test_prune_prints_json(place: Path, pruning: dict[str, Any]) -> None:
    dense, pruned = pruning["models"]["dense"], pruning["models"]["pruned"]
    assert dense["encoder_weights"] == ENCODER
    assert pruned["encoder_weights"] == pytest.approx(ENCODER / 2, abs=HIDDEN * INNER // 4)
    assert pruned["parameters"] < dense["parameters"]
    assert pruned["file_bytes"] < dense["file_bytes"]
    assert pruned["flops"] < dense["flops"]
    assert {"accuracy", "f1", "latency_ms_1x128", "latency_ms_8x128"} <= dense.keys() == pruned.keys()
    assert json.loads((place / "pruned" / "report.json").read_text()) == pruning


def test_models_have_cards_and_pages(place: Path, pruning: dict[str, Any], recovered: Path) -> None:
    lines = {
        "dense": "It is a stock model of transformers.",
        "pruned": f"| Encoder weights | {ENCODER / 1000:.1f} k |",
        "recovered": "made smaller with BertSurgeon's `recover`",
    }
    for name, line in lines.items():
        card = ModelCard.load(place / name / CARD)
        assert line in card.text
        assert card.text.startswith(("\n# raw, fine-tuned", "\n# dense, pruned", "\n# pruned, pruned and recovered"))
        assert card.data.pipeline_tag == "text-classification"
        assert card.data.get("base_model") is None  # a folder is no model of the hub
        succeed("report", place / name)
        check_output(place / name, overwrite=True)  # card and page are in the folder's record
    results = ModelCard.load(place / "pruned" / CARD).data.eval_results
    assert results is not None
    assert results[0].metric_value == pytest.approx(pruning["models"]["pruned"]["accuracy"], abs=1e-4)


def test_pruned_folder_loads_with_transformers(place: Path, pruning: dict[str, Any]) -> None:
    stock = AutoModelForSequenceClassification.from_pretrained(place / "pruned")
    strict = bertsurgeon.load_model(place / "pruned")
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 7, 18, 3]])}
    with torch.inference_mode():
        torch.testing.assert_close(stock(**inputs).logits, strict(**inputs).logits)
    assert measure_sizes(stock).encoder_weights == pruning["models"]["pruned"]["encoder_weights"]


@pytest.mark.parametrize(("method", "word"), [("auto", "rank"), ("pgb", "G=2")])
def test_prune_prints_tables(method: str, word: str, place: Path, tmp_path: Path) -> None:
    options = ("--sparsity", "0.5", "--method", method, "--max-train-samples", "16", *files(place))
    text = succeed("prune", place / "dense", "-o", tmp_path / "out", *options).stdout
    for words in ("encoder weights removed", word, "accuracy", "latency", "% removed", "from_pretrained"):
        assert words in text


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Steps that a procedure announces, and those that it begins."""
    counts = {"announced": 0, "begun": 0}

    @contextmanager
    def count(total: int) -> Iterator[Callable[[], None]]:
        counts["announced"] += total

        def begin() -> None:
            counts["begun"] += 1

        yield begin

    monkeypatch.setattr(progress, "steps", count)
    return counts


def test_prune_recovers_in_one_command(place: Path, tmp_path: Path, steps: dict[str, int]) -> None:
    options = ("--sparsity", "0.5", "--recover-epochs", "1", "--json", *files(place))
    printed = json.loads(succeed("prune", place / "dense", "-o", tmp_path / "out", *options).stdout)
    assert printed["recovery"]["epochs"] == 1
    assert printed["before_recovery"].keys() == {"accuracy", "f1"}
    assert steps == {"announced": 7, "begun": 7}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_recover_keeps_the_plan(place: Path, pruning: dict[str, Any], recovered: Path) -> None:
    before, after = (bertsurgeon.load_model(place / name) for name in ("pruned", "recovered"))
    assert bertsurgeon.get_plan(after) == bertsurgeon.get_plan(before)
    assert measure_sizes(after).encoder_weights == pruning["models"]["pruned"]["encoder_weights"]
    assert not (place / "recovered.training").exists()
    report = json.loads((place / "recovered" / "training_report.json").read_text())
    assert report["before"]["accuracy"] == pytest.approx(pruning["models"]["pruned"]["accuracy"])


def test_evaluate_after_recovery(place: Path, recovered: Path) -> None:
    text = succeed("evaluate", recovered, *files(place)).stdout
    assert "accuracy" in text
    printed = json.loads(succeed("evaluate", recovered, *files(place), "--json").stdout)
    assert printed["metrics"]["accuracy"] > 90


def test_bench_compares(place: Path, recovered: Path, tmp_path: Path) -> None:
    shape = ("--length", "16", "--runs", "3", "--no-memory")
    names = [str(place / "dense"), str(recovered), f"{recovered}@bf16"]
    chart = tmp_path / "chart.svg"
    printed = succeed("bench", *names, *shape, "--batch-size", "2,4", "--chart", chart, "--json").stdout
    models = json.loads(printed)["models"]
    dense, pruned, halved = models.values()
    assert list(models) == names
    assert (dense["precision"], halved["precision"]) == ("fp32", "bf16")
    assert halved["batches"].keys() == {"2", "4"}
    assert "<svg" in chart.read_text(encoding="utf-8")
    assert dense["speedup"] == 1
    assert pruned["encoder_weights"] < dense["encoder_weights"]
    assert pruned["flops"] < dense["flops"]
    drawn = succeed("bench", place / "dense", "--batch-size", "2", "--runs", "1", *files(place))
    assert all(words in drawn.stdout for words in ("your texts", "faster", "texts/s", "MB"))
    for options, said in ((("--batch-size", "0"), "1 or greater"), (("--batch-size", "a"), "numbers")):
        assert said in run("bench", place / "dense", *options).stderr
    assert "is not a model" in run("bench", f"{recovered}@int8").stderr


def test_inspect_shows_the_plan(place: Path, recovered: Path) -> None:
    text = succeed("inspect", recovered).stdout
    for words in ("neurons", "query", "encoder weights", "on disk"):
        assert words in text
    assert "A dense model." in succeed("inspect", place / "dense").stdout
    plan = json.loads(succeed("inspect", recovered, "--json").stdout)["plan"]
    assert bertsurgeon.ModelPlan.from_dict(plan) == bertsurgeon.get_plan(bertsurgeon.load_model(recovered))


@pytest.mark.parametrize("command", ["finetune", "prune", "recover"])
def test_same_seed_same_bytes(place: Path, tmp_path: Path, pruning: dict[str, Any], command: str) -> None:
    model, options = {
        "finetune": ("raw", ("--epochs", "1")),
        "prune": ("dense", ("--sparsity", "0.5")),
        "recover": ("pruned", ("--teacher", str(place / "dense"), "--epochs", "1")),
    }[command]
    for output in ("first", "second"):
        succeed(command, place / model, "-o", tmp_path / output, *options, *files(place), "--seed", "5")
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second


def test_overwrite_replaces(place: Path, tmp_path: Path) -> None:
    output = shutil.copytree(place / "dense", tmp_path / "out")
    succeed("finetune", place / "raw", "-o", output, *files(place), "--epochs", "1", "--overwrite")
    first, second = (json.loads((folder / "training_report.json").read_text()) for folder in (place / "dense", output))
    assert (first["training"]["epochs"], second["training"]["epochs"]) == (16, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_several_budgets_from_one_calibration(place: Path, tmp_path: Path) -> None:
    options = ("--json", "--max-train-samples", "32", *files(place))
    succeed("calibrate", place / "dense", "-o", tmp_path / "calibration", *files(place))
    known = ("--calibration", tmp_path / "calibration")
    printed = succeed("prune", place / "dense", "-o", tmp_path / "out", "--sparsity", "0.3,0.7", *known, *options)
    found = [result["pruning"]["sparsity"] for result in json.loads(printed.stdout)["models"]]
    assert found == pytest.approx([0.3, 0.7], abs=0.05)
    for name in ("sparsity-0.3", "sparsity-0.7"):
        bertsurgeon.load_model(tmp_path / "out" / name)


@pytest.mark.parametrize("epochs", ["0", "1"])
def test_raw_text_is_enough(epochs: str, place: Path, tmp_path: Path) -> None:
    lines = (place / "train.csv").read_text(encoding="utf-8").splitlines()[1:]
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(line.split(",")[0] for line in lines), encoding="utf-8")
    arguments = ("--text-file", texts, "--sparsity", "0.5", "--recover-epochs", epochs, "--json")
    result = json.loads(succeed("prune", place / "dense", "-o", tmp_path / "out", *arguments).stdout)
    assert result["task"] is None
    assert result["models"]["dense"]["agreement"] == 100
    assert result["models"]["pruned"]["agreement"] > 60
    bertsurgeon.load_model(tmp_path / "out")


def test_recovery_from_raw_text(place: Path, recovered: Path, tmp_path: Path) -> None:
    lines = 4 * (place / "train.csv").read_text(encoding="utf-8").splitlines()[1:]
    (tmp_path / "texts.txt").write_text("\n".join(line.split(",")[0] for line in lines), encoding="utf-8")
    options = ("--text-file", tmp_path / "texts.txt", "--epochs", "4", "--hidden-weight", "1", "--keep-best", "--json")
    arguments = ("recover", place / "pruned", "--teacher", place / "dense", "-o", tmp_path / "out", *options)
    assert json.loads(succeed(*arguments).stdout)["metrics"]["agreement"] > 60
    report = json.loads((tmp_path / "out" / "training_report.json").read_text())
    assert report["training"]["distillation_weight"] == 1
    assert 2e-5 <= report["training"]["learning_rate"] <= 1e-4
    assert report["selection"]["metric"] == "agreement"
    assert (report["selection"]["texts"], report["selection"]["reported_texts"]) == (12, 13)
    assert run("recover", place / "pruned", "-o", tmp_path / "none", *options).exit_code == 2


def test_half_of_the_validation_texts_chooses_the_best_weights(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metrics, the dense model's included, are those of the other half."""
    options = ("--sparsity", "0.5", "--recover-epochs", "1", "--keep-best", "--max-train-samples", "32")
    notes: list[str] = []
    monkeypatch.setattr(progress, "note", notes.append)
    succeed("prune", place / "dense", "-o", tmp_path / "out", *options, *files(place))
    assert (
        "The best weights are chosen by accuracy on 16 of 32 validation texts; the metrics are those of the other 16."
    ) in notes
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["selection"]["texts"], report["selection"]["reported_texts"]) == (16, 16)
    for model in ("dense", "pruned"):
        assert report["models"][model]["accuracy"] % 6.25 == 0  # sixteenths
    few = tmp_path / "few.csv"
    few.write_text("".join((place / "validation.csv").read_text().splitlines(keepends=True)[:20]))
    data = ("--train-file", place / "train.csv", "--validation-file", few)
    refused = run("prune", place / "dense", "-o", tmp_path / "no", *options, *data)
    assert refused.exit_code == 2
    assert "at least 20 texts, not 19" in refused.stderr


def test_what_the_comparison_needs_is_measured_first(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the dense model, for its size: a full disk is reported before anything is pruned."""

    def fail(self: BertForSequenceClassification, folder: Path, *arguments: Any, **options: Any) -> None:
        assert get_plan(self) is None
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(BertForSequenceClassification, "save_pretrained", fail)
    result = run("prune", place / "dense", "-o", tmp_path / "pruned", "--sparsity", "0.5", *files(place))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "the disk is full" in result.stderr
    assert "TMPDIR" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_models_of_few_positions(tmp_path: Path, place: Path) -> None:
    BertForSequenceClassification(BertConfig(vocab_size=25, max_position_embeddings=40, **SMALL)).save_pretrained(
        tmp_path / "short"
    )
    load_tokenizer(place / "dense").save_pretrained(tmp_path / "short")
    common = (*files(place), "--max-length", "32", "--json")
    result = succeed("prune", tmp_path / "short", "-o", tmp_path / "out", "--sparsity", "0.5", *common)
    assert "latency_ms_8x40" in json.loads(result.stdout)["models"]["dense"]
    shown = succeed("prune", tmp_path / "short", "-o", tmp_path / "again", "--sparsity", "0.5", *common[:-1])
    assert "FLOPs, 40 tokens" in shown.stdout
    assert "latency 8×40" in shown.stdout


def test_a_benchmark_needs_a_batch(tmp_path: Path, place: Path) -> None:
    (tmp_path / "texts.txt").write_text("the film was fine\n" * 20)
    result = run("bench", place / "dense", "--text-file", tmp_path / "texts.txt", "--batch-size", "1,32")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "fewer than a batch of 32" in result.stderr


def must_not(*_: object, **__: object) -> None:
    raise AssertionError("It is too late to refuse.")


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ("finetune", ("--learning-rate", "nan"), "learning rate and the temperature"),
        ("finetune", ("--epochs", "inf"), "number of epochs"),
        ("finetune", ("--learning-rate", "1e38", "--epochs", "1"), "diverged"),
        ("finetune", ("--seed", "-1"), "'--seed'"),
        ("prune", ("--sparsity", "0.5", "--recover-epochs", "nan"), "number of epochs"),
        ("prune", ("--sparsity", "0.5", "--recover-epochs", "1", "--temperature", "nan"), "temperature"),
        ("prune", ("--sparsity", "0.5", "--seed", "99999999999999"), "'--seed'"),
    ],
)
def test_what_is_no_number_is_refused(
    command: str, options: tuple[str, ...], said: str, place: Path, tmp_path: Path
) -> None:
    result = run(command, place / "raw", "-o", tmp_path / "out", *options, *files(place))
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["nowhere/chart.png", "chart.doc", "chart", "folder.png", "chart.png"])
def test_a_chart_that_cannot_be_drawn_is_refused_at_once(
    name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr("bertsurgeon.cli.bench.compare", must_not)
    if name == "chart.png":
        monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    result = run("bench", place / "raw", "--chart", tmp_path / name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "chart" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_folders_without_a_name(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for output in ("", "."):
        succeed("finetune", place / "raw", "-o", output, *files(place), "--epochs", "1", "--overwrite")
    assert (tmp_path / "here" / "model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    for command in ("finetune", "recover"):
        result = run(command, place / "raw", "-o", "/", *files(place))
        assert result.exit_code == 2
        assert "root of the file system" in result.stderr


@pytest.mark.parametrize("name", ["run[v2]", "run[/x]", ":bug:"])
def test_names_are_printed_as_they_are(
    name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ("--max-train-samples", "16", *files(place))
    assert f"Saved {name}: load" in succeed("prune", place / "raw", "-o", name, "--sparsity", "0.5", *small).stdout
    dropped = succeed("drop-layers", place / "raw", "-o", name, "--keep", "1", "--overwrite")
    assert f"Saved {name}: layers" in dropped.stdout
    assert name in succeed("bench", name, "--length", "8", "--batch-size", "1", "--runs", "1", "--no-memory").stdout
    assert f"no {name}; pass" in run("inspect", f"no {name}").stderr
    monkeypatch.setattr(progress, "_enabled", True)
    progress.note(f"Saved {name}")
    assert capsys.readouterr().err == f"Saved {name}\n"


@pytest.mark.parametrize(
    ("arguments", "interrupted", "said"),
    [
        (("bench",), "cli.bench.compare", "no output was written."),
        (
            ("finetune", "-o", "out"),
            "workflows.train_and_save.train",
            "no output was written. Pass --resume to continue the training.",
        ),
        (("prune", "-o", "out", "--sparsity", "0.3"), "workflows.pipeline.prune", "no output was written."),
        (("prune", "-o", "out", "--sparsity", "0.3,0.6"), "workflows.pipeline.prune", "finished output is kept."),
    ],
    ids=["bench", "finetune", "prune", "prune twice"],
)
def test_what_an_interrupt_leaves(
    arguments: tuple[str, ...],
    interrupted: str,
    said: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[Callable[..., Any]] = [interrupt]
    if "0.3,0.6" in arguments:
        steps.insert(0, bertsurgeon.prune)
    monkeypatch.setattr(f"bertsurgeon.{interrupted}", lambda *args, **kwargs: steps.pop(0)(*args, **kwargs))
    monkeypatch.chdir(tmp_path)
    command, *options = arguments
    result = run(command, place / "raw", *options, *(files(place) if command != "bench" else ()))
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", f"Interrupted; {said}\n")
    finished = [path.parent.name for path in tmp_path.rglob("config.json")]
    assert finished == (["sparsity-0.3"] if len(arguments) == 5 and "," in arguments[-1] else [])


def test_an_interrupt_of_the_imports() -> None:
    """It comes when the package asks for transformers, which the imports wait for most of the time."""
    program = """
import os, signal, sys
import bertsurgeon_command

class Finder:
    def find_spec(self, name, *_):
        if name == "transformers":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
bertsurgeon_command.main()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "Interrupted; nothing was started.\n")
