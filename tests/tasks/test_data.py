import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from numpy.typing import NDArray

from bertsurgeon.errors import DataError, OptionError
from bertsurgeon.tasks import TASK_TYPES, TASKS, Task, TaskData, get_task, limit_rows, load_task, load_user_task
from bertsurgeon.tasks.docstrings import read_docstrings

BOM = "\ufeff"


def write(folder: Path, lines: dict[str, list[list[str]]], prefix: str = "", newline: str = "\n") -> None:
    folder.mkdir(parents=True)
    for name, rows in lines.items():
        text = prefix + "".join("\t".join(row) + newline for row in rows)
        (folder / name).write_bytes(text.encode())


# GLUE's files


def test_sst2(tmp_path: Path) -> None:
    header = ["sentence", "label"]
    write(
        tmp_path / "SST-2",
        {
            "train.tsv": [header, ["a gorgeous film ", "1"], ['dull , "clever" ', "0"], ["fine", "1"]],
            "dev.tsv": [header, ["bad", "0"]],
        },
    )
    data = load_task("sst2", tmp_path)
    assert data.train["text"][:] == ["a gorgeous film ", 'dull , "clever" ', "fine"]
    assert data.train["label"][:] == [1, 0, 1]
    assert data.validation.to_list() == [{"text": "bad", "label": 0}]


def test_the_tasks_own_folder_will_do(tmp_path: Path) -> None:
    rows = [["sentence", "label"], ["good", "1"]]
    write(tmp_path / "elsewhere", {"train.tsv": rows, "dev.tsv": rows})
    assert len(load_task("sst2", tmp_path / "elsewhere").train) == 1


def test_cola_has_no_header(tmp_path: Path) -> None:
    write(
        tmp_path / "CoLA",
        {
            "train.tsv": [["gj04", "1", "", "Our friends won't buy."], ["gj04", "0", "*", "They drank."]],
            "dev.tsv": [["gj04", "1", "", "The sailors rode."]],
        },
    )
    data = load_task("cola", tmp_path)
    assert data.train.to_list() == [
        {"text": "Our friends won't buy.", "label": 1},
        {"text": "They drank.", "label": 0},
    ]
    assert len(data.validation) == 1


def test_mrpc_with_byte_order_mark_and_lone_quotes(tmp_path: Path) -> None:
    header = ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]
    write(
        tmp_path / "MRPC",
        {
            "msr_paraphrase_train.txt": [
                header,
                ["1", "1", "2", 'He said , "yes .', "He agreed ."],
                ["0", "3", "4", "One .", '" Two .'],
            ],
            "msr_paraphrase_test.txt": [header, ["1", "5", "6", "Three .", "Four ."]],
        },
        prefix=BOM,
        newline="\r\n",
    )
    data = load_task("mrpc", tmp_path)
    assert data.train.to_list() == [
        {"text": 'He said , "yes .', "text_pair": "He agreed .", "label": 1},
        {"text": "One .", "text_pair": '" Two .', "label": 0},
    ]
    assert len(data.validation) == 1


def test_rte_codes_named_classes(tmp_path: Path) -> None:
    header = ["index", "sentence1", "sentence2", "label"]
    rows = [header, ["0", "A", "B", "not_entailment"], ["1", "C", "D", "entailment"]]
    write(tmp_path / "RTE", {"train.tsv": rows, "dev.tsv": rows})
    data = load_task("rte", tmp_path)
    assert data.train["label"][:] == [1, 0]
    assert data.train["text_pair"][:] == ["B", "D"]


def test_stsb_with_further_columns_and_quotes(tmp_path: Path) -> None:
    start = ["main-captions", "MSRvid", "2012test"]
    write(
        tmp_path / "STS-B",
        {
            "sts-train.csv": [
                [*start, "0001", "5.000", "A plane, taking off.", "An air plane."],
                [*start, "0004", "3.800", '"A man', 'A "man" plays.', "license", "source"],
            ],
            "sts-dev.csv": [[*start, "0002", "0.25", "A", "B"]],
        },
    )
    data = load_task("stsb", tmp_path)
    assert data.task.type is TASK_TYPES["regression"]
    assert data.train.to_list() == [
        {"text": "A plane, taking off.", "text_pair": "An air plane.", "label": 5.0},
        {"text": '"A man', "text_pair": 'A "man" plays.', "label": 3.8},
    ]
    assert data.validation["label"][:] == [0.25]


def test_glue_errors(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no task 'sst3'"):
        load_task("sst3")
    with pytest.raises(DataError, match="does not exist"):
        load_task("sst2", tmp_path / "missing")
    with pytest.raises(DataError, match="no files of task 'sst2'"):
        load_task("sst2", tmp_path)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([], "holds no rows"),
        ([["sentence", "label"]], "holds no rows"),
        ([["text", "label"], ["good", "1"]], "lacks a column"),
        ([["sentence", "label"], ["good"]], "too few columns"),
        ([["sentence", "label"], ["good", "2"]], "holds a label"),
        ([["sentence", "label"], ["good", "great"]], "holds a label"),
    ],
)
def test_malformed_glue_files(tmp_path: Path, train: list[list[str]], message: str) -> None:
    write(tmp_path / "SST-2", {"train.tsv": train, "dev.tsv": [["sentence", "label"], ["good", "1"]]})
    with pytest.raises(DataError, match=message):
        load_task("sst2", tmp_path)


def test_glue_files_in_another_encoding(tmp_path: Path) -> None:
    rows = [["sentence", "label"], ["good", "1"]]
    write(tmp_path / "SST-2", {"train.tsv": rows, "dev.tsv": rows})
    (tmp_path / "SST-2" / "dev.tsv").write_bytes("sentence\tlabel\ncafé\t1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"dev\.tsv cannot be read as UTF-8"):
        load_task("sst2", tmp_path)


def test_glue_files_with_long_texts(tmp_path: Path) -> None:
    rows = [["sentence", "label"], ["long " * 50_000, "1"]]
    write(tmp_path / "SST-2", {"train.tsv": rows, "dev.tsv": rows})
    assert load_task("sst2", tmp_path).train["text"][:] == ["long " * 50_000]


# The user's own files

FRAME = pd.DataFrame({"text": ["a, b", 'say "c"', "d"], "label": ["spam", "ham", "spam"]})


def save(frame: pd.DataFrame, path: Path) -> Path:
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".tsv":
            frame.to_csv(path, index=False, sep="\t")
        case ".parquet":
            frame.to_parquet(path)
        case _:
            frame.to_json(path, orient="records", lines=True)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_user_files(tmp_path: Path, suffix: str) -> None:
    path = save(FRAME, tmp_path / f"data{suffix}")
    data = load_user_task(path, path)
    assert data.task.labels == ("ham", "spam")
    assert data.train["text"][:] == ["a, b", 'say "c"', "d"]
    assert data.train["label"][:] == [1, 0, 1]


@pytest.mark.parametrize(("indent", "mark"), [(None, ""), (2, ""), (2, BOM)], ids=["line", "lines", "mark"])
def test_json_may_be_an_array(tmp_path: Path, indent: int | None, mark: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(mark + json.dumps(FRAME.to_dict("records"), indent=indent), encoding="utf-8")
    data = load_user_task(path, path)
    assert data.train["text"][:] == ["a, b", 'say "c"', "d"]
    assert data.train["label"][:] == [1, 0, 1]


def test_user_columns_and_pairs(tmp_path: Path) -> None:
    frame = pd.DataFrame({"q": ["a", "b"], "r": ["c", "d"], "extra": [1, 2], "y": [0, 1]})
    path = save(frame, tmp_path / "data.csv")
    data = load_user_task(path, path, "q", "r", "y")
    assert data.train.to_list() == [
        {"text": "a", "text_pair": "c", "label": 0},
        {"text": "b", "text_pair": "d", "label": 1},
    ]


def test_integer_classes_sort_by_number(tmp_path: Path) -> None:
    labels = [10, 2, 0, 10, 2, 0]
    path = save(pd.DataFrame({"text": list("abcdef"), "label": labels}), tmp_path / "data.jsonl")
    data = load_user_task(path, path)
    assert data.task.labels == ("0", "2", "10")
    assert data.train["label"][:] == [2, 1, 0, 2, 1, 0]


def test_real_labels_make_a_regression(tmp_path: Path) -> None:
    train = save(pd.DataFrame({"text": ["a", "b"], "label": [0.5, 2.0]}), tmp_path / "train.csv")
    validation = save(pd.DataFrame({"text": ["c", "d"], "label": [1, 2]}), tmp_path / "validation.csv")
    data = load_user_task(train, validation)
    assert data.task.type is TASK_TYPES["regression"]
    assert data.train["label"][:] == [0.5, 2.0]
    assert data.validation["label"][:] == [1.0, 2.0]


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes printed while files are read."""
    messages: list[str] = []
    monkeypatch.setattr("bertsurgeon.progress.note", messages.append)
    return messages


def test_incomplete_rows_are_dropped(tmp_path: Path, notes: list[str]) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text,label\na,0\n,1\nb,\nc,1\n")
    data = load_user_task(path, path)
    assert data.train.to_list() == [{"text": "a", "label": 0}, {"text": "c", "label": 1}]
    assert notes == [f"Skipped 2 incomplete rows of {path}."] * 2


def test_torn_rows_of_glue_are_left_out(tmp_path: Path, notes: list[str]) -> None:
    rows = [["sentence", "label"], ["good", "1"], ["torn"], ["bad", "0"]]
    write(tmp_path / "SST-2", {"train.tsv": rows, "dev.tsv": rows})
    assert load_task("sst2", tmp_path).train["text"][:] == ["good", "bad"]
    assert [note.split(" of ")[0] for note in notes] == ["Skipped 1 incomplete rows"] * 2


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_words_that_pandas_takes_for_nothing(tmp_path: Path, suffix: str, notes: list[str]) -> None:
    words = ["None", "NA", "null", "nan", "N/A"]
    path = save(pd.DataFrame({"text": words, "label": words[::-1]}), tmp_path / f"data{suffix}")
    data = load_user_task(path, path)
    assert data.train["text"][:] == words
    assert [data.task.labels[code] for code in data.train["label"]] == words[::-1]
    assert notes == []


def test_flags_and_rows_with_names(tmp_path: Path) -> None:
    """The first column has no header: pandas takes it for the rows' names, which may repeat."""
    path = tmp_path / "data.csv"
    path.write_text("text,label\nx,a,1\nx,b,NA\nx,c,0\n")
    assert load_user_task(path, path).train["label"][:] == [1, 0]
    path.write_text("text,label\na,True\nb,\nc,False\n")
    assert load_user_task(path, path).task.labels == ("False", "True")


@pytest.mark.parametrize("label", ["inf", "good"])
@pytest.mark.parametrize("task_type", ["regression", "embedding"])
def test_what_is_no_number_is_refused(tmp_path: Path, label: str, task_type: str) -> None:
    path = tmp_path / "data.jsonl"
    rows = [{"text": "a", "text_pair": "b", "label": value} for value in ("1", label)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(DataError, match=f"numbers.*{label}"):
        load_user_task(path, path, task_type=TASK_TYPES[task_type])


@pytest.mark.parametrize("gap", ["", "NA", "nan"])
def test_scores_are_numbers_and_gaps_are_missing(tmp_path: Path, gap: str, notes: list[str]) -> None:
    path = tmp_path / "data.csv"
    path.write_text(f"text,label\nNA,0.5\nb,{gap}\nnull,2\n")
    data = load_user_task(path, path)
    assert data.task.type is TASK_TYPES["regression"]
    assert data.train.to_list() == [{"text": "NA", "label": 0.5}, {"text": "null", "label": 2.0}]
    assert len(notes) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.csv", None, "does not exist"),
        ("data.xlsx", "text,label\na,0\n", "unknown type"),
        ("data.csv", "", "is empty"),
        ("data.jsonl", "", "is empty|holds no rows"),
        ("data.parquet", "", "is empty"),
        ("data.parquet", "no parquet", "cannot be read as parquet"),
        ("data.jsonl", "{text", "cannot be read as jsonl"),
        ("data.json", '[{"text": "a"', "cannot be read as json"),
        ("data.json", '[{"text": "a", "label": 0}, 5]', "cannot be read as json"),
        ("data.json", "[]", "holds no rows"),
        ("data.csv", "text,label\na,0\nb,c,1\n", r"cannot be read as csv: .* in line 3, saw 3\."),
        ("data.csv", "text,label\n", "holds no rows"),
        ("data.csv", "text,label\n,\n", "no complete rows"),
        ("data.csv", "sentence,label\na,0\n", "no column 'text'.*--text-column"),
        ("data.csv", "text,class\na,0\n", "no column 'label'.*--label-column"),
        ("data.csv", "text,label\na,0\nb,0\n", "single class"),
    ],
)
def test_user_file_errors(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        load_user_task(path, path)
    assert "\n" not in str(error.value)


def test_label_columns_named_twice(tmp_path: Path) -> None:
    path = save(pd.DataFrame({"text": ["a", "b"], "x": [0, 1], "y": [1, 1]}), tmp_path / "data.csv")
    with pytest.raises(DataError, match="'x' twice"):
        load_user_task(path, path, label_column="x,x,y", task_type=TASK_TYPES["multi-label"])


def test_texts_as_labels_are_refused(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(1100)]
    path = save(pd.DataFrame({"text": texts, "label": texts}), tmp_path / "data.csv")
    other = save(pd.DataFrame({"text": ["a"], "label": ["b"]}), tmp_path / "other.csv")
    with pytest.raises(DataError, match="does not look like labels"):
        load_user_task(path, other)


def test_mixed_real_and_named_labels_are_refused(tmp_path: Path) -> None:
    train = save(pd.DataFrame({"text": ["a", "b"], "label": [0.5, 1.5]}), tmp_path / "train.csv")
    validation = save(pd.DataFrame({"text": ["c"], "label": ["high"]}), tmp_path / "validation.csv")
    with pytest.raises(DataError):
        load_user_task(train, validation)


# Metrics


def compute_metrics(task: Task, outputs: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    rows = [{"logits": row} for row in torch.from_numpy(outputs)]
    return task.score(rows, Dataset.from_dict({"labels": labels}))


def logits(classes: list[int], count: int) -> NDArray[np.float64]:
    return np.eye(count)[classes]


LABELS = np.array([1, 1, 1, 0, 0])


def test_accuracy() -> None:
    assert compute_metrics(get_task("sst2"), logits([1, 1, 0, 0, 1], 2), LABELS) == {"accuracy": pytest.approx(60.0)}


def test_f1_of_the_positive_class() -> None:
    # two true positives, one false positive, one false negative: 2·2 / (2·2 + 1 + 1)
    scores = compute_metrics(get_task("mrpc"), logits([1, 1, 0, 0, 1], 2), LABELS)
    assert scores == {"f1": pytest.approx(200 / 3), "accuracy": pytest.approx(60.0)}


def test_matthews() -> None:
    # (TP·TN - FP·FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN)) = (2·1 - 1·1) / sqrt(3·3·2·2)
    scores = compute_metrics(get_task("cola"), logits([1, 1, 0, 0, 1], 2), LABELS)
    assert scores["matthews"] == pytest.approx(100 / 6)


def test_macro_f1_of_several_classes() -> None:
    # class 0: 2·1/(2+1) = 2/3, class 1: 2·1/(2+1) = 2/3, class 2: 1
    task = Task("custom", ("f1",), ("a", "b", "c"))
    scores = compute_metrics(task, logits([0, 0, 1, 2], 3), np.array([0, 1, 1, 2]))
    assert scores["f1"] == pytest.approx(100 * (2 / 3 + 2 / 3 + 1) / 3)


def test_correlations() -> None:
    # ranks differ by 0, 1, 1, 0: 1 - 6·2 / (4·15); Pearson of (1,2,3,4) and (1,3,2,4): 4/5
    scores = compute_metrics(get_task("stsb"), np.array([[1.0], [3.0], [2.0], [4.0]]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert scores == {"spearman": pytest.approx(80.0), "pearson": pytest.approx(80.0)}


@pytest.mark.filterwarnings("error")
def test_constant_predictions() -> None:
    assert compute_metrics(get_task("cola"), logits([1] * 5, 2), LABELS) == {
        "matthews": 0.0,
        "accuracy": pytest.approx(60.0),
    }
    assert compute_metrics(get_task("mrpc"), logits([0] * 5, 2), LABELS)["f1"] == 0.0
    constant = np.full((5, 1), 2.5, dtype=np.float32)
    assert compute_metrics(get_task("stsb"), constant, np.linspace(0, 5, 5)) == {
        "spearman": 0.0,
        "pearson": 0.0,
    }


# The docstring task


@pytest.fixture(scope="module")
def docstrings() -> TaskData:
    return load_task("docstrings")


def test_docstrings_are_balanced(docstrings: TaskData) -> None:
    train, validation = (np.bincount(part["label"][:]) for part in (docstrings.train, docstrings.validation))
    total = train + validation
    assert len(total) == len(TASKS["docstrings"].labels)
    assert total.max() <= 2000
    assert total.min() >= 1500
    assert (validation / total).min() >= 0.12


def test_docstrings_neither_repeat_nor_leak(docstrings: TaskData) -> None:
    texts = [*docstrings.train["text"], *docstrings.validation["text"]]
    assert len(set(texts)) == len(texts)
    assert all(20 <= len(text) <= 400 for text in texts)
    names = {"torch", "pytorch", "numpy", "np", "transformers", "python"}
    assert not any(names & set(text.lower().split()) for text in texts)


def test_docstrings_depend_on_the_seed_alone(docstrings: TaskData) -> None:
    train, validation = read_docstrings(seed=0)
    assert train.to_list() == docstrings.train.to_list()
    assert validation.to_list() == docstrings.validation.to_list()
    assert read_docstrings(seed=1)[0].to_list() != train.to_list()


def test_shorten(docstrings: TaskData) -> None:
    short = limit_rows(docstrings, train=7, validation=10**6)
    assert short.train.to_list() == docstrings.train.select(range(7)).to_list()
    assert len(short.validation) == len(docstrings.validation)
