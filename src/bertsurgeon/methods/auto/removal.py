"""Structured optimal brain surgery: units are removed one by one, and the remaining weights are refitted each time.

Removing the units S of a layer y = W a, with H = Cov[a, a] + λI, and refitting what remains raises the error by
tr(W_S ([H⁻¹]_SS)⁻¹ W_Sᵀ); the refitted weights are W − W_S ([H⁻¹]_SS)⁻¹ [H⁻¹]_S,: and the inverse without S is
H⁻¹ − [H⁻¹]_:,S ([H⁻¹]_SS)⁻¹ [H⁻¹]_S,: (Hassibi and Stork, 1993; for structures Kurtić et al., ZipLM, arXiv 2302.04089).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bertsurgeon.compensation import JITTERS, damp, factorize, ridge
from bertsurgeon.plan import unit_channels

BLOCK = 64
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
    inside which the updates of H⁻¹, W and WᵀW are kept as thin factors; the inverse is factorized anew whenever half
    of the channels are removed.

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
    damped = damp(covariance, ridge(covariance, damping))
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
    """Removes channels: lazy updates inside blocks, a fresh inverse whenever half of the channels are removed."""
    channels = torch.arange(len(damped), device=damped.device)
    order: list[Tensor] = []
    losses: list[Tensor] = []
    target = weight @ damped
    remaining: _Remaining | None = None
    while len(channels):
        if remaining is None or 2 * len(channels) <= remaining.capacity:
            remaining = _Remaining(channels, damped, target)
        removed, block_losses = remaining.remove(min(block, len(channels)))
        order.append(removed)
        losses.append(block_losses)
        channels = remaining.channels
    return Removal(torch.cat(order).cpu(), torch.cat(losses, 1), 1)


class _Remaining:
    """The channels that remain, with everything that their removal reads in one row for each.

    Args:
        channels: Their numbers, shape (n,).
        damped: H of all channels.
        target: W H of all channels, shape (out, all channels).

    Attributes:
        capacity: n when the inverse was computed.
        channels: The channels that remain, in the order of the rows.
    """

    def __init__(self, channels: Tensor, damped: Tensor, target: Tensor) -> None:
        self.capacity = len(channels)
        self.channels = channels
        inverse = invert(damped[channels][:, channels])
        weight = inverse @ target[:, channels].T
        self._rows = torch.cat([inverse, weight @ weight.T, weight], 1)  # H⁻¹, WᵀW, Wᵀ: (n, 2 capacity + out)

    def _parts(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Splits rows into what belongs to H⁻¹, WᵀW and Wᵀ; views, without the channels that are gone."""
        size = len(self.channels)
        return rows[:, :size], rows[:, self.capacity : self.capacity + size], rows[:, 2 * self.capacity :]

    def remove(self, count: int) -> tuple[Tensor, Tensor]:
        """Removes ``count`` channels greedily.

        With u_i = H⁻¹[:, q_i]/√H⁻¹[q_i, q_i] and v_i = W[:, q_i]/√H⁻¹[q_i, q_i] of step i, the current inverse and
        weights are H⁻¹ − U Uᵀ and W − V Uᵀ. P = WᵀV holds the products with the weights before.

        Returns:
            The removed channels, shape (count,), and V, shape (out, count).
        """
        size = len(self.channels)
        inverse, gram, _ = self._parts(self._rows[:size])
        diagonal, norms = inverse.diagonal().clone(), gram.diagonal().clone()
        factors = self._rows.new_zeros(count, self._rows.shape[1])  # one row (uᵀ, pᵀ, vᵀ) for each step
        U, _, V = self._parts(factors)
        places = torch.empty(count, dtype=torch.long, device=norms.device)
        tiny = torch.finfo(norms.dtype).tiny
        for step in range(count):
            # the place stays a tensor, so that a GPU is never waited for
            q = (norms.clamp_min(0) / diagonal.clamp_min(tiny)).argmin(0, keepdim=True)
            earlier = factors[:step]
            row = self._rows.index_select(0, q)[0] - earlier.index_select(1, q)[:, 0] @ earlier
            factors[step] = row / diagonal[q].clamp_min(tiny).sqrt()
            u, p, v = (part[0] for part in self._parts(factors[step : step + 1]))
            overlap = p - (V[:step] @ v) @ U[:step]  # Wᵀv with the current W
            norms += u * (u * v.dot(v) - 2 * overlap)
            diagonal.addcmul_(u, u, value=-1)
            norms.index_fill_(0, q, torch.inf)
            places[step : step + 1] = q
        removed, losses = self.channels[places], V.T.clone()
        self._compact(places, factors)
        inverse, gram, weight = self._parts(self._rows[: len(self.channels)])
        U, P, V = self._parts(factors)
        half = P - (V @ V.T / 2) @ U
        inverse.addmm_(U.T, U, alpha=-1)
        gram.addmm_(torch.cat([half, U]).T, torch.cat([U, half]), alpha=-1)
        weight.addmm_(U.T, V, alpha=-1)
        return removed, losses

    def _compact(self, places: Tensor, factors: Tensor) -> None:
        """Moves the last channels to the places of the removed ones, in the rows, their columns and the factors."""
        size = len(self.channels) - len(places)
        stays = torch.ones(len(self.channels), dtype=torch.bool, device=places.device)
        stays[places] = False
        holes, movers = places[places < size], size + stays[size:].nonzero()[:, 0]
        self._rows[holes] = self._rows[movers]
        for offset in (0, self.capacity):
            for matrix in (self._rows[:size], factors):
                matrix[:, offset + holes] = matrix[:, offset + movers]
        self.channels = self.channels.index_copy(0, holes, self.channels[movers])[:size]


def invert(matrix: Tensor) -> Tensor:
    """Inverts a symmetric positive definite matrix, fp64.

    Raises:
        ModelError: If it cannot be factorized even with a raised diagonal.
    """
    scale = float(matrix.diagonal().mean() * torch.finfo(matrix.dtype).eps * len(matrix))
    return torch.cholesky_inverse(factorize(matrix, [0.0, *(jitter * scale for jitter in JITTERS)]))
