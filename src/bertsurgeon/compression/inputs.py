"""Data of a search: tokenized, divided into texts to search on and texts to confirm on, and hashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon.calibration import make_batches
from bertsurgeon.compression.config import CompressData
from bertsurgeon.compression.work_folder import digest_of
from bertsurgeon.errors import DataError
from bertsurgeon.evaluation import check_head
from bertsurgeon.methods.auto.measurements import fingerprint
from bertsurgeon.tasks import Data, Embedding, QuestionAnswering, Task, as_dataset
from bertsurgeon.tasks.retrieval import SHARED, Ranking, query_numbers

if TYPE_CHECKING:
    from datasets import Dataset

MIN_TO_SET_ASIDE = 2000
"""Validation texts of which half are set aside to confirm on; fewer leave too few on either side."""

TIMED_TEXTS = 256
"""Texts of which batches are made to be timed at their own lengths."""


@dataclass(frozen=True)
class SearchInputs:
    """Tokenized data of a search.

    Attributes:
        task: The task; None without labels.
        calibration: Texts for calibrations and INT8.
        training: Texts for the recovery.
        search: Texts on which candidates are compared.
        confirmation: Texts that the search does not use; None if there are not enough.
        fingerprint: Hash of the dense model's weights.
    """

    task: Task | None
    calibration: Dataset
    training: Dataset
    search: Dataset
    confirmation: Dataset | None
    fingerprint: str

    @classmethod
    def prepare(
        cls,
        model: PreTrainedModel,
        data: CompressData,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        max_length: int | None = None,
    ) -> SearchInputs:
        """Tokenizes the data, and sets validation texts aside.

        Args:
            model: The dense model.
            data: The data.
            tokenizer: Its tokenizer.
            seed: Fixes which texts are set aside.
            max_length: Maximum number of tokens per text; None for the task type's default.

        Raises:
            DataError: If a part is empty, or lacks the labels that the task needs.
            ModelError: If head and task do not fit.
        """
        task = data.task
        if task is not None:
            check_head(model, task)

        def encode(part: Data) -> Dataset:
            return as_dataset(part, tokenizer, model, max_length, task_type=None if task is None else task.type)

        training, validation = encode(data.training), encode(data.validation)
        confirmation = None if data.test is None else encode(data.test)
        for name, part in (("validation", validation), ("test", confirmation)):
            if part is None:
                continue
            if len(part) == 0:
                raise DataError(f"The {name} data is empty; name data with at least a few hundred texts.")
            if task is not None and not task.type.is_labeled(part.column_names):
                raise DataError(f"The {name} data has no labels; pass labeled data, or bound the agreement instead.")
        if confirmation is None:
            validation, confirmation = set_aside(validation, task, seed)
        elif digest_of(confirmation) == digest_of(validation):
            raise DataError("The test data is the validation data, on which the search decides; name other texts.")
        calibration = training if data.calibration is None else encode(data.calibration)
        return cls(task, calibration, training, validation, confirmation, fingerprint(model))

    @cached_property
    def calibration_digest(self) -> str:
        """Hash of the calibration texts."""
        return digest_of(self.calibration)

    @cached_property
    def training_digest(self) -> str:
        """Hash of the training texts."""
        return self.calibration_digest if self.training is self.calibration else digest_of(self.training)

    @cached_property
    def search_digest(self) -> str:
        """Hash of the texts that are searched on."""
        return digest_of(self.search)

    def batches(self, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> Sequence[Mapping[str, Tensor]]:
        """Returns batches of the validation texts, padded to their own lengths; smaller ones only if there are no full.

        Args:
            tokenizer: Pads the batches.
            batch_size: Texts per batch.
        """
        count = max(TIMED_TEXTS, batch_size)
        batches = list(make_batches(self.search, tokenizer, count, batch_size, 0))
        names = [name for name in tokenizer.model_input_names if name in batches[0]]
        size = max(len(batch[names[0]]) for batch in batches)
        return [{name: batch[name] for name in names} for batch in batches if len(batch[names[0]]) == size]


def set_aside(validation: Dataset, task: Task | None, seed: int) -> tuple[Dataset, Dataset | None]:
    """Divides validation data into a half to search on and a half to confirm on, if there is enough of it.

    Args:
        validation: Tokenized rows; all rows of a question, a pair or a query stay together.
        task: The task; None without labels.
        seed: Fixes the halves.

    Returns:
        Both parts; all of the data and None if there is not enough.
    """
    units = text_numbers(validation, task)
    names = np.unique(units[units != SHARED])
    if len(names) < MIN_TO_SET_ASIDE:
        return validation, None
    chosen = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
    searched, shared = np.isin(units, chosen), units == SHARED
    return validation.select(np.flatnonzero(searched | shared)), validation.select(np.flatnonzero(~searched))


def count_texts(rows: Dataset, task: Task | None) -> int:
    """Returns the number of texts, questions, pairs or queries."""
    units = text_numbers(rows, task)
    return len(np.unique(units[units != SHARED]))


def text_numbers(rows: Dataset, task: Task | None) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Returns the number of the text that each row belongs to: of the question, pair of embedded texts, or query.

    Documents of a search belong to all queries, and have the number ``SHARED``.
    """
    if task is not None and isinstance(task.type, Ranking):
        return query_numbers(rows)
    if task is not None and isinstance(task.type, QuestionAnswering):
        return np.asarray(rows["example"])
    numbers = np.arange(len(rows))
    return numbers // 2 if task is not None and isinstance(task.type, Embedding) else numbers
