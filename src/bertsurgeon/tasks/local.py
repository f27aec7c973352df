"""Reading tasks known by name from local files, as they are distributed."""

from pathlib import Path

from datasets import Dataset

from bertsurgeon.errors import DataError
from bertsurgeon.tasks.files import read_lines, read_squad, say_left_out
from bertsurgeon.tasks.table import Layout, Task
from bertsurgeon.tasks.types import REGRESSION
from bertsurgeon.tasks.types.base import finite


def read_task(task: Task, data_dir: Path) -> tuple[Dataset, Dataset]:
    """Reads a task's training and validation part from ``data_dir``.

    Args:
        task: A task with local layouts.
        data_dir: The folder that holds the task's folder (``SST-2``, ``CoLA``, …), or that folder itself.

    Raises:
        DataError: If no known layout is there, or a file is empty or malformed.
    """
    if not data_dir.is_dir():
        raise DataError(f"The data folder {data_dir} does not exist; pass the folder that holds the task's files.")
    for layout in task.layouts:
        for folder in (data_dir / layout.folder, data_dir):
            if (folder / layout.train).is_file() and (folder / layout.validation).is_file():
                train, validation = (
                    _read_tsv(task, layout, path) if layout.columns else read_squad(path)
                    for path in (folder / layout.train, folder / layout.validation)
                )
                return train, validation
    known = " or ".join(f"{layout.folder}/{layout.train}" for layout in task.layouts)
    raise DataError(
        f"There are no files of task {task.name!r} below {data_dir}; expected {known} with its validation file, "
        "or leave --data-dir out to load the task from the hub."
    )


def _read_tsv(task: Task, layout: Layout, path: Path) -> Dataset:
    """GLUE's files quote nothing, may start with a byte-order mark, may have further columns, and a few torn rows."""
    rows = [line.split("\t") for line in read_lines(path) if line]
    header = rows.pop(0) if layout.header and rows else []
    if not rows:
        raise DataError(f"{path} holds no rows; check that the file was downloaded completely.")
    try:
        positions = {
            role: column if isinstance(column, int) else header.index(column) for role, column in layout.columns.items()
        }
    except ValueError:
        expected = ", ".join(str(column) for column in layout.columns.values())
        raise DataError(
            f"{path} lacks a column of task {task.name!r}: expected {expected}, found {', '.join(header)}."
        ) from None
    whole = [row for row in rows if len(row) > max(positions.values())]
    if not whole:
        raise DataError(f"{path} has too few columns for task {task.name!r}; it must be tab-separated.")
    say_left_out(path, len(rows) - len(whole))
    columns = {role: [row[position] for row in whole] for role, position in positions.items()}
    return Dataset.from_dict({**columns, "label": _encode_labels(task, columns["label"], path)})


def _encode_labels(task: Task, labels: list[str], path: Path) -> list[int] | list[float]:
    try:
        if task.kind is REGRESSION:
            return [finite(label) for label in labels]
        codes = {name: code for code, name in enumerate(task.labels)}
        return [codes[label] if label in codes else _class_number(label, len(codes)) for label in labels]
    except ValueError as error:
        raise DataError(f"{path} holds a label that task {task.name!r} does not know: {error}.") from error


def _class_number(label: str, classes: int) -> int:
    code = int(label)
    if not 0 <= code < classes:
        raise ValueError(f"class {code} of {classes}")
    return code
