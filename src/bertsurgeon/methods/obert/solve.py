"""What pruning a unit costs, and where the other weights of its block go: constrained minimisers of a quadratic.

Around weights w with gradient g the loss is L + gᵀδ + ½δᵀFδ. With the weights Q set to zero, the best δ has a closed
form (Kurtic et al., 2022, arXiv 2203.07259, eq. 3 and 4); with g it is WoodTaylor's (Singh and Alistarh, 2020,
arXiv 2004.14340), the same with the minimum t = w − F⁻¹g in the place of w. All tensors are fp64, a row for each block.
"""

import torch
from torch import Tensor

from bertsurgeon.calibration.inverse_fisher import unit_multipliers, unit_scores


def update_apart(inverse: Tensor, target: Tensor, pruned: Tensor, width: int) -> Tensor:
    """Each pruned unit as if it were the only one, oBERT's update: t − Σ_Q F⁻¹E_Q ([F⁻¹]_QQ)⁻¹ t_Q.

    Args:
        inverse: F⁻¹, shape (blocks, B, B).
        target: Shape (blocks, B).
        pruned: True for the weights of units that go now, shape (blocks, B).
        width: Weights of a unit.

    Returns:
        New weights, exactly zero where ``pruned``.
    """
    multipliers = unit_multipliers(inverse, target, width).masked_fill(~pruned, 0)
    return (target - torch.einsum("bij,bj->bi", inverse, multipliers)).masked_fill(pruned, 0)


def update_jointly(inverse: Tensor, target: Tensor, pruned: Tensor) -> Tensor:
    """All pruned weights S of a block at once, the exact minimiser: t − F⁻¹E_S ([F⁻¹]_SS)⁻¹ t_S.

    Pruning one after the other with downdates of F⁻¹ (CAP: Kuznedelev et al., 2022, arXiv 2210.09223) ends here.

    Args:
        inverse: F⁻¹, shape (blocks, B, B).
        target: Shape (blocks, B).
        pruned: S, shape (blocks, B).

    Returns:
        New weights, exactly zero where ``pruned``.
    """
    both = pruned.unsqueeze(1) & pruned.unsqueeze(2)
    system = torch.where(both, inverse, 0.0) + torch.diag_embed((~pruned).to(inverse.dtype))
    multipliers = torch.linalg.solve(system, target.masked_fill(~pruned, 0).unsqueeze(-1))
    return (target - torch.bmm(inverse, multipliers).squeeze(-1)).masked_fill(pruned, 0)


def greedy_scores(inverse: Tensor, target: Tensor, alive: Tensor, width: int, group: int, quota: int) -> Tensor:
    """Prunes unit after unit, the cheapest first, with updates and downdates; the score of a unit is its price then.

    A block's prices are made to rise strictly, so that the lowest scores are always the first units it lost.

    Args:
        inverse: F⁻¹, shape (blocks, B, B).
        target: Shape (blocks, B).
        alive: Units that are left, shape (blocks, B / width).
        width: Weights of a unit.
        group: M of N:M, or 0.
        quota: How many of every M weights may go.

    Returns:
        Shape (blocks, B / width), fp32; infinite for units that stay.
    """
    inverse, target, alive = inverse.clone(), target.clone(), alive.clone()
    rows = torch.arange(len(inverse), device=inverse.device)
    scores = torch.full(alive.shape, torch.inf, device=inverse.device)
    last = torch.full((len(alive),), -torch.inf, device=inverse.device)
    for _ in range(alive.shape[1]):
        costs = torch.where(_open(alive, group, quota), unit_scores(inverse, target, width), torch.inf)
        cost, unit = costs.min(1)
        price = torch.maximum(cost.float(), torch.nextafter(last, torch.full_like(last, torch.inf)))
        found = torch.isfinite(cost)
        if not found.any():
            break
        last = torch.where(found, price, last)
        scores[rows[found], unit[found]] = price[found]
        alive[rows[found], unit[found]] = False
        place = unit.unsqueeze(1) * width + torch.arange(width, device=unit.device)  # (blocks, width)
        columns = inverse[rows[:, None], :, place] * found[:, None, None]  # (blocks, width, B)
        square = inverse[rows[:, None, None], place[:, :, None], place[:, None, :]]
        square = torch.where(found[:, None, None], square, torch.eye(width, dtype=square.dtype, device=square.device))
        gains = torch.linalg.solve(square, columns) if width > 1 else columns / square  # (blocks, width, B)
        target = target - torch.einsum("bwi,bw->bi", gains, target[rows[:, None], place])
        inverse.baddbmm_(columns.transpose(1, 2), gains, alpha=-1)
        # what is gone leaves no rounding behind: unit blocks of F⁻¹ that can be inverted, weights of exactly zero
        lost, place = rows[found].unsqueeze(1), place[found]
        target[lost, place] = 0
        inverse[lost, place] = 0
        inverse[lost, :, place] = 0
        inverse[lost, place, place] = 1
    return scores


def _open(alive: Tensor, group: int, quota: int) -> Tensor:
    """Units that may go next: those that are left, of N:M in groups that may still lose one."""
    if not group:
        return alive
    groups: Tensor = alive.unflatten(1, (-1, group))
    return (groups & ((~groups).sum(-1, keepdim=True) < quota)).flatten(1)
