"""Metrics: of classes and numbers, of tags, of answers to questions (SQuAD), and of two embedders' neighbors.

scikit-learn, scipy and seqeval compute what they offer and are imported on first use. SQuAD's metrics are from
Rajpurkar et al., 2016 (arXiv 1606.05250) and 2018 (arXiv 1806.03822): libraries offer version 1.1 (torchmetrics, which
the tests compare with), but not version 2.0 with its thresholds.
"""

import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bertsurgeon.errors import DataError

Array = NDArray[Any]

V2_METRICS = (
    "f1",
    "exact_match",
    "has_answer_f1",
    "has_answer_exact_match",
    "no_answer_accuracy",
    "best_f1",
    "best_f1_threshold",
)
"""Metrics of SQuAD 2.0; the first two are those of version 1.1."""

NEAREST = 10
"""Number of neighbors of each text that :func:`neighbor_metrics` compares."""

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


# classes, numbers and tags


def sequence_metrics(metrics: Sequence[str], labels: Array, predictions: Array, classes: int) -> dict[str, float]:
    """Metrics of one prediction per text, in percent.

    Args:
        metrics: Names: ``accuracy`` (multi-label: the share of rows with all classes right), ``f1`` (of class 1 if
            there are two classes, else the mean over the classes), ``micro_f1``, ``macro_f1``, ``matthews``,
            ``pearson``, ``spearman``. All are scikit-learn's or scipy's.
        labels: Class codes or numbers, shape (texts,), or multi-label 0 and 1, shape (texts, classes).
        predictions: Predicted values, of the same shape.
        classes: Number of classes.

    Raises:
        DataError: If a correlation is requested and all labels are equal.
    """
    return {name: 100.0 * _SEQUENCE_METRICS[name](labels, predictions, classes) for name in metrics}


def tag_metrics(metrics: Sequence[str], tags: list[list[str]], predictions: list[list[str]]) -> dict[str, float]:
    """Metrics of tagged sentences, in percent.

    Args:
        metrics: Names: ``f1``, ``precision`` and ``recall`` of entities, as the script of the CoNLL-2000 shared task
            counts them (seqeval); ``accuracy`` and ``macro_f1`` of tags (scikit-learn).
        tags: Reference tags of each word of each sentence.
        predictions: Predicted tags, of the same lengths.
    """
    with warnings.catch_warnings():  # seqeval warns of tags without B- and I-, each of which it counts as an entity
        warnings.filterwarnings("ignore", module="seqeval")
        return {name: 100.0 * _tag_metric(name, tags, predictions) for name in metrics}


def _accuracy(labels: Array, predictions: Array, classes: int) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions))


def _f1(average: str) -> Callable[[Array, Array, int], float]:
    def score(labels: Array, predictions: Array, classes: int) -> float:
        from sklearn.metrics import f1_score

        return float(f1_score(labels, predictions, average=average, zero_division=0))

    return score


def _matthews(labels: Array, predictions: Array, classes: int) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions))


def _correlation(name: str) -> Callable[[Array, Array, int], float]:
    def score(labels: Array, predictions: Array, classes: int) -> float:
        from scipy import stats

        if np.ptp(labels) == 0:
            raise DataError("All labels are the same number; a correlation needs at least two different labels.")
        if np.ptp(predictions) == 0:  # scipy returns nan for a constant, with a warning
            return 0.0
        return float(getattr(stats, name)(labels, predictions).statistic)

    return score


_SEQUENCE_METRICS: dict[str, Callable[[Array, Array, int], float]] = {
    "accuracy": _accuracy,
    "f1": lambda labels, predictions, classes: _f1("binary" if classes == 2 else "macro")(labels, predictions, classes),
    "micro_f1": _f1("micro"),
    "macro_f1": _f1("macro"),
    "matthews": _matthews,
    "pearson": _correlation("pearsonr"),
    "spearman": _correlation("spearmanr"),
}


def _tag_metric(name: str, tags: list[list[str]], predictions: list[list[str]]) -> float:
    from seqeval import metrics as seqeval
    from sklearn.metrics import accuracy_score, f1_score

    if name in ("f1", "precision", "recall"):
        return float(getattr(seqeval, f"{name}_score")(tags, predictions, zero_division=0))
    flat_tags, flat_predictions = ([*chain.from_iterable(sentences)] for sentences in (tags, predictions))
    if name == "accuracy":
        return float(accuracy_score(flat_tags, flat_predictions))
    return float(f1_score(flat_tags, flat_predictions, average="macro", zero_division=0))


# answers to questions


def normalize_answer(text: str) -> str:
    """Lowercases a text, then removes punctuation, articles and repeated spaces, in this order."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> float:
    """Returns 1 if both texts are equal once normalized, else 0."""
    return float(normalize_answer(answer) == normalize_answer(reference))


def token_f1(answer: str, reference: str, both_empty: float = 0.0) -> float:
    """Harmonic mean of the precision and recall of an answer's words, between 0 and 1.

    Args:
        answer: Predicted answer.
        reference: Reference answer.
        both_empty: Score if neither text has a word after normalization: 0 in version 1.1, 1 in version 2.0.
    """
    words, reference_words = normalize_answer(answer).split(), normalize_answer(reference).split()
    if not words and not reference_words:
        return both_empty
    shared = (Counter(words) & Counter(reference_words)).total()
    return 2 * shared / (len(words) + len(reference_words))


def answer_metrics(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """``exact_match`` and ``f1`` of SQuAD 1.1, in percent.

    Args:
        answers: Predicted answer to each question.
        references: Reference answers to each question; the best match counts.
    """
    pairs = list(zip(answers, references, strict=True))
    exact = [max((exact_match(answer, text) for text in texts), default=0.0) for answer, texts in pairs]
    f1 = [max((token_f1(answer, text) for text in texts), default=0.0) for answer, texts in pairs]
    return {"exact_match": _mean(exact), "f1": _mean(f1)}


def answer_metrics_v2(
    spans: Sequence[str], references: Sequence[Sequence[str]], null_scores: Sequence[float], threshold: float
) -> dict[str, float]:
    """Metrics of SQuAD 2.0, where questions may have no answer; in percent, except ``best_f1_threshold``.

    ``f1`` and ``exact_match`` over all questions; the same over those with an answer (``has_answer_…``);
    ``no_answer_accuracy`` over those without; and the highest F1 that any threshold reaches (``best_f1``), with the
    lowest threshold that reaches it.

    Args:
        spans: Best span for each question; empty if there is none.
        references: Reference answers to each question; none if it has no answer.
        null_scores: Score of "no answer" minus the score of the span, in logits.
        threshold: Questions with a higher null score are left unanswered.
    """
    references = [[text for text in texts if normalize_answer(text)] or [""] for texts in references]
    answers = ["" if score > threshold else span for span, score in zip(spans, null_scores, strict=True)]
    exact, f1 = _best_matches(answers, references)
    answerable = [texts != [""] for texts in references]
    metrics = {"f1": _mean(f1), "exact_match": _mean(exact)}
    if any(answerable):
        metrics["has_answer_f1"] = _mean([score for score, has in zip(f1, answerable, strict=True) if has])
        metrics["has_answer_exact_match"] = _mean([score for score, has in zip(exact, answerable, strict=True) if has])
    if not all(answerable):
        metrics["no_answer_accuracy"] = _mean([score for score, has in zip(exact, answerable, strict=True) if not has])
    best, best_threshold = _best_threshold(_best_matches(spans, references)[1], answerable, null_scores, spans)
    return {**metrics, "best_f1": best, "best_f1_threshold": best_threshold}


def _best_matches(answers: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[list[float], list[float]]:
    """Exact match and F1 of each answer with its best reference."""
    pairs = list(zip(answers, references, strict=True))
    exact = [max(exact_match(answer, text) for text in texts) for answer, texts in pairs]
    f1 = [max(token_f1(answer, text, 1.0) for text in texts) for answer, texts in pairs]
    return exact, f1


def _best_threshold(
    f1: Sequence[float], answerable: Sequence[bool], null_scores: Sequence[float], spans: Sequence[str]
) -> tuple[float, float]:
    """Highest mean F1 over all thresholds, and the lowest threshold that reaches it.

    Questions are answered one by one, the most certain first; those with equal scores are answered together, as no
    threshold separates them.
    """
    total = best = float(len(answerable) - sum(answerable))
    best_threshold = min(null_scores) - 1.0  # below all scores: no question is answered
    order = sorted(range(len(answerable)), key=null_scores.__getitem__)
    for position, index in enumerate(order):
        total += f1[index] if answerable[index] else -1.0 if spans[index] else 0.0
        is_last = position + 1 == len(order) or null_scores[order[position + 1]] > null_scores[index]
        if is_last and total > best:
            best, best_threshold = total, null_scores[index]
    return 100.0 * best / len(answerable), best_threshold


def _mean(scores: Sequence[float]) -> float:
    return 100.0 * sum(scores) / len(scores)


# neighbors


def neighbor_metrics(first: Tensor, second: Tensor) -> dict[str, float]:
    """Agreement of two embedders on the nearest neighbors of each text, in percent; needs no labels.

    Args:
        first: Embeddings by the reference, shape (texts, width).
        second: Embeddings by the other model, shape (texts, any width).

    Returns:
        ``recall_at_10``: the share of the reference's ten nearest neighbors of a text (by cosine, among all other
        texts) that are among the other model's ten; absent for fewer than twelve texts, where ten is all others.
        ``rank_overlap``: the mean of the same share for the nearest one, two, … up to ten neighbors, which depends on
        their order (average overlap: Webber et al., 2010, ACM TOIS 28(4), section 3.2). ``cosine``, for equal widths:
        100 times the mean cosine of both embeddings of a text.
    """
    shares = _overlap_shares(first, second)
    metrics = {"recall_at_10": 100 * float(shares[-1].mean())} if len(first) > NEAREST + 1 else {}
    metrics["rank_overlap"] = 100 * float(shares.mean())
    if first.shape == second.shape:
        cosines = (first * second).sum(-1) / (first.norm(dim=-1) * second.norm(dim=-1)).clamp_min(1e-12)
        metrics["cosine"] = 100 * float(cosines.mean())
    return metrics


def rank_overlaps(first: Tensor, second: Tensor) -> NDArray[np.float64]:
    """Returns the average overlap of the nearest neighbors of each text, between 0 and 1, shape (texts,).

    Args:
        first: Embeddings by the reference, shape (texts, width).
        second: Embeddings by the other model, shape (texts, any width).
    """
    overlaps: NDArray[np.float64] = _overlap_shares(first, second).mean(0)
    return overlaps


def _overlap_shares(first: Tensor, second: Tensor) -> NDArray[np.float64]:
    """Shares of common neighbors among the nearest one, two, … of each text, shape (neighbors, texts)."""
    count = min(NEAREST, len(first) - 1)
    if count < 1:
        return np.ones((1, len(first)))
    nearest, other_nearest = (_nearest(embeddings, count) for embeddings in (first, second))
    same = nearest[:, :, None] == other_nearest[:, None, :]
    return np.stack([same[:, :depth, :depth].sum((1, 2)) / depth for depth in range(1, count + 1)])


def _nearest(embeddings: Tensor, count: int) -> NDArray[np.int64]:
    """Indices of the nearest other rows of each row, shape (rows, count)."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute")
    indices: NDArray[np.int64] = search.fit(embeddings.double().numpy()).kneighbors(return_distance=False)
    return indices
