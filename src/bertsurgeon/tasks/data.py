"""From a task's name or the user's files to tokenized datasets."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from transformers import PreTrainedTokenizerBase

from bertsurgeon.errors import DataError, OptionError
from bertsurgeon.tasks.docstrings import read_docstrings
from bertsurgeon.tasks.files import read_glue, read_user_file
from bertsurgeon.tasks.table import Task, get_task


@dataclass(frozen=True)
class TaskData:
    """A task with its data: columns ``text``, ``text_pair`` (for pairs) and ``label``."""

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
        return TaskData(task, *read_glue(task, data_dir))
    try:
        splits: Any = load_dataset(*task.hub)
    except Exception as error:  # the hub client raises a dozen unrelated types when there is no network
        raise DataError(
            f"Task {name!r} could not be loaded from the hub ({type(error).__name__}); "
            "pass --data-dir with the local GLUE files."
        ) from error
    roles = dict(zip(task.hub_columns, ("text", "text_pair"), strict=False))
    train, validation = (
        splits[split].rename_columns(roles).select_columns([*roles.values(), "label"])
        for split in ("train", task.validation_split)
    )
    return TaskData(task, train, validation)


def load_user_task(
    train_file: Path,
    validation_file: Path,
    text_column: str = "text",
    text_pair_column: str | None = None,
    label_column: str = "label",
) -> TaskData:
    """Loads the user's own labelled files; real-valued labels make a regression, all others a classification.

    Class codes follow the sorted order of the labels in both files, integers 0…k-1 stay what they are.

    Raises:
        DataError: If a file cannot be read, or labels make neither a classification nor a regression.
    """
    parts = [
        read_user_file(path, text_column, text_pair_column, label_column) for path in (train_file, validation_file)
    ]
    values = [value for part in parts for value in part["label"]]
    if any(isinstance(value, float) and not float(value).is_integer() for value in values):
        task = Task("custom", ("spearman", "pearson"))
        try:
            numbers = [[float(value) for value in part["label"]] for part in parts]
        except ValueError as error:
            raise DataError(f"The label column {label_column!r} mixes real numbers and names ({error}).") from error
        coded = [
            part.remove_columns("label").add_column("label", column)
            for part, column in zip(parts, numbers, strict=True)
        ]
        return TaskData(task, *coded)
    names = sorted(
        {_class_name(value) for value in values},
        key=lambda n: (not n.isdigit(), int(n) if n.isdigit() else 0, n),
    )
    if len(names) < 2:
        raise DataError(f"The label column {label_column!r} holds a single class; a classification needs two.")
    if len(names) > max(1000, len(values) // 2):
        raise DataError(f"The label column {label_column!r} holds {len(names)} classes; it does not look like labels.")
    codes = {name: code for code, name in enumerate(names)}
    coded = [
        part.remove_columns("label").add_column("label", [codes[_class_name(v)] for v in part["label"]])
        for part in parts
    ]
    return TaskData(Task("custom", ("accuracy", "f1"), tuple(names)), *coded)


def _class_name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) else str(value)


def tokenize(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = 128) -> Dataset:
    """Tokenizes ``text`` (and ``text_pair``), truncated, unpadded; ``label`` becomes ``labels``.

    Raises:
        DataError: If the dataset is empty or has no ``text`` column.
        OptionError: If ``max_length`` leaves no room for text.
    """
    if len(dataset) == 0:
        raise DataError("The dataset is empty; at least one text is needed.")
    if "text" not in dataset.column_names:
        raise DataError(f"The dataset has no column 'text'; it has {', '.join(dataset.column_names)}.")
    if max_length < 4:
        raise OptionError(f"A maximum length of {max_length} tokens leaves no room for text; use at least 4.")
    limit = min(max_length, tokenizer.model_max_length)
    pair = "text_pair" in dataset.column_names

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        texts = (batch["text"], batch["text_pair"]) if pair else (batch["text"],)
        encoded = dict(tokenizer(*texts, truncation=True, max_length=limit))
        if "label" in batch:
            encoded["labels"] = batch["label"]
        return encoded

    return dataset.map(encode, batched=True, remove_columns=dataset.column_names)


def shorten(data: TaskData, train: int | None = None, validation: int | None = None) -> TaskData:
    """The first ``train`` and ``validation`` rows of the two parts (all rows where None)."""

    def head(part: Dataset, rows: int | None) -> Dataset:
        return part if rows is None else part.select(range(min(rows, len(part))))

    return replace(data, train=head(data.train, train), validation=head(data.validation, validation))
