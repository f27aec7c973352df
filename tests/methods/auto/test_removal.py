"""Exact removal against brute force."""

import pytest
import torch
from torch import Tensor

from bertsurgeon.methods.auto.removal import _Remaining, greedy_removal


def problem(outputs: int, inputs: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, inputs of mean zero that depend on each other, and their covariance."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(300, inputs, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    x = x - x.mean(0)
    return torch.randn(outputs, inputs, generator=generator, dtype=torch.float64), x, x.T @ x / len(x)


def least_squares_error(weight: Tensor, x: Tensor, channels: list[int], shift: float) -> float:
    """min_B E‖Wx − B x_C‖² + λ‖(W − B)‖², solved by lstsq on a design with the damping as extra rows."""
    design = torch.cat([x / len(x) ** 0.5, shift**0.5 * torch.eye(x.shape[1], dtype=x.dtype)])
    wanted = design @ weight.T
    if not channels:
        return float(wanted.square().sum())
    solution = torch.linalg.lstsq(design[:, channels], wanted).solution
    return float((wanted - design[:, channels] @ solution).square().sum())


@pytest.mark.parametrize(("width", "block"), [(1, 1), (1, 5), (1, 64), (3, 1)])
def test_each_step_is_the_cheapest_after_refitting(width: int, block: int) -> None:
    weight, x, covariance = problem(5, 18)
    removal = greedy_removal(weight, covariance, width, 1e-3, block)
    shift = 1e-3 * float(covariance.diagonal().mean())
    left = list(range(18 // width))
    for step, unit in enumerate(removal.order.tolist()):
        errors = {
            candidate: least_squares_error(
                weight, x, [u * width + o for u in left if u != candidate for o in range(width)], shift
            )
            for candidate in left
        }
        assert min(errors, key=lambda key: errors[key]) == unit
        assert float(removal.errors[step + 1]) == pytest.approx(errors[unit], rel=1e-6)
        left.remove(unit)
    assert removal.errors[0] == 0
    assert removal.kept(2) == tuple(sorted(removal.order[-2:].tolist()))


def test_downdates_equal_a_fresh_inverse() -> None:
    weight, _, covariance = problem(6, 40)
    damped = covariance + 1e-3 * torch.eye(40, dtype=torch.float64)
    remaining = _Remaining(torch.arange(40), damped, weight @ damped)
    gone, losses = (torch.cat(parts, -1) for parts in zip(remaining.remove(9), remaining.remove(6), strict=True))
    stays = remaining.channels.tolist()
    assert sorted([*stays, *gone.tolist()]) == list(range(40))
    inverse, gram, updated = remaining._parts(remaining._rows[: len(stays)])
    fresh = torch.linalg.inv(damped[stays][:, stays])
    torch.testing.assert_close(inverse, fresh, rtol=1e-7, atol=1e-9)
    refitted = (weight @ damped)[:, stays] @ fresh
    torch.testing.assert_close(updated.T, refitted, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(gram, refitted.T @ refitted, rtol=1e-7, atol=1e-9)
    kept = refitted @ damped[stays][:, stays] @ refitted.T
    torch.testing.assert_close(losses @ losses.T, weight @ damped @ weight.T - kept, rtol=1e-7, atol=1e-9)


def test_losses_of_whole_heads() -> None:
    weight, _, covariance = problem(5, 18)
    removal = greedy_removal(weight, covariance, 3, 1e-3)
    damped = covariance + 1e-3 * covariance.diagonal().mean() * torch.eye(18, dtype=torch.float64)
    stays = [unit * 3 + offset for unit in removal.kept(2) for offset in range(3)]
    losses = removal.losses[:, : 4 * 3]
    refitted = torch.linalg.solve(damped[stays][:, stays], (weight @ damped)[:, stays].T).T
    kept = refitted @ damped[stays][:, stays] @ refitted.T
    torch.testing.assert_close(losses @ losses.T, weight @ damped @ weight.T - kept, rtol=1e-7, atol=1e-9)


def test_dead_channels_go_first() -> None:
    weight, _, covariance = problem(4, 10)
    covariance[[2, 7]] = 0
    covariance[:, [2, 7]] = 0
    assert set(greedy_removal(weight, covariance, 1, 1e-6).order[:2].tolist()) == {2, 7}


def test_a_singular_covariance() -> None:
    weight, x, _ = problem(4, 12)
    x = x[:5]
    removal = greedy_removal(weight, x.T @ x / 5, 1, 1e-3)
    assert sorted(removal.order.tolist()) == list(range(12))
    assert torch.isfinite(removal.errors).all()
    assert (removal.errors.diff() >= -1e-9).all()
