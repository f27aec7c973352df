"""Validation data alone, for a model whose configuration names the classes: labels are coded without training data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bertsurgeon.errors import DataError
from bertsurgeon.tasks.data import (
    MAX_NAMED,
    TaskData,
    align_to_model,
    infer_task_type,
    load_from_hub,
    load_task,
    note_rows,
    note_sorted_classes,
    read_validation_file,
)
from bertsurgeon.tasks.table import Task, get_task
from bertsurgeon.tasks.types import CLASSIFICATION, TaskType, label_names, task_type_of

if TYPE_CHECKING:
    from datasets import Dataset


class ValidationData(NamedTuple):
    """A task and the raw data to evaluate a model on.

    Attributes:
        task: The task, with the classes in the model's order.
        rows: The validation part, with the columns of the task's type.
    """

    task: Task
    rows: Dataset


def load_task_validation(name: str, model: Any, data_dir: str | Path | None = None, seed: int = 0) -> ValidationData:
    """Loads the validation part of a task by name, with the labels of a model.

    Args:
        name: A key of :data:`bertsurgeon.tasks.TASKS`.
        model: Model of transformers, or an exported one.
        data_dir: Folder with the task's folder (``SST-2``, ``CoLA``, …), or that folder itself; None for the hub.
        seed: Seed of the sample of ``docstrings``; no effect on other tasks.

    Raises:
        OptionError: If the task is unknown.
        DataError: If the data cannot be found or read.
    """
    data_dir = None if data_dir is None else Path(data_dir)
    task = get_task(name)
    if task.name == "docstrings":
        data = load_task(name, seed=seed)
    else:
        rows = load_from_hub(task, task.validation_split) if data_dir is None else read_validation_file(task, data_dir)
        data = TaskData(task, rows.select([0]), rows)  # a row in place of the training part, which is not read
    aligned = align_to_model(data, model)
    return ValidationData(aligned.task, aligned.validation)


def load_user_validation(
    path: str | Path,
    model: Any,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    task_type: TaskType | None = None,
) -> ValidationData:
    """Loads a user's validation file, whose classes get the codes that they have in a model.

    Args:
        path: File in a format of :func:`bertsurgeon.tasks.load_user_task`.
        model: Model of transformers, or an exported one.
        text_column: Column of the texts; None for the task type's default.
        text_pair_column: Column of the second texts; None for the task type's default, or for no pairs.
        label_column: Column of the labels; None for the task type's default.
        task_type: Type of the task; None for CoNLL by the file's suffix, SQuAD by its form, and otherwise the type that
            the model has a head for.

    Raises:
        DataError: If the file cannot be read, its rows do not make a task of this type, or the codes of its classes are
            unknown.
        ModelError: If the model has no head for a task.
    """
    path = Path(path)
    inferred = infer_task_type([path])
    reader = task_type or (task_type_of(model) if inferred is CLASSIFICATION else inferred)
    rows = reader.read(path, {"text": text_column, "text_pair": text_pair_column, "label": label_column})
    labels = _labels_of(model.config, reader.class_names([rows]), path)
    prepared = reader.prepare([rows], labels)
    if prepared.labels and not labels and len(prepared.labels) == model.config.num_labels:
        note_sorted_classes(prepared.labels)
    note_rows(path.name, prepared.parts[0], prepared.type, prepared.labels)
    return ValidationData(Task("custom", prepared.metrics, prepared.labels, type=prepared.type), prepared.parts[0])


def _labels_of(config: Any, classes: set[str], path: Path) -> tuple[str, ...]:
    """Returns the names of a model's classes in the order of their codes, written as in a file.

    Args:
        config: Configuration of the model.
        classes: Names of the classes in the file; empty if the task has none.
        path: The file.

    Returns:
        The names; empty if the task has no classes, or if the model's have no names and those of the file, as many as
        the model's, are coded in their sorted order.

    Raises:
        DataError: If the codes of the file's classes are unknown.
    """
    if not classes:
        return ()
    names, count = label_names(config), int(config.num_labels)
    spelling = {name.casefold(): name for name in classes}
    if names is not None and len(spelling) == len(classes) and spelling.keys() <= {name.casefold() for name in names}:
        return tuple(spelling.get(name.casefold(), name) for name in names)
    codes = tuple(map(str, range(count)))
    if classes <= set(codes):
        return codes
    if names is None and len(classes) >= count:
        return ()  # more classes than the model's are refused where task and head are compared
    if names is None:
        raise DataError(
            f"The model has {count} classes without names, and {path} holds {len(classes)} of them "
            f"({_listed(sorted(classes))}), so their codes are unknown; write the codes (0 to {count - 1}) instead of "
            "names, or name --train-file too if it holds all classes."
        )
    raise DataError(
        f"The model's classes are {_listed(names)}, and {path} holds {_listed(sorted(classes))}; name the data's like "
        f"the model's, or write the model's codes (0 to {count - 1}) instead of names."
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
