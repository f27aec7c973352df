"""The difference of two models over the same queries: an interval, a test, and what so many queries can show."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertsurgeon.tasks.retrieval.measures import mean_percent

RESAMPLES = 10_000
"""Resamples of a paired test and of its interval."""

MAX_BCA = 2_000
"""Most queries with a BCa interval; its cost grows with their square, and with more it is close to percentiles."""

MAX_NUMBERS = 2_000_000
"""Numbers that a batch of resamples may take."""


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two models on the same queries, in percentage points.

    Attributes:
        reference: Metric of the reference, in percent.
        model: Metric of the model, in percent.
        difference: ``model`` minus ``reference``.
        low: Lower end of the confidence interval, from a bootstrap over queries: bias-corrected and accelerated (BCa)
            up to ``MAX_BCA`` queries, percentiles above.
        high: Its upper end.
        p: Two-sided p-value of Fisher's randomization test (Smucker, Allan and Carterette, 2007).
        detectable: Smallest difference that as many queries with this spread show with a probability of 80 % at a
            significance level of 5 %; None for a single query.
        queries: Number of queries.
    """

    reference: float
    model: float
    difference: float
    low: float
    high: float
    p: float
    detectable: float | None
    queries: int

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for reports."""
        return asdict(self)


def paired_difference(
    reference: NDArray[np.float64], model: NDArray[np.float64], *, confidence: float = 0.95, seed: int = 0
) -> PairedDifference:
    """Tests the mean difference of a metric.

    Args:
        reference: Metric of the reference for each query, between 0 and 1, shape (queries,).
        model: Metric of the other model for each query, shape (queries,).
        confidence: Confidence of the interval.
        seed: Seed of the resamples.

    Returns:
        The means and their difference, its interval and p-value, and the smallest difference that can be detected.
    """
    from scipy import stats

    differences = 100.0 * (model - reference)
    mean, count = float(differences.mean()), len(differences)
    low = high = mean
    p, batch = 1.0, max(1, MAX_NUMBERS // count)
    if (differences != differences[0]).any():
        interval = stats.bootstrap(
            (differences,),
            np.mean,
            confidence_level=confidence,
            method="BCa" if count <= MAX_BCA else "percentile",
            n_resamples=RESAMPLES,
            batch=batch,
            vectorized=True,
            rng=np.random.default_rng(seed),
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    if count > 1 and differences.any():
        test = stats.permutation_test(
            (model, reference),
            lambda first, second, axis: (first - second).mean(axis),
            permutation_type="samples",
            n_resamples=RESAMPLES - 1,
            batch=batch,
            vectorized=True,
            rng=np.random.default_rng(seed),
        )
        p = float(test.pvalue)
    spread = float(differences.std(ddof=1)) if count > 1 else math.nan
    detectable = None if count < 2 else float(stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * spread / math.sqrt(count)
    return PairedDifference(mean_percent(reference), mean_percent(model), mean, low, high, p, detectable, count)
