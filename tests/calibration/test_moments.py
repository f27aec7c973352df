"""Calibration batches, token weights and moments."""

import pytest
import torch

from bertsurgeon.calibration import Moments, make_batches
from bertsurgeon.calibration.statistics import weigh_tokens
from bertsurgeon.compensation import compensate
from bertsurgeon.plan import (
    Dense,
)


def test_images_have_many_tokens() -> None:
    images = ({"pixel_values": torch.zeros(64, 3, 2, 2)} for _ in range(100))
    assert sum(len(batch["pixel_values"]) for batch in make_batches(images, None, None, 32, 0)) == 512


@pytest.mark.parametrize(("length", "texts"), [(2, 4096), (16, 1536), (100, 512)])
def test_enough_tokens_are_calibrated_on(length: int, texts: int) -> None:
    ids = torch.ones(32, length, dtype=torch.long)
    endless = ({"input_ids": ids, "attention_mask": ids} for _ in range(1000))
    assert sum(len(batch["input_ids"]) for batch in make_batches(endless, None, None, 32, 0)) == texts


def test_tokens_are_weighed_by_their_gradients() -> None:
    delta = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]], [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    torch.testing.assert_close(weigh_tokens(delta, mask, 1.0), torch.tensor([0.4, 1.6, 1.5, 1.5, 0.0]))
    torch.testing.assert_close(weigh_tokens(delta, mask, 0.5), torch.tensor([0.7, 1.3, 1.25, 1.25, 0.5]))


def test_weighed_moments_are_those_of_repeated_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    x, seen, drift = (torch.randn(6, width, generator=generator, dtype=torch.float64) for width in (4, 3, 2))
    weights = torch.tensor([1, 2, 3, 1, 1, 2])
    weighed, repeated = (Moments(4, paired=True, pruned_width=3, drift_width=2) for _ in range(2))
    for part in (slice(0, 4), slice(4, 6)):
        weighed.update(x[part], seen[part], drift[part], weights[part].double())
        repeated.update(*(t[part].repeat_interleave(weights[part], 0) for t in (x, seen, drift)))
    for name in ("mean", "pruned_mean", "covariance", "cross_covariance", "drift_mean", "drift_covariance"):
        torch.testing.assert_close(getattr(weighed, name), getattr(repeated, name), msg=name)


def test_targets_may_be_followed_instead_of_inputs() -> None:
    generator = torch.Generator().manual_seed(0)
    x, seen = (torch.randn(40, width, generator=generator, dtype=torch.float64) + 1 for width in (6, 4))
    weight, bias = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((3, 6), (3,)))
    inputs, targets = Moments(6, True, pruned_width=4), Moments(3, True, pruned_width=4, of_targets=True)
    inputs.update(x, seen)
    targets.update(x @ weight.T, seen)
    for found, expected in zip(
        compensate(weight, bias, Dense(), targets, 1e-3), compensate(weight, bias, Dense(), inputs, 1e-3), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_moments_of_kept_channels() -> None:
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    alone, paired = Moments(5, paired=False), Moments(5, paired=True, pruned_width=2)
    alone.update(x)
    paired.update(x, x[:, [3, 1]])
    kept = alone.keep((3, 1))
    for name in ("mean", "pruned_mean", "covariance", "cross_covariance"):
        torch.testing.assert_close(getattr(kept, name), getattr(paired, name), msg=name)
