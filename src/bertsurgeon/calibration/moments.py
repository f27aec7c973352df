"""First and second moments of a matrix's inputs, as seen by the dense and by the pruned model."""

import torch
from torch import Tensor


class Moments:
    """Running moments of dense inputs x and pruned inputs x̂ of the same tokens.

    Products are made in the inputs' precision batch by batch, relative to the first batch's means (so that channels
    far from zero lose nothing), and summed in fp64. Memory: 16 · width² bytes, 8 · width²
    where both inputs are the same.

    Args:
        width: Input channels.
        paired: Whether x̂ differs from x.
    """

    def __init__(self, width: int, paired: bool) -> None:
        self.count = 0
        self.paired = paired
        self._sum = torch.zeros(width, dtype=torch.float64)
        self._pruned_sum = torch.zeros(width, dtype=torch.float64) if paired else self._sum
        self._second = torch.zeros(width, width, dtype=torch.float64)
        self._cross = torch.zeros(width, width, dtype=torch.float64) if paired else self._second

    def update(self, x: Tensor, pruned: Tensor | None = None) -> None:
        """Adds tokens.

        Args:
            x: The dense model's inputs, shape (tokens, width), padding excluded.
            pruned: The pruned model's, same shape; given if and only if the moments are paired.
        """
        if self.count == 0:
            self._origin = x.mean(0)
            self._pruned_origin = self._origin if pruned is None else pruned.mean(0)
        self.count += len(x)
        x = x - self._origin
        pruned = None if pruned is None else pruned - self._pruned_origin
        self._sum += x.sum(0, dtype=torch.float64).cpu()
        if pruned is None:
            self._second += (x.T @ x).double().cpu()
        else:
            self._pruned_sum += pruned.sum(0, dtype=torch.float64).cpu()
            self._second += (pruned.T @ pruned).double().cpu()
            self._cross += (x.T @ pruned).double().cpu()

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
        """Cov[x̂, x̂], shape (width, width)."""
        return self._second / self.count - torch.outer(self._pruned_sum, self._pruned_sum) / self.count**2

    @property
    def cross_covariance(self) -> Tensor:
        """Cov[x, x̂], shape (width, width), rows belong to x."""
        return self._cross / self.count - torch.outer(self._sum, self._pruned_sum) / self.count**2
