"""A grouped layer in one Triton kernel: inputs are gathered as they are read, outputs scattered as they are written.

The reference is :meth:`bertsurgeon.layers.grouped.GroupedLinear.forward` in PyTorch. Triton's interpreter runs the
kernel on a CPU, so that it is tested without a GPU. This module is imported only if Triton is installed.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bertsurgeon.layers.grouped import TILE_ROWS, TILE_TOKENS

TILE_INPUTS = 32
"""Input channels that a tile reads at a time."""


def grouped_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tiles: Tensor,
    columns: Tensor,
    rows: Tensor,
    out_features: int,
    gelu: bool,
) -> Tensor:
    """Computes the products of all groups, then adds the bias and applies the activation.

    Args:
        x: Inputs, shape (tokens, in), contiguous along the last axis.
        weight: Blocks, one below the other, shape (rows, widest group).
        bias: Shape (out,), or None.
        tiles: Tiles of :func:`bertsurgeon.layers.grouped.make_tiles`, shape (tiles, 4), integers.
        columns: Input channels in the order of the groups, shape (Σ columns,), integers.
        rows: Output channel of every stored row, shape (rows,), integers.
        out_features: Output channels; those that no row writes equal their bias.
        gelu: Whether to apply GELU.

    Returns:
        Shape (tokens, out), in the dtype of ``x``.
    """
    output = x.new_zeros(len(x), out_features) if len(rows) < out_features else x.new_empty(len(x), out_features)
    if len(rows) < out_features and bias is not None:
        output += torch.nn.functional.gelu(bias) if gelu else bias
    grid = (-(-len(x) // TILE_TOKENS), len(tiles))
    grouped_kernel[grid](
        x,
        weight,
        bias if bias is not None else weight,
        output,
        columns,
        rows,
        tiles,
        len(x),
        weight.stride(0),
        x.stride(0),
        out_features,
        HAS_BIAS=bias is not None,
        GELU=gelu,
        BLOCK_M=TILE_TOKENS,
        BLOCK_N=TILE_ROWS,
        BLOCK_K=TILE_INPUTS,
    )
    return output


# Triton compiles annotations as well, so that only its own types can stand there
@triton.jit  # type: ignore[untyped-decorator]
def grouped_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    weight_ptr,
    bias_ptr,
    output_ptr,
    column_ptr,
    row_ptr,
    tile_ptr,
    tokens,
    weight_stride,
    x_stride,
    output_stride,
    HAS_BIAS: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Computes one tile of tokens and output channels; see :func:`grouped_linear`."""
    tile = tile_ptr + 4 * tl.program_id(1)
    first_row, last_row = tl.load(tile), tl.load(tile + 1)
    first_column, width = tl.load(tile + 2), tl.load(tile + 3)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = first_row + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, width, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = k < width
        channel = tl.load(column_ptr + first_column + k, mask=inside, other=0)
        x = tl.load(
            x_ptr + m[:, None] * x_stride + channel[None, :],
            mask=(m[:, None] < tokens) & inside[None, :],
            other=0.0,
        )
        weight = tl.load(
            weight_ptr + n[None, :] * weight_stride + k[:, None],
            mask=(n[None, :] < last_row) & inside[:, None],
            other=0.0,
        )
        total += tl.dot(x, weight, input_precision="ieee")
    stored = n < last_row
    output_channel = tl.load(row_ptr + n, mask=stored, other=0)
    if HAS_BIAS:
        total += tl.load(bias_ptr + output_channel, mask=stored, other=0.0).to(tl.float32)[None, :]
    if GELU:
        total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
    tl.store(
        output_ptr + m[:, None] * output_stride + output_channel[None, :],
        total.to(output_ptr.dtype.element_ty),
        mask=(m[:, None] < tokens) & stored[None, :],
    )
