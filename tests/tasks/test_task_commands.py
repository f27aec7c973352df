"""All task types go the whole way through the command line: fine-tuned, pruned by all methods, exported."""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    RobertaConfig,
)

import bertsurgeon
from bertsurgeon.runtime import Manifest
from bertsurgeon.tasks import TASK_TYPES, task_type_of, tokenize
from cli_helpers import FILLER, WORDS, files, run, succeed, write_model

TRAINING = ("--epochs", "24", "--batch-size", "16", "--learning-rate", "2e-3")


def text(choose: random.Random, classes: list[str], times: int = 1) -> list[str]:
    """Filler around some words of each class."""
    words = choose.choices(FILLER, k=choose.randint(3, 8))
    for name in classes * times:
        words.insert(choose.randrange(len(words)), choose.choice(WORDS[name]))
    return words


def tag(words: list[str]) -> list[str]:
    return [next((f"B-{name}" for name, known in WORDS.items() if word in known), "O") for word in words]


def answer(words: list[str]) -> dict[str, Any]:
    """The word of a class is the answer to every question."""
    found = [place for place, mark in enumerate(tag(words)) if mark != "O"][:1]
    starts = [len(" ".join([*words[:place], ""])) for place in found]
    return {"text": [words[place] for place in found], "answer_start": starts}


def multi_label(choose: random.Random, row: int) -> dict[str, Any]:
    labels = [name for number, name in enumerate(WORDS) if (row >> number) % 2]
    return {"text": " ".join(text(choose, labels, 3)), "label": labels}


def token(choose: random.Random, row: int) -> dict[str, Any]:
    words = text(choose, [("good", "bad")[row % 2]])
    return {"tokens": words, "tags": tag(words)}


def question(choose: random.Random, row: int) -> dict[str, Any]:
    words = text(choose, [("good", "bad")[row % 2]] if row % 4 else [])
    return {"question": "film the day", "context": " ".join(words), "answers": answer(words)}


ROWS: dict[str, Callable[[random.Random, int], dict[str, Any]]] = {
    "multi-label": multi_label,
    "token-classification": token,
    "question-answering": question,
}
FIRST = {"multi-label": "micro_f1", "token-classification": "f1", "question-answering": "f1"}


def write_rows(task_type: str, path: Path, rows: int, seed: int) -> None:
    choose = random.Random(seed)
    lines = [json.dumps(ROWS[task_type](choose, row)) for row in range(rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module", params=list(ROWS))
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of one task type, and a model fine-tuned on it."""
    folder: Path = tmp_path_factory.mktemp("place") / request.param
    write_model(folder / "raw")
    write_rows(request.param, folder / "train.jsonl", 96, seed=1)
    write_rows(request.param, folder / "validation.jsonl", 40, seed=2)
    succeed("finetune", folder / "raw", "-o", folder / "dense", *data(folder), *TRAINING)
    return folder


def data(folder: Path) -> list[str]:
    parts = [f"--{part}-file={folder / part}.jsonl" for part in ("train", "validation")]
    return [*parts, "--task-type", folder.name, "--max-length", "64"]


def metric(folder: Path, printed: str) -> float:
    return float(json.loads(printed)["metrics"][FIRST[folder.name]])


def test_it_is_learnt(place: Path) -> None:
    model = bertsurgeon.load_model(place / "dense")
    assert type(task_type_of(model)) is type(TASK_TYPES[place.name])
    assert metric(place, succeed("evaluate", place / "dense", *data(place), "--json").stdout) > 85


def test_pruned_without_labels_recovered_and_exported(place: Path, tmp_path: Path) -> None:
    """``auto`` keeps what the labels would have asked for, though it sees none."""
    calibration = ("--calibration", tmp_path / "calibration")
    succeed("calibrate", place / "dense", *data(place), "-o", tmp_path / "calibration")
    options = ("--sparsity", "0.5", *calibration, "--json", *data(place))
    pruned = json.loads(succeed("prune", place / "dense", "-o", tmp_path / "pruned", *options).stdout)
    assert pruned["models"]["pruned"][FIRST[place.name]] > 85
    assert task_type_of(bertsurgeon.load_model(tmp_path / "pruned")) is task_type_of(
        bertsurgeon.load_model(place / "dense")
    )
    teacher = ("--teacher", place / "dense", "--epochs", "3", "--learning-rate", "1e-3", "--hidden-weight", "1")
    recover = succeed("recover", tmp_path / "pruned", "-o", tmp_path / "out", *teacher, *data(place), "--json")
    recovered = metric(place, recover.stdout)
    assert recovered > 90
    exported = ("export", tmp_path / "out", "-o", tmp_path / "onnx", "--to", "onnx", *data(place), "--json")
    check = json.loads(succeed(*exported).stdout)["check"]
    assert check["agreement"] == pytest.approx(100, abs=0.1)
    assert set(TASK_TYPES[place.name].outputs) <= set(Manifest.load(tmp_path / "onnx").outputs)
    found = metric(place, succeed("evaluate", tmp_path / "onnx", *data(place), "--json").stdout)
    assert found == pytest.approx(recovered, abs=1e-3)
    names = (place / "dense", tmp_path / "onnx")
    bench = succeed("bench", *names, *data(place), "--batch-size", "2", "--runs", "1", "--no-memory", "--json").stdout
    assert len(json.loads(bench)["models"]) == 2


@pytest.mark.parametrize("method", ["pgb", "obert"])
def test_pruned_with_the_labelled_loss(method: str, place: Path, tmp_path: Path) -> None:
    options = ("--method", method, "--sparsity", "0.3", "--recover-epochs", "1", "--json", *data(place))
    found = json.loads(succeed("prune", place / "dense", "-o", tmp_path / "out", *options).stdout)
    assert found["models"]["pruned"][FIRST[place.name]] > 80
    bertsurgeon.load_model(tmp_path / "out")


def test_raw_text_is_enough(place: Path, tmp_path: Path) -> None:
    choose = random.Random(3)
    (tmp_path / "texts.txt").write_text("\n".join(" ".join(text(choose, ["bad"])) for _ in range(40)))
    options = ("--text-file", tmp_path / "texts.txt", "--sparsity", "0.5", "--recover-epochs", "1", "--json")
    found = json.loads(succeed("prune", place / "dense", "-o", tmp_path / "out", *options).stdout)
    assert found["models"]["dense"]["agreement"] == 100
    assert found["models"]["pruned"]["agreement"] > 60


def test_pruned_while_it_is_trained(place: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        """
epochs: 2
batch_size: 16
weight_decay: 0.0
learning_rate: {start: 1.0e-3, end: 1.0e-4, rewinds: none}
distillation: {distillation_weight: 0.5, temperature: 2.0}
pruning:
  sparsity: 0.5
  first_sparsity: 0.2
  start: 0
  end: 1
  every: 1
  pattern: unstructured
  update: obert
  block_size: 16
  damping: 1.0e-6
  gradients: 16
  gradient_batch_size: 1
"""
    )
    options = ("--recipe", tmp_path / "recipe.yaml", "--teacher", place / "dense", "--json", *data(place))
    found = json.loads(succeed("gradual", place / "dense", "-o", tmp_path / "out", *options).stdout)
    assert found["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert found["metrics"][FIRST[place.name]] > 80


def test_heads_and_tasks_must_fit(place: Path, tmp_path: Path) -> None:
    other = next(name for name in ROWS if name != place.name)
    write_rows(other, tmp_path / "other.jsonl", 8, seed=1)
    files = (f"--train-file={tmp_path}/other.jsonl", f"--validation-file={tmp_path}/other.jsonl", "--task-type", other)
    result = run("evaluate", place / "dense", *files)
    assert result.exit_code == 2
    assert f"--task-type {place.name}" in " ".join(result.stderr.split())


def test_options_of_questions_only(place: Path) -> None:
    for option in (("--doc-stride", "16"), ("--null-threshold", "1.5")):
        result = run("evaluate", place / "dense", *data(place), *option)
        if place.name == "question-answering":
            assert result.exit_code == 0
        else:
            assert result.exit_code == 2
            assert "question answering only" in " ".join(result.stderr.split())
    if place.name == "question-answering":
        never = json.loads(
            succeed("evaluate", place / "dense", *data(place), "--null-threshold", "-99", "--json").stdout
        )["metrics"]
        assert never["has_answer_f1"] == 0
        assert never["no_answer_accuracy"] == 100
        assert never["best_f1"] > 85
    named = run("evaluate", place / "dense", "--task", "sst2", "--task-type", place.name)
    assert "has a type of its own" in " ".join(named.stderr.split())


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        (BertConfig(max_position_embeddings=20), 20),
        (GPT2Config(n_positions=20), 20),
        (RobertaConfig(max_position_embeddings=20, pad_token_id=1), 18),
        (MPNetConfig(max_position_embeddings=20), 18),
        (DebertaV2Config(max_position_embeddings=20), 20),
        (DebertaV2Config(max_position_embeddings=20, position_biased_input=False), 40),
        (ModernBertConfig(max_position_embeddings=20), 40),
        (None, 40),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_texts_end_where_positions_end(
    config: PretrainedConfig | None, longest: int, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    if config is not None:
        config.save_pretrained(tmp_path)
    own = copy.deepcopy(tokenizer)
    own.name_or_path, own.model_max_length = str(tmp_path), 10**30
    rows = tokenize(Dataset.from_dict({"text": ["film " * 60, "film"]}), own, 40)
    assert [len(ids) for ids in rows["input_ids"]] == [longest, 3]


def test_no_length_exceeds_the_model(folder: Path, tmp_path: Path) -> None:
    """The tokenizer knows no limit, texts are longer than the model's 128 positions, and so is what is asked for."""
    model, pruned, data = tmp_path / "endless", tmp_path / "pruned", ["--max-length", "512"]
    bertsurgeon.load_model(folder / "dense").save_pretrained(model)
    own = AutoTokenizer.from_pretrained(folder / "dense", model_max_length=10**30)
    own.save_pretrained(model)
    choose = random.Random(0)
    for part in ("train", "validation"):
        rows = [f"{' '.join(text(choose, [('bad', 'good')[row % 2]], 200))},{row % 2}" for row in range(16)]
        (tmp_path / f"{part}.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    data += files(tmp_path)
    succeed("prune", model, "-o", pruned, "--sparsity", "0.5", *data)
    succeed("evaluate", pruned, *data)
    succeed("finetune", model, "-o", tmp_path / "tuned", "--epochs", "1", *data)
    succeed("export", pruned, "-o", tmp_path / "onnx", "--to", "onnx", *data)
    succeed("evaluate", tmp_path / "onnx", *data)
    succeed("drop-layers", model, "-o", tmp_path / "small", "--keep", "1", "--strategy", "importance", *data)
    succeed("bench", model, "--batch-size", "2", "--runs", "1", "--no-memory", *data)
