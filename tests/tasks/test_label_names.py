"""Classes go by their names: a model's order is its own, and models are compared only if they say the same things."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from bertsurgeon import load_model
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.errors import DataError, ModelError
from bertsurgeon.evaluation import compare, evaluate
from bertsurgeon.exporting.verify import compare as compare_outputs
from bertsurgeon.tasks import TASK_TYPES, Task, TaskData, recode_labels
from bertsurgeon.tasks.distributions import NORMAL
from bertsurgeon.tasks.metrics import sequence_metrics
from cli_helpers import files, run, succeed, tokenized_texts, write_data, write_model

TRAINING = ("--epochs", "16", "--batch-size", "16", "--learning-rate", "2e-3")
REVERSED = {"id2label": {0: "Good", 1: "bad"}, "label2id": {"Good": 0, "bad": 1}}


def rename(folder: Path, old: dict[str, str]) -> None:
    """Gives the labels in the files of ``write_data`` names."""
    for part in ("train", "validation"):
        rows = (folder / f"{part}.csv").read_text()
        for code, name in old.items():
            rows = rows.replace(f",{code}\n", f",{name}\n")
        (folder / f"{part}.csv").write_text(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that numbers its classes otherwise than their order in the alphabet, fine-tuned on them."""
    place = tmp_path_factory.mktemp("names")
    write_model(place / "raw", **REVERSED)
    write_data(place / "train.csv", 64, seed=1)
    write_data(place / "validation.csv", 32, seed=2)
    rename(place, {"0": "bad", "1": "good"})
    succeed("finetune", place / "raw", "-o", place / "dense", *files(place), *TRAINING)
    return place


def scores(*arguments: object) -> dict[str, float]:
    found: dict[str, float] = json.loads(succeed(*arguments, "--json").stdout)["metrics"]
    return found


def names_of(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / "config.json").read_text())["id2label"]
    return found


def test_a_model_keeps_its_own_order(folder: Path, tmp_path: Path) -> None:
    assert names_of(folder / "dense") == {"0": "Good", "1": "bad"}
    assert scores("evaluate", folder / "dense", *files(folder))["accuracy"] > 90
    succeed("prune", folder / "dense", "-o", tmp_path / "pruned", "--sparsity", "0.3", *files(folder))
    recovering = ("recover", tmp_path / "pruned", "--teacher", folder / "dense", "-o", tmp_path / "recovered")
    assert scores(*recovering, *files(folder), *TRAINING)["accuracy"] > 90
    recipe = ("--recipe", "downstream-10", "--epochs", "1", "--teacher", folder / "dense")
    succeed("gradual", folder / "raw", "-o", tmp_path / "sparse", *recipe, *files(folder))
    for place in (tmp_path / "recovered", tmp_path / "sparse"):
        assert names_of(place) == {"0": "Good", "1": "bad"}
    model, tokenizer = load_model(tmp_path / "recovered"), load_tokenizer(tmp_path / "recovered")
    with torch.no_grad():
        logits = model(**tokenizer(["a lovely warm fine film"], return_tensors="pt")).logits
    assert model.config.id2label[int(logits.argmax())] == "Good"


def test_data_may_lack_a_class(tmp_path: Path) -> None:
    names = {"id2label": {0: "awful", 1: "good", 2: "bad"}, "label2id": {"awful": 0, "good": 1, "bad": 2}}
    write_model(tmp_path / "model", **names)
    for part in ("train", "validation"):
        write_data(tmp_path / f"{part}.csv", 16, seed=1)
    rename(tmp_path, {"0": "bad", "1": "good"})
    assert scores("evaluate", tmp_path / "model", *files(tmp_path)).keys() == {"accuracy", "f1"}


def test_other_names_are_refused(folder: Path, tmp_path: Path) -> None:
    for part in ("train", "validation"):
        (tmp_path / f"{part}.csv").write_text((folder / f"{part}.csv").read_text())
    rename(tmp_path, {"bad": "spam", "good": "ham"})
    result = run("evaluate", folder / "dense", *files(tmp_path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Good, bad" in result.stderr
    assert "ham, spam" in result.stderr


KEPT: tuple[tuple[str, tuple[str, ...], dict[int, str] | None], ...] = (
    ("custom", ("0", "1"), {0: "b", 1: "a"}),  # codes are the model's
    ("custom", ("a", "b"), {0: "LABEL_0", 1: "LABEL_1"}),
    ("custom", ("a", "b"), None),
    ("sst2", ("negative", "positive"), {0: "no", 1: "yes"}),  # the codes of a benchmark are the same everywhere
    ("custom", ("a", "b"), {0: "x", 1: "y", 2: "z"}),  # another head: who needs it says so
)


@pytest.mark.parametrize(("name", "labels", "own"), KEPT)
def test_what_stays(name: str, labels: tuple[str, ...], own: dict[int, str] | None) -> None:
    part = Dataset.from_dict({"text": ["x", "y"], "label": [0, 1]})
    data = TaskData(Task(name, ("accuracy",), labels), part, part)
    config: Any = type("Config", (), {"id2label": own})
    assert recode_labels(data, config) is data


@pytest.mark.parametrize("own", [{0: "a", 1: "b", 2: "c"}, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}])
@pytest.mark.parametrize("codes", [[0, 2], [0, 1], [1, 2]])
@pytest.mark.parametrize("task_type", ["classification", "token-classification"])
def test_numbers_are_the_codes_of_the_model(task_type: str, codes: list[int], own: dict[int, str]) -> None:
    """Whichever classes occur: the code of a number does not depend on the others."""
    column = "label" if task_type == "classification" else "tags"
    values: list[Any] = [0, 1] if column == "label" else [[0], [1, 0]]
    part = Dataset.from_dict({"text": ["x", "y"], column: values})
    names = tuple(map(str, codes))
    data = TaskData(Task("custom", ("accuracy",), names, type=TASK_TYPES[task_type]), part, part)
    config: Any = type("Config", (), {"id2label": own})
    found = recode_labels(data, config)
    assert found.task.labels == ("0", "1", "2")
    assert found.validation[column][:] == (codes if column == "label" else [[codes[0]], [codes[1], codes[0]]])
    assert recode_labels(data, config, new_head=True) is data


@pytest.mark.parametrize("names", [("1", "2", "3"), ("-1", "0", "1"), ("00", "01", "02")])
def test_numbers_that_are_no_codes(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only their names in the model tell which class they are; without names, the order is noted."""
    part = Dataset.from_dict({"text": ["x"], "label": [1]})
    data = TaskData(Task("custom", ("accuracy",), names), part, part)
    named: Any = type("Config", (), {"id2label": dict(enumerate(names[::-1]))})
    assert recode_labels(data, named).train["label"][:] == [1]
    assert recode_labels(data, named).task.labels == names[::-1]
    other: Any = type("Config", (), {"id2label": {0: "a", 1: "b", 2: "c"}})
    with pytest.raises(DataError, match=f"the data's are {names[0]}"):
        recode_labels(data, other)
    notes: list[str] = []
    monkeypatch.setattr("bertsurgeon.progress.note_once", notes.append)
    nameless: Any = type("Config", (), {"id2label": {code: f"LABEL_{code}" for code in range(3)}})
    assert recode_labels(data, nameless) is data
    assert notes[0].endswith(f"in sorted order ({names[0]} = 0, {names[1]} = 1, {names[2]} = 2).")


def test_rows_without_a_label_are_refused() -> None:
    part = Dataset.from_dict({"text": ["x"], "label": [0]})
    data = TaskData(Task("custom", ("accuracy",), ("-1", "0", "1")), part, part)
    config: Any = type("Config", (), {"id2label": {0: "a", 1: "b"}})
    with pytest.raises(DataError, match="label -1, which is no class of the model"):
        recode_labels(data, config)


@pytest.mark.parametrize(
    ("task_type", "column", "values", "wanted"),
    [
        ("classification", "label", [0, 1], [2, 0]),
        ("multi-label", "label", [[1.0, 0.0], [1.0, 1.0]], [[0.0, 0.0, 1.0], [1.0, 0.0, 1.0]]),
        ("token-classification", "tags", [[0, 1], [1]], [[2, 0], [0]]),
    ],
)
def test_labels_of_all_task_types_are_recoded(
    task_type: str, column: str, values: list[Any], wanted: list[Any]
) -> None:
    part = Dataset.from_dict({"text": ["x", "y"], column: values})
    data = TaskData(Task("custom", ("accuracy",), ("a", "b"), type=TASK_TYPES[task_type]), part, part)
    config: Any = type("Config", (), {"id2label": {0: "B", 1: "c", 2: "A"}})
    found = recode_labels(data, config)
    assert found.task.labels == ("B", "c", "A")
    assert found.train[column] == found.validation[column] == wanted


def test_data_that_was_not_recoded_is_refused(folder: Path) -> None:
    model, tokenizer = load_model(folder / "dense"), load_tokenizer(folder / "dense")
    task = Task("custom", ("accuracy",), ("bad", "good"))
    with pytest.raises(ModelError, match="align_to_model"):
        evaluate(model, task, tokenized_texts(tokenizer, 4), tokenizer)


# two models


@pytest.mark.parametrize(
    "other", [{"num_labels": 3}, {"num_labels": 1}, REVERSED | {"id2label": {0: "bad", 1: "Good"}}]
)
def test_teachers_and_references_say_the_same_things(folder: Path, other: dict[str, Any], tmp_path: Path) -> None:
    write_model(tmp_path / "other", **other)
    (tmp_path / "texts.txt").write_text("the film was fine\nthe old plot\na dull day\n" * 8)
    succeed("prune", folder / "dense", "-o", tmp_path / "pruned", "--sparsity", "0.3", *files(folder))
    texts = ("--text-file", tmp_path / "texts.txt")
    for command in (
        ("recover", tmp_path / "pruned", "--teacher", tmp_path / "other", "-o", tmp_path / "out", *texts),
        ("evaluate", tmp_path / "pruned", "--reference", tmp_path / "other", *texts),
        (
            *("prune", folder / "dense", "--method", "obert", "--sparsity", "0.5", "--teacher", tmp_path / "other"),
            *("-o", tmp_path / "out", *texts),
        ),
        (
            *("gradual", folder / "dense", "--recipe", "downstream-10", "--teacher", tmp_path / "other"),
            *("-o", tmp_path / "out", *texts),
        ),
    ):
        result = run(*command)
        assert (result.exit_code, result.stdout) == (2, ""), command
        assert "the dense model that the other was made from" in result.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.training").exists()


def test_models_are_compared_by_the_same_tokens(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("the film was fine\nthe old plot\na dull day\n" * 8)
    texts = ("--text-file", tmp_path / "texts.txt")
    succeed("trim-vocabulary", folder / "dense", "-o", tmp_path / "trimmed", *texts)
    for command in (
        ("evaluate", tmp_path / "trimmed", "--reference", folder / "dense", *texts),
        ("evaluate", folder / "dense", "--reference", tmp_path / "trimmed", *texts),
        ("bench", folder / "dense", tmp_path / "trimmed", "--batch-size", "1", *texts),
    ):
        result = run(*command)
        assert (result.exit_code, result.stdout) == (2, ""), command
        assert "different vocabularies" in result.stderr


def test_a_comparison_of_different_heads(folder: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "other", num_labels=3)
    tokenizer = load_tokenizer(folder / "dense")
    models = load_model(folder / "dense"), load_model(tmp_path / "other")
    with pytest.raises(ModelError, match="different types or sizes"):
        compare(*models, tokenized_texts(tokenizer, 8), tokenizer)


# too little to say anything


def test_a_single_text_can_be_compared() -> None:
    wanted = [{"logits": np.array([[1.0, -2.0]], np.float32)}]
    found = [{"logits": np.array([[1.001, -2.0]], np.float32)}]
    assert compare_outputs(found, wanted, [{"input_ids": torch.ones(1, 3)}]).relative_error < 1e-3


def test_constants_have_no_correlation() -> None:
    constant, other = np.ones(4), np.arange(4.0)
    with pytest.raises(DataError, match="All labels are the same"):
        sequence_metrics(("spearman",), constant, other, 1)
    assert sequence_metrics(("spearman",), other, constant, 1) == {"spearman": 0.0}
    for first, second, wanted in ((constant, constant, 100), (constant, other, 0), (other, other, 100)):
        assert math.isclose(NORMAL.agreement(torch.tensor(first), torch.tensor(second)), wanted)
