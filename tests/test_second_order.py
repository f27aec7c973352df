"""The engine: inverses, scores and updates against textbook algebra; masks, patterns, memory and precision."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon.calibration import join_rows, split_rows
from bertsurgeon.calibration.inverse_fisher import FisherBlocks, invert_blocks, unit_scores
from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.layers.masks import encoder_weights, masks_of, sparsity_of
from bertsurgeon.methods.obert.collect import collect_inverses, plan_passes
from bertsurgeon.methods.obert.patterns import Pattern
from bertsurgeon.methods.obert.selection import keep_highest
from bertsurgeon.methods.obert.solve import greedy_scores, update_apart, update_jointly
from bertsurgeon.methods.obert.step import Step, StepOptions, prune_step

Batches = list[dict[str, Tensor]]
Factory = Callable[..., PreTrainedModel]
NAMES = ["bert", "distilbert", "roberta"]
DOUBLE = torch.float64
OPTIONS = StepOptions(Pattern("unstructured"), block_size=16)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(blocks: int = 5, size: int = 8, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Fisher blocks, their inverses and weights, fp64."""
    g = torch.randn(blocks, 3 * size, size, dtype=DOUBLE, generator=generator(seed))
    fisher = g.transpose(1, 2) @ g / (3 * size) + 0.1 * torch.eye(size, dtype=DOUBLE)
    return fisher, torch.linalg.inv(fisher), torch.randn(blocks, size, dtype=DOUBLE, generator=generator(seed + 1))


def step(model: PreTrainedModel, batches: Batches, sparsity: float, **options: Any) -> Step:
    return prune_step(model, batches, sparsity, replace(OPTIONS, **options))


def weights(model: PreTrainedModel) -> dict[Any, Tensor]:
    found = encoder_weights(model)
    return {key: weight.detach().clone() for key, weight in found.items()}


# the inverse


def recursion(blocks: Tensor, damping: float) -> Tensor:
    """The inverse as the paper builds it (eq. 5), from gradients of shape (blocks, gradients, B)."""
    count, size = blocks.shape[1:]
    inverse = torch.eye(size, dtype=DOUBLE).expand(len(blocks), size, size) / damping
    for g in blocks.unbind(1):
        v = torch.einsum("bij,bj->bi", inverse, g)
        inverse = inverse - torch.einsum("bi,bj->bij", v, v) / (count + (g * v).sum(1))[:, None, None]
    return inverse


@pytest.mark.parametrize(("rows", "columns", "size"), [(3, 32, 8), (4, 20, 8), (2, 5, 16), (6, 7, 1)])
def test_the_inverse_is_that_of_the_recursion(rows: int, columns: int, size: int) -> None:
    g = torch.randn(37, rows, columns, dtype=DOUBLE, generator=generator())
    fisher = FisherBlocks(rows, columns, size, len(g), DOUBLE, with_mean=True)
    for first in range(0, len(g), 10):
        fisher.add(g[first : first + 10, :2])
        fisher.add(g[first : first + 10, 2:], first_row=2)
    found = fisher.invert(1e-3)
    blocks = split_rows(g, size).transpose(0, 1)
    dense = blocks.transpose(1, 2) @ blocks / len(g) + 1e-3 * torch.eye(size, dtype=DOUBLE)
    for expected in (torch.linalg.inv(dense), recursion(blocks, 1e-3), invert_blocks(dense)):
        assert float((found.inverse - expected).abs().max() / expected.abs().max()) < 1e-8
    assert torch.allclose(found.mean, blocks.mean(1))
    assert not found.is_lost


def test_without_gradients_the_inverse_is_that_of_the_damping() -> None:
    fisher = FisherBlocks(2, 8, 4, 5)
    fisher.add(torch.zeros(5, 2, 8))
    assert torch.equal(fisher.invert(0.25).inverse, 4 * torch.eye(4).expand(4, 4, 4))


@pytest.mark.parametrize(("scale", "lost"), [(1e-2, False), (10.0, True), (float("nan"), True), (1e30, True)])
def test_lost_precision_is_seen(scale: float, lost: bool) -> None:
    fisher = FisherBlocks(2, 8, 8, 20)
    fisher.add(scale * torch.randn(16, 2, 8, generator=generator()))
    assert fisher.invert(1e-7).is_lost == lost


def test_single_precision_is_as_good_as_double() -> None:
    """As long as it is not lost: gradients of very different sizes, fewer than weights of a block."""
    g = 10 ** torch.linspace(-4, -1, 32) * torch.randn(24, 4, 32, generator=generator())
    found = []
    for dtype in (torch.float32, DOUBLE):
        fisher = FisherBlocks(4, 32, 32, len(g), dtype)
        fisher.add(g)
        found.append(fisher.invert(1e-6))
        assert not found[-1].is_lost
    error = torch.linalg.matrix_norm(found[0].inverse - found[1].inverse) / torch.linalg.matrix_norm(found[1].inverse)
    assert float(error.max()) < 1e-2


def test_blocks_that_cannot_be_inverted() -> None:
    with pytest.raises(ModelError, match="raise its damping"):
        invert_blocks(-torch.eye(3, dtype=DOUBLE).unsqueeze(0))


def test_splitting_and_joining() -> None:
    matrix = torch.randn(3, 10, generator=generator())
    blocks = split_rows(matrix, 4)
    assert blocks.shape == (9, 4)
    assert torch.equal(blocks[2], torch.cat([matrix[0, 8:], torch.zeros(2)]))
    assert torch.equal(join_rows(blocks, 3, 10), matrix)
    assert split_rows(matrix > 0, 4).dtype == torch.bool


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_collected_inverses(name: str, batch_size: int, tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model(name, **{"n_layers" if name == "distilbert" else "num_hidden_layers": 1})
    with torch.no_grad():
        for index, weight in enumerate(encoder_weights(model).values()):
            weight[index : index + 5, ::3] = 0
    parameters = encoder_weights(model)
    masks = masks_of(model)
    gradients = []
    for batch in tiny_batches:
        for first in range(0, len(batch["input_ids"]), batch_size):
            part = {key: value[first : first + batch_size] for key, value in batch.items()}
            gradients.append(torch.autograd.grad(model(**part).loss, list(parameters.values())))
    shapes = {key: (len(mask), mask.shape[1]) for key, mask in masks.items()}
    model.train()
    (pieces,) = plan_passes(shapes, 20, DOUBLE, 10**9)
    found = collect_inverses(
        model, tiny_batches, masks, pieces, lambda m, b, _: m(**b).loss * len(b["input_ids"]),
        block_size=20, damping=1e-2, batch_size=batch_size, dtype=DOUBLE, with_mean=True,
    )  # fmt: skip
    assert model.training
    for (key, mask), values in zip(masks.items(), zip(*gradients, strict=True), strict=True):
        g = split_rows(torch.stack(values).double() * mask, 20).transpose(0, 1)
        expected = torch.linalg.inv(g.transpose(1, 2) @ g / len(gradients) + 1e-2 * torch.eye(20, dtype=DOUBLE))
        (fisher,) = [value for piece, value in found.items() if piece.key == key]
        torch.testing.assert_close(fisher.inverse, expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(fisher.mean, g.mean(1), rtol=1e-3, atol=1e-5)


# scores and updates


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_unit_costs_what_the_quadratic_rises(width: int) -> None:
    fisher, inverse, w = problem()
    scores = unit_scores(inverse, w, width)
    for unit in range(8 // width):
        gone = torch.zeros_like(w, dtype=torch.bool)
        gone[:, unit * width : (unit + 1) * width] = True
        moved = update_apart(inverse, w, gone, width)
        delta = moved - w
        assert not moved[gone].any()
        rise = 0.5 * torch.einsum("bi,bij,bj->b", delta, fisher, delta)
        assert torch.allclose(rise, scores[:, unit])
        assert torch.allclose(moved, update_jointly(inverse, w, gone))
        # the gradient of the quadratic is zero in every direction that is free
        assert torch.einsum("bij,bj->bi", fisher, delta).masked_fill(gone, 0).abs().max() < 1e-10


def test_woodtaylor_is_the_minimiser_with_a_gradient() -> None:
    fisher, inverse, w = problem()
    g = torch.randn(w.shape, dtype=DOUBLE, generator=generator(3))
    target = w - torch.einsum("bij,bj->bi", inverse, g)
    gone = torch.zeros_like(w, dtype=torch.bool)
    gone[:, 2] = True
    delta = update_apart(inverse, target, gone, 1) - w
    assert torch.allclose(delta[:, 2], -w[:, 2])
    assert (torch.einsum("bij,bj->bi", fisher, delta) + g).masked_fill(gone, 0).abs().max() < 1e-10

    def loss(delta: Tensor) -> Tensor:
        return (g * delta).sum(1) + 0.5 * torch.einsum("bi,bij,bj->b", delta, fisher, delta)

    assert torch.allclose(loss(delta) - loss(target - w), unit_scores(inverse, target, 1)[:, 2])


@pytest.mark.parametrize("width", [1, 2, 4])
def test_greedy_is_the_joint_solution_on_its_own_mask(width: int) -> None:
    _, inverse, w = problem(blocks=4)
    alive = torch.ones(4, 8 // width, dtype=torch.bool)
    scores = greedy_scores(inverse, w, alive, width, 0, 0)
    for block in range(4):
        inner, moved, left = inverse[block].clone(), w[block].clone(), list(range(8 // width))
        order, price = [], -torch.inf
        while left:
            costs = {}
            for unit in left:
                q = torch.arange(unit * width, (unit + 1) * width)
                costs[unit] = float(0.5 * moved[q] @ torch.linalg.solve(inner[q][:, q], moved[q]))
            unit = min(costs, key=costs.__getitem__)
            q = torch.arange(unit * width, (unit + 1) * width)
            square = torch.linalg.inv(inner[q][:, q])
            moved = moved - inner[:, q] @ square @ moved[q]
            inner = inner - inner[:, q] @ square @ inner[q]
            left.remove(unit)
            order.append(unit)
            price = max(price, costs[unit])
            assert abs(float(scores[block, unit]) - price) < 1e-5 * max(1, price)
            gone = torch.zeros(1, 8, dtype=torch.bool)
            gone[0, (torch.tensor(order)[:, None] * width + torch.arange(width)).flatten()] = True
            joint = update_jointly(inverse[block : block + 1], w[block : block + 1], gone)[0]
            assert torch.allclose(joint, moved.masked_fill(gone[0], 0), atol=1e-8)
        assert scores[block].argsort().tolist() == order


def test_greedy_beats_the_updates_of_single_weights() -> None:
    fisher, inverse, w = problem(blocks=200, size=16)

    def loss(moved: Tensor) -> float:
        return float(torch.einsum("bi,bij,bj->b", moved - w, fisher, moved - w).mean())

    scores = unit_scores(inverse, w, 1)
    half = scores <= scores.median(1, keepdim=True).values
    ranks = greedy_scores(inverse, w, torch.ones_like(half), 1, 0, 0)
    greedy = ranks <= ranks.median(1, keepdim=True).values
    assert half.sum() == greedy.sum() == half.numel() / 2
    losses = [
        loss(update_jointly(inverse, w, greedy)),
        loss(update_jointly(inverse, w, half)),
        loss(update_apart(inverse, w, half, 1)),
    ]
    assert losses == sorted(losses)


def test_scale_of_the_gradients_does_not_matter() -> None:
    g = torch.randn(30, 4, 16, dtype=DOUBLE, generator=generator())
    w = torch.randn(8, 8, dtype=DOUBLE, generator=generator(1))
    results = []
    for c in (1.0, 64.0):
        fisher = FisherBlocks(4, 16, 8, 30, DOUBLE)
        for first in (0, 15):
            fisher.add(c * g[first : first + 15])
        inverse = fisher.invert(c**2 * 1e-3).inverse
        gone = ~keep_highest(unit_scores(inverse, w, 1), 20)
        ranks = greedy_scores(inverse, w, torch.ones_like(gone), 1, 0, 0)
        results.append((gone, update_apart(inverse, w, gone, 1), ~keep_highest(ranks, 20)))
    for first, second in zip(*results, strict=True):
        assert torch.allclose(first.double(), second.double())


# masks


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
        (pieces,) = plan_passes(shapes, 48, DOUBLE, 10**9)
        fisher = collect_inverses(
            model, tiny_batches, masks, pieces, lambda m, b, _: m(**b).loss * len(b["input_ids"]),
            block_size=48, damping=1e-4, dtype=DOUBLE,
        )  # fmt: skip
        before = weights(model)
        step(model, tiny_batches, 0.5, update=update, damping=1e-4, block_size=48, scope="matrix")
        rise = 0.0
        for piece, found in fisher.items():
            delta = split_rows((weights(model)[piece.key] - before[piece.key]).double(), 48)
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


# memory and precision


@pytest.mark.parametrize("update", ["obert", "greedy", "woodtaylor"])
def test_several_passes_give_what_one_gives(update: str, tiny_model: Factory, tiny_batches: Batches) -> None:
    models = [tiny_model("bert", num_hidden_layers=1) for _ in range(2)]
    steps = [
        step(model, tiny_batches, 0.5, update=update, memory=memory, damping=1e-4)
        for model, memory in zip(models, (10**9, 450_000), strict=True)
    ]
    assert [found.passes for found in steps] == [1, 5]
    for first, second in zip(weights(models[0]).values(), weights(models[1]).values(), strict=True):
        assert torch.equal(first, second)


def test_blocks_of_one_pass_at_a_time(
    tiny_model: Factory, tiny_batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing holds on to blocks when the next pass makes its own."""
    alive: list[weakref.ref[Any]] = []

    def collect(*arguments: Any, **options: Any) -> Any:
        assert not any(reference() for reference in alive)
        found = collect_inverses(*arguments, **options)
        alive[:] = [weakref.ref(fisher) for fisher in found.values()]
        return found

    monkeypatch.setattr("bertsurgeon.methods.obert.step.collect_inverses", collect)
    model = tiny_model("bert", num_hidden_layers=1)
    assert step(model, tiny_batches, 0.5, update="greedy", memory=450_000, damping=1e-4).passes == 5
    assert alive


def test_passes_stay_within_the_memory() -> None:
    shapes = {(0, "query"): (10, 50), (0, "key"): (7, 20)}
    passes = plan_passes(shapes, 16, torch.float32, 9000)  # type: ignore[arg-type]
    taken = [
        sum((piece.stop - piece.start) * -(-shapes[piece.key][1] // 16) * 16**2 * 4 for piece in pieces)  # type: ignore[index]
        for pieces in passes
    ]
    assert max(taken) <= 9000
    for key, (rows, _) in shapes.items():
        covered = [row for pieces in passes for p in pieces if p.key == key for row in range(p.start, p.stop)]
        assert covered == list(range(rows))
    with pytest.raises(OptionError, match="memory"):
        plan_passes(shapes, 16, torch.float32, 4000)  # type: ignore[arg-type]


def test_double_precision_where_single_is_lost(tiny_model: Factory, tiny_batches: Batches) -> None:
    model, reference = tiny_model("bert"), tiny_model("bert")
    with torch.no_grad():
        for network in (model, reference):
            network.classifier.weight.mul_(1000)
    asked = []
    model.register_forward_pre_hook(lambda *_: asked.append(model))
    found = step(model, tiny_batches, 0.5, damping=1e-5)
    assert (found.precision, found.passes) == (64, 2)
    assert len(asked) == 1 + len(tiny_batches)  # single precision is given up after the first batch
    assert step(reference, tiny_batches, 0.5, damping=1.0).precision == 32
    assert all(torch.isfinite(value).all() for value in weights(model).values())
    with pytest.raises(ModelError, match="raise"):
        step(tiny_model("bert"), tiny_batches, 0.5, damping=1e-30)


def test_the_surrogate_serves_texts_without_labels(tiny_model: Factory, tiny_batches: Batches) -> None:
    batches = [{key: value for key, value in batch.items() if key != "labels"} for batch in tiny_batches]
    models = [tiny_model("distilbert") for _ in range(2)]
    for model, memory in zip(models, (10**9, 2_000_000), strict=True):
        step(model, batches, 0.5, memory=memory, damping=1e-4)
    for first, second in zip(weights(models[0]).values(), weights(models[1]).values(), strict=True):
        assert torch.equal(first, second)
