"""Error of each sub-layer as a function of the number of units that it keeps and of the ranks of its matrices.

All errors have one unit, the second-order increase of the loss under the Kronecker-factored approximation of the Fisher
information: tr(M Δ C Δᵀ) for an error Δ of a matrix whose inputs have covariance C and whose output gradients have the
second moment M (the *curvature*). They can be added over matrices, sub-layers and layers.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon import distributed, progress
from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Statistics
from bertsurgeon.compensation import apply_metric, reduced_errors, sqrt_metric
from bertsurgeon.methods.auto.candidates import Candidate, SubLayerCurve
from bertsurgeon.methods.auto.groups import group_candidates
from bertsurgeon.methods.auto.removal import Removal, greedy_removal
from bertsurgeon.plan import Channels, Role, SubLayerName, unit_channels

WORKERS = 4
"""Largest number of sub-layers that are measured at a time; each takes about 56 · neurons² bytes."""

LEVELS = 16
"""Numbers of neurons that are candidates, evenly spaced; a half, a quarter and an eighth of the first as well."""


def measure_curves(
    model: PreTrainedModel, statistics: Statistics, damping: float, chunk: int | None = None
) -> list[SubLayerCurve]:
    """Measures the curves of all sub-layers from statistics of the dense model.

    With several processes, each measures a part of the sub-layers.

    Args:
        model: The dense model.
        statistics: Must contain ``moments``; without ``curvature`` all output errors have the same weight.
        damping: λ of the regressions, relative to the mean variance.
        chunk: Number of neighboring channels that aligned groups read and write together; None for no groups.

    Returns:
        One curve per sub-layer, in the order of the model.

    Raises:
        OptionError: If the model's width is not a multiple of ``chunk``.
    """
    encoder = Encoder(model)
    layers = range(len(encoder.layers))
    names = distributed.shard([(layer, sub_layer) for layer in layers for sub_layer in encoder.sub_layers])

    def measure(name: tuple[int, SubLayerName]) -> SubLayerCurve:
        return _measure(encoder, statistics, *name, damping, chunk)

    with _workers(model.device) as run:
        measured = progress.track(run(measure, names), "Measuring what each part is worth", len(names))
        return distributed.all_gather(list(measured))


@contextmanager
def _workers(device: torch.device) -> Iterator[Callable[..., Iterator[SubLayerCurve]]]:
    """Yields a ``map`` that measures several sub-layers at a time on a CPU, each on its share of the threads.

    LAPACK's eigenvalue problems and the many small steps of the removal use one thread well and several badly.
    """
    threads = torch.get_num_threads()
    count = min(WORKERS, threads) if device.type == "cpu" else 1
    if count == 1:
        yield map
        return
    executor = ThreadPoolExecutor(count)
    torch.set_num_threads(threads // count)
    try:
        with threadpool_limits(threads // count, user_api="blas"):  # SciPy's, which does not follow PyTorch's
            yield executor.map
    finally:
        executor.shutdown(cancel_futures=True)  # an interrupt does not wait for what has not begun
        torch.set_num_threads(threads)


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
    weights = {role: encoder.weight(layer, role).double() for role in roles}
    roots = {
        role: weight.new_ones(len(weight))
        if (layer, role) not in statistics.curvature
        else sqrt_metric(statistics.curvature[layer, role])[0]
        for role, weight in weights.items()
    }
    inputs = statistics.moments[layer, first[0]].covariance
    covariance = statistics.moments[layer, last].covariance
    width = encoder.unit_width(sub_layer)
    weighted = apply_metric(roots[last], weights[last])
    removal = greedy_removal(weighted, covariance, width, damping)
    errors = removal.errors
    last_matrix = _LastMatrix(removal, weighted @ covariance @ weighted.T)
    first_matrices = [_FirstMatrix(role, weights[role], roots[role], inputs) for role in first]
    total = len(removal.order)
    counts = _unit_counts(total, sub_layer)
    kept = {count: removal.kept(count) for count in counts}
    # keys and values that several queries share have fewer channels per unit
    widths = {role: len(weights[role]) // total for role in first} | {last: width}

    def second_moments() -> Iterator[tuple[Tensor, int]]:
        for count in reversed(counts):
            for matrix in first_matrices:
                yield matrix.second_moment(kept[count], widths[matrix.role])
            yield last_matrix.second_moment(total - count, count * width)

    rank_errors = iter(reduced_errors(second_moments()))
    candidates = []
    for count in reversed(counts):
        shapes = {role: (count * widths[role], len(inputs)) for role in first} | {last: (len(weighted), count * width)}
        tails = {role: next(rank_errors) for role in roles}
        candidates.append(Candidate((kept[count],), float(errors[total - count]), shapes, tails))
    grouped = [] if chunk is None else group_candidates(weights, roots, inputs, covariance, width, damping, chunk)
    return SubLayerCurve(layer, sub_layer, total, width, float(errors[-1]), tuple(reversed(candidates)), tuple(grouped))


class _LastMatrix:
    """Errors of low ranks of a sub-layer's last matrix, while its inputs are removed one after the other.

    Refitted to the remaining inputs, its output has the second moment W C Wᵀ − L Lᵀ, with L the losses of the removed.

    Args:
        removal: The order of removal.
        second_moment: W C Wᵀ of the dense matrix, shape (out, out), fp64.
    """

    def __init__(self, removal: Removal, second_moment: Tensor) -> None:
        self._removal = removal
        self._second_moment = second_moment
        self._removed = 0

    def second_moment(self, removed: int, channels: int) -> tuple[Tensor, int]:
        """The second moment of the outputs, and the full rank.

        Args:
            removed: Units that are removed; never fewer than in the call before.
            channels: Inputs that are kept.
        """
        width = self._removal.width
        losses = self._removal.losses[:, self._removed * width : removed * width]
        self._second_moment = self._second_moment - losses @ losses.T
        self._removed = removed
        return self._second_moment, min(len(self._second_moment), channels)


class _FirstMatrix:
    """Errors of low ranks of a matrix whose outputs are units, restricted to the outputs that are kept.

    Args:
        role: Name of the matrix.
        weight: W, shape (out, in), fp64.
        root: M^½, shape (out, out), or its diagonal (out,).
        inputs: C, shape (in, in).
    """

    def __init__(self, role: Role, weight: Tensor, root: Tensor, inputs: Tensor) -> None:
        self.role = role
        self._weighted = weight @ sqrt_metric(inputs, 0.0)[0]
        self._metric = root.square() if root.dim() == 1 else root @ root
        self._is_diagonal = root.dim() == 1

    def second_moment(self, units: Channels, width: int) -> tuple[Tensor, int]:
        """The smaller Gram matrix of M_SS^½ W_S C^½ for the outputs of some units, and the full rank."""
        channels = torch.tensor(unit_channels(units, width), device=self._weighted.device)
        rows = self._weighted[channels]
        metric = self._metric[channels] if self._is_diagonal else self._metric[channels][:, channels]
        full_rank = min(rows.shape)
        if self._is_diagonal or len(rows) > rows.shape[1]:
            return rows.T @ apply_metric(metric, rows), full_rank
        half = torch.linalg.cholesky(metric).T @ rows
        return half @ half.T, full_rank


def _unit_counts(total: int, sub_layer: SubLayerName) -> list[int]:
    """Numbers of units that are candidates: every number of heads; neurons in multiples of eight."""
    if sub_layer == "attention":
        return list(range(1, total + 1))
    step = max(1, total // LEVELS)
    counts = [*(step // divisor for divisor in (8, 4, 2)), *range(step, total, step)]
    return sorted({*(max(1, count // 8 * 8) for count in counts if count), total})
