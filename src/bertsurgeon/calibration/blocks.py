"""Blocks of consecutive weights of a row, the unit of a block-diagonal Fisher information.

A block never straddles two rows: where its size does not divide a row, the row's last block is padded with zeros.
"""

from torch import Tensor
from torch.nn import functional as F


def split_rows(matrix: Tensor, block_size: int) -> Tensor:
    """Cuts rows into blocks: shape (…, rows, columns) becomes (…, rows · blocks per row, block_size)."""
    padded = F.pad(matrix, (0, -matrix.shape[-1] % block_size))
    return padded.reshape(*matrix.shape[:-2], -1, block_size)


def join_rows(blocks: Tensor, rows: int, columns: int) -> Tensor:
    """Undoes :func:`split_rows`: shape (rows · blocks per row, block_size) becomes (rows, columns)."""
    return blocks.reshape(rows, -1)[:, :columns]


def blocks_per_row(columns: int, block_size: int) -> int:
    """Blocks of a row, a padded one included."""
    return -(-columns // block_size)
