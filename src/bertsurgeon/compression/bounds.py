"""The loss of a candidate against the dense model as a statistical statement: a one-sided upper limit, and a verdict.

Both models answer the same texts, so the loss is a paired difference. Its limit is:

- for the share of right answers, from the score test of Tango (1998, Statistics in Medicine 17, 891-908), which holds
  its level for small shares and few texts; scipy and statsmodels offer McNemar's test of no difference, but no
  interval for the difference;
- for the share of equal answers, Clopper and Pearson's exact limit (:func:`scipy.stats.binomtest`);
- for all other metrics, from the bias-corrected and accelerated bootstrap over texts (:func:`scipy.stats.bootstrap`).

Each holds a single statement at the requested confidence. How a search makes several is in
:mod:`bertsurgeon.compression.search`.
"""

import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from bertsurgeon.tasks.contributions import Contributions

Verdict = Literal["holds", "not shown", "fails"]

RESAMPLES = 2000
"""Bootstrap resamples; the Monte Carlo error of a limit is then about a thirtieth of the standard error."""

MAX_ACCELERATED = 2000
"""Texts above which the bootstrap is not accelerated: it takes a resample per text, and the skew is negligible."""

FEW_CHANGES = 5
"""Changed texts up to which the bootstrap is not trusted alone."""

_NO_CHANGES = "exact binomial limit of texts that change the loss"

_CELLS = 10_000_000
"""Numbers that a batch of resamples may take."""


@dataclass(frozen=True)
class Bound:
    """What a compressed model may lose.

    Attributes:
        kind: ``max_drop`` of the metric, or ``min_agreement`` with the dense model.
        value: Largest loss, in percentage points; for ``min_agreement`` 100 minus the smallest agreement.
        confidence: Confidence of the limits, such as 0.95.
        metric: Name of the metric that must hold.
    """

    kind: Literal["max_drop", "min_agreement"]
    value: float
    confidence: float
    metric: str


@dataclass(frozen=True)
class Quality:
    """The measured loss of a candidate against a bound.

    Attributes:
        loss: Loss in percentage points; negative if the candidate is better.
        limit: One-sided upper confidence limit of the loss.
        verdict: ``holds`` if the limit is within the bound, ``not shown`` if only the loss is, ``fails`` otherwise.
        texts: Number of texts.
        texts_needed: For ``not shown``, about how many texts would show the same loss to be within the bound.
        method: Name of the method that the limit comes from.
    """

    loss: float
    limit: float
    verdict: Verdict
    texts: int
    texts_needed: int | None
    method: str

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for reports."""
        return asdict(self)


def judge(
    reference: Contributions | None, candidate: Contributions, bound: Bound, confidence: float, seed: int = 0
) -> Quality:
    """Measures the loss of a candidate, and compares its limit with a bound.

    Args:
        reference: Contributions of the dense model to the metric; None if those of the candidate are to the agreement.
        candidate: Contributions of the candidate, of the same texts in the same order.
        bound: The bound.
        confidence: Confidence of this limit.
        seed: Seed of the bootstrap.
    """
    if reference is None:
        loss, limit, method = _agreement_limit(candidate, confidence, seed)
    elif reference.is_binary:
        loss, limit, method = _paired_limit(reference, candidate, confidence)
    else:
        loss, limit, method = _bootstrap_limit(reference, candidate, confidence, seed)
    verdict: Verdict = "holds" if limit <= bound.value else "not shown" if loss <= bound.value else "fails"
    needed = None
    if verdict == "not shown" and loss < bound.value:
        # the distance of the limit from the loss falls with the root of the number of texts
        needed = _round_up(len(candidate) * ((limit - loss) / (bound.value - loss)) ** 2)
    return Quality(loss, limit, verdict, len(candidate), needed, method)


def paired_score_limit(worse: int, better: int, texts: int, confidence: float) -> float:
    """Returns the upper limit of the difference of two paired shares (Tango, 1998, eq. 2 and 3).

    Args:
        worse: Texts that only the reference answers right.
        better: Texts that only the candidate answers right.
        texts: All texts.
        confidence: Confidence of the one-sided limit, above ½.

    Returns:
        Limit of the reference's share minus the candidate's, between −1 and 1.
    """
    from scipy import stats

    z = float(stats.norm.ppf(confidence))

    def excess(difference: float) -> float:
        """Score statistic of a difference, plus z; decreasing, and 0 at the limit."""
        b = -worse - better + (2 * texts - worse + better) * difference
        c = -better * difference * (1 - difference)
        share = (math.sqrt(max(b * b - 8 * texts * c, 0.0)) - b) / (4 * texts)
        variance = texts * (2 * share + difference * (1 - difference))
        return (worse - better - texts * difference) + z * math.sqrt(max(variance, 0.0))

    measured = (worse - better) / texts
    if measured == 1:
        return 1.0
    # next to the measured difference the statistic is positive, at 1 negative
    return float(optimize.brentq(excess, measured + 1e-9, 1.0, xtol=1e-12))


def _paired_limit(reference: Contributions, candidate: Contributions, confidence: float) -> tuple[float, float, str]:
    difference = reference.values[:, 0] - candidate.values[:, 0]
    worse, better = int((difference > 0).sum()), int((difference < 0).sum())
    limit = paired_score_limit(worse, better, len(candidate), confidence)
    return 100.0 * float(difference.mean()), 100.0 * limit, "score interval of a paired difference"


def _agreement_limit(candidate: Contributions, confidence: float, seed: int) -> tuple[float, float, str]:
    if not candidate.is_binary:
        perfect = Contributions(candidate.values, lambda values: np.ones(values.shape[:-2]))
        return _bootstrap_limit(perfect, candidate, confidence, seed)
    from scipy import stats

    equal = int(candidate.values[:, 0].sum())
    test = stats.binomtest(equal, len(candidate), alternative="greater")
    lowest = float(test.proportion_ci(confidence_level=confidence, method="exact").low)
    return 100.0 - candidate.metric, 100.0 * (1 - lowest), "exact binomial limit"


def _bootstrap_limit(
    reference: Contributions, candidate: Contributions, confidence: float, seed: int
) -> tuple[float, float, str]:
    from scipy import stats  # a third of a second, which other commands need not wait for

    texts = len(candidate)
    loss = reference.metric - candidate.metric
    if texts < 2 or _is_constant(reference, candidate):
        return loss, _limit_without_changes(loss, texts, confidence), _NO_CHANGES

    def drop(indices: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        return reference.of(indices) - candidate.of(indices)

    accelerated = texts <= MAX_ACCELERATED
    columns = reference.values.shape[1]
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            (np.arange(texts),),
            drop,
            n_resamples=RESAMPLES,
            batch=max(1, _CELLS // (texts * columns)),
            vectorized=True,
            confidence_level=confidence,
            alternative="less",
            method="BCa" if accelerated else "percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    limit, lowest = float(interval.high), _limit_without_changes(loss, texts, confidence)
    changed = int((reference.values != candidate.values).any(1).sum())
    # nan: every resample has the same loss, as with the same order of all texts for Spearman. If few texts are changed,
    # many resamples hold none of them, and the bootstrap's limit is too low.
    if math.isnan(limit) or (changed <= FEW_CHANGES and limit < lowest):
        return loss, lowest, _NO_CHANGES
    return loss, limit, f"bootstrap over texts ({'BCa' if accelerated else 'percentile'})"


def _limit_without_changes(loss: float, texts: int, confidence: float) -> float:
    """Returns the limit where no text changes the loss: the share of others that may, none of n texts being one."""
    changed: float = 1 - (1 - confidence) ** (1 / texts)
    return loss + 100.0 * changed


def _is_constant(reference: Contributions, candidate: Contributions) -> bool:
    """Returns whether both models contribute the same to the metric with every text."""
    if reference.values is candidate.values:  # the reference of an agreement, which is 1
        return bool(candidate.metric >= 100.0)
    return bool(np.array_equal(reference.values, candidate.values))


def _round_up(number: float) -> int:
    """Rounds up to two significant digits."""
    scale = 10 ** max(0, math.floor(math.log10(number)) - 1) if number >= 1 else 1
    return int(math.ceil(number / scale) * scale)
