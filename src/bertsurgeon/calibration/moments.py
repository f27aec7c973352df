"""First and second moments of a matrix's inputs in the dense and in the pruned model."""

from functools import partial

import torch
from torch import Tensor

from bertsurgeon import distributed
from bertsurgeon.plan import Channels

SYMMETRIC_BLOCKS, MIN_SYMMETRIC_BLOCK = 4, 96
"""Block rows of a symmetric product, and their smallest height: smaller products are no faster in blocks."""


class Moments:
    """Running moments of dense inputs x and pruned inputs x̂ of the same tokens, and of the residual drift d.

    Products are computed in the precision of the inputs batch by batch, relative to the means of the first batch (so
    that channels far from zero lose no precision), and summed in fp64, on the device of the inputs. Memory: 8 · width²
    bytes; 8 · pruned width · (pruned width + width + drift width) if both inputs differ.

    Args:
        width: Channels of x.
        paired: Whether x̂ differs from x.
        pruned_width: Channels of x̂; None for those of x. They differ if units were removed before this matrix.
        drift_width: Channels of the drift; 0 if it is not tracked.
        of_targets: Whether x is the output of the dense matrix (without its bias) instead of its input, which takes
            less memory if the matrix has fewer outputs than inputs.
        device: Device of the sums; that of the inputs.

    Attributes:
        count: Sum of the tokens' weights.
        paired: See above.
        of_targets: See above.
    """

    def __init__(
        self,
        width: int,
        paired: bool,
        pruned_width: int | None = None,
        drift_width: int = 0,
        of_targets: bool = False,
        device: torch.device | None = None,
    ) -> None:
        if not paired and (pruned_width is not None or drift_width):
            raise ValueError("Only paired moments have a pruned width or a drift.")
        self.count = 0.0
        self.paired = paired
        self.of_targets = of_targets
        inputs = width if pruned_width is None else pruned_width
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        self._sum = zeros(width)
        self._pruned_sum = zeros(inputs) if paired else self._sum
        self._second = zeros(inputs, inputs)
        self._cross = zeros(width, inputs) if paired else self._second
        self._drift_sum = zeros(drift_width)
        self._drift_cross = zeros(drift_width, inputs)

    def update(
        self, x: Tensor, pruned: Tensor | None = None, drift: Tensor | None = None, weights: Tensor | None = None
    ) -> None:
        """Adds the tokens of one batch.

        Args:
            x: The dense model's inputs, shape (tokens, width), padding excluded.
            pruned: The pruned model's inputs, shape (tokens, pruned width); required if and only if the moments are
                paired.
            drift: Dense minus pruned residual stream of the same tokens, shape (tokens, drift width).
            weights: Weights of the tokens, shape (tokens,); None for 1.
        """
        with torch.autocast(x.device.type, enabled=False):  # products are in single precision whatever the model ran in
            self._update(x, pruned, drift, weights)

    def _update(self, x: Tensor, pruned: Tensor | None, drift: Tensor | None, weights: Tensor | None) -> None:
        x = at_least_single(x)
        pruned, drift = (None if tensor is None else at_least_single(tensor) for tensor in (pruned, drift))
        weights = None if weights is None else weights.to(x.device, x.dtype)
        if self.count == 0:
            self._origin = x.mean(0)
            self._pruned_origin = self._origin if pruned is None else pruned.mean(0)
        self.count += len(x) if weights is None else float(weights.sum())
        x = x - self._origin
        centered = x if pruned is None else pruned - self._pruned_origin
        weighted = centered if weights is None else centered * weights.unsqueeze(1)
        self._second += symmetric_product(centered, weighted)
        self._sum += _total(x, weights)
        if pruned is None:
            return
        self._pruned_sum += weighted.sum(0, dtype=torch.float64)
        self._cross += x.T @ weighted
        if drift is not None:
            self._drift_sum += _total(drift, weights)
            self._drift_cross += drift.T @ weighted

    def reduce(self) -> None:
        """Sums the moments over all processes, after moving them to the mean of the processes' origins."""
        if distributed.world_size() == 1:
            return
        origins = [self._origin.double(), self._pruned_origin.double()]
        moves = []
        for origin in origins:
            mean_origin = origin / distributed.world_size()
            distributed.all_reduce(mean_origin)
            moves.append(origin - mean_origin)
        self._origin, self._pruned_origin = (origin - move for origin, move in zip(origins, moves, strict=True))
        move, pruned_move = moves
        n, pruned_sum = self.count, self._pruned_sum
        self._second += torch.outer(pruned_move, pruned_sum) + torch.outer(pruned_sum + n * pruned_move, pruned_move)
        totals = [self._second, self._sum]
        if self.paired:
            self._cross += torch.outer(move, pruned_sum) + torch.outer(self._sum + n * move, pruned_move)
            self._drift_cross += torch.outer(self._drift_sum, pruned_move)
            self._pruned_sum = pruned_sum + n * pruned_move
            totals += [self._cross, self._pruned_sum, self._drift_sum, self._drift_cross]
        self._sum += n * move
        tokens = torch.tensor(n, dtype=torch.float64)
        for total in (*totals, tokens):
            distributed.all_reduce(total)
        self.count = float(tokens)

    def keep(self, channels: Channels) -> "Moments":
        """Returns moments in which x̂ consists of some channels of x; only for moments that are not paired.

        Args:
            channels: Channels of x, in the order of x̂.
        """
        index = torch.tensor(channels, device=self._sum.device)
        kept = Moments(len(self._sum), True, len(channels), device=self._sum.device)
        kept.count, kept._sum, kept._origin = self.count, self._sum, self._origin
        kept._pruned_sum, kept._pruned_origin = self._sum[index], self._origin[index]
        kept._cross = self._second[:, index]
        kept._second = kept._cross[index]
        return kept

    def mapped(self, pruned: Tensor, dense: Tensor | None = None) -> "Moments":
        """Returns the moments of linear maps of the inputs, in fp64; only for paired moments without drift.

        Args:
            pruned: Map of x̂, shape (new pruned width, pruned width).
            dense: Map of x, shape (new width, width); None for the identity.
        """
        after = pruned.detach().to(self._sum)
        before = torch.eye(len(self._sum)).to(self._sum) if dense is None else dense.detach().to(self._sum)
        mapped = Moments(len(before), True, len(after), device=self._sum.device)
        mapped.count = self.count
        mapped._sum, mapped._origin = before @ self._sum, before @ self._origin.double()
        mapped._pruned_sum, mapped._pruned_origin = after @ self._pruned_sum, after @ self._pruned_origin.double()
        mapped._second = after @ self._second @ after.T
        mapped._cross = before @ self._cross @ after.T
        return mapped

    @property
    def mean(self) -> Tensor:
        """E[x], shape (width,)."""
        return self._origin.double() + self._sum / self.count

    @property
    def pruned_mean(self) -> Tensor:
        """E[x̂], shape (pruned width,)."""
        return self._pruned_origin.double() + self._pruned_sum / self.count

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
    """Returns Σ_t w_t x_t, shape (width,), fp64."""
    return (x if weights is None else x * weights.unsqueeze(1)).sum(0, dtype=torch.float64)


def symmetric_product(x: Tensor, scaled: Tensor) -> Tensor:
    """Computes xᵀ · scaled where it is known to be symmetric, in five eighths of the operations.

    The blocks above the diagonal are computed, those below it mirrored.

    Args:
        x: Shape (tokens, width).
        scaled: ``x`` with its rows scaled, same shape.
    """
    width = x.shape[1]
    step = -(-width // SYMMETRIC_BLOCKS)
    if step < MIN_SYMMETRIC_BLOCK:
        return x.T @ scaled
    product = x.new_empty(width, width)
    for start in range(0, width, step):
        stop = min(start + step, width)
        torch.mm(x[:, start:stop].T, scaled[:, start:], out=product[start:stop, start:])
        product[stop:, start:stop] = product[start:stop, stop:].T
    return product


def at_least_single(x: Tensor) -> Tensor:
    """Returns half precision as fp32, since sums of squares exceed the range of half precision."""
    return x.float() if x.element_size() < 4 else x
