"""The user's files as they come: codes as classes, stray quotes, gaps, byte-order marks, patterns, compressed files."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

from bertsurgeon.errors import DataError
from bertsurgeon.tasks import TASK_TYPES, load_user_task, read_texts
from bertsurgeon.tasks.data import infer_task_type
from bertsurgeon.workflows.compress import check_data_options
from bertsurgeon.workflows.inputs import DataConfig

BOM = "\ufeff"


def write(path: Path, texts: Sequence[Any], labels: Sequence[Any]) -> Path:
    """Writes texts and labels in the format of the suffix; None is a gap, strings of CSV are not quoted."""
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    match path.suffix:
        case ".parquet":
            pd.DataFrame(rows).to_parquet(path)
        case ".jsonl":
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        case ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        case suffix:
            mark = "\t" if suffix == ".tsv" else ","
            lines = [mark.join("" if cell is None else str(cell) for cell in row.values()) for row in rows]
            path.write_text("\n".join([f"text{mark}label", *lines]) + "\n", encoding="utf-8")
    return path


def classes(path: Path) -> tuple[str, ...]:
    return load_user_task(path, path).task.labels


# strings that look like numbers

FORMATS = pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])


@FORMATS
@pytest.mark.parametrize("names", [("01", "02", "10"), ("1e3", "2E5"), ("0", "00"), ("1", "1.0.2")])
def test_codes_keep_their_spelling(names: tuple[str, ...], suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"data{suffix}", list("abcdef")[: len(names)], names)
    assert classes(path) == names


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_strings_are_no_numbers(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"data{suffix}", "abc", ["1.1", "1.10", "2.0"])
    assert load_user_task(path, path).task.type is TASK_TYPES["classification"]
    assert classes(path) == ("1.1", "1.10", "2.0")
    regression = load_user_task(path, path, task_type=TASK_TYPES["regression"])
    assert regression.train["label"][:] == [1.1, 1.1, 2.0]


@FORMATS
def test_texts_that_look_like_numbers(suffix: str, tmp_path: Path) -> None:
    texts = ["007", "1.50", "True", "1e3"]
    path = write(tmp_path / f"data{suffix}", texts, [0, 1, 0, 1])
    assert load_user_task(path, path).train["text"][:] == texts


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["1.0", "0.0", ""], [1, 0]),
        (["1e-05", "2"], [1e-05, 2.0]),
        ([".5", "-1.", "+3.25"], [0.5, -1.0, 3.25]),
        ([" 2", "0 ", "1"], [2, 0, 1]),
    ],
    ids=["integers with a gap", "exponents", "signs", "spaces"],
)
def test_cells_of_csv_that_are_numbers(cells: list[str], numbers: list[float], tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", "abc"[: len(cells)], cells)
    assert load_user_task(path, path).train["label"][:] == numbers


def test_classes_that_are_negative_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", "abcd", [1, -1, 0, 10])
    data = load_user_task(path, path)
    assert data.task.labels == ("-1", "0", "1", "10")
    assert data.train["label"][:] == [2, 0, 1, 3]


def test_tags_that_are_numbers_sort_by_value(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"tokens": ["a", "b", "c"], "tags": [10, 2, 0]}\n{"tokens": [], "tags": []}\n')
    data = load_user_task(path, path, task_type=TASK_TYPES["token-classification"])
    assert data.task.labels == ("0", "2", "10")
    assert data.train.to_list() == [{"tokens": ["a", "b", "c"], "tags": [2, 1, 0]}]


def test_labels_of_several_types_are_names(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", "abc", [1, "x", True])
    assert classes(path) == ("1", "True", "x")


# quotes


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_stray_quotes_are_text(suffix: str, tmp_path: Path, notes: list[str]) -> None:
    texts = ["a", '"b', "c", '"d" e', "f"]
    path = write(tmp_path / f"data{suffix}", texts, [0, 1, 0, 1, 0])
    data = load_user_task(path, path)
    assert data.train["text"][:] == texts
    assert data.train["label"][:] == [0, 1, 0, 1, 0]
    assert sum(f"lines of {path}: 2, the first is line 3" in note for note in notes) == 1


def test_quotes_around_rows_of_tsv_are_text(tmp_path: Path, notes: list[str]) -> None:
    """The second quote would close a cell, but every line between them is a row."""
    path = write(tmp_path / "data.tsv", ['"a', "b", 'c"', "d"], [0, 1, 0, 1])
    assert load_user_task(path, path).train["text"][:] == ['"a', "b", 'c"', "d"]
    assert "text; lines" in notes[0]


def test_two_lines_of_a_cell_may_look_like_rows(tmp_path: Path, notes: list[str]) -> None:
    path = tmp_path / "data.csv"
    path.write_text('text,label\n"dear a, b\nbest c",0\nd,1\n')
    assert load_user_task(path, path).train["text"][:] == ["dear a, b\nbest c", "d"]
    assert "span lines: 1" in notes[0]


@pytest.mark.parametrize(("suffix", "mark"), [(".csv", ","), (".tsv", "\t")])
def test_cells_may_span_lines(suffix: str, mark: str, tmp_path: Path, notes: list[str]) -> None:
    path = tmp_path / f"data{suffix}"
    path.write_text(f'text{mark}label\n"a, b\n\n""c"""{mark}0\nd{mark}1\n')
    assert load_user_task(path, path).train["text"][:] == ['a, b\n\n"c"', "d"]
    assert "span lines: 1, the longest from line 2 to 4" in notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('text,label\na,0\n"a, b" c,1\n', r"double quote in line 3 .*\(\"\"\)"),
        ('text,label\na,0\n"a, b, 1\n', "double quote in line 3"),
        ('text,label\n"a,0\nb,1\nc",0\nd,1\n', "lines 2 to 4 are one cell .* each of them is a row"),
        ("text,label,label\na,0,1\n", "several columns 'label'.*--label-column"),
    ],
)
def test_csv_that_cannot_be_read(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        load_user_task(path, path)


def test_more_cells_than_the_header(tmp_path: Path, notes: list[str]) -> None:
    path = write(tmp_path / "data.csv", ["a", "b"], ["0,", "1,"])
    assert load_user_task(path, path).train["text"][:] == ["a", "b"]
    path = write(tmp_path / "other.csv", ["x,a", "y,b"], [0, 1])
    assert load_user_task(path, path).train["text"][:] == ["a", "b"]
    assert sum("one cell more than the header" in note for note in notes) == 1


def test_long_cells_of_csv(tmp_path: Path) -> None:
    text = "long, " * 50_000
    path = write(tmp_path / "data.csv", [f'"{text}"', "b"], [0, 1])
    assert load_user_task(path, path).train["text"][0] == text


# gaps


@FORMATS
def test_blank_texts_and_labels_are_left_out(suffix: str, tmp_path: Path, notes: list[str]) -> None:
    texts = ["a", "", "  \u00a0", "\u200b", "e", "f", None, "h"]
    path = write(tmp_path / f"data{suffix}", texts, ["x", "y", "y", "x", "", " ", "x", "y"])
    data = load_user_task(path, path)
    assert data.train.to_list() == [{"text": "a", "label": 0}, {"text": "h", "label": 1}]
    assert data.task.labels == ("x", "y")
    assert notes[0] == f"Skipped 6 incomplete rows of {path}."


def test_empty_lists_are_no_gaps(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", ["a", "b", " "], [["x"], [], ["x"]])
    data = load_user_task(path, path, task_type=TASK_TYPES["multi-label"])
    assert data.train["label"][:] == [[1.0], [0.0]]


def test_flags_may_be_words(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text,art,war\na,True,0\nb,false,1\n")
    data = load_user_task(path, path, label_column="art,war", task_type=TASK_TYPES["multi-label"])
    assert data.train["label"][:] == [[1.0, 0.0], [0.0, 1.0]]


# columns that hold no texts


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(("value", "kind"), [(["a", "b"], "lists"), ({"en": "a"}, "objects")])
def test_lists_are_no_texts(value: Any, kind: str, suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"data{suffix}", [value, value], [0, 1])
    with pytest.raises(DataError, match=f"'text' of .* holds {kind}, not texts.*--text-column"):
        load_user_task(path, path)
    with pytest.raises(DataError, match=kind):
        read_texts(path)


# encodings


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_byte_order_marks(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"data{suffix}", ["é", "b"], [0, 1])
    path.write_text(BOM + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert load_user_task(path, path).train["text"][:] == ["é", "b"]


def test_byte_order_marks_of_texts_and_questions(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(f"{BOM}the film\r\n\u200b\r\na\u2028plot\r\n".encode())
    assert read_texts(path)["text"][:] == ["the film", "a\u2028plot"]
    path = tmp_path / "squad.json"
    path.write_text(f'{BOM}{{"data": []}}', encoding="utf-8")
    assert infer_task_type([path]) is TASK_TYPES["question-answering"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt"])
def test_other_encodings_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"data{suffix}"
    path.write_bytes("text,label\na,0\ncafé,1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"data\.\w+ cannot be read as UTF-8 text: line 3 holds the byte 0xe9"):
        read_texts(path)
    for encoding in ("utf-16", "utf-32"):
        path.write_bytes("text,label\na,0\n".encode(encoding))
        with pytest.raises(DataError, match=f"it is {encoding.upper()}; save it as UTF-8"):
            read_texts(path)


def test_json_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a", "label": 0}\n\n{"text": "b" "label": 1}\n')
    with pytest.raises(DataError, match="line 3 is no JSON object"):
        load_user_task(path, path)


# several files, compressed files, folders


def test_patterns_and_compressed_files(tmp_path: Path, notes: list[str]) -> None:
    content = write(tmp_path / "part-2.csv", ["c"], ["10"]).read_bytes()
    (tmp_path / "part-2.csv").unlink()
    (tmp_path / "part-2.csv.gz").write_bytes(gzip.compress(content))
    write(tmp_path / "part-1.csv", ["a", "b"], ["01", "1"])
    data = load_user_task(tmp_path / "part-*", tmp_path / "part-2.csv.gz")
    assert (data.task.labels, data.train["text"][:], data.train["label"][:]) == (("01", "1", "10"), [*"abc"], [0, 1, 2])
    assert any(note.endswith("2, part-1.csv to part-2.csv.gz.") for note in notes)
    with pytest.raises(DataError, match=r"No file matches the pattern .*none-\*"):
        read_texts(tmp_path / "none-*.txt")
    (tmp_path / "part-1.csv.gz").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read: Not a gzipped file"):
        read_texts(tmp_path / "part-1.csv.gz")


def test_the_files_of_a_pattern_are_recorded(tmp_path: Path) -> None:
    """Their names and hashes are in reports, and no output replaces them."""
    files = [write(tmp_path / f"{name}.csv", ["a"], [0]) for name in "ab"]
    data = DataConfig(train_file=tmp_path / "*.csv", validation_file=tmp_path / "none.csv")
    assert data.files == [*files, tmp_path / "none.csv"]
    check_data_options(DataConfig(text_file=files[0]), tmp_path / "?.csv")
    with pytest.raises(DataError, match=r"no file .*none\.csv"):
        check_data_options(DataConfig(text_file=files[0]), tmp_path / "none.csv")


def test_patterns_of_sentences(tmp_path: Path) -> None:
    for number, tag in enumerate(("A", "B")):
        (tmp_path / f"{number}.conll").write_text(f"a {tag}")
    data = load_user_task(tmp_path / "*.conll", tmp_path / "0.conll")
    assert data.train["tags"][:] == [[0], [1]]


def test_saved_datasets(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    DatasetDict(train=rows, dev=rows).save_to_disk(tmp_path / "saved")
    data = load_user_task(tmp_path / "saved" / "train", tmp_path / "saved" / "dev")
    assert data.train.to_list() == data.validation.to_list() == rows.to_list()
    with pytest.raises(DataError, match="holds the parts train, dev of a dataset; name one of them"):
        read_texts(tmp_path / "saved")
    with pytest.raises(DataError, match="is a folder; name a file in it"):
        read_texts(tmp_path)
