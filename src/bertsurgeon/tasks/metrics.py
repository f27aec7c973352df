"""The published metrics of each task, by scikit-learn and scipy."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from bertsurgeon.tasks.table import Metric, Task

Array = NDArray[Any]


def compute_metrics(task: Task, outputs: Array, labels: Array) -> dict[str, float]:
    """The task's metrics, in percent.

    Args:
        task: Says which metrics, and whether this is a regression.
        outputs: The model's logits, shape (samples, labels), or (samples, 1) for a regression.
        labels: Class codes or real numbers, shape (samples,).
    """
    predictions = outputs.reshape(len(labels)) if task.regression else outputs.argmax(axis=-1)
    return {name: 100.0 * _METRICS[name](task, labels, predictions) for name in task.metrics}


def _correlation(function: Callable[[Array, Array], Any], labels: Array, predictions: Array) -> float:
    if np.ptp(predictions) == 0:  # a constant has no correlation; scipy would answer nan and warn
        return 0.0
    return float(function(labels, predictions).statistic)


def _f1(task: Task, labels: Array, predictions: Array) -> float:
    average = "binary" if task.num_labels == 2 else "macro"
    return float(f1_score(labels, predictions, average=average, zero_division=0))


_METRICS: dict[Metric, Callable[[Task, Array, Array], float]] = {
    "accuracy": lambda task, labels, predictions: float(accuracy_score(labels, predictions)),
    "f1": _f1,
    "matthews": lambda task, labels, predictions: float(matthews_corrcoef(labels, predictions)),
    "pearson": lambda task, labels, predictions: _correlation(pearsonr, labels, predictions),
    "spearman": lambda task, labels, predictions: _correlation(spearmanr, labels, predictions),
}
