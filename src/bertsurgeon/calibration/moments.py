"""First and second moments of a matrix's inputs, as seen by the dense and by the pruned model."""

import torch
from torch import Tensor

from bertsurgeon import distributed
from bertsurgeon.plan import Channels


class Moments:
    """Running moments of dense inputs x and pruned inputs x̂ of the same tokens, and of the residual drift d.

    Products are made in the inputs' precision batch by batch, relative to the first batch's means (so that channels
    far from zero lose nothing), and summed in fp64. Memory: 8 · width² bytes; 8 · pruned width · (pruned width + width
    + drift width) where both inputs differ.

    Args:
        width: Channels of x.
        paired: Whether x̂ differs from x.
        pruned_width: Channels of x̂, where units were removed before this matrix.
        drift_width: Channels of the drift, where it is followed.
        of_targets: Whether x is not what enters the dense matrix but what leaves it (without its bias): narrower where
            a matrix has fewer outputs than inputs.
    """

    def __init__(
        self,
        width: int,
        paired: bool,
        pruned_width: int | None = None,
        drift_width: int = 0,
        of_targets: bool = False,
    ) -> None:
        if not paired and (pruned_width is not None or drift_width):
            raise ValueError("Only paired moments have a pruned width or a drift.")
        self.count = 0.0
        self.paired = paired
        self.of_targets = of_targets
        inputs = width if pruned_width is None else pruned_width
        self._sum = torch.zeros(width, dtype=torch.float64)
        self._pruned_sum = torch.zeros(inputs, dtype=torch.float64) if paired else self._sum
        self._second = torch.zeros(inputs, inputs, dtype=torch.float64)
        self._cross = torch.zeros(width, inputs, dtype=torch.float64) if paired else self._second
        self._drift_sum = torch.zeros(drift_width, dtype=torch.float64)
        self._drift_cross = torch.zeros(drift_width, inputs, dtype=torch.float64)

    def update(
        self, x: Tensor, pruned: Tensor | None = None, drift: Tensor | None = None, weights: Tensor | None = None
    ) -> None:
        """Adds tokens.

        Args:
            x: The dense model's inputs, shape (tokens, width), padding excluded.
            pruned: The pruned model's, shape (tokens, pruned width); given if and only if the moments are paired.
            drift: Dense minus pruned residual stream of the same tokens, shape (tokens, drift width).
            weights: How much each token counts, shape (tokens,); 1 where None.
        """
        x = at_least_single(x)
        pruned, drift = (None if part is None else at_least_single(part) for part in (pruned, drift))
        weights = None if weights is None else weights.to(x.device)
        if self.count == 0:
            self._origin = x.mean(0)
            self._pruned_origin = self._origin if pruned is None else pruned.mean(0)
        self.count += len(x) if weights is None else float(weights.sum())
        x = x - self._origin
        seen = x if pruned is None else pruned - self._pruned_origin
        weighed = seen if weights is None else seen * weights.unsqueeze(1)
        self._second += (seen.T @ weighed).double().cpu()
        self._sum += _total(x, weights)
        if pruned is None:
            return
        self._pruned_sum += weighed.sum(0, dtype=torch.float64).cpu()
        self._cross += (x.T @ weighed).double().cpu()
        if drift is not None:
            self._drift_sum += _total(drift, weights)
            self._drift_cross += (drift.T @ weighed).double().cpu()

    def reduce(self) -> None:
        """Adds up what all processes saw, each its part of the tokens; relative to the middle of their origins."""
        if distributed.world_size() == 1:
            return
        origins = [self._origin.double().cpu(), self._pruned_origin.double().cpu()]
        shifts = []
        for origin in origins:
            middle = origin / distributed.world_size()
            distributed.all_reduce(middle)
            shifts.append(origin - middle)
        self._origin, self._pruned_origin = (origin - shift for origin, shift in zip(origins, shifts, strict=True))
        shift, pruned_shift = shifts
        n, seen = self.count, self._pruned_sum
        self._second += torch.outer(pruned_shift, seen) + torch.outer(seen + n * pruned_shift, pruned_shift)
        totals = [self._second, self._sum]
        if self.paired:
            self._cross += torch.outer(shift, seen) + torch.outer(self._sum + n * shift, pruned_shift)
            self._drift_cross += torch.outer(self._drift_sum, pruned_shift)
            self._pruned_sum = seen + n * pruned_shift
            totals += [self._cross, self._pruned_sum, self._drift_sum, self._drift_cross]
        self._sum += n * shift
        tokens = torch.tensor(n, dtype=torch.float64)
        for total in (*totals, tokens):
            distributed.all_reduce(total)
        self.count = float(tokens)

    def keep(self, channels: Channels) -> "Moments":
        """Moments in which x̂ is what remains of x: these channels, in this order. For moments that are not paired."""
        index = torch.tensor(channels)
        kept = Moments(len(self._sum), True, len(channels))
        kept.count, kept._sum, kept._origin = self.count, self._sum, self._origin
        kept._pruned_sum, kept._pruned_origin = self._sum[index], self._origin[index]
        kept._cross = self._second[:, index]
        kept._second = kept._cross[index]
        return kept

    def mapped(self, pruned: Tensor, dense: Tensor | None = None) -> "Moments":
        """Moments of what linear maps make of the inputs, in fp64; for moments that are paired, and follow no drift.

        Args:
            pruned: Map of x̂, shape (new pruned width, pruned width).
            dense: Map of x, shape (new width, width); None leaves x as it is.
        """
        after = pruned.detach().double().cpu()
        before = torch.eye(len(self._sum), dtype=torch.float64) if dense is None else dense.detach().double().cpu()
        found = Moments(len(before), True, len(after))
        found.count = self.count
        found._sum, found._origin = before @ self._sum, before @ self._origin.double().cpu()
        found._pruned_sum, found._pruned_origin = after @ self._pruned_sum, after @ self._pruned_origin.double().cpu()
        found._second = after @ self._second @ after.T
        found._cross = before @ self._cross @ after.T
        return found

    @property
    def mean(self) -> Tensor:
        """E[x], shape (width,)."""
        return self._origin.double().cpu() + self._sum / self.count

    @property
    def pruned_mean(self) -> Tensor:
        """E[x̂], shape (width,)."""
        return self._pruned_origin.double().cpu() + self._pruned_sum / self.count

    @property
    def covariance(self) -> Tensor:
        """Cov[x̂, x̂], shape (pruned width, pruned width)."""
        return self._second / self.count - torch.outer(self._pruned_sum, self._pruned_sum) / self.count**2

    @property
    def cross_covariance(self) -> Tensor:
        """Cov[x, x̂], shape (width, pruned width)."""
        return self._cross / self.count - torch.outer(self._sum, self._pruned_sum) / self.count**2

    @property
    def drift_mean(self) -> Tensor:
        """E[d], shape (drift width,)."""
        return self._drift_sum / self.count

    @property
    def drift_covariance(self) -> Tensor:
        """Cov[d, x̂], shape (drift width, pruned width)."""
        return self._drift_cross / self.count - torch.outer(self._drift_sum, self._pruned_sum) / self.count**2


def _total(x: Tensor, weights: Tensor | None) -> Tensor:
    """Σ_t w_t x_t, shape (width,), fp64."""
    return (x if weights is None else x * weights.unsqueeze(1)).sum(0, dtype=torch.float64).cpu()


def at_least_single(x: Tensor) -> Tensor:
    """What sums of squares are made of: they leave the range of half precision."""
    return x.float() if x.element_size() < 4 else x
