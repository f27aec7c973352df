"""Structured optimal brain surgery: units are taken away one by one, the rest makes up for each of them.

Removing the units S of a layer y = W a, with H = Cov[a, a] + λI, and refitting what remains raises the error by
tr(W_S ([H⁻¹]_SS)⁻¹ W_Sᵀ); the refitted weights are W − W_S ([H⁻¹]_SS)⁻¹ [H⁻¹]_S,: and the inverse without S is
H⁻¹ − [H⁻¹]_:,S ([H⁻¹]_SS)⁻¹ [H⁻¹]_S,: (Hassibi and Stork, 1993; for structures Kurtić et al., ZipLM, arXiv 2302.04089).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bertsurgeon.compensation import JITTERS, factorize, ridge
from bertsurgeon.plan import unit_channels

BLOCK = 128
"""Single channels removed between two updates of the whole inverse."""


@dataclass(frozen=True)
class Removal:
    """The order in which units go.

    Attributes:
        order: Every unit, the first to go first.
        losses: What each removal takes from the output, in the order of removal: shape (out, units · width), fp64. With
            L the columns of the first k units, L Lᵀ is the second moment of the error once these are gone and the
            others refitted.
        width: Channels per unit.
    """

    order: Tensor
    losses: Tensor
    width: int

    @property
    def errors(self) -> Tensor:
        """``errors[k]`` is the error once the first k units are gone, shape (units + 1,)."""
        steps = self.losses.square().sum(0).reshape(-1, self.width).sum(1)
        return torch.cat([steps.new_zeros(1), steps.cumsum(0)])

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
    damped = covariance + ridge(covariance, damping) * torch.eye(len(covariance), dtype=torch.float64)
    return _remove_channels(weight, damped, block) if width == 1 else _remove_units(weight, damped, width)


def _remove_units(weight: Tensor, damped: Tensor, width: int) -> Removal:
    """Whole heads: few steps, each with a fresh inverse of what is left."""
    left = list(range(len(damped) // width))
    order: list[int] = []
    losses: list[Tensor] = []
    target = weight @ damped
    while left:
        channels = torch.tensor(unit_channels(left, width))
        inverse = invert(damped[channels][:, channels])
        current = target[:, channels] @ inverse
        blocks = inverse.reshape(len(left), width, len(left), width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        parts = current.reshape(len(weight), len(left), width).permute(1, 2, 0)
        # with the factor K Kᵀ of a unit's block, the columns of W_S K⁻ᵀ are what its removal takes
        taken = torch.linalg.solve_triangular(torch.linalg.cholesky(blocks), parts, upper=False)
        best = int(taken.square().sum((1, 2)).argmin())
        losses.append(taken[best].T)
        order.append(left.pop(best))
    return Removal(torch.tensor(order), torch.cat(losses, 1), width)


def _remove_channels(weight: Tensor, damped: Tensor, block: int) -> Removal:
    """Single channels: lazy updates inside blocks, compaction after each, a fresh inverse each time half is gone."""
    left = torch.arange(len(damped))
    order: list[Tensor] = []
    losses: list[Tensor] = []
    target = weight @ damped
    inverse = gram = torch.empty(0)
    fresh = 0
    while len(left):
        if not fresh or 2 * len(left) <= fresh:
            fresh = len(left)
            inverse = invert(damped[left][:, left])
            weight = target[:, left] @ inverse
            gram = weight.T @ weight
        gone, taken, inverse, weight, gram = _remove_block(weight, gram, inverse, min(block, len(left)))
        order.append(left[gone])
        losses.append(taken)
        left = left[_others(gone, len(left))]
    return Removal(torch.cat(order), torch.cat(losses, 1), 1)


def _remove_block(
    weight: Tensor, gram: Tensor, inverse: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Removes ``count`` channels greedily.

    With u_i = H⁻¹[:, q_i]/√H⁻¹[q_i, q_i] and v_i = W[:, q_i]/√H⁻¹[q_i, q_i] as they are at step i, what stands for the
    current inverse and weights is H⁻¹ − U Uᵀ and W − V Uᵀ. P = WᵀV keeps the products with the weights as they came.

    Args:
        weight: W, shape (out, n).
        gram: WᵀW, shape (n, n).
        inverse: H⁻¹, shape (n, n).
        count: Channels to remove.

    Returns:
        The removed channels, V, and the inverse, weights and gram of the others.
    """
    size = len(inverse)
    U, P, V = inverse.new_zeros(size, count), inverse.new_zeros(size, count), weight.new_zeros(len(weight), count)
    diagonal = inverse.diagonal().clone()
    norms = gram.diagonal().clone()
    gone: list[int] = []
    tiny = torch.finfo(inverse.dtype).tiny
    for step in range(count):
        scores = norms.clamp_min(0) / diagonal.clamp_min(tiny)
        scores[gone] = torch.inf
        q = int(scores.argmin())
        pivot = diagonal[q].clamp_min(tiny).sqrt()
        before = U[:, :step]
        u = (inverse[q] - before @ before[q]) / pivot
        v = (weight[:, q] - V[:, :step] @ before[q]) / pivot
        p = (gram[q] - P[:, :step] @ before[q]) / pivot
        overlap = p - before @ (V[:, :step].T @ v)  # Wᵀv with the current W
        norms = norms - 2 * u * overlap + u.square() * v.square().sum()
        diagonal = diagonal - u.square()
        U[:, step], P[:, step], V[:, step] = u, p, v
        gone.append(q)
    removed = torch.tensor(gone)
    stays = _others(removed, size)
    weight = weight[:, stays] - V @ U[stays].T
    half = (P - U @ (V.T @ V) / 2)[stays] @ U[stays].T
    inverse = inverse[stays][:, stays].addmm_(U[stays], U[stays].T, alpha=-1)
    gram = gram[stays][:, stays].sub_(half).sub_(half.T)
    return removed, V, inverse, weight, gram


def _others(removed: Tensor, size: int) -> Tensor:
    """True for the channels that stay, shape (size,)."""
    stays = torch.ones(size, dtype=torch.bool)
    stays[removed] = False
    return stays


def invert(matrix: Tensor) -> Tensor:
    """The inverse of a symmetric positive definite matrix, fp64.

    Raises:
        ModelError: If it cannot be factorised even with a raised diagonal.
    """
    scale = float(matrix.diagonal().mean() * torch.finfo(matrix.dtype).eps * len(matrix))
    return torch.cholesky_inverse(factorize(matrix, [0.0, *(jitter * scale for jitter in JITTERS)]))
