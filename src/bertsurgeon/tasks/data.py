"""From a task's name or the user's files to tokenized datasets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from bertsurgeon.errors import DataError, OptionError
from bertsurgeon.tasks.docstrings import read_docstrings
from bertsurgeon.tasks.files import is_squad
from bertsurgeon.tasks.length import longest_input
from bertsurgeon.tasks.local import read_task
from bertsurgeon.tasks.table import Task, get_task
from bertsurgeon.tasks.types import (
    CLASSIFICATION,
    REGRESSION,
    TASK_TYPES,
    Embedding,
    TaskType,
    class_labels,
    class_names,
    find_head,
)
from bertsurgeon.tasks.types.sequence import is_real

CONLL = (".conll", ".iob", ".iob2", ".bio")
"""Endings of files with CoNLL's columns."""


@dataclass(frozen=True)
class TaskData:
    """A task with its data, in the columns of its kind (of texts: ``text``, ``text_pair`` for pairs, and ``label``)."""

    task: Task
    train: Dataset
    validation: Dataset


def load_task(name: str, data_dir: Path | None = None, seed: int = 0) -> TaskData:
    """Loads a task known by name, from local files if ``data_dir`` is given, else from the hub.

    Raises:
        OptionError: If the task is unknown.
        DataError: If the data cannot be found or read.
    """
    task = get_task(name)
    if task.name == "docstrings":
        return TaskData(task, *read_docstrings(seed=seed))
    if data_dir is not None:
        return TaskData(task, *read_task(task, data_dir))
    try:
        splits: Any = load_dataset(*task.hub)
    except Exception as error:  # the hub client raises a dozen unrelated types when there is no network
        raise DataError(
            f"Task {name!r} could not be loaded from the hub ({type(error).__name__}); "
            "pass --data-dir with the local files."
        ) from error
    columns = task.kind.columns
    texts = dict(zip(task.hub_columns, (columns["text"], columns["text_pair"]), strict=False))
    renamed = {name: own for name, own in texts.items() if name != own}
    train, validation = (
        splits[split].rename_columns(renamed).select_columns([*texts.values(), columns["label"]])
        for split in ("train", task.validation_split)
    )
    return TaskData(task, train, validation)


def load_user_task(
    train_file: Path,
    validation_file: Path,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    kind: TaskType | None = None,
) -> TaskData:
    """Loads the user's own labelled files.

    Args:
        train_file: CSV, TSV, JSONL or Parquet; for token classification also CoNLL's columns, for question answering
            also SQuAD's JSON.
        validation_file: Likewise.
        text_column: Of the texts; None for the kind's own (:attr:`bertsurgeon.tasks.TaskType.columns`).
        text_pair_column: Of second texts; None for the kind's own, or for no pairs.
        label_column: Of the labels.
        kind: Of the task; None for what the files look like: CoNLL's by their ending and SQuAD's by their form, from
            all others a regression where labels are real numbers, else a classification.

    Raises:
        DataError: If a file cannot be read, or does not make such a task.
    """
    files = (train_file, validation_file)
    columns = {"text": text_column, "text_pair": text_pair_column, "label": label_column}
    reader = kind or _guess(files)
    parts = [reader.read(path, columns) for path in files]
    if kind is None and reader is CLASSIFICATION and any(map(is_real, chain(*(part["label"] for part in parts)))):
        reader = REGRESSION
    found = reader.prepare(parts)
    return TaskData(Task("custom", found.metrics, found.labels, kind=found.kind), *found.parts)


def _guess(files: Sequence[Path]) -> TaskType:
    """What files are for, if they tell."""
    if any(path.suffix in CONLL for path in files):
        return TASK_TYPES["token-classification"]
    return TASK_TYPES["question-answering"] if any(map(is_squad, files)) else CLASSIFICATION


def tokenize(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, kind: TaskType = CLASSIFICATION
) -> Dataset:
    """Tokenizes a dataset, truncated (long passages of question answering: in windows), unpadded.

    Args:
        dataset: With the columns of the kind, or with ``text`` (and ``text_pair``) alone.
        tokenizer: Of the model.
        max_length: Most tokens of a row; None for the kind's own number. Never more than tokenizer and model take.
        kind: Of the task: :attr:`Task.kind`, or for texts alone :func:`task_type_for_texts`.

    Returns:
        The model's inputs and, where there are any, its labels.

    Raises:
        DataError: If the dataset is empty or lacks a column.
        OptionError: If ``max_length`` leaves no room for text.
    """
    if len(dataset) == 0:
        raise DataError("The dataset is empty; at least one text is needed.")
    own = [kind.columns["text"], "text"]
    if not set(own) & set(dataset.column_names):
        raise DataError(
            f"The dataset has no column {' or '.join(repr(name) for name in dict.fromkeys(own))}; it has "
            f"{', '.join(dataset.column_names)}."
        )
    length = kind.max_length if max_length is None else max_length
    if length < 4:
        raise OptionError(f"A maximum length of {length} tokens leaves no room for text; use at least 4.")
    limit = min(length, _longest_input(tokenizer))
    return dataset.map(
        lambda rows, indices: kind.encode(dict(rows), indices, tokenizer, limit),
        batched=True,
        with_indices=True,
        remove_columns=dataset.column_names,
    )


def _longest_input(tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that the tokenizer and the model beside it take: many tokenizers know no limit of their own."""
    own = int(tokenizer.model_max_length)
    try:
        config = AutoConfig.from_pretrained(tokenizer.name_or_path, local_files_only=True, trust_remote_code=False)
    except Exception:  # there is no model beside it, or one that whoever loads it complains of
        return own
    longest = longest_input(config)
    return own if longest is None else min(own, longest)


def for_model(data: TaskData, model: Any) -> TaskData:
    """A task as a model takes it.

    Pairs of texts with numbers are for regressions and, as scores, for embedders. Classes are numbered as the model
    numbers them (:func:`number_as`).

    Args:
        data: The task.
        model: Of transformers, or exported.

    Raises:
        DataError: If it has as many classes, by other names.
    """
    head = find_head(class_names(model), model.config)
    if data.task.kind is REGRESSION and isinstance(head, Embedding) and "text_pair" in data.train.column_names:
        return replace(data, task=replace(data.task, kind=head))
    return number_as(data, model.config)


def number_as(data: TaskData, config: PretrainedConfig, fresh: bool = False) -> TaskData:
    """Gives the classes the codes that they have in a configuration, by their names, whatever the case.

    Left as they are: classes that are numbers, models whose classes have no names (``LABEL_0``), and the tasks known by
    name where the model's names are others, as the codes of benchmarks are the same everywhere.

    Args:
        data: The task.
        config: Of the model.
        fresh: The model gets a new head unless its classes are these.

    Raises:
        DataError: If the user's classes are as many as the model's, but by other names.
    """
    task, own = data.task, class_labels(config)
    if not task.labels or own is None or all(name.isdigit() for name in task.labels):
        return data
    places = {name.casefold(): code for code, name in enumerate(own)}
    codes = [places.get(name.casefold()) for name in task.labels]
    known = [code for code in codes if code is not None]
    if len(set(known)) < len(codes) or (fresh and len(codes) != len(own)):
        if fresh or task.name != "custom" or len(codes) != len(own):
            return data
        raise DataError(
            f"The model's classes are {', '.join(own)}, and the data's are {', '.join(task.labels)}; name the data's "
            "like the model's, or write the model's codes (0, 1, …) instead of names."
        )
    if own == task.labels:
        return data
    parts = (task.kind.renumber(part, known, len(own)) for part in (data.train, data.validation))
    return TaskData(replace(task, labels=own), *parts)


def shorten(data: TaskData, train: int | None = None, validation: int | None = None) -> TaskData:
    """The first ``train`` and ``validation`` rows of the two parts (all rows where None)."""

    def head(part: Dataset, rows: int | None) -> Dataset:
        return part if rows is None else part.select(range(min(rows, len(part))))

    return replace(data, train=head(data.train, train), validation=head(data.validation, validation))
