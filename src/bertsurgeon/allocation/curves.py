"""What each sub-layer would lose, for every number of units it may keep and every rank of its matrices.

All errors are in one unit, the increase of the loss to second order under the Kronecker-factored approximation of the
Fisher information: tr(M Δ C Δᵀ) for an error Δ of a matrix whose inputs have covariance C and whose outputs' gradients
have the second moment M (the *curvature*). They can be added over matrices, sub-layers and layers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon import progress
from bertsurgeon.architectures import Architecture
from bertsurgeon.calibration import Statistics
from bertsurgeon.compensation import matrix_roots, reduced_errors, solve_damped, times
from bertsurgeon.plan import SUB_LAYERS, Role, SubLayerName
from bertsurgeon.removal import greedy_removal

LEVELS = 16
"""Numbers of neurons that are considered, evenly spaced; below the first, its halves and quarters."""


@dataclass(frozen=True)
class Option:
    """One number of units a sub-layer may keep.

    Attributes:
        units: Those that stay, ascending.
        error: What removing the others costs after the rest made up for them.
        shapes: Of the matrices that are left.
        tails: By matrix: ``tails[role][r]`` is what reducing it to rank r costs, shape (full rank + 1,).
    """

    units: tuple[int, ...]
    error: float
    shapes: dict[Role, tuple[int, int]]
    tails: dict[Role, Tensor]


@dataclass(frozen=True)
class SubLayerCurve:
    """A sub-layer's options.

    Attributes:
        layer: Index of the layer.
        sub_layer: Attention or feed-forward part.
        total: Units of the dense sub-layer.
        width: Channels per unit.
        dropped: What dropping the whole sub-layer costs.
        options: From few units to all.
    """

    layer: int
    sub_layer: SubLayerName
    total: int
    width: int
    dropped: float
    options: tuple[Option, ...]


def measure_curves(
    model: PreTrainedModel, architecture: Architecture, statistics: Statistics, damping: float
) -> list[SubLayerCurve]:
    """The curves of every sub-layer, from statistics of the dense model (``moments`` and ``curvature``).

    Args:
        model: The dense model.
        architecture: Its entry in the table.
        statistics: With ``moments``; without ``curvature`` all errors of the outputs weigh the same.
        damping: Relative λ of the regressions.
    """
    layers = range(len(architecture.layers(model)))
    names = [(layer, sub_layer) for layer in layers for sub_layer in SUB_LAYERS]
    return [
        _measure(model, architecture, statistics, layer, sub_layer, damping)
        for layer, sub_layer in progress.track(names, "Measuring what each part is worth")
    ]


def _measure(
    model: PreTrainedModel,
    architecture: Architecture,
    statistics: Statistics,
    layer: int,
    sub_layer: SubLayerName,
    damping: float,
) -> SubLayerCurve:
    *first, last = SUB_LAYERS[sub_layer]
    weights = {role: _weight(architecture, model, layer, role) for role in SUB_LAYERS[sub_layer]}
    roots = {
        role: torch.ones(len(weight), dtype=torch.float64)
        if (layer, role) not in statistics.curvature
        else matrix_roots(statistics.curvature[layer, role])[0]
        for role, weight in weights.items()
    }
    inputs = statistics.moments[layer, first[0]].covariance
    covariance = statistics.moments[layer, last].covariance
    width = architecture.head_width(model.config) if sub_layer == "attention" else 1
    weighed = times(roots[last], weights[last])
    removal = greedy_removal(weighed, covariance, width, damping)
    total = len(removal.order)
    shift = float(damping * covariance.diagonal().mean())
    options = []
    for count in _levels(total, sub_layer):
        units = removal.kept(count)
        channels = torch.tensor([unit * width + offset for unit in units for offset in range(width)])
        seen = covariance[channels][:, channels]
        refitted = weighed if count == total else solve_damped(seen, (weighed @ covariance)[:, channels].T, shift).T
        shapes = {role: (len(channels), weights[role].shape[1]) for role in first}
        tails = {
            role: reduced_errors(times(_columns(roots[role], channels), weights[role][channels]), inputs)
            for role in first
        }
        shapes[last], tails[last] = (len(weighed), len(channels)), reduced_errors(refitted, seen)
        options.append(Option(units, float(removal.errors[total - count]), shapes, tails))
    return SubLayerCurve(layer, sub_layer, total, width, float(removal.errors[-1]), tuple(options))


def _levels(total: int, sub_layer: SubLayerName) -> list[int]:
    """Numbers of units to consider: every number of heads; neurons in multiples of eight."""
    if sub_layer == "attention":
        return list(range(1, total + 1))
    step = max(1, total // LEVELS)
    counts = [*(step // divisor for divisor in (8, 4, 2)), *range(step, total, step)]
    return sorted({*(max(1, count // 8 * 8) for count in counts if count), total})


def _weight(architecture: Architecture, model: PreTrainedModel, layer: int, role: Role) -> Tensor:
    matrix = architecture.matrix(model, layer, role)
    assert isinstance(matrix, nn.Linear)
    return matrix.weight.detach().double().cpu()


def _columns(root: Tensor, channels: Tensor) -> Tensor:
    """The part of M^½ that errors of these outputs meet (all of its rows: M may mix outputs)."""
    return root[channels] if root.dim() == 1 else root[:, channels]
