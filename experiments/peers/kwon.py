"""Kwon et al., 2022, A Fast Post-Training Pruning Framework for Transformers (arXiv 2204.09656).

Three steps: a search of the mask by the diagonal of the Fisher information under a budget (their section 4.1), a
rearrangement within each sub-layer by the block of the Fisher information (4.2), and a tuning of the mask's values by
linear least squares, from the input to the output (4.3). The budget counts weights instead of operations, which is the
same but for attention's own products. Least squares are solved exactly, where theirs takes LSMR with the damping 1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon.calibration import Batch
from peers.lockstep_fit import last_matrices
from peers.units import Key, Units, UnitView, copy_encoder, scale_units, unit_gradients

LARGEST_FACTOR = 10.0
"""Tuning ends at the first sub-layer where a factor leaves ±10 (their section 4.3)."""


def prune_by_fisher(model: PreTrainedModel, share: float, batches: Sequence[Batch]) -> tuple[PreTrainedModel, float]:
    """Removes heads and neurons.

    Args:
        model: The dense model; not changed.
        share: Share of the encoder's weights to keep.
        batches: Calibration texts with labels, which the paper uses.

    Returns:
        The model, and the share of the weights that it keeps.
    """
    pruned, view = copy_encoder(model)
    fisher = measure_fisher(view, batches)
    kept = search(view, fisher, share * view.total())
    kept = {key: rearrange(fisher[key], kept[key]) for key in view.keys}
    for key in view.keys:
        scale_units(view, key, kept[key])
    tune(model, view, kept, batches)
    return pruned, view.count(kept) / view.total()


def measure_fisher(view: UnitView, batches: Sequence[Batch]) -> Units:
    """Returns the block of the empirical Fisher information of each sub-layer, shapes (units, units)."""
    sums: Units = {}
    for gradients in unit_gradients(view, batches, view.keys, 0):
        for key, gradient in gradients.items():
            sums[key] = sums.get(key, 0) + gradient.T @ gradient
    return sums


def search(view: UnitView, fisher: Units, budget: float) -> Units:
    """Finds the units to keep under a budget of weights (their algorithm 1).

    For every number of heads, the most important ones are kept, and as many of the most important neurons as the budget
    still allows; the number with the least importance removed wins.
    """
    parts = {name: [key for key in view.keys if key[1] == name] for name in view.encoder.sub_layers}
    importance = {name: torch.cat([fisher[key].diagonal() for key in keys]) for name, keys in parts.items()}
    cost = {name: view.cost(keys[0]) for name, keys in parts.items()}
    order = {name: values.sort(descending=True) for name, values in importance.items()}
    lost = {
        name: torch.cat([values.new_zeros(1), values.flip(0).cumsum(0)]).flip(0) for name, (values, _) in order.items()
    }  # by the number that is kept
    heads, neurons = view.encoder.sub_layers
    counts = []
    for count in range(len(importance[heads]) + 1):
        rest = int((budget - count * cost[heads]) // cost[neurons])
        if rest >= 0:
            rest = min(rest, len(importance[neurons]))
            counts.append((float(lost[heads][count] + lost[neurons][rest]), count, rest))
    _, *best = min(counts)
    kept: Units = {}
    for name, number in zip((heads, neurons), best, strict=True):
        mask = torch.zeros(len(importance[name]), dtype=torch.bool)
        mask[order[name].indices[:number]] = True
        kept |= dict(zip(parts[name], mask.split([len(fisher[key]) for key in parts[name]]), strict=True))
    return kept


def rearrange(block: Tensor, kept: Tensor) -> Tensor:
    """Exchanges each removed unit, one after the other, for the one that lowers the quadratic loss most.

    Args:
        block: Fisher information F of a sub-layer, shape (units, units).
        kept: The units that are kept, shape (units,); as many are kept afterwards.

    Returns:
        The units that are kept, shape (units,): removed units p have a lower pᵀFp, or the same.
    """
    removed = (~kept).to(block)
    product = block @ removed
    for unit in (~kept).nonzero().flatten().tolist():
        removed[unit] = 0
        product -= block[unit]
        losses = (2 * product + block.diagonal()).masked_fill(removed.bool(), float("inf"))
        best = int(losses.argmin())
        removed[best] = 1
        product += block[best]
    return ~removed.bool()


@torch.no_grad()
def tune(
    model: PreTrainedModel, view: UnitView, kept: Units, batches: Sequence[Batch]
) -> dict[Key, tuple[float, float]]:
    """Scales the kept units, sub-layer by sub-layer, so that the residual stream comes nearest to the dense one.

    Args:
        model: The dense model.
        view: Units of the pruned model, changed in place.
        kept: The units that are kept.
        batches: Calibration texts.

    Returns:
        By sub-layer the squared error before and after, without the damping.
    """
    errors: dict[Key, tuple[float, float]] = {}
    for matrix in last_matrices(model, view, batches):
        key = matrix.key
        weight = view.last_weight(key)
        products = weight.T @ weight
        system = torch.zeros_like(products, dtype=torch.float64)
        right_side = torch.zeros(len(products), dtype=torch.float64)
        squares = 0.0
        for x, target in matrix.pairs():
            error = target - x @ weight.T
            system += x.T @ x
            right_side += (x * (error @ weight)).sum(0)
            squares += float(error.square().sum())
        width = view.width(key)
        system = (system * products).unflatten(0, (-1, width)).unflatten(-1, (-1, width)).sum((1, 3))
        right_side = view.sum_units(right_side, key)
        step = torch.linalg.solve(system + torch.eye(len(system)), right_side)  # the damping is 1
        factors = (1 + step) * kept[key]
        if factors.abs().max() > LARGEST_FACTOR:
            break
        scale_units(view, key, factors)
        errors[key] = squares, squares + float(step @ system @ step - 2 * step @ right_side)
    return errors
