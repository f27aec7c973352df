"""Sparse matrices as a bitmap and the values that are left; specified in ``docs/format.md``."""

import numpy as np
import torch
from torch import Tensor, nn

from bertsurgeon.errors import CheckpointError

WEIGHT, BITMAP = "weight", "bitmap"
"""Names of a packed matrix' tensors."""


def bitmap_bytes(rows: int, columns: int, block: int) -> int:
    """Bytes of the bitmap: one bit for every ``block`` consecutive weights of a row."""
    return -(-rows * columns // block // 8)


def pack(weight: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """The values of all blocks that are not wholly zero, and where these lie.

    Args:
        weight: Shape (rows, columns).
        block: Weights of a block; divides the columns.

    Returns:
        Values, shape (blocks that are left · block,), of the weight's type; and the bitmap, uint8.
    """
    blocks = weight.detach().reshape(-1, block)
    left = (blocks != 0).any(1)
    bitmap = np.packbits(left.cpu().numpy(), bitorder="little")
    return blocks[left].flatten(), torch.from_numpy(bitmap)


def count_values(weight: Tensor, block: int) -> int:
    """How many values :func:`pack` keeps."""
    return block * int((weight.detach().reshape(-1, block) != 0).any(1).sum())


def unpack(values: Tensor, bitmap: Tensor, shape: tuple[int, int], name: str) -> Tensor:
    """The matrix that was packed, bit by bit.

    The size of a block follows from the numbers of values and of bits that are set.

    Args:
        values: Shape (values,).
        bitmap: Shape (bytes,), uint8.
        shape: Of the matrix.
        name: Of the matrix, for errors.

    Raises:
        CheckpointError: If values, bitmap and shape do not fit each other.
    """
    size = shape[0] * shape[1]
    bits = np.unpackbits(bitmap.cpu().numpy(), bitorder="little")
    left = int(bits.sum())
    weight = torch.zeros(size, dtype=values.dtype, device=values.device)
    if left == 0 and values.numel() == 0:
        return weight.reshape(shape)
    block = values.numel() // left if left else 0
    blocks = size // block if block else 0
    if not block or block * left != values.numel() or size % block or bitmap.numel() != -(-blocks // 8):
        raise CheckpointError(f"The bitmap of {name} does not fit its values; copy the model again.")
    if bits[blocks:].any():
        raise CheckpointError(f"The bitmap of {name} names weights that do not exist; copy the model again.")
    weight.reshape(-1, block)[torch.from_numpy(bits[:blocks]).bool().to(values.device)] = values.reshape(-1, block)
    return weight.reshape(shape)


class PackedLinear(nn.Module):
    """What stands in a linear layer's place while its packed tensors are loaded.

    Args:
        linear: The layer whose shapes it takes.
        values: Number of values that are left.
        block: Weights of a block.
    """

    def __init__(self, linear: nn.Linear, values: int, block: int) -> None:
        super().__init__()
        self.shape = (linear.out_features, linear.in_features)
        self.weight = nn.Parameter(linear.weight.new_empty(values))
        bitmap = linear.weight.new_zeros(bitmap_bytes(*self.shape, block), dtype=torch.uint8)
        self.register_buffer(BITMAP, bitmap)
        self.bias = None if linear.bias is None else nn.Parameter(torch.empty_like(linear.bias))

    def unpacked(self, name: str) -> nn.Linear:
        """The linear layer.

        Raises:
            CheckpointError: If values and bitmap do not fit each other.
        """
        weight = unpack(self.weight.detach(), self.get_buffer(BITMAP), self.shape, name)
        rows, columns = self.shape
        linear: nn.Linear = nn.utils.skip_init(
            nn.Linear, columns, rows, bias=self.bias is not None, device=weight.device
        )
        linear.weight = nn.Parameter(weight)
        linear.bias = self.bias
        return linear


def unpack_on_load(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """A hook for ``load_state_dict``: linear layers take packed tensors too (the Trainer resumes that way)."""
    values = state.get(prefix + WEIGHT)
    if values is None or values.dim() != 1 or prefix + BITMAP not in state:
        return
    rows, columns = module.get_parameter(WEIGHT).shape
    state[prefix + WEIGHT] = unpack(values, state.pop(prefix + BITMAP), (rows, columns), prefix.removesuffix("."))
