"""One prediction about a text or a pair of texts: a class, several classes, or a number."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedTokenizerBase

from bertsurgeon.errors import DataError
from bertsurgeon.tasks.distributions import BERNOULLI, CATEGORICAL, NORMAL, Distribution
from bertsurgeon.tasks.files import read_columns, read_user_file
from bertsurgeon.tasks.metrics import Array, sequence_metrics
from bertsurgeon.tasks.types.base import (
    TRUNCATED,
    PreparedData,
    TaskType,
    encode_texts,
    find_truncated,
    finite_float,
    name_order,
    replace_column,
    summarize_counts,
    summarize_range,
)
from bertsurgeon.tasks.types.heads import Outputs, Prediction

if TYPE_CHECKING:
    from datasets import Dataset

_FLAGS = {"false": False, "true": True, "0": False, "1": True}


@dataclass(frozen=True)
class _SequenceTask(TaskType):
    """Common parts of all sequence classification heads."""

    auto_class: ClassVar[type[Any]] = AutoModelForSequenceClassification
    class_endings: ClassVar[tuple[str, ...]] = ("ForSequenceClassification",)
    columns: ClassVar[dict[str, str]] = {"text": "text", "text_pair": "text_pair", "label": "label"}
    distribution: ClassVar[Distribution]

    def read(self, path: Path, columns: Mapping[str, str | None]) -> Dataset:
        """Reads texts and labels, and pairs of texts if the column of the second ones is named."""
        return read_user_file(path, columns["text"] or "text", columns["text_pair"], columns["label"] or "label")

    def encode(
        self, rows: dict[str, list[Any]], indices: list[int], tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> dict[str, list[Any]]:
        """Returns the model's inputs, and ``labels`` if the rows have any."""
        encoded = encode_texts(rows, tokenizer, limit)
        columns = {**encoded, TRUNCATED: find_truncated(encoded, rows, tokenizer, limit)}
        if "label" in rows:
            columns["labels"] = rows["label"]
        return columns

    def predictions(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """Returns one prediction per text."""
        return [Prediction(outputs["logits"], self.distribution)]

    @abstractmethod
    def decode(self, logits: Array) -> Array:
        """Returns the predicted values, in the form of the labels.

        Args:
            logits: Shape (texts, labels).
        """

    def score(
        self, metrics: Sequence[str], labels: Sequence[str], outputs: Sequence[Outputs], dataset: Dataset
    ) -> dict[str, float]:
        """Computes :func:`bertsurgeon.tasks.metrics.sequence_metrics`."""
        if "labels" not in dataset.column_names:
            raise DataError("Evaluation needs labels, and the dataset has none; pass labeled data.")
        logits = torch.stack([row["logits"] for row in outputs]).numpy()
        return sequence_metrics(metrics, np.array(dataset["labels"]), self.decode(logits), len(labels))


@dataclass(frozen=True)
class Classification(_SequenceTask):
    """One of several classes."""

    name: ClassVar[str] = "classification"
    problem_type: ClassVar[str | None] = "single_label_classification"
    distribution: ClassVar[Distribution] = CATEGORICAL

    def describe(self, outputs: int) -> str:
        """Returns a description for error messages."""
        return f"a classification into {outputs} classes"

    def class_names(self, parts: Sequence[Dataset]) -> set[str]:
        """Returns all classes."""
        return {_class_name(value) for part in parts for value in part["label"][:]}

    def prepare(self, parts: Sequence[Dataset], labels: Sequence[str] = ()) -> PreparedData:
        """Codes classes in the sorted order of their names in all files; integers 0…k-1 keep their values."""
        values = [value for part in parts for value in part["label"][:]]
        if any(isinstance(value, (list, dict)) for value in values):
            raise DataError(
                "The labels are lists; name the task type: --task-type multi-label or token-classification."
            )
        if any(map(is_real, values)):
            raise DataError(
                "The label column holds real numbers; use a regression (--task-type regression), "
                "or JSON with strings as classes."
            )
        names = tuple(labels) or tuple(sorted(self.class_names(parts), key=name_order))
        if len(names) < 2:
            raise DataError("The label column holds a single class; a classification needs two.")
        if not labels and len(names) > max(1000, len(values) // 2):
            raise DataError(
                f"The label column holds {len(names)} classes; it does not look like labels. Name the right one with "
                "--label-column."
            )
        codes = {name: code for code, name in enumerate(names)}
        coded = [
            replace_column(part, "label", [codes[_class_name(value)] for value in part["label"][:]]) for part in parts
        ]
        return PreparedData(self, ("accuracy", "f1"), names, coded)

    def summarize(self, part: Dataset, labels: Sequence[str]) -> str:
        """Returns the number of rows of each class."""
        counts = np.bincount(part["label"], minlength=len(labels)).tolist()
        return summarize_counts(dict(zip(labels, counts, strict=True)))

    def recode_labels(self, part: Dataset, codes: Sequence[int], count: int) -> Dataset:
        """Replaces class codes, see :meth:`TaskType.recode_labels`."""
        return replace_column(part, "label", [codes[code] for code in part["label"][:]])

    def decode(self, logits: Array) -> Array:
        """Returns class codes, shape (texts,)."""
        return np.asarray(logits.argmax(axis=-1))


@dataclass(frozen=True)
class Regression(_SequenceTask):
    """A real number."""

    name: ClassVar[str] = "regression"
    problem_type: ClassVar[str | None] = "regression"
    distribution: ClassVar[Distribution] = NORMAL

    def fits(self, config: PretrainedConfig) -> bool:
        """Returns whether ``problem_type`` is regression, or not set and there is a single output."""
        problem_type = getattr(config, "problem_type", None)
        return bool(problem_type == self.problem_type or (problem_type is None and config.num_labels == 1))

    def num_outputs_for(self, labels: Sequence[str]) -> int:
        """Returns 1."""
        return 1

    def describe(self, outputs: int) -> str:
        """Returns a description for error messages."""
        return "a regression with one output" if outputs == 1 else f"a regression with {outputs} outputs"

    def prepare(self, parts: Sequence[Dataset], labels: Sequence[str] = ()) -> PreparedData:
        """Converts labels to floating-point numbers."""
        try:
            coded = [
                replace_column(part, "label", [finite_float(value) for value in part["label"][:]]) for part in parts
            ]
        except (ValueError, TypeError) as error:
            raise DataError(f"The label column of a regression must hold numbers only ({error}).") from error
        return PreparedData(self, ("spearman", "pearson"), (), coded)

    def summarize(self, part: Dataset, labels: Sequence[str]) -> str:
        """Returns the range of the labels."""
        return summarize_range(part["label"], "labels")

    def decode(self, logits: Array) -> Array:
        """Returns the numbers, shape (texts,)."""
        return logits.reshape(len(logits))


@dataclass(frozen=True)
class MultiLabel(_SequenceTask):
    """Any number of several classes; a label is a list with a 0 or 1 for each."""

    name: ClassVar[str] = "multi-label"
    problem_type: ClassVar[str | None] = "multi_label_classification"
    distribution: ClassVar[Distribution] = BERNOULLI

    def fits(self, config: PretrainedConfig) -> bool:
        """Returns whether ``problem_type`` is multi-label classification."""
        return bool(getattr(config, "problem_type", None) == self.problem_type)

    def describe(self, outputs: int) -> str:
        """Returns a description for error messages."""
        return f"a multi-label classification with {outputs} classes"

    def read(self, path: Path, columns: Mapping[str, str | None]) -> Dataset:
        """Reads labels from one column with lists of names, or from comma-separated columns of 0 and 1."""
        from datasets import Dataset

        names = (columns["label"] or "label").split(",")
        if repeated := [name for name in names if names.count(name) > 1]:
            raise DataError(f"The label columns name {repeated[0]!r} twice; name each one once.")
        texts = {"text": columns["text"] or "text", "text_pair": columns["text_pair"]}
        rows = read_columns(path, {**texts, **{f"label {name}": name for name in names}})
        values = [rows.pop(f"label {name}") for name in names]
        if len(names) == 1:
            labels = [_parse_names(value, path, names[0]) for value in values[0]]
        else:
            labels = [_active_names(flags, names, path) for flags in zip(*values, strict=True)]
        return Dataset.from_dict({**rows, "label": labels})

    def class_names(self, parts: Sequence[Dataset]) -> set[str]:
        """Returns all labels that a text has."""
        return {str(name) for part in parts for value in part["label"][:] for name in value}

    def prepare(self, parts: Sequence[Dataset], labels: Sequence[str] = ()) -> PreparedData:
        """Codes labels in the sorted order of their names in all files."""
        names = tuple(labels) or tuple(sorted(self.class_names(parts), key=name_order))
        if not names:
            raise DataError("No text has a label; a multi-label classification needs at least one.")
        coded = [
            replace_column(part, "label", [[float(name in value) for name in names] for value in part["label"][:]])
            for part in parts
        ]
        return PreparedData(self, ("micro_f1", "macro_f1", "accuracy"), names, coded)

    def summarize(self, part: Dataset, labels: Sequence[str]) -> str:
        """Returns the number of rows with each label, and of those without any."""
        flags = np.array(part["label"], dtype=np.int64)
        counts = summarize_counts(dict(zip(labels, flags.sum(axis=0).tolist(), strict=True)))
        unlabeled = int((flags.sum(axis=1) == 0).sum())
        return f"{counts}; {unlabeled:,} without a label" if unlabeled else counts

    def recode_labels(self, part: Dataset, codes: Sequence[int], count: int) -> Dataset:
        """Moves the 0s and 1s of each class, see :meth:`TaskType.recode_labels`."""
        old = np.array(part["label"], dtype=np.float64)
        new = np.zeros((len(old), count))
        new[:, list(codes)] = old
        return replace_column(part, "label", new.tolist())

    def decode(self, logits: Array) -> Array:
        """Returns 1 for classes with a probability above ½, shape (texts, labels)."""
        return (logits > 0).astype(np.int64)


def is_real(value: Any) -> bool:
    """Returns whether a label is a number that is not an integer, and therefore no class code."""
    return isinstance(value, float) and not value.is_integer()


def _class_name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) else str(value)


def _parse_names(value: Any, path: Path, column: str) -> list[str]:
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_class_name(name) for name in value]
    raise DataError(
        f"The column {column!r} of {path} holds {value!r}, not lists of labels; use JSONL or Parquet, or name several "
        "columns of 0 and 1, separated by commas, with --label-column."
    )


def _active_names(cells: Sequence[Any], names: Sequence[str], path: Path) -> list[str]:
    flags = [_FLAGS.get(cell.casefold(), cell) if isinstance(cell, str) else cell for cell in cells]
    if any(flag not in (0, 1) for flag in flags):
        wrong = next(flag for flag in flags if flag not in (0, 1))
        raise DataError(f"The label columns of {path} must hold 0 and 1 only, not {wrong!r}.")
    return [name for name, flag in zip(names, flags, strict=True) if flag]
