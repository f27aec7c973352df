"""One step of pruning: masks, patterns and updates of a model."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon.calibration import split_rows
from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.layers.masks import encoder_weights, masks_of, sparsity_of
from bertsurgeon.methods.obert.collect import collect_inverses, plan_passes
from bertsurgeon.methods.obert.patterns import Pattern
from bertsurgeon.methods.obert.selection import keep_highest
from bertsurgeon.methods.obert.step import Step, StepConfig, prune_step

Batches = list[dict[str, Tensor]]

Factory = Callable[..., PreTrainedModel]

NAMES = ["bert", "distilbert", "roberta"]

DOUBLE = torch.float64

OPTIONS = StepConfig(Pattern("unstructured"), block_size=16)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def step(model: PreTrainedModel, batches: Batches, sparsity: float, **options: Any) -> Step:
    return prune_step(model, batches, sparsity, replace(OPTIONS, **options))


def weights(model: PreTrainedModel) -> dict[Any, Tensor]:
    found = encoder_weights(model)
    return {key: weight.detach().clone() for key, weight in found.items()}


def test_ties_do_not_change_the_share() -> None:
    scores = torch.tensor([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 2.0, -torch.inf]])
    kept = keep_highest(scores, 4)
    assert kept.tolist() == [[False, False, False, True], [True, True, True, False]]
    for count in range(9):
        assert int((~keep_highest(scores, count)).sum()) == count
    with pytest.raises(ModelError, match="not finite"):
        keep_highest(torch.tensor([1.0, torch.nan]), 1)


@pytest.mark.parametrize("scope", ["global", "matrix"])
@pytest.mark.parametrize("pattern", ["unstructured", "1x4"])
def test_the_share_is_exact_under_ties(pattern: str, scope: str, tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    with torch.no_grad():
        for weight in encoder_weights(model).values():
            weight.copy_(torch.where(weight > 0, 0.5, -0.5))
    masks = step(
        model, tiny_batches, 0.625, pattern=Pattern.parse(pattern), scope=scope, score="magnitude", update="none"
    ).masks
    assert sparsity_of(masks) == 0.625
    if scope == "matrix":
        assert all(float(mask.float().mean()) == 0.375 for mask in masks.values())


@pytest.mark.parametrize("update", ["obert", "greedy"])
def test_under_a_huge_damping_magnitude_decides(update: str, tiny_model: Factory, tiny_batches: Batches) -> None:
    model, baseline = tiny_model("bert"), tiny_model("bert")
    before = weights(model)
    by_magnitude = step(baseline, [], 0.6, score="magnitude", update="none")
    found = step(model, tiny_batches, 0.6, damping=1e12, update=update)
    assert (by_magnitude.passes, by_magnitude.gradients, found.passes, found.gradients) == (0, 0, 1, 24)
    for key, mask in found.masks.items():
        assert torch.equal(mask, by_magnitude.masks[key])
        torch.testing.assert_close(weights(model)[key], before[key] * mask)
    every = torch.cat([value.abs().flatten() for value in before.values()])
    limit = every.kthvalue(round(0.6 * len(every))).values
    assert all(torch.equal(mask, before[key].abs() > limit) for key, mask in found.masks.items())


@pytest.mark.parametrize("update", ["obert", "greedy"])
def test_blocks_of_one_leave_survivors_as_they_are(update: str, tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("roberta")
    before = weights(model)
    masks = step(model, tiny_batches, 0.5, block_size=1, update=update).masks
    for key, weight in weights(model).items():
        assert torch.equal(weight, before[key].masked_fill(~masks[key], 0))


@pytest.mark.parametrize("update", ["obert", "greedy", "woodtaylor", "none"])
@pytest.mark.parametrize("pattern", ["unstructured", "1x4", "1x8", "2:4"])
@pytest.mark.parametrize("name", NAMES)
def test_masks_only_grow(name: str, pattern: str, update: str, tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model(name)
    encoder = {id(weight) for weight in encoder_weights(model).values()}
    others = {key: value.clone() for key, value in model.named_parameters() if id(value) not in encoder}
    assert others
    parsed = Pattern.parse(pattern)
    options = {"pattern": parsed, "update": update, "damping": 1e-4, "block_size": 32}
    last = masks_of(model)
    for sparsity in (0.25, 0.5):
        before = weights(model)
        found = step(model, tiny_batches, sparsity, **options)
        assert sparsity_of(found.masks) == sparsity
        moved = 0
        for key, weight in weights(model).items():
            assert not (found.masks[key] & ~last[key]).any()
            assert torch.equal(weight != 0, found.masks[key])
            units = found.masks[key].reshape(len(weight), -1, parsed.alignment)
            if parsed.group:
                assert (units.sum(-1) == parsed.group - parsed.quota(sparsity)).all()
            else:
                assert torch.equal(units.any(-1), units.all(-1))
            moved += int((weight != before[key])[found.masks[key]].sum())
        assert (moved > 0) == (update != "none")
        last = found.masks
    for key, value in model.named_parameters():
        assert key not in others or torch.equal(value, others[key])


def test_updates_lower_the_loss(tiny_model: Factory, tiny_batches: Batches) -> None:
    """The quadratic's order holds for the loss itself: greedy, then oBERT, then nothing."""
    losses = {}
    for update in ("greedy", "obert", "none"):
        model = tiny_model("bert")
        masks = masks_of(model)
        shapes = {key: (len(mask), mask.shape[1]) for key, mask in masks.items()}
        (ranges,) = plan_passes(shapes, 48, DOUBLE, 10**9)
        fisher = collect_inverses(
            model, tiny_batches, masks, ranges, lambda m, b, _: m(**b).loss * len(b["input_ids"]),
            block_size=48, damping=1e-4, dtype=DOUBLE,
        )  # fmt: skip
        before = weights(model)
        step(model, tiny_batches, 0.5, update=update, damping=1e-4, block_size=48, scope="matrix")
        rise = 0.0
        for row_range, found in fisher.items():
            delta = split_rows((weights(model)[row_range.key] - before[row_range.key]).double(), 48)
            rise += float((delta * torch.linalg.solve(found.inverse, delta)).sum()) / 2
        losses[update] = rise
    assert losses["greedy"] < losses["obert"] < losses["none"]


@pytest.mark.parametrize("sparsity", [0.5, 0.3])
def test_targets_below_what_is_pruned(sparsity: float, tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    step(model, tiny_batches, 0.5)
    before = weights(model)
    with pytest.raises(OptionError, match="already"):
        step(model, tiny_batches, sparsity)
    assert all(torch.equal(value, before[key]) for key, value in weights(model).items())


@pytest.mark.parametrize("name", ["", "1x0", "4x1", "4:2", "2:2", "0:4", "blocks"])
def test_unknown_patterns(name: str) -> None:
    with pytest.raises(OptionError, match="pattern"):
        Pattern.parse(name)


def test_patterns_must_fit(tiny_model: Factory, tiny_batches: Batches) -> None:
    assert Pattern.parse("block") == Pattern("1x4", width=4)
    with pytest.raises(OptionError, match="Rows of 48"):
        step(tiny_model("bert"), tiny_batches, 0.5, pattern=Pattern.parse("1x5"), block_size=20)
    with pytest.raises(OptionError, match="Fisher block of 18"):
        step(tiny_model("bert"), tiny_batches, 0.5, pattern=Pattern.parse("1x4"), block_size=18)
    with pytest.raises(OptionError, match="magnitude"):
        replace(OPTIONS, score="magnitude")


def test_several_samples_may_share_a_gradient(tiny_model: Factory, tiny_batches: Batches) -> None:
    """As if the mean gradient of a whole batch was that of one sample: fewer gradients, other weights."""
    models = [tiny_model("bert", num_hidden_layers=1) for _ in range(2)]
    alone, joined = (
        step(model, tiny_batches, 0.5, batch_size=size, damping=1e-4)
        for model, size in zip(models, (1, 6), strict=True)
    )
    assert (alone.gradients, joined.gradients) == (24, 4)
    assert any(not torch.equal(first, weights(models[1])[key]) for key, first in weights(models[0]).items())
