"""Base class of task types: reading, tokenizing and scoring the data of one kind of head."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import BatchEncoding, PretrainedConfig, PreTrainedTokenizerBase

from bertsurgeon.errors import ModelError
from bertsurgeon.tasks.collate import has_labels
from bertsurgeon.tasks.types.heads import Head, Outputs

if TYPE_CHECKING:
    from datasets import Dataset

_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)

TRUNCATED = "truncated"
"""Column that :meth:`TaskType.encode` adds: True in the first row made of a raw row whose text was cut."""

MAX_SUMMARY = 60
"""Characters of a list of classes with their counts, beyond which only the range of the counts is named."""


@dataclass(frozen=True)
class PreparedData:
    """A user's data with coded labels, ready to be tokenized.

    Attributes:
        type: Type of the task, with settings that the data decides.
        metrics: Names of its metrics, the primary one first.
        labels: Names of the classes or tags in the order of their codes; empty if there are none.
        parts: Rows of each file, in the columns :attr:`TaskType.columns`.
    """

    type: TaskType
    metrics: tuple[str, ...]
    labels: tuple[str, ...]
    parts: list[Dataset]


@dataclass(frozen=True)
class TruncationLimit:
    """What tokenization cuts.

    Attributes:
        unit: What is cut, in the plural, for instance "texts".
        tokens: Tokens at which it is cut.
        option: Option that raises the limit.
    """

    unit: str
    tokens: int
    option: str


@dataclass(frozen=True)
class TaskType(Head):
    """A type of task: reads, tokenizes and scores data for one kind of head.

    A task type is found from a model's configuration (:func:`bertsurgeon.tasks.task_type_of`), from a task's name, or
    on the command line; all task-dependent behavior is one of its methods.
    """

    name: ClassVar[str]
    """Name on the command line."""

    auto_class: ClassVar[type[Any]]
    """Auto class of transformers for models with this head."""

    problem_type: ClassVar[str | None] = None
    """``problem_type`` in transformers' configurations, for sequence classification heads."""

    columns: ClassVar[dict[str, str]]
    """Columns of a raw dataset with ``text``, ``text_pair`` and ``label``; also the defaults for a user's files."""

    max_length: ClassVar[int] = 128
    """Default limit of tokens per row."""

    rows_are: ClassVar[str] = "rows"
    """What a row of a raw dataset is, in the plural."""

    learns_from_labels: ClassVar[bool] = True
    """Whether its models compute a loss from labels; otherwise training requires a teacher."""

    def fits_head(self, head: Head) -> bool:
        """Returns whether models with a head can be scored on tasks of this type.

        Args:
            head: The head, as :func:`bertsurgeon.tasks.task_type_of` finds it.
        """
        return type(head) is type(self)

    @abstractmethod
    def describe(self, outputs: int) -> str:
        """Returns a description for error messages, for instance "a classification into 3 classes".

        Args:
            outputs: Number of outputs of the head.
        """

    def num_outputs_for(self, labels: Sequence[str]) -> int:
        """Returns the number of outputs of a head for these labels."""
        return len(labels)

    def num_outputs_of(self, config: PretrainedConfig) -> int:
        """Returns the number of outputs of the head of a model with this configuration."""
        return int(config.num_labels or 0)

    def is_labeled(self, columns: Sequence[str]) -> bool:
        """Returns whether a dataset tokenized by :meth:`encode` has the references that :meth:`score` needs.

        Args:
            columns: Names of the dataset's columns.
        """
        return has_labels(columns)

    def head_options(self, labels: Sequence[str]) -> dict[str, Any]:
        """Returns keyword arguments with which ``from_pretrained`` makes a head for these labels."""
        names: dict[str, Any] = {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: code for code, label in enumerate(labels)},
        }
        return {
            "num_labels": self.num_outputs_for(labels),
            "problem_type": self.problem_type,
            **(names if labels else {}),
        }

    @abstractmethod
    def read(self, path: Path, columns: Mapping[str, str | None]) -> Dataset:
        """Reads a user's file into :attr:`columns`; labels stay as they are in the file.

        Args:
            path: The file.
            columns: Names of the columns with ``text``, ``text_pair`` and ``label``; None for the defaults.

        Raises:
            DataError: If the file is missing, cannot be read, or lacks a column.
        """

    def class_names(self, parts: Sequence[Dataset]) -> set[str]:
        """Returns the names of the classes in datasets that :meth:`read` returned; empty for types without classes."""
        return set()

    @abstractmethod
    def prepare(self, parts: Sequence[Dataset], labels: Sequence[str] = ()) -> PreparedData:
        """Codes the labels of the datasets that :meth:`read` returned for all files.

        Args:
            parts: One dataset per file.
            labels: Names of the classes in the order of their codes, among them those of :meth:`class_names`; empty if
                the parts decide. No effect on types without classes.

        Raises:
            DataError: If the labels do not make a task of this type.
        """

    @abstractmethod
    def summarize(self, part: Dataset, labels: Sequence[str]) -> str:
        """Returns what the labels of a dataset are, in a few words: the number of rows of each class, or a range.

        Args:
            part: Rows with labels as :meth:`prepare` codes them.
            labels: Names of the classes.
        """

    def recode_labels(self, part: Dataset, codes: Sequence[int], count: int) -> Dataset:
        """Replaces class codes.

        Args:
            part: Raw rows with labels as :meth:`prepare` codes them.
            codes: New code of each old one.
            count: Number of classes under the new codes.
        """
        return part

    @abstractmethod
    def encode(
        self, rows: dict[str, list[Any]], indices: list[int], tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> dict[str, list[Any]]:
        """Tokenizes a batch of raw rows, with the columns of the task or with ``text`` (and ``text_pair``) alone.

        Args:
            rows: Columns of the batch.
            indices: Positions of the rows in the dataset.
            tokenizer: Tokenizer of the model.
            limit: Maximum number of tokens per row.

        Returns:
            Unpadded columns: the model's inputs, labels if there are any, what :meth:`score` reads, and ``truncated``.
        """

    def truncation_limit(self, columns: Sequence[str], limit: int) -> TruncationLimit:
        """Returns what :meth:`encode` cuts, and where.

        Args:
            columns: Names of the raw dataset's columns.
            limit: Maximum number of tokens per row.
        """
        return TruncationLimit("pairs of texts" if "text_pair" in columns else "texts", limit, "max_length")

    @abstractmethod
    def score(
        self, metrics: Sequence[str], labels: Sequence[str], outputs: Sequence[Outputs], dataset: Dataset
    ) -> dict[str, float]:
        """Computes metrics by name, in percent.

        Args:
            metrics: Names of the metrics.
            labels: Names of the classes.
            outputs: Outputs of the model for each row, without padding.
            dataset: Labeled rows, tokenized by :meth:`encode`.

        Raises:
            DataError: If the dataset lacks references.
        """


def encode_texts(
    rows: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, limit: int, **options: Any
) -> BatchEncoding:
    """Tokenizes texts or pairs of texts, truncated to ``limit`` tokens.

    Args:
        rows: Columns ``text`` and, for pairs, ``text_pair``.
        tokenizer: Tokenizer of the model.
        limit: Maximum number of tokens per row.
        **options: Further options of the tokenizer's call.

    Raises:
        ModelError: If offsets are requested and the tokenizer cannot return them.
    """
    texts = (rows["text"], rows["text_pair"]) if "text_pair" in rows else (rows["text"],)
    if options.get("return_offsets_mapping") and not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} does not return the positions of tokens in a text; use a fast tokenizer."
        )
    encoded: BatchEncoding = tokenizer(*texts, **{"truncation": True, "max_length": limit, **options})
    return encoded


def find_truncated(
    encoded: BatchEncoding, rows: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, limit: int
) -> list[bool]:
    """Returns for each row of :func:`encode_texts` whether it was truncated.

    Args:
        encoded: Result of :func:`encode_texts` for the same arguments.
        rows: Columns ``text`` and, for pairs, ``text_pair``.
        tokenizer: Tokenizer of the model.
        limit: Maximum number of tokens per row.
    """
    if encoded.encodings is not None:  # fast tokenizers keep what they cut off
        return [bool(encoding.overflowing) for encoding in encoded.encodings]
    truncated = [len(ids) >= limit for ids in encoded["input_ids"]]
    for row, is_full in enumerate(truncated):
        if is_full:
            texts = [rows[name][row] for name in ("text", "text_pair") if name in rows]
            truncated[row] = len(tokenizer(*texts, verbose=False)["input_ids"]) > limit
    return truncated


def replace_column(part: Dataset, column: str, values: Sequence[Any]) -> Dataset:
    """Returns a dataset with other values in a column."""
    return part.remove_columns(column).add_column(column, values)


def name_order(name: str) -> tuple[int, int, str]:
    """Returns the key that sorts names of classes: whole numbers by value, before all other names.

    Args:
        name: The name.
    """
    return (0, int(name), name) if _INTEGER.fullmatch(name) else (1, 0, name)


def summarize_counts(counts: Mapping[str, int]) -> str:
    """Returns the number of rows of each class, or the least and the most if there are many classes."""
    each = ", ".join(
        f"{f'class {name}:' if _INTEGER.fullmatch(name) else name} {count:,}" for name, count in counts.items()
    )
    if len(each) <= MAX_SUMMARY:
        return each
    return f"{len(counts)} classes, {min(counts.values()):,} to {max(counts.values()):,} rows each"


def summarize_range(values: Sequence[float], unit: str) -> str:
    """Returns the least and the largest of some numbers.

    Args:
        values: The numbers, at least one.
        unit: What they are, in the plural.
    """
    return f"{unit} from {min(values):g} to {max(values):g}"


def finite_float(value: Any) -> float:
    """Returns a label as a number.

    Raises:
        ValueError: If it is not a number, or not finite.
        TypeError: If its type cannot be converted.
    """
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is no finite number")
    return number
