"""All nine GLUE tasks, in the files as they are distributed and in the hub's columns."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from bertsurgeon.errors import DataError
from bertsurgeon.tasks import TASKS, load_task

PARSED = ["index", "promptID", "pairID", "genre", "parse1", "parse2", "binary1", "binary2", "sentence1", "sentence2"]
MNLI = {"p": "6", "sentence1": "Fun for adults.", "sentence2": "Fun for all."}

FILES: dict[str, tuple[str, dict[str, Sequence[str] | None], dict[str, str], dict[str, Any]]] = {
    # folder, header by file (None: no header), a row, what it becomes
    "cola": (
        "CoLA",
        {"train.tsv": None, "dev.tsv": None},
        {"source": "gj04", "label": "0", "mark": "*", "sentence": "They drank the pub."},
        {"text": "They drank the pub.", "label": 0},
    ),
    "sst2": (
        "SST-2",
        dict.fromkeys(("train.tsv", "dev.tsv"), ("sentence", "label")),
        {"sentence": "a gorgeous film", "label": "1"},
        {"text": "a gorgeous film", "label": 1},
    ),
    "mrpc": (
        "MRPC",
        dict.fromkeys(("train.tsv", "dev.tsv"), ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")),
        {"Quality": "1", "#1 String": "He agreed.", "#2 String": 'He said "yes'},
        {"text": "He agreed.", "text_pair": 'He said "yes', "label": 1},
    ),
    "stsb": (
        "STS-B",
        dict.fromkeys(("train.tsv", "dev.tsv"), ("index", "genre", "filename", "sentence1", "sentence2", "score")),
        {"sentence1": "A plane.", "sentence2": "An air plane.", "score": "4.750"},
        {"text": "A plane.", "text_pair": "An air plane.", "label": 4.75},
    ),
    "qqp": (
        "QQP",
        dict.fromkeys(("train.tsv", "dev.tsv"), ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")),
        {"question1": "How are you?", "question2": "How is it?", "is_duplicate": "1"},
        {"text": "How are you?", "text_pair": "How is it?", "label": 1},
    ),
    "mnli": (
        "MNLI",
        {"train.tsv": [*PARSED, "label1", "gold_label"], "dev_matched.tsv": [*PARSED, "label1", "l2", "gold_label"]},
        {**MNLI, "label1": "neutral", "gold_label": "contradiction"},
        {"text": "Fun for adults.", "text_pair": "Fun for all.", "label": 2},
    ),
    "mnli-mm": (
        "MNLI",
        {"train.tsv": [*PARSED, "label1", "gold_label"], "dev_mismatched.tsv": [*PARSED, "label1", "l2", "gold_label"]},
        {**MNLI, "label1": "neutral", "gold_label": "entailment"},
        {"text": "Fun for adults.", "text_pair": "Fun for all.", "label": 0},
    ),
    "qnli": (
        "QNLI",
        dict.fromkeys(("train.tsv", "dev.tsv"), ("index", "question", "sentence", "label")),
        {"question": "When?", "sentence": "In 1066.", "label": "not_entailment"},
        {"text": "When?", "text_pair": "In 1066.", "label": 1},
    ),
    "rte": (
        "RTE",
        dict.fromkeys(("train.tsv", "dev.tsv"), ("index", "sentence1", "sentence2", "label")),
        {"sentence1": "It rains.", "sentence2": "It is wet.", "label": "entailment"},
        {"text": "It rains.", "text_pair": "It is wet.", "label": 0},
    ),
    "wnli": (
        "WNLI",
        dict.fromkeys(("train.tsv", "dev.tsv"), ("index", "sentence1", "sentence2", "label")),
        {"sentence1": "I stuck a pin.", "sentence2": "The pin hurt.", "label": "1"},
        {"text": "I stuck a pin.", "text_pair": "The pin hurt.", "label": 1},
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_as_distributed(name: str, tmp_path: Path) -> None:
    folder, headers, row, wanted = FILES[name]
    (tmp_path / folder).mkdir()
    for file, header in headers.items():
        cells = list(row.values()) if header is None else [row.get(column, "x") for column in header]
        lines = [cells] if header is None else [header, cells, ["a broken line"]]
        (tmp_path / folder / file).write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    found = load_task(name, tmp_path)
    assert found.train.to_list() == found.validation.to_list() == [wanted]


def test_both_halves_of_mnli_validate_apart(tmp_path: Path) -> None:
    folder, headers, row, _ = FILES["mnli"]
    (tmp_path / folder).mkdir()
    for file, label in (("train.tsv", "neutral"), ("dev_matched.tsv", "entailment"), ("dev_mismatched.tsv", "neutral")):
        header = headers["train.tsv"]
        assert header is not None
        cells = [{**row, "gold_label": label}.get(column, "x") for column in header]
        (tmp_path / folder / file).write_text("\t".join(header) + "\n" + "\t".join(cells) + "\n", encoding="utf-8")
    assert load_task("mnli", tmp_path).validation["label"][:] == [0]
    assert load_task("mnli-mm", tmp_path).validation["label"][:] == [1]


@pytest.mark.parametrize("name", FILES)
def test_from_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS[name]
    asked: list[tuple[str, ...]] = []

    def deliver(*names: str, split: str) -> Dataset:
        asked.append((*names, split))
        row = {column: [f"{column} text"] for column in task.hub_columns} | {"label": [0], "idx": [7]}
        return Dataset.from_dict(row)

    monkeypatch.setattr("datasets.load_dataset", deliver)
    found = load_task(name)
    hub_name = "mnli" if name == "mnli-mm" else name
    assert asked == [("glue", hub_name, "train"), ("glue", hub_name, task.validation_split)]
    roles = ("text", "text_pair")[: len(task.hub_columns)]
    wanted = {role: f"{column} text" for role, column in zip(roles, task.hub_columns, strict=True)}
    assert found.validation.to_list() == [{**wanted, "label": 0}]


def test_without_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: str, split: str) -> None:
        raise ConnectionError

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(DataError, match=r"ConnectionError.*--data-dir"):
        load_task("qqp")
