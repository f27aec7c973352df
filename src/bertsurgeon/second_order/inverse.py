"""The inverse Fisher information, block by block: the engine of second-order pruning.

For a block of B consecutive weights of a row, and gradients g₁ … g_m of it, F = λI + (1/m) Σ gᵢ gᵢᵀ. Its inverse is
built by the recursion of the Optimal BERT Surgeon (Kurtic et al., 2022, arXiv 2203.07259, eq. 5; Woodbury's identity):
F⁻¹ starts as I/λ, and every gradient takes v vᵀ / (m + gᵀv) from it, with v = F⁻¹g. Several gradients are taken at a
time, which is the same algebra, passes over F⁻¹ less often and rounds less.
"""

import torch
from torch import Tensor

from bertsurgeon.calibration import blocks_per_row, split_rows
from bertsurgeon.errors import ModelError

AT_ONCE = 16
"""Gradients that one update takes."""


class InverseFisher:
    """F⁻¹ for all blocks of some rows of a matrix.

    Args:
        rows: Output channels.
        columns: Input channels.
        block_size: B; where it does not divide ``columns``, the last block of each row is padded. Padding has no
            gradient: it stays apart from the weights, with 1/λ on the diagonal.
        gradients: m, the gradients that will come.
        damping: λ, absolute.
        dtype: Of the recursion; fp32, or fp64 where fp32 is :attr:`lost <is_lost>`.
        device: Where the blocks lie.
        with_mean: Keep the mean gradient as well.

    Attributes:
        inverse: Shape (blocks, B, B).
        mean: Mean gradient, shape (blocks, B); empty without ``with_mean``.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        block_size: int,
        gradients: int,
        damping: float,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        with_mean: bool = False,
    ) -> None:
        self.per_row = blocks_per_row(columns, block_size)
        self.gradients = gradients
        self.damping = damping
        blocks = rows * self.per_row
        self.inverse = torch.zeros(blocks, block_size, block_size, dtype=dtype, device=device)
        self.inverse.diagonal(dim1=1, dim2=2).fill_(1 / damping)
        self.mean = torch.zeros(blocks if with_mean else 0, block_size, dtype=dtype, device=device)
        self._squares = torch.zeros(blocks, block_size, dtype=dtype, device=device)
        self._failed = False

    def add(self, g: Tensor, first_row: int = 0) -> None:
        """Takes gradients in.

        Args:
            g: At most ``AT_ONCE`` gradients, shape (gradients, rows, columns).
            first_row: The row of the first of them.
        """
        dtype, block_size = self.inverse.dtype, self.inverse.shape[-1]
        place = slice(first_row * self.per_row, (first_row + g.shape[1]) * self.per_row)
        inverse = self.inverse[place]
        g = split_rows(g.to(dtype), block_size).transpose(0, 1).contiguous()  # (blocks, gradients, B)
        v = torch.bmm(g, inverse)
        inner = torch.bmm(v, g.transpose(1, 2))
        inner.diagonal(dim1=1, dim2=2).add_(self.gradients)
        factor, failed = torch.linalg.cholesky_ex(inner)
        self._failed |= bool(failed.any())
        half = torch.linalg.solve_triangular(factor, v, upper=False)
        inverse.baddbmm_(half.transpose(1, 2), half, alpha=-1)
        self._squares[place] += g.square().sum(1) / self.gradients
        if len(self.mean):
            self.mean[place] += g.sum(1) / self.gradients

    @property
    def is_lost(self) -> bool:
        """Whether rounding has eaten the damping: what is not finite, or a diagonal of F beyond λ/ε, ε of the dtype."""
        if self._failed or not torch.isfinite(self.inverse.sum()):  # a sum needs no second tensor of this size
            return True
        largest = float(self._squares.max())
        return not largest * torch.finfo(self.inverse.dtype).eps <= self.damping


def invert_blocks(fisher: Tensor) -> Tensor:
    """Inverts damped Fisher blocks that are at hand as a whole.

    Args:
        fisher: Shape (blocks, B, B), fp64, positive definite.

    Raises:
        ModelError: If a block cannot be inverted.
    """
    factor, failed = torch.linalg.cholesky_ex(fisher)
    if failed.any() or not torch.isfinite(factor).all():
        raise ModelError("The Fisher information cannot be inverted; raise its damping.")
    return torch.cholesky_inverse(factor)
