"""Matrices with zeros as a bitmap and the values that are left; specified in ``docs/format.md``."""

import numpy as np
import torch
from torch import Tensor, nn

from bertsurgeon.errors import CheckpointError
from bertsurgeon.layers import dequantize_rows, is_on_grid, quantize_rows

BITMAPS = {"weight": "bitmap", "up": "up_bitmap"}
"""Names of the tensor with the bits, by that of the tensor with the values."""

SCALES = {"weight": "scale", "up": "up_scale"}
"""Likewise, of the rows' scales, where values are stored in INT8."""


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


def pack_tensor(state: dict[str, Tensor], module: str, tensor: str, block: int, int8: bool) -> int:
    """Replaces one tensor of a state by what a file holds of it; returns the number of values.

    Args:
        state: Changed in place.
        module: The module's name.
        tensor: ``weight`` or ``up``.
        block: Weights of a block.
        int8: Store integers and scales.
    """
    weight = state[f"{module}.{tensor}"]
    if int8:
        weight, state[f"{module}.{SCALES[tensor]}"] = quantize_rows(weight)
    values, bitmap = pack(weight, block)
    state[f"{module}.{tensor}"], state[f"{module}.{BITMAPS[tensor]}"] = values, bitmap
    return values.numel()


def expect_packed(module: nn.Module, tensor: str, values: int, block: int, int8: bool) -> None:
    """Gives a module the tensors of the file in the place of one of its own, to be loaded into."""
    old = module.get_parameter(tensor)
    bitmap = old.new_zeros(bitmap_bytes(old.shape[0], old.shape[1], block), dtype=torch.uint8)
    del module._parameters[tensor]
    if int8:
        module.register_buffer(tensor, old.new_zeros(values, dtype=torch.int8))
        module.register_buffer(SCALES[tensor], old.new_zeros(len(old), dtype=torch.float32))
    else:
        module.register_parameter(tensor, nn.Parameter(old.new_empty(values)))
    module.register_buffer(BITMAPS[tensor], bitmap)


def restore_packed(module: nn.Module, tensor: str, shape: tuple[int, int], name: str, dtype: torch.dtype) -> None:
    """Makes a parameter of what :func:`expect_packed` had loaded.

    Args:
        module: That holds it.
        tensor: Its name there.
        shape: Of the matrix.
        name: Of the matrix, for errors.
        dtype: Of what was stored in INT8.

    Raises:
        CheckpointError: If values and bitmap do not fit each other.
    """
    weight = unpack(getattr(module, tensor).detach(), module.get_buffer(BITMAPS[tensor]), shape, name)
    scales = module._buffers.pop(SCALES[tensor], None)
    if scales is not None:
        weight = dequantize_rows(weight, scales).to(dtype)
    del module._buffers[BITMAPS[tensor]]
    module._parameters.pop(tensor, None)
    module._buffers.pop(tensor, None)
    module.register_parameter(tensor, nn.Parameter(weight))


def unpack_on_load(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """A hook for ``load_state_dict``: layers take packed tensors too (the Trainer resumes that way)."""
    for tensor in BITMAPS:
        name = prefix + tensor
        values, bitmap, scales = (state.get(prefix + n) for n in (tensor, BITMAPS[tensor], SCALES[tensor]))
        if values is not None and bitmap is not None:
            rows, columns = module.get_parameter(tensor).shape
            state[name] = unpack(values, bitmap, (rows, columns), prefix.removesuffix("."))
            del state[prefix + BITMAPS[tensor]]
        if values is not None and scales is not None:
            state[name] = dequantize_rows(state[name], scales)
            del state[prefix + SCALES[tensor]]


def can_be_int8(weight: Tensor) -> bool:
    """Whether integers and scales say the same as a weight of shape (rows, columns)."""
    return weight.numel() > 0 and is_on_grid(weight)
