import numpy as np
import pytest
from scipy import stats

from bertsurgeon.compression import Bound, judge
from bertsurgeon.compression.bounds import paired_score_limit
from bertsurgeon.tasks.contributions import Contributions

POINT = Bound("max_drop", 1.0, 0.95, "accuracy")
SHARE = Bound("min_agreement", 1.0, 0.95, "agreement")


def mean(values):
    return values[..., 0].mean(-1)


def answers(right, texts):
    """Contributions to accuracy of a model that answers the first ``right`` texts right."""
    return Contributions((np.arange(texts) < right).astype(float)[:, None], mean, is_binary=True)


def scores(values):
    return Contributions(np.asarray(values, dtype=float)[:, None], mean)


def test_the_limit_of_paired_answers_covers_the_true_loss():
    """Exact coverage, over all outcomes of 60 texts of which 8 % change for the worse and 3 % for the better."""
    texts, worse_share, better_share = 60, 0.08, 0.03
    covered = total = 0.0
    for worse in range(25):
        for better in range(15):
            outcome = [worse, better, texts - worse - better]
            probability = stats.multinomial.pmf(
                outcome, texts, [worse_share, better_share, 1 - worse_share - better_share]
            )
            total += probability
            covered += probability * (paired_score_limit(worse, better, texts, 0.95) >= worse_share - better_share)
    assert total == pytest.approx(1, abs=1e-6)
    assert 0.93 <= covered <= 0.98


def test_the_limit_of_paired_answers_is_the_score_test():
    """At the limit, the score statistic has the quantile of the normal distribution (large samples: Wald's limit)."""
    assert paired_score_limit(0, 0, 1000, 0.95) == pytest.approx(1.6449**2 / (1000 + 1.6449**2), rel=1e-4)
    worse, better, texts = 2600, 2000, 100_000
    difference = (worse - better) / texts
    error = np.sqrt((worse + better) / texts - difference**2) / np.sqrt(texts)
    assert paired_score_limit(worse, better, texts, 0.975) == pytest.approx(difference + 1.96 * error, abs=1e-5)
    assert paired_score_limit(5, 5, 5, 0.95) <= 1
    assert paired_score_limit(10, 0, 10, 0.95) == 1


def test_three_verdicts():
    assert judge(answers(900, 1000), answers(899, 1000), POINT, 0.95).verdict == "holds"
    uncertain = judge(answers(900, 1000), answers(893, 1000), POINT, 0.95)
    assert (uncertain.verdict, round(uncertain.loss, 6)) == ("not shown", 0.7)
    # as many texts as needed, with the same shares, show the same loss to be within the bound
    enough = uncertain.texts_needed
    shown = judge(
        answers(9 * enough // 10, enough), answers(9 * enough // 10 - 7 * enough // 1000, enough), POINT, 0.95
    )
    assert enough > 1000
    assert shown.verdict == "holds"
    failing = judge(answers(900, 1000), answers(880, 1000), POINT, 0.95)
    assert (failing.verdict, failing.texts_needed) == ("fails", None)


def test_a_higher_confidence_has_a_higher_limit():
    limits = [judge(answers(900, 1000), answers(893, 1000), POINT, each).limit for each in (0.9, 0.95, 0.99)]
    assert limits == sorted(limits)
    assert len(set(limits)) == 3


def test_agreement_has_the_exact_binomial_limit():
    quality = judge(None, answers(995, 1000), SHARE, 0.95)
    # Clopper and Pearson: at the limit, 5 or fewer changed answers have a probability of 5 %
    assert stats.binom.cdf(5, 1000, quality.limit / 100) == pytest.approx(0.05, abs=1e-6)
    assert quality.loss == pytest.approx(0.5)
    assert judge(None, answers(1000, 1000), SHARE, 0.95).limit == pytest.approx(100 * (1 - 0.05 ** (1 / 1000)))


def test_other_metrics_have_a_bootstrap_limit_of_the_paired_difference():
    generator = np.random.default_rng(0)
    dense = generator.uniform(0.4, 0.9, 400)
    candidate = dense - generator.normal(0.02, 0.05, 400)  # varies far less than either side
    quality = judge(scores(dense), scores(candidate), Bound("max_drop", 5.0, 0.95, "f1"), 0.95)
    difference = dense - candidate
    expected = 100 * (difference.mean() + 1.645 * difference.std() / np.sqrt(400))
    assert quality.limit == pytest.approx(expected, abs=0.1)
    assert "BCa" in quality.method
    assert judge(scores(dense), scores(candidate), Bound("max_drop", 5.0, 0.95, "f1"), 0.95) == quality  # one seed


def test_unchanged_answers_leave_some_uncertainty():
    dense = np.linspace(0, 1, 50)
    quality = judge(scores(dense), scores(dense), POINT, 0.95)
    assert quality.loss == 0
    assert quality.limit == pytest.approx(100 * (1 - 0.05 ** (1 / 50)))
    assert quality.verdict == "not shown"


def test_agreement_that_is_no_share_is_bootstrapped():
    generator = np.random.default_rng(1)
    overlaps = generator.uniform(0.9, 1.0, 300)
    quality = judge(None, scores(overlaps), Bound("min_agreement", 10.0, 0.95, "agreement"), 0.95)
    assert quality.loss == pytest.approx(100 * (1 - overlaps.mean()))
    assert quality.loss < quality.limit < quality.loss + 1


def test_a_loss_that_no_resample_changes_has_the_limit_of_unchanged_answers():
    """The order of all texts is the same although the numbers differ: the bootstrap has no interval for that."""
    generator = np.random.default_rng(2)
    labels = generator.normal(size=100)
    predictions = labels + generator.normal(size=100)
    dense, exported = (
        Contributions(np.stack([labels, each], 1), spearman_of_ranks)
        for each in (predictions, predictions * (1 + 1e-9))
    )
    quality = judge(dense, exported, Bound("max_drop", 1.0, 0.95, "spearman"), 0.95)
    assert (quality.loss, quality.verdict) == (0.0, "not shown")
    assert quality.limit == pytest.approx(100 * (1 - 0.05 ** (1 / 100)))


def spearman_of_ranks(values):
    ranks = stats.rankdata(values, axis=-2)
    centered = ranks - ranks.mean(-2, keepdims=True)
    return (centered[..., 0] * centered[..., 1]).sum(-1) / np.sqrt((centered**2).sum(-2).prod(-1))


def test_few_changed_texts_leave_as_much_uncertainty_as_none():
    """Most resamples hold none of one changed text, so that the bootstrap alone would see no uncertainty."""
    dense = np.full(300, 0.5)
    better = dense.copy()
    better[0] = 1.0
    unchanged, improved = (judge(scores(dense), scores(other), POINT, 0.95) for other in (dense, better))
    assert improved.loss < 0
    assert improved.limit == pytest.approx(unchanged.limit + improved.loss)
