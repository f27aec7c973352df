"""Validation data without training data: classes have the codes of the model, and the notes count them."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import BertConfig

from bertsurgeon.errors import DataError
from bertsurgeon.tasks import TASK_TYPES, load_task, load_task_validation, load_user_task, load_user_validation


def model_for(names: dict[int, str] | int, head: str = "ForSequenceClassification", **config: Any) -> Any:
    """What is read of a model: its configuration, with names of classes or only their number."""
    sizes = {"num_labels": names} if isinstance(names, int) else {"id2label": names, "num_labels": len(names)}
    return SimpleNamespace(config=BertConfig(architectures=[f"Bert{head}"], **sizes, **config))


THREE = {0: "Positive", 1: "negative", 2: "neutral"}


def write(path: Path, labels: list[Any]) -> Path:
    rows = "".join(f"text {number},{label}\n" for number, label in enumerate(labels))
    path.write_text(f"text,label\n{rows}")
    return path


@pytest.mark.parametrize(
    ("names", "labels", "codes"),
    [
        (THREE, ["neutral", "positive"], [2, 0]),
        (THREE, ["neutral"], [2]),
        (THREE, [2, 1], [2, 1]),
        (3, [2, 1], [2, 1]),
        ({0: "1", 1: "2", 2: "3"}, [2, 3], [1, 2]),
        (2, ["good", "bad"], [1, 0]),
    ],
    ids=["names", "one class", "codes", "codes of a model without names", "names that are numbers", "as many classes"],
)
def test_classes_have_the_codes_of_the_model(
    names: dict[int, str] | int, labels: list[Any], codes: list[int], tmp_path: Path
) -> None:
    task, rows = load_user_validation(write(tmp_path / "validation.csv", labels), model_for(names))
    assert rows["label"][:] == codes
    assert task.num_labels == (names if isinstance(names, int) else len(names))


@pytest.mark.parametrize(
    ("names", "labels", "words"),
    [
        (4, ["good", "bad"], r"4 classes without names.*holds 2 of them \(bad, good\).*codes \(0 to 3\).*--train-file"),
        (4, [1, 7], "4 classes without names"),
        (THREE, ["neutral", "mixed"], "classes are Positive, negative, neutral, and .* holds mixed, neutral;"),
        ({code: f"class {code}" for code in range(30)}, ["x"], "class 9 and 20 more"),
    ],
)
def test_classes_with_unknown_codes(names: dict[int, str] | int, labels: list[Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        load_user_validation(write(tmp_path / "validation.csv", labels), model_for(names))


def test_the_head_decides_the_type(tmp_path: Path) -> None:
    task, rows = load_user_validation(write(tmp_path / "scores.csv", [3, 5]), model_for(1))
    assert (task.type, rows["label"][:]) == (TASK_TYPES["regression"], [3.0, 5.0])
    path = tmp_path / "several.jsonl"
    path.write_text('{"text": "a", "label": ["negative"]}\n{"text": "b", "label": []}\n')
    model = model_for(THREE, problem_type="multi_label_classification")
    task, rows = load_user_validation(path, model)
    assert rows["label"][:] == [[0, 1, 0], [0, 0, 0]]


def test_tags_have_the_codes_of_the_model(tmp_path: Path) -> None:
    path = tmp_path / "dev.conll"
    path.write_text("Ada B-PER\nspoke O\n")
    tags = {0: "B-LOC", 1: "B-PER", 2: "I-PER", 3: "O"}
    task, rows = load_user_validation(path, model_for(tags, "ForTokenClassification"))
    assert (rows["tags"][:], task.primary_metric) == ([[1, 3]], "f1")


def test_a_task_without_its_training_file(tmp_path: Path) -> None:
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2" / "dev.tsv").write_text("sentence\tlabel\ngood\t1\nbad\t0\n")
    assert load_task_validation("sst2", model_for(2), tmp_path).rows["label"][:] == [1, 0]
    swapped = model_for({0: "positive", 1: "negative"})
    assert load_task_validation("sst2", swapped, tmp_path).rows["label"][:] == [0, 1]
    with pytest.raises(DataError, match=r"no files of task 'sst2'.*SST-2/train.tsv"):
        load_task("sst2", tmp_path)
    with pytest.raises(DataError, match=r"no validation file of task 'mrpc'.*MRPC/dev.tsv"):
        load_task_validation("mrpc", model_for(2), tmp_path)


# notes


def test_a_file_and_its_classes_are_noted_once(tmp_path: Path, notes: list[str]) -> None:
    train = write(tmp_path / "train.csv", ["negative"] * 1200 + ["positive"] * 3)
    validation = write(tmp_path / "validation.csv", ["positive"])
    for _ in range(2):
        load_user_task(train, validation)
    assert notes == [
        "Read 1,203 rows of train.csv: negative 1,200, positive 3.",
        "Read 1 row of validation.csv: negative 0, positive 1.",
    ]


def as_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


SPAN = {"question": "Who?", "context": "Ada.", "answers": {"text": ["Ada"], "answer_start": [0]}}

NOTES: dict[str, tuple[str, str, str]] = {
    "many classes": (
        "classification",
        as_lines([{"text": "a", "label": f"class {row % 12}"} for row in range(27)]),
        "27 rows of data.jsonl: 12 classes, 2 to 3 rows each.",
    ),
    "numbered classes": (
        "classification",
        as_lines([{"text": "a", "label": label} for label in (0, 1, 1)]),
        "3 rows of data.jsonl: class 0: 1, class 1: 2.",
    ),
    "regression": (
        "regression",
        as_lines([{"text": "a", "label": label} for label in (0.25, 5)]),
        "2 rows of data.jsonl: labels from 0.25 to 5.",
    ),
    "multi-label": (
        "multi-label",
        as_lines([{"text": "a", "label": label} for label in (["x", "y"], ["x"], [])]),
        "3 rows of data.jsonl: x 2, y 1; 1 without a label.",
    ),
    "tags": (
        "token-classification",
        as_lines([{"tokens": ["a", "b"], "tags": ["O", "B-X"]}, {"tokens": ["c"], "tags": ["O"]}]),
        "2 sentences of data.jsonl: 3 words, 2 different tags.",
    ),
    "answers": (
        "question-answering",
        as_lines([SPAN, {**SPAN, "answers": {"text": [], "answer_start": []}}]),
        "2 questions of data.jsonl: 1 with an answer, 1 without.",
    ),
    "all answered": ("question-answering", as_lines([SPAN]), "1 question of data.jsonl: all with an answer."),
    "pairs": (
        "embedding",
        as_lines([{"text": "a", "text_pair": "b", "label": label} for label in (1, 4)]),
        "2 rows of data.jsonl: scores from 1 to 4.",
    ),
}


@pytest.mark.parametrize(("kind", "content", "note"), NOTES.values(), ids=NOTES)
def test_what_is_read_of_each_type(kind: str, content: str, note: str, tmp_path: Path, notes: list[str]) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    load_user_task(path, path, task_type=TASK_TYPES[kind])
    assert notes == [f"Read {note}"]


def test_nothing_is_counted_in_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse: Callable[..., None] = lambda *_: pytest.fail("counted")  # noqa: E731
    monkeypatch.setattr("bertsurgeon.tasks.types.sequence.summarize_counts", refuse)
    path = write(tmp_path / "data.csv", ["a", "b"])
    load_user_task(path, path)
