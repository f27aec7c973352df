"""Data of tasks: loading by name from local files or the hub, loading a user's files, and matching a model's labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PretrainedConfig

from bertsurgeon import progress
from bertsurgeon.errors import DataError
from bertsurgeon.tasks.docstrings import read_docstrings
from bertsurgeon.tasks.files import is_squad, note_skipped_rows, read_squad
from bertsurgeon.tasks.raw_files import data_suffix, expand, read_lines
from bertsurgeon.tasks.table import Layout, Task, get_task
from bertsurgeon.tasks.types import (
    CLASSIFICATION,
    REGRESSION,
    TASK_TYPES,
    Embedding,
    TaskType,
    find_head,
    label_names,
    model_class_names,
)
from bertsurgeon.tasks.types.base import finite_float
from bertsurgeon.tasks.types.sequence import is_real

if TYPE_CHECKING:
    from datasets import Dataset

CONLL_SUFFIXES = (".conll", ".iob", ".iob2", ".bio")
"""Suffixes of files with CoNLL columns."""

UNLABELED = "-1"
"""Label that often marks rows without one."""

MAX_NAMED = 10
"""Classes that a message names."""


@dataclass(frozen=True)
class TaskData:
    """A task and its raw data.

    Attributes:
        task: The task.
        train: Training part, with the columns of the task's type (for texts: ``text``, ``label``, and ``text_pair``
            for pairs).
        validation: Validation part, with the same columns.
    """

    task: Task
    train: Dataset
    validation: Dataset


def load_task(name: str, data_dir: str | Path | None = None, seed: int = 0) -> TaskData:
    """Loads a task by name, from local files if ``data_dir`` is passed, else from the hub.

    Args:
        name: A key of :data:`bertsurgeon.tasks.TASKS`.
        data_dir: Folder with the task's folder (``SST-2``, ``CoLA``, …), or that folder itself.
        seed: Seed of the sample of ``docstrings``; no effect on other tasks.

    Raises:
        OptionError: If the task is unknown.
        DataError: If the data cannot be found or read.
    """
    data_dir = None if data_dir is None else Path(data_dir)
    task = get_task(name)
    if task.name == "docstrings":
        data = TaskData(task, *read_docstrings(seed=seed))
        note_rows("docstrings (training)", data.train, task.type, task.labels)
        note_rows("docstrings (validation)", data.validation, task.type, task.labels)
        return data
    if data_dir is not None:
        return TaskData(task, *read_task_files(task, data_dir))
    return TaskData(task, *(load_from_hub(task, split) for split in ("train", task.validation_split)))


def note_rows(name: str, rows: Dataset, task_type: TaskType, labels: Sequence[str]) -> None:
    """Prints, if progress is shown, how many rows were read, and the counts of their classes or their range.

    Args:
        name: What they were read from.
        rows: The rows, with coded labels.
        task_type: Type of the task.
        labels: Names of the classes.
    """
    if progress.is_shown():
        summary = task_type.summarize(rows, labels)
        unit = task_type.rows_are if len(rows) != 1 else task_type.rows_are[:-1]
        progress.note_once(f"Read {len(rows):,} {unit} of {name}: {summary}.")


def load_from_hub(task: Task, split: str) -> Dataset:
    """Loads one split of a task from the hub.

    Args:
        task: The task.
        split: Name of the split.

    Raises:
        DataError: If it cannot be loaded.
    """
    from datasets import load_dataset

    try:
        rows: Any = load_dataset(*task.hub, split=split)
    except Exception as error:  # without a network, the hub's client raises a dozen unrelated types
        raise DataError(
            f"Task {task.name!r} could not be loaded from the hub ({type(error).__name__}); "
            "pass --data-dir with the local files."
        ) from error
    columns = task.type.columns
    texts = dict(zip(task.hub_columns, (columns["text"], columns["text_pair"]), strict=False))
    renamed = {hub_name: name for hub_name, name in texts.items() if hub_name != name}
    selected: Dataset = rows.rename_columns(renamed).select_columns([*texts.values(), columns["label"]])
    note_rows(f"{task.name} ({split})", selected, task.type, task.labels)
    return selected


def load_user_task(
    train_file: str | Path,
    validation_file: str | Path,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    task_type: TaskType | None = None,
) -> TaskData:
    """Loads a user's labeled files.

    Args:
        train_file: CSV, TSV, JSON, JSONL or Parquet file; for token classification also CoNLL columns, for question
            answering also SQuAD's JSON.
        validation_file: File in one of the same formats.
        text_column: Column of the texts; None for the task type's default
            (:attr:`bertsurgeon.tasks.TaskType.columns`).
        text_pair_column: Column of the second texts; None for the task type's default, or for no pairs.
        label_column: Column of the labels; None for the task type's default.
        task_type: Type of the task; None to infer it: CoNLL by the files' suffix and SQuAD by their form; of all other
            files, a regression if labels are real numbers, else a classification.

    Raises:
        DataError: If a file cannot be read, or its rows do not make a task of this type.
    """
    validation_file = Path(validation_file)
    train_file = Path(train_file)
    files = (train_file, validation_file)
    columns = {"text": text_column, "text_pair": text_pair_column, "label": label_column}
    reader = task_type or infer_task_type(files)
    parts = [reader.read(path, columns) for path in files]
    if (
        task_type is None
        and reader is CLASSIFICATION
        and any(map(is_real, chain(*(part["label"][:] for part in parts))))
    ):
        reader = REGRESSION
    prepared = reader.prepare(parts)
    for path, part in zip(files, prepared.parts, strict=True):
        note_rows(path.name, part, prepared.type, prepared.labels)
    return TaskData(Task("custom", prepared.metrics, prepared.labels, type=prepared.type), *prepared.parts)


def infer_task_type(files: Sequence[Path]) -> TaskType:
    """Returns the type of task of files: CoNLL by suffix, SQuAD by form, and otherwise a classification."""
    if any(data_suffix(expand(path)[0]) in CONLL_SUFFIXES for path in files):
        return TASK_TYPES["token-classification"]
    return TASK_TYPES["question-answering"] if any(map(is_squad, files)) else CLASSIFICATION


def limit_rows(data: TaskData, train: int | None = None, validation: int | None = None) -> TaskData:
    """Keeps the first rows of both parts.

    Args:
        data: The task's data.
        train: Maximum number of training rows; None for all.
        validation: Maximum number of validation rows; None for all.
    """

    def first(part: Dataset, rows: int | None) -> Dataset:
        return part if rows is None else part.select(range(min(rows, len(part))))

    return replace(data, train=first(data.train, train), validation=first(data.validation, validation))


# a model's labels


def align_to_model(data: TaskData, model: Any) -> TaskData:
    """Adapts a task to a model, so that :func:`bertsurgeon.evaluate` can score it.

    Classes are recoded in the model's order (:func:`recode_labels`); pairs of texts with numbers, a regression for
    other models, become similarity scores for embedders.

    Args:
        data: The task's data.
        model: Model of transformers, or an exported one.

    Raises:
        DataError: If the data has as many classes as the model, with other names.
    """
    head = find_head(model_class_names(model), model.config)
    if data.task.type is REGRESSION and isinstance(head, Embedding) and "text_pair" in data.train.column_names:
        return replace(data, task=replace(data.task, type=head))
    return recode_labels(data, model.config)


def recode_labels(data: TaskData, config: PretrainedConfig, new_head: bool = False) -> TaskData:
    """Gives the classes of a task the codes that they have in a model's configuration, by name, ignoring case.

    Classes that are numbers and no names of the model are its codes, whichever of them occur. Other codes remain if the
    model's classes have no names (``LABEL_0``), and for tasks known by name if the model has other names, as the codes
    of benchmarks are the same everywhere.

    Args:
        data: The task's data.
        config: Configuration of the model.
        new_head: Whether the model gets a new head unless its classes are those of the task.

    Raises:
        DataError: If a user's data has as many classes as the model, with other names, or the class -1, which the model
            does not have.
    """
    task, model_labels = data.task, label_names(config)
    count = len(getattr(config, "id2label", None) or ())
    same_count = len(task.labels) == count
    if not task.labels:
        return data
    model_codes = {name.casefold(): code for code, name in enumerate(model_labels or ())}
    codes = [model_codes[name.casefold()] for name in task.labels if name.casefold() in model_codes]
    if len(set(codes)) < len(task.labels):
        if new_head or task.name != "custom":
            return data
        codes = [int(name) for name in task.labels if is_class_code(name, count)]
        if len(codes) < len(task.labels):
            if same_count and model_labels is not None:
                raise DataError(
                    f"The model's classes are {', '.join(model_labels)}, and the data's are {', '.join(task.labels)}; "
                    "name the data's like the model's, or write the model's codes (0, 1, …) instead of names."
                )
            if same_count:
                note_sorted_classes(task.labels)
            elif UNLABELED in task.labels:
                raise DataError(
                    f"The data holds the label {UNLABELED}, which is no class of the model; if it marks rows without a "
                    "label, leave them out."
                )
            return data
        if same_count:
            return data
        model_labels = tuple(map(str, range(count)))
    elif model_labels == task.labels or (new_head and not same_count):
        return data
    assert model_labels is not None
    parts = (task.type.recode_labels(part, codes, count) for part in (data.train, data.validation))
    return TaskData(replace(task, labels=model_labels), *parts)


def is_class_code(name: str, count: int) -> bool:
    """Returns whether the name of a class is the code of one of ``count`` classes; 01 is none."""
    return name.isascii() and name.isdigit() and str(int(name)) == name and int(name) < count


def note_sorted_classes(names: Sequence[str]) -> None:
    """Reports that classes get the codes of a model without names in sorted order.

    Args:
        names: Names of the classes in the order of their codes.
    """
    codes = ", ".join(f"{name} = {code}" for code, name in enumerate(names[:MAX_NAMED]))
    more = ", …" if len(names) > MAX_NAMED else ""
    progress.note_once(
        f"The model's classes have no names; those of the data get its codes in sorted order ({codes}{more})."
    )


# local files of known tasks


def read_task_files(task: Task, data_dir: Path) -> tuple[Dataset, Dataset]:
    """Reads a task's training and validation part from local files, as they are distributed.

    Args:
        task: A task with local layouts.
        data_dir: Folder with the task's folder (``SST-2``, ``CoLA``, …), or that folder itself.

    Raises:
        DataError: If no known layout is there, or a file is empty or malformed.
    """
    for folder, layout in _layouts_in(task, data_dir):
        if (folder / layout.train).is_file() and (folder / layout.validation).is_file():
            train, validation = (
                _read_task_file(task, layout, folder / name) for name in (layout.train, layout.validation)
            )
            return train, validation
    expected = " or ".join(f"{layout.folder}/{layout.train}" for layout in task.layouts)
    raise DataError(
        f"There are no files of task {task.name!r} below {data_dir}; expected {expected} with its validation file, "
        "or leave --data-dir out to load the task from the hub."
    )


def read_validation_file(task: Task, data_dir: Path) -> Dataset:
    """Reads a task's validation part from a local file; the training file need not be there.

    Args:
        task: A task with local layouts.
        data_dir: Folder with the task's folder (``SST-2``, ``CoLA``, …), or that folder itself.

    Raises:
        DataError: If no known layout is there, or the file is empty or malformed.
    """
    for folder, layout in _layouts_in(task, data_dir):
        if (folder / layout.validation).is_file():
            return _read_task_file(task, layout, folder / layout.validation)
    expected = " or ".join(f"{layout.folder}/{layout.validation}" for layout in task.layouts)
    raise DataError(
        f"There is no validation file of task {task.name!r} below {data_dir}; expected {expected}, or leave --data-dir "
        "out to load the task from the hub."
    )


def _layouts_in(task: Task, data_dir: Path) -> list[tuple[Path, Layout]]:
    if not data_dir.is_dir():
        raise DataError(f"The data folder {data_dir} does not exist; pass the folder that holds the task's files.")
    return [(folder, layout) for layout in task.layouts for folder in (data_dir / layout.folder, data_dir)]


def _read_task_file(task: Task, layout: Layout, path: Path) -> Dataset:
    rows = _read_tsv(task, layout, path) if layout.columns else read_squad(path)
    note_rows(path.name, rows, task.type, task.labels)
    return rows


def _read_tsv(task: Task, layout: Layout, path: Path) -> Dataset:
    """Reads a GLUE file: nothing is quoted, a byte-order mark, further columns and a few broken rows are possible."""
    from datasets import Dataset

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
    complete = [row for row in rows if len(row) > max(positions.values())]
    if not complete:
        raise DataError(f"{path} has too few columns for task {task.name!r}; it must be tab-separated.")
    note_skipped_rows(path, len(rows) - len(complete))
    columns = {role: [row[position] for row in complete] for role, position in positions.items()}
    return Dataset.from_dict({**columns, "label": _code_labels(task, columns["label"], path)})


def _code_labels(task: Task, labels: list[str], path: Path) -> list[int] | list[float]:
    try:
        if task.type is REGRESSION:
            return [finite_float(label) for label in labels]
        codes = {name: code for code, name in enumerate(task.labels)}
        return [codes[label] if label in codes else _parse_class(label, len(codes)) for label in labels]
    except ValueError as error:
        raise DataError(f"{path} holds a label that task {task.name!r} does not have: {error}.") from error


def _parse_class(label: str, classes: int) -> int:
    code = int(label)
    if not 0 <= code < classes:
        raise ValueError(f"class {code} of {classes}")
    return code
