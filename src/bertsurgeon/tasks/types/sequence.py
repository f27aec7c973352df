"""One prediction about a whole text or pair of texts: a class, several classes, or a number."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedTokenizerBase

from bertsurgeon.errors import DataError
from bertsurgeon.tasks.distributions import BERNOULLI, CATEGORICAL, NORMAL, Distribution
from bertsurgeon.tasks.files import read_frame, read_user_file
from bertsurgeon.tasks.metrics import Array, sequence_metrics
from bertsurgeon.tasks.types.base import Outputs, Prediction, Prepared, TaskType, encode_texts, finite, recode


@dataclass(frozen=True)
class _Sequence(TaskType):
    """What they share."""

    auto_class: ClassVar[type[Any]] = AutoModelForSequenceClassification
    class_endings: ClassVar[tuple[str, ...]] = ("ForSequenceClassification",)
    columns: ClassVar[dict[str, str]] = {"text": "text", "text_pair": "text_pair", "label": "label"}
    distribution: ClassVar[Distribution]

    def read(self, path: Path, columns: Mapping[str, str | None]) -> Dataset:
        """Texts, pairs of texts where their second column is named, and labels."""
        return read_user_file(path, columns["text"] or "text", columns["text_pair"], columns["label"] or "label")

    def encode(
        self, rows: dict[str, list[Any]], indices: list[int], tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> dict[str, list[Any]]:
        """The model's inputs, and ``labels``."""
        encoded = dict(encode_texts(rows, tokenizer, limit))
        if "label" in rows:
            encoded["labels"] = rows["label"]
        return encoded

    def predictions(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """One for every text."""
        return [Prediction(outputs["logits"], self.distribution)]

    @abstractmethod
    def answers(self, logits: Array) -> Array:
        """What is compared with the labels, for logits of shape (texts, labels)."""

    def score(
        self, metrics: Sequence[str], labels: Sequence[str], outputs: Sequence[Outputs], dataset: Dataset
    ) -> dict[str, float]:
        """See :func:`bertsurgeon.tasks.metrics.sequence_metrics`."""
        if "labels" not in dataset.column_names:
            raise DataError("Evaluation needs labels, and the dataset has none.")
        logits = torch.stack([row["logits"] for row in outputs]).numpy()
        return sequence_metrics(metrics, np.array(dataset["labels"]), self.answers(logits), len(labels))


@dataclass(frozen=True)
class Classification(_Sequence):
    """One of several classes."""

    name: ClassVar[str] = "classification"
    problem_type: ClassVar[str | None] = "single_label_classification"
    distribution: ClassVar[Distribution] = CATEGORICAL

    def describe(self, outputs: int) -> str:
        """The task in words."""
        return f"a classification into {outputs} classes"

    def prepare(self, parts: Sequence[Dataset]) -> Prepared:
        """Codes follow the sorted order of the labels in all files, integers 0…k-1 stay what they are."""
        values = [value for part in parts for value in part["label"]]
        if any(isinstance(value, (list, dict)) for value in values):
            raise DataError(
                "The labels are lists; name the task type: --task-type multi-label or token-classification."
            )
        if any(map(is_real, values)):
            raise DataError("The label column holds real numbers; they make a regression (--task-type regression).")
        names = _sorted({_class_name(value) for value in values})
        if len(names) < 2:
            raise DataError("The label column holds a single class; a classification needs two.")
        if len(names) > max(1000, len(values) // 2):
            raise DataError(f"The label column holds {len(names)} classes; it does not look like labels.")
        codes = {name: code for code, name in enumerate(names)}
        coded = [recode(part, "label", [codes[_class_name(value)] for value in part["label"]]) for part in parts]
        return Prepared(self, ("accuracy", "f1"), names, coded)

    def renumber(self, part: Dataset, codes: Sequence[int], count: int) -> Dataset:
        """See :meth:`TaskType.renumber`."""
        return recode(part, "label", [codes[code] for code in part["label"]])

    def answers(self, logits: Array) -> Array:
        """Class codes, shape (texts,)."""
        return np.asarray(logits.argmax(axis=-1))


@dataclass(frozen=True)
class Regression(_Sequence):
    """A real number."""

    name: ClassVar[str] = "regression"
    problem_type: ClassVar[str | None] = "regression"
    distribution: ClassVar[Distribution] = NORMAL

    def fits(self, config: PretrainedConfig) -> bool:
        """A single output, or several that are said to be numbers."""
        said = getattr(config, "problem_type", None)
        return bool(said == self.problem_type or (said is None and config.num_labels == 1))

    def outputs_for(self, labels: Sequence[str]) -> int:
        """One."""
        return 1

    def describe(self, outputs: int) -> str:
        """The task in words."""
        return "a regression with one output" if outputs == 1 else f"a regression with {outputs} outputs"

    def prepare(self, parts: Sequence[Dataset]) -> Prepared:
        """Labels become floating-point numbers."""
        try:
            coded = [recode(part, "label", [finite(value) for value in part["label"]]) for part in parts]
        except (ValueError, TypeError) as error:
            raise DataError(f"The label column of a regression must hold numbers only ({error}).") from error
        return Prepared(self, ("spearman", "pearson"), (), coded)

    def answers(self, logits: Array) -> Array:
        """The numbers, shape (texts,)."""
        return logits.reshape(len(logits))


@dataclass(frozen=True)
class MultiLabel(_Sequence):
    """Any number of several classes; a label is a list with a 0 or 1 for each."""

    name: ClassVar[str] = "multi-label"
    problem_type: ClassVar[str | None] = "multi_label_classification"
    distribution: ClassVar[Distribution] = BERNOULLI

    def fits(self, config: PretrainedConfig) -> bool:
        """As transformers was told."""
        return bool(getattr(config, "problem_type", None) == self.problem_type)

    def describe(self, outputs: int) -> str:
        """The task in words."""
        return f"a multi-label classification with {outputs} classes"

    def read(self, path: Path, columns: Mapping[str, str | None]) -> Dataset:
        """Labels from a column with lists of their names, or from several columns with 0 or 1, separated by commas."""
        names = (columns["label"] or "label").split(",")
        if twice := [name for name in names if names.count(name) > 1]:
            raise DataError(f"The label columns name {twice[0]!r} twice; name each one once.")
        texts = {"text": columns["text"] or "text", "text_pair": columns["text_pair"]}
        frame = read_frame(path, {**texts, **{f"label {name}": name for name in names}})
        found = [frame.pop(f"label {name}").tolist() for name in names]
        if len(names) == 1:
            labels = [_names_in(value, path, names[0]) for value in found[0]]
        else:
            labels = [_chosen(values, names, path) for values in zip(*found, strict=True)]
        rows = {role: frame[role].astype(str).tolist() for role in frame.columns}
        return Dataset.from_dict({**rows, "label": labels})

    def prepare(self, parts: Sequence[Dataset]) -> Prepared:
        """Codes follow the sorted order of the labels in all files."""
        names = _sorted({str(name) for part in parts for value in part["label"] for name in value})
        if not names:
            raise DataError("No text has a label; a multi-label classification needs at least one.")
        coded = [
            recode(part, "label", [[float(name in value) for name in names] for value in part["label"]])
            for part in parts
        ]
        return Prepared(self, ("micro_f1", "macro_f1", "accuracy"), names, coded)

    def renumber(self, part: Dataset, codes: Sequence[int], count: int) -> Dataset:
        """See :meth:`TaskType.renumber`."""
        old = np.array(part["label"], dtype=np.float64)
        new = np.zeros((len(old), count))
        new[:, list(codes)] = old
        return recode(part, "label", new.tolist())

    def answers(self, logits: Array) -> Array:
        """1 for the classes that are more likely than not, shape (texts, labels)."""
        return (logits > 0).astype(np.int64)


def is_real(value: Any) -> bool:
    """Whether a label is a number that is no class code."""
    return isinstance(value, float) and not value.is_integer()


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    """Numbers in their order, before all other names."""
    return tuple(sorted(names, key=lambda n: (not n.isdigit(), int(n) if n.isdigit() else 0, n)))


def _class_name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) else str(value)


def _names_in(value: Any, path: Path, column: str) -> list[str]:
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_class_name(name) for name in value]
    raise DataError(
        f"The column {column!r} of {path} holds {value!r}, not lists of labels; use JSONL or Parquet, or name several "
        "columns of 0 and 1, separated by commas, with --label-column."
    )


def _chosen(values: Sequence[Any], names: Sequence[str], path: Path) -> list[str]:
    if any(value not in (0, 1) for value in values):
        wrong = next(value for value in values if value not in (0, 1))
        raise DataError(f"The label columns of {path} must hold 0 and 1 only, not {wrong!r}.")
    return [name for name, value in zip(names, values, strict=True) if value]
