"""Structured optimal brain surgery: units are taken away one by one, the rest makes up for each of them.

Removing the units S of a layer y = W a, with H = Cov[a, a] + λI, and refitting what remains raises the error by
tr(W_S ([H⁻¹]_SS)⁻¹ W_Sᵀ); the refitted weights are W − W_S ([H⁻¹]_SS)⁻¹ [H⁻¹]_S,: and the inverse without S is
H⁻¹ − [H⁻¹]_:,S ([H⁻¹]_SS)⁻¹ [H⁻¹]_S,: (Hassibi and Stork, 1993; for structures Kurtić et al., ZipLM, arXiv 2302.04089).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bertsurgeon.errors import ModelError

BLOCK = 64
"""Single channels removed between two updates of the whole inverse."""

JITTERS = (1.0, 10.0, 100.0, 1e4)


@dataclass(frozen=True)
class Removal:
    """The order in which units go.

    Attributes:
        order: Every unit, the first to go first.
        errors: ``errors[k]`` is the error E‖M^½(Wa − Ŵâ)‖² once the first k units are gone and the others refitted,
            shape (units + 1,), fp64; the last one is the variance of the whole output.
    """

    order: Tensor
    errors: Tensor

    def kept(self, count: int) -> tuple[int, ...]:
        """The last ``count`` units to go, ascending."""
        return tuple(sorted(self.order[len(self.order) - count :].tolist()))


def greedy_removal(weight: Tensor, covariance: Tensor, width: int, damping: float, block: int = BLOCK) -> Removal:
    """Takes units away one by one, each time the one whose loss costs least after all others were refitted.

    Exact: the same order as recomputing everything after each step. Single channels are removed in blocks, inside
    which the updates of H⁻¹ and WᵀW are kept as thin factors; the inverse is factorised anew whenever half of the
    channels are gone.

    Args:
        weight: Of the matrix that reads the units, shape (out, units · width), fp64; multiplied by M^½ beforehand where
            errors are weighed.
        covariance: Of its inputs, shape (units · width, units · width), fp64.
        width: Channels per unit.
        damping: λ, relative to the mean variance.
        block: Channels per block.

    Raises:
        ModelError: If the covariance cannot be factorised.
    """
    shift = float(damping * covariance.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny))
    damped = covariance + shift * torch.eye(len(covariance), dtype=torch.float64)
    return _remove_channels(weight, damped, block) if width == 1 else _remove_units(weight, damped, width)


def _remove_units(weight: Tensor, damped: Tensor, width: int) -> Removal:
    """Whole heads: few steps, each with a fresh inverse of what is left."""
    left = list(range(len(damped) // width))
    order: list[int] = []
    errors = [0.0]
    full, target = damped, weight @ damped
    while left:
        channels = torch.cat([torch.arange(unit * width, (unit + 1) * width) for unit in left])
        inverse = invert(full[channels][:, channels])
        current = target[:, channels] @ inverse
        blocks = inverse.reshape(len(left), width, len(left), width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        parts = current.reshape(len(weight), len(left), width).permute(1, 2, 0)
        costs = (parts * torch.linalg.solve(blocks, parts)).sum((1, 2))
        best = int(costs.argmin())
        errors.append(errors[-1] + float(costs[best]))
        order.append(left.pop(best))
    return Removal(torch.tensor(order), torch.tensor(errors, dtype=torch.float64))


def _remove_channels(weight: Tensor, damped: Tensor, block: int) -> Removal:
    """Single channels: lazy updates inside blocks, compaction after each, a fresh inverse each time half is gone."""
    left = torch.arange(len(damped))
    order: list[int] = []
    errors = [0.0]
    target = weight @ damped
    inverse, fresh = torch.empty(0), 0
    while len(left):
        if not fresh or 2 * len(left) <= fresh:
            fresh = len(left)
            inverse = invert(damped[left][:, left])
            weight = target[:, left] @ inverse
        gone, costs, inverse, weight = _remove_block(weight, inverse, min(block, len(left)))
        for index, cost in zip(gone, costs, strict=True):
            order.append(int(left[index]))
            errors.append(errors[-1] + cost)
        stays = torch.ones(len(left), dtype=torch.bool)
        stays[gone] = False
        left, inverse, weight = left[stays], inverse[stays][:, stays], weight[:, stays]
    return Removal(torch.tensor(order), torch.tensor(errors, dtype=torch.float64))


def _remove_block(weight: Tensor, inverse: Tensor, count: int) -> tuple[list[int], list[float], Tensor, Tensor]:
    """Removes ``count`` channels greedily.

    With u_i = H⁻¹[:, q_i]/√H⁻¹[q_i, q_i] at the time of step i and w_i = W[:, q_i]/√H⁻¹[q_i, q_i], what stands for the
    current inverse and weights is H⁻¹ − U Uᵀ and W − V Uᵀ with U = [u_1 …], V = [w_1 …].

    Returns:
        The removed channels, their costs, and the updated inverse and weights (with all channels still in place).
    """
    size = len(inverse)
    U, V = inverse.new_zeros(size, count), weight.new_zeros(len(weight), count)
    diagonal = inverse.diagonal().clone()
    norms = weight.square().sum(0)
    gone: list[int] = []
    costs: list[float] = []
    tiny = torch.finfo(inverse.dtype).tiny
    for step in range(count):
        scores = norms.clamp_min(0) / diagonal.clamp_min(tiny)
        scores[gone] = torch.inf
        q = int(scores.argmin())
        pivot = diagonal[q].clamp_min(tiny).sqrt()
        before = U[:, :step]
        u = (inverse[q] - before @ before[q]) / pivot
        w = (weight[:, q] - V[:, :step] @ before[q]) / pivot
        overlap = weight.T @ w - before @ (V[:, :step].T @ w)  # Wᵀ w with the current W
        norms = norms - 2 * u * overlap + u.square() * w.square().sum()
        diagonal = diagonal - u.square()
        U[:, step], V[:, step] = u, w
        gone.append(q)
        costs.append(float(scores[q]))
    return gone, costs, inverse - U @ U.T, weight - V @ U.T


def invert(matrix: Tensor) -> Tensor:
    """The inverse of a symmetric positive definite matrix, fp64.

    Raises:
        ModelError: If it cannot be factorised even with a raised diagonal.
    """
    scale = matrix.diagonal().mean() * torch.finfo(matrix.dtype).eps * len(matrix)
    for jitter in (0.0, *JITTERS):
        factor, failed = torch.linalg.cholesky_ex(matrix + jitter * scale * torch.eye(len(matrix), dtype=matrix.dtype))
        if not failed:
            return torch.cholesky_inverse(factor)
    raise ModelError("The calibration activations are degenerate; use more or other calibration data, or more damping.")
