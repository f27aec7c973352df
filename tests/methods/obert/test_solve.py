"""Scores and updates against textbook algebra."""

import pytest
import torch
from torch import Tensor

from bertsurgeon.calibration.inverse_fisher import FisherBlocks, unit_scores
from bertsurgeon.methods.obert.selection import keep_highest
from bertsurgeon.methods.obert.solve import greedy_scores, update_apart, update_jointly

DOUBLE = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(blocks: int = 5, size: int = 8, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Fisher blocks, their inverses and weights, fp64."""
    g = torch.randn(blocks, 3 * size, size, dtype=DOUBLE, generator=generator(seed))
    fisher = g.transpose(1, 2) @ g / (3 * size) + 0.1 * torch.eye(size, dtype=DOUBLE)
    return fisher, torch.linalg.inv(fisher), torch.randn(blocks, size, dtype=DOUBLE, generator=generator(seed + 1))


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


def test_woodtaylor_is_the_minimizer_with_a_gradient() -> None:
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


@pytest.mark.parametrize("quota", [1, 2])
def test_greedy_keeps_the_quota_of_every_group(quota: int) -> None:
    """With 2:4, a unit that is chosen after its group has lost its quota has no score."""
    _, inverse, w = problem(blocks=6)
    scores = greedy_scores(inverse, w, torch.ones(6, 8, dtype=torch.bool), 1, 4, quota)
    assert (torch.isfinite(scores).unflatten(1, (-1, 4)).sum(-1) == quota).all()
    alive = torch.ones(6, 8, dtype=torch.bool)
    alive[:, :4:2] = False  # two of the first group are pruned already
    again = greedy_scores(inverse, w, alive, 1, 4, 2)
    assert torch.isinf(again[:, :4]).all()
    assert (torch.isfinite(again[:, 4:]).sum(1) == 2).all()
