"""From scores to masks: exactly as many of the lowest scores as required are pruned; of equal ones the first."""

from typing import Literal

import torch
from torch import Tensor

from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.layers import PartKey
from bertsurgeon.methods.obert.patterns import Pattern

Scope = Literal["global", "matrix"]


def keep_highest(scores: Tensor, pruned: int) -> Tensor:
    """Mask of the entries that are kept if the ``pruned`` lowest are pruned; of equal ones the first are pruned.

    Args:
        scores: Any shape.
        pruned: Number of entries to prune.

    Raises:
        ModelError: If a score is not a number.
    """
    flat = scores.flatten()
    if flat.isnan().any():
        raise ModelError("The scores of the weights are not finite; raise the damping of the Fisher information.")
    if pruned == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = flat.kthvalue(pruned).values
    kept = flat > threshold
    ties = (flat == threshold).nonzero().flatten()
    kept[ties[pruned - (len(flat) - int(kept.sum()) - len(ties)) :]] = True
    return kept.reshape(scores.shape)


def select_units(
    scores: dict[PartKey, Tensor], kept: dict[PartKey, Tensor], sparsity: float, pattern: Pattern, scope: Scope
) -> dict[PartKey, Tensor]:
    """Selects the units that are kept at a sparsity; what is pruned already remains pruned.

    Args:
        scores: By matrix, shape (out, units of a row).
        kept: Units that are not pruned so far, by matrix, same shapes.
        sparsity: Share of all units (``global``), or of the units of every matrix (``matrix``), that is pruned
            afterwards.
        pattern: For N:M, the lowest of every M weights are pruned.
        scope: ``global`` if all matrices compete, ``matrix`` if each loses the same share.

    Returns:
        Mask of the kept units by matrix.

    Raises:
        OptionError: If that share is pruned already.
    """
    low = {key: torch.where(kept[key], value, -torch.inf) for key, value in scores.items()}
    if pattern.group:
        return {key: _keep_of_groups(value, kept[key], pattern, sparsity) for key, value in low.items()}
    if scope == "matrix":
        return {key: keep_highest(value, _count(sparsity, kept[key].flatten())) for key, value in low.items()}
    count = _count(sparsity, torch.cat([value.flatten() for value in kept.values()]))
    chosen = keep_highest(torch.cat([value.flatten() for value in low.values()]), count)
    parts = chosen.split([value.numel() for value in low.values()])
    return {key: part.reshape(low[key].shape) for key, part in zip(low, parts, strict=True)}


def _count(sparsity: float, kept: Tensor) -> int:
    """Total number of units to prune."""
    count, already = round(sparsity * len(kept)), len(kept) - int(kept.sum())
    if count <= already:
        raise OptionError(
            f"{already / len(kept):.2%} are pruned already; the sparsity must be greater, not {sparsity:.2%}."
        )
    return count


def _keep_of_groups(scores: Tensor, kept: Tensor, pattern: Pattern, sparsity: float) -> Tensor:
    groups = scores.reshape(-1, pattern.group)
    pruned = groups.argsort(dim=1, stable=True)[:, : pattern.quota(sparsity)]
    return torch.ones_like(groups, dtype=torch.bool).scatter_(1, pruned, False).reshape(scores.shape) & kept
