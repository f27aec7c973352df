"""What every head and every kind of task has to say."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor
from transformers import BatchEncoding, PretrainedConfig, PreTrainedTokenizerBase

from bertsurgeon.errors import ModelError
from bertsurgeon.tasks.collate import has_labels
from bertsurgeon.tasks.distributions import Distribution

Outputs = Mapping[str, Tensor]
"""A model's outputs by name."""


@dataclass(frozen=True)
class Prediction:
    """Predictions of one family.

    Attributes:
        z: The distributions' parameters, shape (predictions, choices); padding is gone, or hidden (:func:`hide`) where
            tokens are the choices.
        distribution: What they are the parameters of.
    """

    z: Tensor
    distribution: Distribution


@dataclass(frozen=True)
class Head(ABC):
    """What models with one kind of head predict: all that losses, comparisons and exports have to know about it."""

    class_endings: ClassVar[tuple[str, ...]]
    """How the names of its model classes end."""

    outputs: ClassVar[dict[str, bool]] = {"logits": False}
    """Names of the outputs that predictions are made from, and whether each has an entry for every token."""

    def fits(self, config: PretrainedConfig) -> bool:
        """Whether a model of its class with this configuration has such a head."""
        return True

    @abstractmethod
    def predictions(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """Everything a model predicts about a batch.

        Args:
            outputs: The model's.
            batch: What it was called with, and ``word_starts`` where words are classified.
        """

    def losses(self, batch: Mapping[str, Tensor]) -> int:
        """How many losses the model's loss for a labelled batch is the mean of."""
        return len(next(iter(batch.values())))

    def agreement(
        self, first: Sequence[Outputs], second: Sequence[Outputs], batches: Sequence[Mapping[str, Tensor]]
    ) -> float:
        """How often two models say the same about some batches, in percent (:meth:`Distribution.agreement`)."""
        answers = [
            [self.predictions(outputs, batch) for outputs, batch in zip(found, batches, strict=True)]
            for found in (first, second)
        ]
        left, right = (torch.cat([p.distribution.answers(p.z) for part in found for p in part]) for found in answers)
        return answers[0][0][0].distribution.agreement(left, right)

    def comparison(
        self, first: Sequence[Outputs], second: Sequence[Outputs], batches: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, float]:
        """How far a second model says what the first one says, by name of the measure, in percent; no labels."""
        return {"agreement": self.agreement(first, second, batches)}


@dataclass(frozen=True)
class Prepared:
    """The user's data, ready to be tokenized.

    Attributes:
        kind: Of the task.
        metrics: By which it is judged, the one that decides first.
        labels: Names of the classes or tags, in the order of their codes; empty where there are none.
        parts: The files' rows, in :attr:`TaskType.columns`.
    """

    kind: "TaskType"
    metrics: tuple[str, ...]
    labels: tuple[str, ...]
    parts: list[Dataset]


@dataclass(frozen=True)
class TaskType(Head):
    """One kind of task: all that the rest of the library has to know about it, its data and metrics included.

    A task type is found from a model's configuration (:func:`bertsurgeon.tasks.task_type_of`), from a task's name, or
    on the command line; all task-dependent behavior is one of its methods.
    """

    name: ClassVar[str]
    """On the command line."""

    auto_class: ClassVar[type[Any]]
    """transformers' Auto class with the head."""

    problem_type: ClassVar[str | None] = None
    """transformers' name, for heads of sequences."""

    columns: ClassVar[dict[str, str]]
    """Columns of a raw dataset that hold texts and labels, and of a user's file where no others are named."""

    max_length: ClassVar[int] = 128
    """Tokens of a text, where nothing else is asked for."""

    learns_from_labels: ClassVar[bool] = True
    """Whether its models compute a loss from labels; where not, only a teacher can train them."""

    @abstractmethod
    def describe(self, outputs: int) -> str:
        """The task in words, for instance "a classification into 3 classes"."""

    def outputs_for(self, labels: Sequence[str]) -> int:
        """Outputs a head must have for these labels."""
        return len(labels)

    def outputs_of(self, config: PretrainedConfig) -> int:
        """Outputs the head of a model with this configuration has."""
        return int(config.num_labels or 0)

    def is_labelled(self, columns: Sequence[str]) -> bool:
        """Whether the columns of a dataset that :meth:`encode` made hold what :meth:`score` compares with."""
        return has_labels(columns)

    def head_options(self, labels: Sequence[str]) -> dict[str, Any]:
        """What ``from_pretrained`` is told to make a head for these labels."""
        names: dict[str, Any] = {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: code for code, label in enumerate(labels)},
        }
        return {"num_labels": self.outputs_for(labels), "problem_type": self.problem_type, **(names if labels else {})}

    @abstractmethod
    def read(self, path: Path, columns: Mapping[str, str | None]) -> Dataset:
        """Reads a user's file into :attr:`columns`; labels stay as they are in the file.

        Args:
            path: The file.
            columns: Names of the columns with ``text``, ``text_pair`` and ``label``; None for this kind's own.

        Raises:
            DataError: If the file is missing, unreadable, or lacks something.
        """

    @abstractmethod
    def prepare(self, parts: Sequence[Dataset]) -> Prepared:
        """Codes the labels of what :meth:`read` made of all files.

        Raises:
            DataError: If the labels do not make a task of this kind.
        """

    def renumber(self, part: Dataset, codes: Sequence[int], count: int) -> Dataset:
        """Gives the classes of raw rows other codes.

        Args:
            part: With labels as :meth:`prepare` codes them.
            codes: The new code of each old one.
            count: Classes there are under the new codes.
        """
        return part

    @abstractmethod
    def encode(
        self, rows: dict[str, list[Any]], indices: list[int], tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> dict[str, list[Any]]:
        """Tokenizes a batch of raw rows, with the columns of the task or with nothing but ``text`` (and ``text_pair``).

        Args:
            rows: Columns.
            indices: Positions of the rows in the dataset.
            tokenizer: Of the model.
            limit: Most tokens of a row.

        Returns:
            Unpadded columns: the model's inputs, its labels where there are any, and what :meth:`score` reads.
        """

    @abstractmethod
    def score(
        self, metrics: Sequence[str], labels: Sequence[str], outputs: Sequence[Outputs], dataset: Dataset
    ) -> dict[str, float]:
        """Metrics by name, in percent.

        Args:
            metrics: Names of those wanted.
            labels: Names of the classes.
            outputs: Of each row, without padding.
            dataset: Tokenized by :meth:`encode`, with labels.

        Raises:
            DataError: If the dataset lacks what is compared with.
        """


def encode_texts(
    rows: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, limit: int, **options: Any
) -> BatchEncoding:
    """Plain texts or pairs of texts, truncated.

    Args:
        rows: Columns ``text`` and, for pairs, ``text_pair``.
        tokenizer: Of the model.
        limit: Most tokens of a row.
        **options: For the tokenizer.

    Raises:
        ModelError: If offsets are asked for, and the tokenizer does not know them.
    """
    texts = (rows["text"], rows["text_pair"]) if "text_pair" in rows else (rows["text"],)
    if options.get("return_offsets_mapping") and not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} does not know where tokens stand in a text; use a fast tokenizer."
        )
    encoded: BatchEncoding = tokenizer(*texts, **{"truncation": True, "max_length": limit, **options})
    return encoded


def recode(part: Dataset, column: str, codes: Sequence[Any]) -> Dataset:
    """A dataset with other values in a column."""
    return part.remove_columns(column).add_column(column, codes)


def finite(value: Any) -> float:
    """A label as a number.

    Raises:
        ValueError: If it is none, or no finite one.
        TypeError: If it can be none.
    """
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is no finite number")
    return number


def hide(z: Tensor, mask: Tensor) -> Tensor:
    """Leaves choices out: where ``mask`` is False, a logit that no softmax sees."""
    return z.masked_fill(~mask, torch.finfo(z.dtype).min / 2)
