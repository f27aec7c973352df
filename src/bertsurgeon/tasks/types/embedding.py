"""Sentence embeddings: one vector per text, compared by cosine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, PretrainedConfig, PreTrainedTokenizerBase

from bertsurgeon.errors import DataError
from bertsurgeon.tasks.distributions import EMBEDDINGS
from bertsurgeon.tasks.files import read_user_file
from bertsurgeon.tasks.metrics import neighbor_metrics, sequence_metrics
from bertsurgeon.tasks.types.base import (
    TRUNCATED,
    PreparedData,
    TaskType,
    encode_texts,
    find_truncated,
    finite_float,
    replace_column,
    summarize_range,
)
from bertsurgeon.tasks.types.heads import Outputs, Prediction

if TYPE_CHECKING:
    from datasets import Dataset

EMBEDDING = "sentence_embedding"
"""Name of the output."""

SCORES = "scores"
"""Column with the similarity score of a pair, equal for both of its texts; no loss reads it."""

METRICS = ("spearman", "pearson")


@dataclass(frozen=True)
class Embedding(TaskType):
    """One vector per text; the two texts of a pair are embedded separately.

    Labeled data are pairs with a similarity score, which is correlated with their cosine.
    """

    name: ClassVar[str] = "embedding"
    auto_class: ClassVar[type[Any]] = AutoModel
    class_endings: ClassVar[tuple[str, ...]] = ("Embedder",)
    outputs: ClassVar[dict[str, bool]] = {EMBEDDING: False}
    columns: ClassVar[dict[str, str]] = {"text": "text", "text_pair": "text_pair", "label": "label"}
    max_length: ClassVar[int] = 256
    learns_from_labels: ClassVar[bool] = False
    recovery_rate: ClassVar[float | None] = 2e-4  # docs/embeddings.md; neighbors tell little about the damage

    def describe(self, outputs: int) -> str:
        """Returns a description for error messages."""
        return "an embedding of sentences"

    def num_outputs_for(self, labels: Sequence[str]) -> int:
        """Returns 0: labels do not decide the width of an embedding."""
        return 0

    def num_outputs_of(self, config: PretrainedConfig) -> int:
        """Returns 0, as :meth:`num_outputs_for` does."""
        return 0

    def is_labeled(self, columns: Sequence[str]) -> bool:
        """Returns whether there are similarity scores."""
        return SCORES in columns

    def read(self, path: Path, columns: Mapping[str, str | None]) -> Dataset:
        """Reads pairs of texts and their similarity scores."""
        pair = columns["text_pair"] or self.columns["text_pair"]
        return read_user_file(path, columns["text"] or "text", pair, columns["label"] or "label")

    def prepare(self, parts: Sequence[Dataset], labels: Sequence[str] = ()) -> PreparedData:
        """Converts scores to floating-point numbers."""
        try:
            coded = [
                replace_column(part, "label", [finite_float(value) for value in part["label"][:]]) for part in parts
            ]
        except (ValueError, TypeError) as error:
            raise DataError(f"The label column must hold the similarity of two texts as numbers ({error}).") from error
        return PreparedData(self, METRICS, (), coded)

    def summarize(self, part: Dataset, labels: Sequence[str]) -> str:
        """Returns the range of the scores."""
        return summarize_range(part["label"], "scores")

    def encode(
        self, rows: dict[str, list[Any]], indices: list[int], tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> dict[str, list[Any]]:
        """Returns the model's inputs: two consecutive rows per pair, with ``scores`` if the pairs have labels."""
        if "text_pair" not in rows:
            encoded = encode_texts({"text": rows["text"]}, tokenizer, limit)
            return {**encoded, TRUNCATED: find_truncated(encoded, {"text": rows["text"]}, tokenizer, limit)}
        texts = {"text": list(chain.from_iterable(zip(rows["text"], rows["text_pair"], strict=True)))}
        encoded = encode_texts(texts, tokenizer, limit)
        truncated = find_truncated(encoded, texts, tokenizer, limit)
        # one entry per pair, in its first row
        pairs_truncated = [row % 2 == 0 and (truncated[row] or truncated[row + 1]) for row in range(len(truncated))]
        columns = {**encoded, TRUNCATED: pairs_truncated}
        if "label" in rows:
            columns[SCORES] = [score for score in rows["label"] for _ in range(2)]
        return columns

    def predictions(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """Returns one prediction per text."""
        return [Prediction(outputs[EMBEDDING], EMBEDDINGS)]

    def comparison(
        self, first: Sequence[Outputs], second: Sequence[Outputs], batches: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, float]:
        """Returns :func:`bertsurgeon.tasks.metrics.neighbor_metrics` of all texts."""
        return neighbor_metrics(
            *(torch.cat([outputs[EMBEDDING] for outputs in model_outputs]) for model_outputs in (first, second))
        )

    def score(
        self, metrics: Sequence[str], labels: Sequence[str], outputs: Sequence[Outputs], dataset: Dataset
    ) -> dict[str, float]:
        """Correlates the cosines of all pairs with their scores."""
        if SCORES not in dataset.column_names:
            raise DataError(
                "Evaluation of embeddings needs pairs of texts with similarity scores, and the dataset has none; pass "
                "data with the columns text, text_pair and label."
            )
        vectors = torch.stack([row[EMBEDDING] for row in outputs])
        cosines = F.cosine_similarity(vectors[0::2], vectors[1::2]).numpy()
        return sequence_metrics(metrics, np.array(dataset[SCORES][0::2]), cosines, 0)
