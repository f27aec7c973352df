"""What every text contributes to a metric, so that the metric of any resample of the texts is computed at once.

A bootstrap needs a metric of thousands of resamples. scikit-learn, scipy and seqeval compute one at a time, in
milliseconds to seconds; the formulas here take the sums of per-text counts for all resamples in one array operation. On
the texts themselves they equal the libraries' values, which the tests compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from bertsurgeon.errors import OptionError
from bertsurgeon.tasks.collate import IGNORED, WORD_STARTS
from bertsurgeon.tasks.distributions import EMBEDDINGS, NORMAL
from bertsurgeon.tasks.metrics import exact_match, normalize_answer, token_f1
from bertsurgeon.tasks.retrieval import Ranking
from bertsurgeon.tasks.types.embedding import EMBEDDING, SCORES, Embedding
from bertsurgeon.tasks.types.heads import Head, Outputs
from bertsurgeon.tasks.types.question import QuestionAnswering
from bertsurgeon.tasks.types.sequence import Classification, MultiLabel, Regression
from bertsurgeon.tasks.types.token import TokenClassification

if TYPE_CHECKING:
    from datasets import Dataset

    from bertsurgeon.tasks.table import Task

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Contributions:
    """What every text contributes to one metric.

    Attributes:
        values: Contributions, shape (texts, columns).
        aggregate: Computes the metric, as a fraction, from contributions of shape (…, texts, columns); returns (…).
        is_binary: True if the metric is the share of texts that count 1, the others counting 0.
    """

    values: Array
    aggregate: Callable[[Array], Array]
    is_binary: bool = False

    def __len__(self) -> int:
        """Returns the number of texts, or of questions, pairs of labeled embeddings, or queries."""
        return len(self.values)

    @property
    def metric(self) -> float:
        """The metric of all texts, in percent."""
        return 100.0 * float(self.aggregate(self.values))

    def of(self, indices: NDArray[np.int64]) -> Array:
        """Returns the metric of resamples, in percent, shape (…).

        Args:
            indices: Texts of each resample, shape (…, texts).
        """
        return 100.0 * self.aggregate(self.values[indices])


def contributions(task: Task, metric: str, outputs: Sequence[Outputs], dataset: Dataset) -> Contributions:
    """Returns what every text contributes to one metric of a task.

    Args:
        task: The task.
        metric: One of ``task.metrics``.
        outputs: Outputs of the model for each row, without padding.
        dataset: Labeled rows, tokenized by the task's type.

    Raises:
        OptionError: If the metric cannot be resampled.
    """
    kind = task.type
    result: Contributions | None = None
    if isinstance(kind, Ranking):
        result = Contributions(kind.measure([metric], outputs, dataset)[metric][:, None], _mean)
    elif isinstance(kind, (Classification, Regression, MultiLabel)):
        logits = torch.stack([row["logits"] for row in outputs]).numpy()
        result = _sequence(metric, np.asarray(dataset["labels"]), np.asarray(kind.decode(logits)), kind, task.labels)
    elif isinstance(kind, TokenClassification):
        result = _tags(metric, task.labels, outputs, dataset)
    elif isinstance(kind, QuestionAnswering):
        result = _answers(metric, kind, outputs, dataset)
    elif isinstance(kind, Embedding):
        vectors = torch.stack([row[EMBEDDING] for row in outputs])
        cosines = F.cosine_similarity(vectors[0::2], vectors[1::2]).numpy()
        result = _correlation(metric, np.asarray(dataset[SCORES][0::2]), cosines)
    if result is None:
        raise OptionError(f"The uncertainty of the metric {metric!r} of a {kind.name} cannot be computed.")
    return result


def agreement_contributions(
    head: Head, reference: Sequence[Outputs], outputs: Sequence[Outputs], dataset: Dataset
) -> Contributions:
    """Returns what every text contributes to the agreement of two models.

    The agreement is the share of equal predicted values; for numbers Pearson's correlation, for embeddings the mean
    overlap of the neighbors' ranks (:func:`bertsurgeon.tasks.metrics.neighbor_metrics`), and for searches the overlap
    of each query's first ten documents.

    Args:
        head: The models' head, or the type of a task that is a search.
        reference: Outputs of the reference for each row, without padding.
        outputs: Outputs of the other model for each row.
        dataset: The rows.
    """
    if isinstance(head, Ranking):
        return Contributions(head.overlaps(reference, outputs, dataset)[:, None], _mean)
    if isinstance(head, Embedding):
        from bertsurgeon.tasks.metrics import rank_overlaps

        vectors, other = (torch.stack([row[EMBEDDING] for row in rows]) for rows in (reference, outputs))
        return Contributions(rank_overlaps(vectors, other)[:, None], _mean)
    names = [name for name in (WORD_STARTS, "labels") if name in dataset.column_names]
    columns = dataset.select_columns(names) if names else [{}] * len(dataset)
    counts, numbers = [], []
    for first, second, row in zip(reference, outputs, columns, strict=True):
        batch = _as_batch(first, row)
        pairs = [head.predictions({name: value[None] for name, value in one.items()}, batch) for one in (first, second)]
        decoded = [torch.cat([p.distribution.decode(p.z) for p in predictions]) for predictions in pairs]
        if pairs[0][0].distribution is NORMAL or pairs[0][0].distribution is EMBEDDINGS:
            numbers.append([float(decoded[0][0]), float(decoded[1][0])])
        else:
            counts.append([float((decoded[0] == decoded[1]).sum()), float(len(decoded[0]))])
    if numbers:
        values = np.asarray(numbers)
        return Contributions(values, _pearson)
    values = np.asarray(counts)
    if (values[:, 1] == 1).all():
        return Contributions(values[:, :1], _mean, is_binary=True)
    return Contributions(values, lambda v: _ratio(v[..., 0].sum(-1), v[..., 1].sum(-1)))


def _as_batch(outputs: Outputs, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Returns the columns that predictions depend on, for one unpadded row."""
    tokens = next(iter(outputs.values())).shape[0]
    batch = {name: torch.tensor(value)[None] for name, value in row.items() if isinstance(value, list)}
    batch["attention_mask"] = torch.ones(1, tokens, dtype=torch.long)
    return batch


def _sequence(metric: str, labels: Array, predictions: Array, kind: Any, names: Sequence[str]) -> Contributions | None:
    if isinstance(kind, Regression):
        return _correlation(metric, labels, predictions)
    if isinstance(kind, MultiLabel):
        if metric == "accuracy":
            return Contributions((labels == predictions).all(1, keepdims=True).astype(float), _mean, is_binary=True)
        hits = labels * predictions
        if metric == "micro_f1":
            return Contributions(np.stack([hits.sum(1), predictions.sum(1), labels.sum(1)], 1).astype(float), _f1)
        if metric == "macro_f1":
            return Contributions(
                np.concatenate([hits, predictions, labels], 1).astype(float), _macro_f1(all_classes=True)
            )
        return None
    if metric == "accuracy":
        return Contributions((labels == predictions)[:, None].astype(float), _mean, is_binary=True)
    return _classes(metric, labels, predictions, len(names))


def _classes(metric: str, labels: Array, predictions: Array, classes: int) -> Contributions | None:
    """Contributions of one prediction per text, or per word, of several classes."""
    gold, predicted = np.eye(classes)[labels], np.eye(classes)[predictions]
    if metric == "f1" and classes == 2:
        return Contributions(np.stack([gold[:, 1] * predicted[:, 1], predicted[:, 1], gold[:, 1]], 1), _f1)
    if metric in ("f1", "macro_f1"):
        return Contributions(np.concatenate([gold * predicted, predicted, gold], 1), _macro_f1(all_classes=False))
    if metric == "micro_f1":
        return Contributions((labels == predictions)[:, None].astype(float), _mean, is_binary=True)
    if metric == "matthews":
        return Contributions(np.concatenate([gold * predicted, predicted, gold], 1), _matthews)
    return None


def _tags(metric: str, names: Sequence[str], outputs: Sequence[Outputs], dataset: Dataset) -> Contributions | None:
    rows = []
    for codes, output in zip(dataset["labels"], outputs, strict=True):
        predicted = output["logits"].argmax(-1).tolist()
        rows.append([(code, prediction) for code, prediction in zip(codes, predicted, strict=True) if code != IGNORED])
    if metric in ("f1", "precision", "recall"):
        from seqeval.metrics.sequence_labeling import get_entities

        counts = []
        for row in rows:
            entities, predicted_entities = (set(get_entities([names[pair[side]] for pair in row])) for side in (0, 1))
            counts.append([len(entities & predicted_entities), len(predicted_entities), len(entities)])
        values = np.asarray(counts, dtype=float)
        formulas: dict[str, Callable[[Array], Array]] = {
            "f1": _f1,
            "precision": lambda v: _ratio(v[..., 0].sum(-1), v[..., 1].sum(-1)),
            "recall": lambda v: _ratio(v[..., 0].sum(-1), v[..., 2].sum(-1)),
        }
        return Contributions(values, formulas[metric])
    if metric == "accuracy":
        values = np.asarray(
            [[sum(code == prediction for code, prediction in row), len(row)] for row in rows], dtype=float
        )
        return Contributions(values, lambda v: _ratio(v[..., 0].sum(-1), v[..., 1].sum(-1)))
    if metric == "macro_f1":
        classes = len(names)
        per_row = []
        for row in rows:
            gold = np.bincount([code for code, _ in row], minlength=classes)
            predicted_counts = np.bincount([prediction for _, prediction in row], minlength=classes)
            hits = np.bincount([code for code, prediction in row if code == prediction], minlength=classes)
            per_row.append(np.concatenate([hits, predicted_counts, gold]))
        return Contributions(np.asarray(per_row, dtype=float), _macro_f1(all_classes=False))
    return None


def _answers(
    metric: str, kind: QuestionAnswering, outputs: Sequence[Outputs], dataset: Dataset
) -> Contributions | None:
    scores: dict[str, Callable[[str, str], float]] = {
        "exact_match": exact_match,
        "f1": lambda answer, text: token_f1(answer, text, 1.0 if kind.unanswerable else 0.0),
    }
    if metric not in scores:
        return None
    references = dict(zip(dataset["example"], dataset["answers"], strict=True))
    values = []
    for example, (span, null_score) in kind.answer(outputs, dataset).items():
        texts = references[example]
        if kind.unanswerable:
            span = "" if null_score > kind.null_threshold else span
            texts = [text for text in texts if normalize_answer(text)] or [""]
        values.append([max((scores[metric](span, text) for text in texts), default=0.0)])
    return Contributions(np.asarray(values, dtype=float), _mean, is_binary=metric == "exact_match")


def _correlation(metric: str, labels: Array, predictions: Array) -> Contributions | None:
    values = np.stack([labels, predictions], 1).astype(float)
    if metric == "pearson":
        return Contributions(values, _pearson)
    if metric == "spearman":
        from scipy.stats import rankdata

        return Contributions(values, lambda v: _pearson(rankdata(v, axis=-2)))
    return None


# formulas, of arrays (…, texts, columns)


def _mean(values: Array) -> Array:
    return np.asarray(values[..., 0].mean(-1))


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Returns quotients; 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(np.shape(denominator)), where=np.asarray(denominator) != 0)


def _f1(values: Array) -> Array:
    """F1 from true positives, predicted positives and positives."""
    hits, predicted, positives = np.moveaxis(values.sum(-2), -1, 0)
    return _ratio(2 * hits, predicted + positives)


def _macro_f1(all_classes: bool) -> Callable[[Array], Array]:
    """Mean F1 of the classes: all of them, or those that occur in labels or predictions, as scikit-learn has it."""

    def formula(values: Array) -> Array:
        hits, predicted, positives = np.split(values.sum(-2), 3, axis=-1)
        f1 = _ratio(2 * hits, predicted + positives)
        occurring = np.ones_like(f1) if all_classes else (predicted + positives > 0).astype(float)
        return _ratio(f1.sum(-1), occurring.sum(-1))

    return formula


def _matthews(values: Array) -> Array:
    """Matthews' correlation of several classes (Gorodkin, 2004), from one-hot hits, predictions and labels."""
    total = float(values.shape[-2])
    hits, predicted, positives = np.split(values.sum(-2), 3, axis=-1)
    covariance = hits.sum(-1) * total - (predicted * positives).sum(-1)
    variances = (total**2 - (predicted**2).sum(-1)) * (total**2 - (positives**2).sum(-1))
    return _ratio(covariance, np.sqrt(variances))


def _pearson(values: Array) -> Array:
    centered = values - values.mean(-2, keepdims=True)
    covariance = (centered[..., 0] * centered[..., 1]).sum(-1)
    return _ratio(covariance, np.sqrt((centered[..., 0] ** 2).sum(-1) * (centered[..., 1] ** 2).sum(-1)))
