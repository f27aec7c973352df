"""Reading labelled text from local files: GLUE's own files, and the user's CSV, JSONL or Parquet."""

import csv
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from datasets import Dataset

from bertsurgeon.errors import DataError
from bertsurgeon.tasks.table import Layout, Task


def read_glue(task: Task, data_dir: Path) -> tuple[Dataset, Dataset]:
    """Reads a GLUE task's training and validation part from ``data_dir``.

    Args:
        task: A task with local layouts.
        data_dir: The folder that holds the task's folder (``SST-2``, ``CoLA``, …), or that folder itself.

    Raises:
        DataError: If no known layout is there, or a file is empty or malformed.
    """
    if not data_dir.is_dir():
        raise DataError(f"The data folder {data_dir} does not exist; pass the folder that holds the GLUE files.")
    for layout in task.layouts:
        for folder in (data_dir / layout.folder, data_dir):
            if (folder / layout.train).is_file() and (folder / layout.validation).is_file():
                return (
                    _read_tsv(task, layout, folder / layout.train),
                    _read_tsv(task, layout, folder / layout.validation),
                )
    known = " or ".join(f"{layout.folder}/{layout.train}" for layout in task.layouts)
    raise DataError(
        f"There are no files of task {task.name!r} below {data_dir}; expected {known} with its validation file, "
        "or leave --data-dir out to load the task from the hub."
    )


def _read_tsv(task: Task, layout: Layout, path: Path) -> Dataset:
    """GLUE's files quote nothing, may start with a byte-order mark, and may carry further columns."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    header = rows.pop(0) if layout.header and rows else []
    if not rows:
        raise DataError(f"{path} holds no rows; check that the file was downloaded completely.")
    try:
        positions = {
            role: column if isinstance(column, int) else header.index(column) for role, column in layout.columns.items()
        }
        columns: dict[str, list[str]] = {
            role: [row[position] for row in rows if len(row) > max(positions.values())]
            for role, position in positions.items()
        }
    except ValueError:
        expected = ", ".join(str(column) for column in layout.columns.values())
        raise DataError(
            f"{path} lacks a column of task {task.name!r}: expected {expected}, found {', '.join(header)}."
        ) from None
    if not columns["label"]:
        raise DataError(f"{path} has too few columns for task {task.name!r}; it must be tab-separated.")
    return Dataset.from_dict({**columns, "label": _encode_labels(task, columns["label"], path)})


def read_user_file(path: Path, text_column: str, text_pair_column: str | None, label_column: str | None) -> Dataset:
    """Reads the user's CSV, TSV, JSONL or Parquet file into columns ``text``, ``text_pair`` and ``label``.

    Labels stay as they are in the file (``label`` is absent if ``label_column`` is None);
    :func:`bertsurgeon.tasks.data.load_user_task` turns them into codes.

    Raises:
        DataError: If the file is missing, empty, unreadable, of unknown type, or lacks a column.
    """
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".csv": pd.read_csv,
        ".tsv": lambda file: pd.read_csv(file, sep="\t"),
        ".jsonl": lambda file: pd.read_json(file, lines=True),
        ".json": lambda file: pd.read_json(file, lines=True),
        ".parquet": pd.read_parquet,
    }
    if not path.is_file():
        raise DataError(f"The data file {path} does not exist.")
    if path.suffix not in readers:
        raise DataError(f"{path} is of unknown type; use one of {', '.join(readers)}.")
    try:
        frame = readers[path.suffix](path)
    except (ValueError, OSError) as error:  # pandas' parser errors and pyarrow's ArrowInvalid are ValueErrors
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty.") from error
        raise DataError(f"{path} cannot be read as {path.suffix[1:]}: {error}.") from error
    if frame.empty:
        raise DataError(f"{path} holds no rows.")
    wanted = {"text": text_column, "text_pair": text_pair_column, "label": label_column}
    columns = {role: column for role, column in wanted.items() if column is not None}
    for role, column in columns.items():
        if column not in frame.columns:
            found = ", ".join(map(str, frame.columns))
            raise DataError(
                f"{path} has no column {column!r}; it has {found}. "
                f"Name the right one with --{role.replace('_', '-')}-column."
            )
    frame = frame[list(columns.values())].dropna()
    frame.columns = pd.Index(list(columns))
    for role in ("text", "text_pair"):
        if role in frame.columns:
            frame[role] = frame[role].astype(str)
    if frame.empty:
        raise DataError(f"{path} holds no complete rows; every row misses a text or a label.")
    return Dataset.from_pandas(frame, preserve_index=False)


def read_texts(path: Path, text_column: str = "text", text_pair_column: str | None = None) -> Dataset:
    """Reads unlabelled texts: a ``.txt`` file with one text per line, or a file :func:`read_user_file` knows.

    Raises:
        DataError: If the file is missing, empty, unreadable, of unknown type, or lacks a column.
    """
    if path.suffix != ".txt":
        return read_user_file(path, text_column, text_pair_column, None)
    if not path.is_file():
        raise DataError(f"The text file {path} does not exist.")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}.") from error
    texts = [line for line in lines if line]
    if not texts:
        raise DataError(f"{path} holds no text.")
    return Dataset.from_dict({"text": texts})


def _encode_labels(task: Task, labels: list[str], path: Path) -> list[int] | list[float]:
    try:
        if task.regression:
            return [float(label) for label in labels]
        codes = {name: code for code, name in enumerate(task.labels)}
        return [codes[label] if label in codes else _class_number(label, len(codes)) for label in labels]
    except ValueError as error:
        raise DataError(f"{path} holds a label that task {task.name!r} does not know: {error}.") from error


def _class_number(label: str, classes: int) -> int:
    code = int(label)
    if not 0 <= code < classes:
        raise ValueError(f"class {code} of {classes}")
    return code
