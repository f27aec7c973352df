"""Sentence embeddings: a vector for every text, compared by their angles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, PretrainedConfig, PreTrainedTokenizerBase

from bertsurgeon.errors import DataError
from bertsurgeon.tasks.distributions import EMBEDDINGS
from bertsurgeon.tasks.files import read_user_file
from bertsurgeon.tasks.metrics import sequence_metrics
from bertsurgeon.tasks.neighbours import neighbour_metrics
from bertsurgeon.tasks.types.base import Outputs, Prediction, Prepared, TaskType, encode_texts, finite, recode

EMBEDDING = "sentence_embedding"
"""Name of the output."""

SCORES = "scores"
"""Column with how alike the texts of a pair are, the same for both; no loss reads it."""

METRICS = ("spearman", "pearson")


@dataclass(frozen=True)
class Embedding(TaskType):
    """A vector for every text; texts of a pair are embedded one by one.

    A task is pairs with a score of how alike they are, which the cosine is compared with.
    """

    name: ClassVar[str] = "embedding"
    auto_class: ClassVar[type[Any]] = AutoModel
    class_endings: ClassVar[tuple[str, ...]] = ("Embedder",)
    outputs: ClassVar[dict[str, bool]] = {EMBEDDING: False}
    columns: ClassVar[dict[str, str]] = {"text": "text", "text_pair": "text_pair", "label": "label"}
    max_length: ClassVar[int] = 256
    learns_from_labels: ClassVar[bool] = False

    def describe(self, outputs: int) -> str:
        """The task in words."""
        return "an embedding of sentences"

    def outputs_for(self, labels: Sequence[str]) -> int:
        """None that labels could count."""
        return 0

    def outputs_of(self, config: PretrainedConfig) -> int:
        """Likewise."""
        return 0

    def is_labelled(self, columns: Sequence[str]) -> bool:
        """Whether there are scores."""
        return SCORES in columns

    def read(self, path: Path, columns: Mapping[str, str | None]) -> Dataset:
        """Pairs of texts and their scores."""
        pair = columns["text_pair"] or self.columns["text_pair"]
        return read_user_file(path, columns["text"] or "text", pair, columns["label"] or "label")

    def prepare(self, parts: Sequence[Dataset]) -> Prepared:
        """Scores become floating-point numbers."""
        try:
            coded = [recode(part, "label", [finite(value) for value in part["label"]]) for part in parts]
        except (ValueError, TypeError) as error:
            raise DataError(f"The label column must say how alike two texts are, in numbers ({error}).") from error
        return Prepared(self, METRICS, (), coded)

    def encode(
        self, rows: dict[str, list[Any]], indices: list[int], tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> dict[str, list[Any]]:
        """The model's inputs: of a pair two rows, one after the other, with ``scores`` where the pairs have any."""
        if "text_pair" not in rows:
            return dict(encode_texts({"text": rows["text"]}, tokenizer, limit))
        texts = list(chain.from_iterable(zip(rows["text"], rows["text_pair"], strict=True)))
        encoded = dict(encode_texts({"text": texts}, tokenizer, limit))
        if "label" in rows:
            encoded[SCORES] = [score for score in rows["label"] for _ in range(2)]
        return encoded

    def predictions(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """One for every text."""
        return [Prediction(outputs[EMBEDDING], EMBEDDINGS)]

    def comparison(
        self, first: Sequence[Outputs], second: Sequence[Outputs], batches: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, float]:
        """See :func:`bertsurgeon.tasks.neighbours.neighbour_metrics`."""
        left, right = (torch.cat([outputs[EMBEDDING] for outputs in found]) for found in (first, second))
        return neighbour_metrics(left, right)

    def score(
        self, metrics: Sequence[str], labels: Sequence[str], outputs: Sequence[Outputs], dataset: Dataset
    ) -> dict[str, float]:
        """How the cosines of the pairs go with their scores."""
        if SCORES not in dataset.column_names:
            raise DataError("Evaluation of embeddings needs pairs of texts with scores, and the dataset has none.")
        vectors = torch.stack([row[EMBEDDING] for row in outputs])
        cosines = F.cosine_similarity(vectors[0::2], vectors[1::2]).numpy()
        return sequence_metrics(metrics, np.array(dataset[SCORES][0::2]), cosines, 0)
