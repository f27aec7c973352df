"""Group counts: the threshold rule, target sparsities and uniform counts."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bertsurgeon import (
    AutoConfig,
    Budget,
    Flops,
    Groups,
    PgbConfig,
    PruneConfig,
    Sparsity,
    Speedup,
    Threshold,
)
from bertsurgeon.calibration import MatrixKey
from bertsurgeon.errors import OptionError
from bertsurgeon.grouping import group_sizes
from bertsurgeon.methods.pgb.group_counts import (
    DROPPED,
    GroupCounts,
    counts_by_sparsity,
    counts_by_threshold,
    counts_uniform,
    fold_counts,
    kept_weights,
)
from bertsurgeon.plan import ROLES

SHAPES = dict.fromkeys(ROLES, (48, 48)) | {"intermediate": (96, 48), "output": (48, 96)}


def make_scores(layers: int, tail: float, spread: float, seed: int) -> dict[MatrixKey, Tensor]:
    """Log-normal scores; ``spread`` is how much the matrices differ, in e-folds."""
    generator = np.random.default_rng(seed)
    return {
        (layer, role): torch.from_numpy(
            np.exp(tail * generator.normal(size=SHAPES[role]) + spread * generator.normal() - 8).astype(np.float32)
        )
        for layer in range(layers)
        for role in ROLES
    }


def literal_counts(scores: dict[MatrixKey, Tensor], threshold: float, max_groups: int) -> GroupCounts:
    """G = n·m / #{ρ > τ}, rounded to the nearest; none beyond G_max."""
    counts = {}
    for key, score in scores.items():
        above = int((score.double() > threshold).sum())
        fitting = [g for g in range(1, max_groups + 1) if above * (2 * g + 1) >= 2 * score.numel()]
        counts[key] = min(fitting, default=DROPPED)
    return fold_counts(counts)


def kept(scores: dict[MatrixKey, Tensor], counts: GroupCounts) -> int:
    total = 0
    for key, score in scores.items():
        if counts[key] != DROPPED:
            rows, columns = (group_sizes(size, counts[key]) for size in score.shape)
            total += sum(r * c for r, c in zip(rows, columns, strict=True))
    return total


@given(st.integers(0, 10**6), st.floats(0.1, 4), st.floats(0, 3), st.floats(-16, 0), st.integers(1, 8))
def test_threshold_rule(seed: int, tail: float, spread: float, log_tau: float, max_groups: int) -> None:
    scores = make_scores(1, tail, spread, seed)
    threshold = float(np.exp(log_tau))
    assert counts_by_threshold(scores, threshold, max_groups) == literal_counts(scores, threshold, max_groups)


@given(st.integers(0, 10**6), st.integers(0, 6), st.integers(1, 6))
def test_threshold_rule_with_ties(seed: int, threshold: int, max_groups: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores: dict[MatrixKey, Tensor] = {
        (0, role): torch.randint(0, 7, SHAPES[role], generator=generator).float() for role in ROLES
    }
    assert counts_by_threshold(scores, threshold, max_groups) == literal_counts(scores, threshold, max_groups)


def test_threshold_rule_by_hand() -> None:
    scores: dict[MatrixKey, Tensor] = {(0, role): torch.ones(SHAPES[role]) for role in ROLES}
    scores[0, "query"] = torch.zeros(48, 48)
    scores[0, "query"].view(-1)[: 48 * 48 // 3] = 1  # a third: three groups
    scores[0, "output"] = torch.zeros(48, 96)
    scores[0, "output"].view(-1)[:100] = 1  # one in 46: beyond any G_max here, and its input goes with it
    counts = counts_by_threshold(scores, 0.5, 6)
    assert counts == {
        (0, "query"): 3,
        (0, "key"): 1,
        (0, "value"): 1,
        (0, "attention_output"): 1,
        (0, "intermediate"): DROPPED,
        (0, "output"): DROPPED,
    }
    assert counts_by_threshold(scores, 0.5, 2)[0, "query"] == DROPPED
    assert set(counts_by_threshold(scores, 1, 6).values()) == {DROPPED}  # equal to τ is not above τ


def assert_met(scores: dict[MatrixKey, Tensor], counts: GroupCounts, sparsity: float) -> None:
    """Met to within the smallest block that is kept, or 0.2 % where that is more (the matrices here are tiny)."""
    size = sum(score.numel() for score in scores.values())
    blocks = [score.numel() / counts[key] ** 2 for key, score in scores.items() if counts[key] != DROPPED]
    assert abs(kept(scores, counts) - (1 - sparsity) * size) <= max(min(blocks), 0.002 * size)


@given(
    st.integers(0, 10**6),
    st.floats(0.5, 4),
    st.floats(0, 3),
    st.floats(0.02, 0.95),
    st.sampled_from([4, 8, 12]),
)
def test_sparsity_is_met_to_within_a_block(seed: int, tail: float, spread: float, sparsity: float, layers: int) -> None:
    scores = make_scores(layers, tail, spread, seed)
    counts = counts_by_sparsity(scores, sparsity, 6)
    assert_met(scores, counts, sparsity)
    assert max(counts.values()) <= 6
    assert fold_counts(counts) == counts


@pytest.mark.parametrize(
    ("layers", "sparsity", "max_groups", "tail"), [(1, 0.0234, 6, 1.0), (4, 0.88, 2, 2.5), (12, 0.438, 6, 2.5)]
)
def test_one_move_across_the_target_is_enough(layers: int, sparsity: float, max_groups: int, tail: float) -> None:
    scores = make_scores(layers, tail, 1, seed=11)
    assert_met(scores, counts_by_sparsity(scores, sparsity, max_groups), sparsity)


@pytest.mark.parametrize("max_groups", [3, 4, 8])
@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.75, 0.88])
def test_sparsity_under_other_limits(sparsity: float, max_groups: int) -> None:
    scores = make_scores(4, 2.5, 1, seed=11)
    counts = counts_by_sparsity(scores, sparsity, max_groups)
    assert_met(scores, counts, sparsity)
    assert set(counts.values()) <= set(range(max_groups + 1))


def test_important_matrices_keep_more() -> None:
    scores = make_scores(4, 2, 0, seed=2)
    for role in ROLES:
        scores[1, role] *= 100
        scores[2, role] /= 100
    counts = counts_by_sparsity(scores, 0.6, 6)
    shares = [sum(kept_weights(SHAPES[role], counts[layer, role]) for role in ROLES) for layer in range(4)]
    assert shares[1] > shares[0] > shares[2]


def test_scores_that_are_all_alike() -> None:
    scores: dict[MatrixKey, Tensor] = {(layer, role): torch.zeros(SHAPES[role]) for layer in range(2) for role in ROLES}
    with pytest.raises(OptionError, match="leave nothing"):
        counts_by_sparsity(scores, 0.5, 6)


@pytest.mark.parametrize("groups", [1, 2, 5, 48])
def test_uniform_counts(groups: int) -> None:
    scores = make_scores(2, 1, 1, seed=0)
    assert counts_uniform(scores, groups) == dict.fromkeys(scores, groups)


@given(st.integers(1, 100), st.integers(1, 100), st.data())
def test_group_sizes(rows: int, columns: int, data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, min(rows, columns)))
    sizes = group_sizes(rows, groups)
    assert (len(sizes), sum(sizes)) == (groups, rows)
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
    expected = sum(r * c for r, c in zip(sizes, group_sizes(columns, groups), strict=True))
    assert kept_weights((rows, columns), groups) == expected
    assert kept_weights((rows, columns), DROPPED) == 0


def test_a_cut_that_drops_too_much_is_approached_from_above() -> None:
    """All matrices are alike but one, which the first cut drops with its sub-layer: twice what is asked for."""
    scores: dict[MatrixKey, Tensor] = {
        (layer, role): torch.full(SHAPES[role], 1.0) for layer in range(4) for role in ROLES
    }
    scores[1, "output"] = torch.full(SHAPES["output"], 1e-6)
    assert_met(scores, counts_by_sparsity(scores, 0.0625, 6), 0.0625)


@pytest.mark.parametrize("sparsity", [0, 1, 1.5, -0.1, float("nan")])
def test_impossible_sparsities(sparsity: float) -> None:
    with pytest.raises(OptionError, match="sparsity"):
        counts_by_sparsity(make_scores(1, 1, 1, seed=0), sparsity, 6)
    with pytest.raises(OptionError, match="sparsity"):
        AutoConfig(Sparsity(sparsity))


@pytest.mark.parametrize("threshold", [-1, -1e-9])
def test_negative_thresholds(threshold: float) -> None:
    with pytest.raises(OptionError, match="threshold"):
        counts_by_threshold(make_scores(1, 1, 1, seed=0), threshold, 6)


@pytest.mark.parametrize("number", [0, -1, 49])
def test_impossible_group_counts(number: int) -> None:
    scores = make_scores(1, 1, 1, seed=0)
    with pytest.raises(OptionError, match="groups"):
        counts_uniform(scores, number)
    with pytest.raises(OptionError, match="groups"):
        counts_by_threshold(scores, 1e-5, number)
    with pytest.raises(OptionError, match="groups"):
        counts_by_sparsity(scores, 0.5, number)


@pytest.mark.parametrize(
    ("config", "budget"),
    [(PgbConfig, Flops(0.5)), (PgbConfig, Speedup(2.0)), (AutoConfig, Threshold(1e-5)), (AutoConfig, Groups(2))],
    ids=str,
)
def test_budgets_of_other_methods_are_refused(config: Callable[[Budget], PruneConfig], budget: Budget) -> None:
    with pytest.raises(OptionError, match=r"budget of (pgb|auto) must be one of"):
        config(budget)


@pytest.mark.parametrize("sparsity", [0.9, 0.98, 0.995])
def test_something_is_left(sparsity: float) -> None:
    """Where every cut drops whole matrices, one too many is better than all."""
    generator = torch.Generator().manual_seed(0)
    scores = {
        (layer, role): torch.rand(48, 48, generator=generator) * 10.0 ** (2 * layer)
        for layer in range(2)
        for role in ROLES
    }
    counts = counts_by_sparsity(scores, sparsity, 6)
    assert any(counts.values())
