"""Cost of pruning a unit, and updates of the other weights of its block: constrained minimizers of a quadratic.

Near weights w with gradient g the loss is L + gᵀδ + ½δᵀFδ. With the weights Q set to zero, the best δ has a closed
form (Kurtic et al., 2022, arXiv 2203.07259, eq. 3 and 4); with g it is WoodTaylor's (Singh and Alistarh, 2020,
arXiv 2004.14340), the same with the minimum t = w − F⁻¹g instead of w. All tensors are fp64 and have a row per block.
"""

import torch
from torch import Tensor

from bertsurgeon.calibration.inverse_fisher import unit_multipliers, unit_scores


def update_apart(inverse: Tensor, target: Tensor, pruned: Tensor, width: int) -> Tensor:
    """Updates for each pruned unit as if it were the only one, as oBERT does: t − Σ_Q F⁻¹E_Q ([F⁻¹]_QQ)⁻¹ t_Q.

    Args:
        inverse: F⁻¹, shape (blocks, B, B).
        target: t, shape (blocks, B).
        pruned: True for the weights of units that are pruned now, shape (blocks, B).
        width: Weights per unit.

    Returns:
        New weights, exactly zero where ``pruned``.
    """
    multipliers = unit_multipliers(inverse, target, width).masked_fill(~pruned, 0)
    return (target - torch.einsum("bij,bj->bi", inverse, multipliers)).masked_fill(pruned, 0)


def update_jointly(inverse: Tensor, target: Tensor, pruned: Tensor) -> Tensor:
    """Updates for all pruned weights S of a block together, the exact minimizer: t − F⁻¹E_S ([F⁻¹]_SS)⁻¹ t_S.

    Pruning one weight after the other with downdates of F⁻¹ (CAP: Kuznedelev et al., 2022, arXiv 2210.09223) gives the
    same result.

    Args:
        inverse: F⁻¹, shape (blocks, B, B).
        target: t, shape (blocks, B).
        pruned: S, shape (blocks, B).

    Returns:
        New weights, exactly zero where ``pruned``.
    """
    both = pruned.unsqueeze(1) & pruned.unsqueeze(2)
    system = torch.where(both, inverse, 0.0) + torch.diag_embed((~pruned).to(inverse.dtype))
    multipliers = torch.linalg.solve(system, target.masked_fill(~pruned, 0).unsqueeze(-1))
    return (target - torch.bmm(inverse, multipliers).squeeze(-1)).masked_fill(pruned, 0)


def greedy_scores(inverse: Tensor, target: Tensor, alive: Tensor, width: int, group: int, quota: int) -> Tensor:
    """Prunes unit after unit, the cheapest first, with updates and downdates; the score of a unit is its cost then.

    The costs of a block are made to rise strictly, so that its lowest scores are those of the units pruned first.

    Args:
        inverse: F⁻¹, shape (blocks, B, B).
        target: t, shape (blocks, B).
        alive: True for units that are not pruned, shape (blocks, B / width).
        width: Weights per unit.
        group: M of N:M, or 0.
        quota: Number of weights of every M that may be pruned, for N:M.

    Returns:
        Shape (blocks, B / width), fp32; infinite for units that are kept.
    """
    inverse, target, alive = inverse.clone(), target.clone(), alive.clone()
    rows = torch.arange(len(inverse), device=inverse.device)
    scores = torch.full(alive.shape, torch.inf, device=inverse.device)
    previous = torch.full((len(alive),), -torch.inf, device=inverse.device)
    for _ in range(alive.shape[1]):
        costs = torch.where(_open(alive, group, quota), unit_scores(inverse, target, width), torch.inf)
        cost, unit = costs.min(1)
        rising_cost = torch.maximum(cost.float(), torch.nextafter(previous, torch.full_like(previous, torch.inf)))
        prunable = torch.isfinite(cost)
        if not prunable.any():
            break
        previous = torch.where(prunable, rising_cost, previous)
        scores[rows[prunable], unit[prunable]] = rising_cost[prunable]
        alive[rows[prunable], unit[prunable]] = False
        entries = unit.unsqueeze(1) * width + torch.arange(width, device=unit.device)  # (blocks, width)
        columns = inverse[rows[:, None], :, entries] * prunable[:, None, None]  # (blocks, width, B)
        square = inverse[rows[:, None, None], entries[:, :, None], entries[:, None, :]]
        square = torch.where(
            prunable[:, None, None], square, torch.eye(width, dtype=square.dtype, device=square.device)
        )
        gains = torch.linalg.solve(square, columns) if width > 1 else columns / square  # (blocks, width, B)
        target = target - torch.einsum("bwi,bw->bi", gains, target[rows[:, None], entries])
        inverse.baddbmm_(columns.transpose(1, 2), gains, alpha=-1)
        # pruned weights leave no rounding errors: weights of exactly zero, and blocks of F⁻¹ that can be inverted
        pruned_rows, entries = rows[prunable].unsqueeze(1), entries[prunable]
        target[pruned_rows, entries] = 0
        inverse[pruned_rows, entries] = 0
        inverse[pruned_rows, :, entries] = 0
        inverse[pruned_rows, entries, entries] = 1
    return scores


def _open(alive: Tensor, group: int, quota: int) -> Tensor:
    """Units that may be pruned next: those that are not pruned, for N:M in groups below their quota."""
    if not group:
        return alive
    groups: Tensor = alive.unflatten(1, (-1, group))
    return (groups & ((~groups).sum(-1, keepdim=True) < quota)).flatten(1)
