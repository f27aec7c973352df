"""Structured optimal brain surgery: units are removed one by one, and the remaining weights are refitted each time.

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
"""Number of single channels that are removed between two updates of the whole inverse."""


@dataclass(frozen=True)
class Removal:
    """Order in which units are removed.

    Attributes:
        order: All units, the first one to be removed first.
        losses: What each removal subtracts from the output, in the order of removal: shape (out, units · width), fp64.
            With L the columns of the first k units, L Lᵀ is the second moment of the error after these are removed and
            the others refitted.
        width: Channels per unit.
    """

    order: Tensor
    losses: Tensor
    width: int

    @property
    def errors(self) -> Tensor:
        """Errors after each removal: ``errors[k]`` is that without the first k units, shape (units + 1,)."""
        steps = self.losses.square().sum(0).reshape(-1, self.width).sum(1)
        return torch.cat([steps.new_zeros(1), steps.cumsum(0)])

    def kept(self, count: int) -> tuple[int, ...]:
        """The ``count`` units that are removed last, ascending."""
        return tuple(sorted(self.order[len(self.order) - count :].tolist()))


def greedy_removal(weight: Tensor, covariance: Tensor, width: int, damping: float, block: int = BLOCK) -> Removal:
    """Removes units one by one, each time the one with the lowest error after all others are refitted.

    The order is exact: the same as with everything recomputed after each step. Single channels are removed in blocks,
    inside which the updates of H⁻¹ and WᵀW are kept as thin factors; the inverse is factorized anew whenever half of
    the channels are removed.

    Args:
        weight: Weight of the matrix that reads the units, shape (out, units · width), fp64; multiplied by M^½ in
            advance if errors are weighted.
        covariance: Covariance of its inputs, shape (units · width, units · width), fp64.
        width: Channels per unit.
        damping: λ, relative to the mean variance.
        block: Channels per block.

    Raises:
        ModelError: If the covariance cannot be factorized.
    """
    damped = covariance.clone()
    damped.diagonal().add_(ridge(covariance, damping))
    return _remove_channels(weight, damped, block) if width == 1 else _remove_units(weight, damped, width)


def _remove_units(weight: Tensor, damped: Tensor, width: int) -> Removal:
    """Removes units of several channels (heads): few steps, each with a fresh inverse of the remaining covariance."""
    remaining = list(range(len(damped) // width))
    order: list[int] = []
    losses: list[Tensor] = []
    target = weight @ damped
    while remaining:
        channels = torch.tensor(unit_channels(remaining, width), device=damped.device)
        inverse = invert(damped[channels][:, channels])
        current = target[:, channels] @ inverse
        blocks = inverse.reshape(len(remaining), width, len(remaining), width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        parts = current.reshape(len(weight), len(remaining), width).permute(1, 2, 0)
        # with the factor K Kᵀ of a unit's block, the columns of W_S K⁻ᵀ are the loss of its removal
        unit_losses = torch.linalg.solve_triangular(torch.linalg.cholesky(blocks), parts, upper=False)
        cheapest = int(unit_losses.square().sum((1, 2)).argmin())
        losses.append(unit_losses[cheapest].T)
        order.append(remaining.pop(cheapest))
    return Removal(torch.tensor(order), torch.cat(losses, 1), width)


def _remove_channels(weight: Tensor, damped: Tensor, block: int) -> Removal:
    """Removes single channels: lazy updates inside blocks, compaction after each, a fresh inverse at every half."""
    remaining = torch.arange(len(damped), device=damped.device)
    order: list[Tensor] = []
    losses: list[Tensor] = []
    target = weight @ damped
    inverse = gram = torch.empty(0)
    inverted = 0  # channels at the last fresh inverse
    while len(remaining):
        if not inverted or 2 * len(remaining) <= inverted:
            inverted = len(remaining)
            inverse = invert(damped[remaining][:, remaining])
            weight = target[:, remaining] @ inverse
            gram = weight.T @ weight
        removed, block_losses, inverse, weight, gram = _remove_block(weight, gram, inverse, min(block, len(remaining)))
        order.append(remaining[removed])
        losses.append(block_losses)
        remaining = remaining[_others(removed, len(remaining))]
    return Removal(torch.cat(order).cpu(), torch.cat(losses, 1), 1)


def _remove_block(
    weight: Tensor, gram: Tensor, inverse: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Removes ``count`` channels greedily.

    With u_i = H⁻¹[:, q_i]/√H⁻¹[q_i, q_i] and v_i = W[:, q_i]/√H⁻¹[q_i, q_i] of step i, the current inverse and weights
    are H⁻¹ − U Uᵀ and W − V Uᵀ. P = WᵀV holds the products with the weights as they were passed.

    Args:
        weight: W, shape (out, n).
        gram: WᵀW, shape (n, n).
        inverse: H⁻¹, shape (n, n).
        count: Number of channels to remove.

    Returns:
        The removed channels, V, and the inverse, weights and WᵀW of the others.
    """
    size = len(inverse)
    U, P, V = inverse.new_zeros(size, count), inverse.new_zeros(size, count), weight.new_zeros(len(weight), count)
    diagonal = inverse.diagonal().clone()
    norms = gram.diagonal().clone()
    removed = torch.empty(count, dtype=torch.long, device=inverse.device)
    barrier = torch.zeros_like(diagonal)  # infinite for channels that are removed
    tiny = torch.finfo(inverse.dtype).tiny
    for step in range(count):
        # the channel's number stays a tensor, so that a GPU is never waited for
        q = (norms.clamp_min(0) / diagonal.clamp_min(tiny) + barrier).argmin(0, keepdim=True)
        pivot = diagonal[q].clamp_min(tiny).sqrt()
        earlier = U[:, :step]
        row = earlier[q][0]
        u = (inverse[q][0] - earlier @ row) / pivot
        v = (weight[:, q][:, 0] - V[:, :step] @ row) / pivot
        p = (gram[q][0] - P[:, :step] @ row) / pivot
        overlap = p - earlier @ (V[:, :step].T @ v)  # Wᵀv with the current W
        norms = norms - 2 * u * overlap + u.square() * v.square().sum()
        diagonal = diagonal - u.square()
        U[:, step], P[:, step], V[:, step] = u, p, v
        removed[step : step + 1] = q
        barrier.index_fill_(0, q, torch.inf)
    stays = _others(removed, size)
    weight = weight[:, stays] - V @ U[stays].T
    half = (P - U @ (V.T @ V) / 2)[stays] @ U[stays].T
    inverse = inverse[stays][:, stays].addmm_(U[stays], U[stays].T, alpha=-1)
    gram = gram[stays][:, stays].sub_(half).sub_(half.T)
    return removed, V, inverse, weight, gram


def _others(removed: Tensor, size: int) -> Tensor:
    """Mask of the channels that are not removed, shape (size,)."""
    stays = torch.ones(size, dtype=torch.bool, device=removed.device)
    stays[removed] = False
    return stays


def invert(matrix: Tensor) -> Tensor:
    """Inverts a symmetric positive definite matrix, fp64.

    Raises:
        ModelError: If it cannot be factorized even with a raised diagonal.
    """
    scale = float(matrix.diagonal().mean() * torch.finfo(matrix.dtype).eps * len(matrix))
    return torch.cholesky_inverse(factorize(matrix, [0.0, *(jitter * scale for jitter in JITTERS)]))
