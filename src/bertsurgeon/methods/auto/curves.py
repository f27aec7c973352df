"""What each sub-layer would lose, for every number of units it may keep and every rank of its matrices.

All errors are in one unit, the increase of the loss to second order under the Kronecker-factored approximation of the
Fisher information: tr(M Δ C Δᵀ) for an error Δ of a matrix whose inputs have covariance C and whose outputs' gradients
have the second moment M (the *curvature*). They can be added over matrices, sub-layers and layers.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon import distributed, progress
from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Statistics
from bertsurgeon.compensation import apply_metric, reduced_errors, sqrt_metric
from bertsurgeon.methods.auto.candidates import Candidate, SubLayerCurve
from bertsurgeon.methods.auto.groups import group_options
from bertsurgeon.methods.auto.removal import Removal, greedy_removal
from bertsurgeon.plan import Role, SubLayerName, unit_channels

LEVELS = 16
"""Numbers of neurons that are considered, evenly spaced; below the first, its halves and quarters."""


def measure_curves(
    model: PreTrainedModel, statistics: Statistics, damping: float, chunk: int | None = None
) -> list[SubLayerCurve]:
    """The curves of every sub-layer, from statistics of the dense model (``moments`` and ``curvature``).

    Several processes measure a part of the sub-layers each.

    Args:
        model: The dense model.
        statistics: With ``moments``; without ``curvature`` all errors of the outputs weigh the same.
        damping: Relative λ of the regressions.
        chunk: Also try aligned groups, which read and write so many neighbouring channels together.

    Raises:
        OptionError: If the model's width is no multiple of ``chunk``.
    """
    encoder = Encoder(model)
    layers = range(len(encoder.layers))
    names = [(layer, sub_layer) for layer in layers for sub_layer in encoder.sub_layers]
    return distributed.all_gather(
        [
            _measure(encoder, statistics, layer, sub_layer, damping, chunk)
            for layer, sub_layer in progress.track(distributed.shard(names), "Measuring what each part is worth")
        ]
    )


def _measure(
    encoder: Encoder,
    statistics: Statistics,
    layer: int,
    sub_layer: SubLayerName,
    damping: float,
    chunk: int | None,
) -> SubLayerCurve:
    roles = encoder.sub_layers[sub_layer]
    *first, last = roles
    weights = {role: encoder.weight(layer, role).double().cpu() for role in roles}
    roots = {
        role: torch.ones(len(weight), dtype=torch.float64)
        if (layer, role) not in statistics.curvature
        else sqrt_metric(statistics.curvature[layer, role])[0]
        for role, weight in weights.items()
    }
    inputs = statistics.moments[layer, first[0]].covariance
    covariance = statistics.moments[layer, last].covariance
    width = encoder.unit_width(sub_layer)
    weighed = apply_metric(roots[last], weights[last])
    removal = greedy_removal(weighed, covariance, width, damping)
    errors = removal.errors
    output = _LastMatrix(removal, weighed @ covariance @ weighed.T)
    before = [_FirstMatrix(role, weights[role], roots[role], inputs) for role in first]
    total = len(removal.order)
    options = []
    for count in reversed(_levels(total, sub_layer)):
        units = removal.kept(count)
        # keys and values that several queries share have fewer channels in a unit
        channels = {role: torch.tensor(unit_channels(units, len(weights[role]) // total)) for role in first}
        shapes = {role: (len(channels[role]), len(inputs)) for role in first}
        rank_errors = {matrix.role: matrix.rank_errors(channels[matrix.role]) for matrix in before}
        left = count * width
        shapes[last], rank_errors[last] = (len(weighed), left), output.rank_errors(total - count, left)
        options.append(Candidate((units,), float(errors[total - count]), shapes, rank_errors))
    grouped = [] if chunk is None else group_options(weights, roots, inputs, covariance, width, damping, chunk)
    return SubLayerCurve(layer, sub_layer, total, width, float(errors[-1]), tuple(reversed(options)), tuple(grouped))


class _LastMatrix:
    """What ranks of a sub-layer's last matrix cost, while its inputs are removed one after the other.

    Refitted to what is left, its output keeps the second moment W C Wᵀ − L Lᵀ, with L the losses of what is gone.
    """

    def __init__(self, removal: Removal, second: Tensor) -> None:
        self._removal = removal
        self._second = second.clone()
        self._gone = 0

    def rank_errors(self, gone: int, channels: int) -> Tensor:
        """With the first ``gone`` units removed (never fewer than before) and ``channels`` inputs left."""
        width = self._removal.width
        taken = self._removal.losses[:, self._gone * width : gone * width]
        self._second -= taken @ taken.T
        self._gone = gone
        return reduced_errors(self._second, min(len(self._second), channels))


class _FirstMatrix:
    """What ranks of a matrix cost whose outputs are units, for those of its outputs that stay."""

    def __init__(self, role: Role, weight: Tensor, root: Tensor, inputs: Tensor) -> None:
        self.role = role
        self._factor = sqrt_metric(inputs, 0.0)[0]
        self._weighed = weight @ self._factor
        self._metric = root.square() if root.dim() == 1 else root @ root
        self._diagonal = root.dim() == 1

    def rank_errors(self, channels: Tensor) -> Tensor:
        """With the outputs ``channels``: singular values of M_SS^½ W_S C^½, from its smaller gram."""
        rows = self._weighed[channels]
        metric = self._metric[channels] if self._diagonal else self._metric[channels][:, channels]
        full = min(rows.shape)
        if self._diagonal or len(rows) > rows.shape[1]:
            return reduced_errors(rows.T @ apply_metric(metric, rows), full)
        half = torch.linalg.cholesky(metric).T @ rows
        return reduced_errors(half @ half.T, full)


def _levels(total: int, sub_layer: SubLayerName) -> list[int]:
    """Numbers of units to consider: every number of heads; neurons in multiples of eight."""
    if sub_layer == "attention":
        return list(range(1, total + 1))
    step = max(1, total // LEVELS)
    counts = [*(step // divisor for divisor in (8, 4, 2)), *range(step, total, step)]
    return sorted({*(max(1, count // 8 * 8) for count in counts if count), total})
