"""Metrics by name, by scikit-learn, scipy and seqeval; those of SQuAD are in :mod:`bertsurgeon.tasks.squad`."""

import warnings
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import f1_score as entity_f1
from seqeval.metrics import precision_score as entity_precision
from seqeval.metrics import recall_score as entity_recall
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from bertsurgeon.errors import DataError

Array = NDArray[Any]


def sequence_metrics(metrics: Sequence[str], labels: Array, answers: Array, classes: int) -> dict[str, float]:
    """Metrics of one answer per text, in percent.

    Args:
        metrics: ``accuracy`` (for several classes at once: of whole rows), ``f1`` (of the second of two classes, else
            the mean over the classes), ``micro_f1`` and ``macro_f1``, ``matthews``, ``pearson``, ``spearman``.
        labels: Class codes or real numbers, shape (texts,), or 0 and 1, shape (texts, classes).
        answers: Likewise.
        classes: How many there are.
    """
    return {name: 100.0 * _SEQUENCE[name](labels, answers, classes) for name in metrics}


def tag_metrics(metrics: Sequence[str], tags: list[list[str]], answers: list[list[str]]) -> dict[str, float]:
    """Metrics of tagged sentences, in percent.

    Args:
        metrics: ``f1``, ``precision`` and ``recall`` of entities (as the CoNLL script counts them, by seqeval);
            ``accuracy`` and ``macro_f1`` of tags.
        tags: What is right, for each word of each sentence.
        answers: What the model says.
    """
    with warnings.catch_warnings():  # seqeval warns of tags without B- and I-, which it takes for an entity each
        warnings.filterwarnings("ignore", module="seqeval")
        return {name: 100.0 * float(_TAGS[name](tags, answers)) for name in metrics}


def _correlation(function: Callable[[Array, Array], Any], labels: Array, answers: Array) -> float:
    if np.ptp(labels) == 0:
        raise DataError("All labels are the same number, and a correlation needs different ones.")
    if np.ptp(answers) == 0:  # a constant has no correlation; scipy would answer nan and warn
        return 0.0
    return float(function(labels, answers).statistic)


def _flat(sentences: list[list[str]]) -> list[str]:
    return list(chain.from_iterable(sentences))


def _f1(average: str) -> Callable[[Array, Array, int], float]:
    return lambda labels, answers, _: float(f1_score(labels, answers, average=average, zero_division=0))


_SEQUENCE: dict[str, Callable[[Array, Array, int], float]] = {
    "accuracy": lambda labels, answers, _: float(accuracy_score(labels, answers)),
    "f1": lambda labels, answers, classes: _f1("binary" if classes == 2 else "macro")(labels, answers, classes),
    "micro_f1": _f1("micro"),
    "macro_f1": _f1("macro"),
    "matthews": lambda labels, answers, _: float(matthews_corrcoef(labels, answers)),
    "pearson": lambda labels, answers, _: _correlation(pearsonr, labels, answers),
    "spearman": lambda labels, answers, _: _correlation(spearmanr, labels, answers),
}

_TAGS: dict[str, Callable[[list[list[str]], list[list[str]]], Any]] = {
    "f1": lambda tags, answers: entity_f1(tags, answers, zero_division=0),
    "precision": lambda tags, answers: entity_precision(tags, answers, zero_division=0),
    "recall": lambda tags, answers: entity_recall(tags, answers, zero_division=0),
    "accuracy": lambda tags, answers: accuracy_score(_flat(tags), _flat(answers)),
    "macro_f1": lambda tags, answers: f1_score(_flat(tags), _flat(answers), average="macro", zero_division=0),
}
