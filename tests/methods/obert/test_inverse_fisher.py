"""Inverse Fisher blocks against textbook algebra and autograd; passes, memory and precision."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon.calibration import join_rows, split_rows
from bertsurgeon.calibration.inverse_fisher import FisherBlocks, invert_blocks
from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.layers.masks import encoder_weights, masks_of
from bertsurgeon.methods.obert.collect import collect_inverses, plan_passes
from bertsurgeon.methods.obert.patterns import Pattern
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
    assert not found.is_imprecise


def test_without_gradients_the_inverse_is_that_of_the_damping() -> None:
    fisher = FisherBlocks(2, 8, 4, 5)
    fisher.add(torch.zeros(5, 2, 8))
    assert torch.equal(fisher.invert(0.25).inverse, 4 * torch.eye(4).expand(4, 4, 4))


@pytest.mark.parametrize(("scale", "lost"), [(1e-2, False), (10.0, True), (float("nan"), True), (1e30, True)])
def test_lost_precision_is_seen(scale: float, lost: bool) -> None:
    fisher = FisherBlocks(2, 8, 8, 20)
    fisher.add(scale * torch.randn(16, 2, 8, generator=generator()))
    assert fisher.invert(1e-7).is_imprecise == lost


def test_single_precision_is_as_good_as_double() -> None:
    """As long as it is not lost: gradients of very different sizes, fewer than weights of a block."""
    g = 10 ** torch.linspace(-4, -1, 32) * torch.randn(24, 4, 32, generator=generator())
    found = []
    for dtype in (torch.float32, DOUBLE):
        fisher = FisherBlocks(4, 32, 32, len(g), dtype)
        fisher.add(g)
        found.append(fisher.invert(1e-6))
        assert not found[-1].is_imprecise
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
    (ranges,) = plan_passes(shapes, 20, DOUBLE, 10**9)
    found = collect_inverses(
        model, tiny_batches, masks, ranges, lambda m, b, _: m(**b).loss * len(b["input_ids"]),
        block_size=20, damping=1e-2, batch_size=batch_size, dtype=DOUBLE, with_mean=True,
    )  # fmt: skip
    assert model.training
    for (key, mask), values in zip(masks.items(), zip(*gradients, strict=True), strict=True):
        g = split_rows(torch.stack(values).double() * mask, 20).transpose(0, 1)
        expected = torch.linalg.inv(g.transpose(1, 2) @ g / len(gradients) + 1e-2 * torch.eye(20, dtype=DOUBLE))
        (fisher,) = [value for row_range, value in found.items() if row_range.key == key]
        torch.testing.assert_close(fisher.inverse, expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(fisher.mean, g.mean(1), rtol=1e-3, atol=1e-5)


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
        sum((row_range.stop - row_range.start) * -(-shapes[row_range.key][1] // 16) * 16**2 * 4 for row_range in ranges)  # type: ignore[index]
        for ranges in passes
    ]
    assert max(taken) <= 9000
    for key, (rows, _) in shapes.items():
        covered = [row for ranges in passes for p in ranges if p.key == key for row in range(p.start, p.stop)]
        assert covered == list(range(rows))
    with pytest.raises(OptionError, match="memory"):
        plan_passes(shapes, 16, torch.float32, 4000)  # type: ignore[arg-type]


def test_double_precision_where_single_is_imprecise(
    tiny_model: Factory, tiny_batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr("bertsurgeon.progress.note", notes.append)
    model, reference = tiny_model("bert"), tiny_model("bert")
    with torch.no_grad():
        for network in (model, reference):
            network.classifier.weight.mul_(1000)
    asked = []
    model.register_forward_pre_hook(lambda *_: asked.append(model))
    found = step(model, tiny_batches, 0.5, damping=1e-5)
    assert (found.precision, found.passes) == (64, 2)
    assert len(asked) == 1 + len(tiny_batches)  # single precision is given up after the first batch
    assert ["fp64" in note for note in notes] == [True]
    assert step(reference, tiny_batches, 0.5, damping=1.0).precision == 32
    assert len(notes) == 1
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
