"""A grouped layer in one kernel on CUDA: inputs are gathered as they are read, outputs scattered as they are written.

The reference is :meth:`bertsurgeon.layers.grouped.GroupedLinear.forward` in PyTorch; Triton's interpreter runs the
kernel on a CPU, which is how it is tested without a GPU.
"""

import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

ROWS, COLUMNS, INNER = 64, 64, 32
"""Tokens and outputs of a tile, and inputs read at a time."""

OLDEST = (7, 0)
"""Compute capability of the oldest GPU with the tensor cores Triton wants."""


@cache
def _kernel() -> Any:
    """The kernel, or None where Triton is not installed."""
    try:
        from bertsurgeon.layers.triton_kernel import grouped_kernel
    except ImportError:
        return None
    return grouped_kernel


def can_run(x: Tensor) -> bool:
    """Whether the kernel runs on the device of ``x``: a GPU that is new enough, or a CPU under the interpreter."""
    if _kernel() is None or x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return False
    if x.is_cuda:
        return torch.version.hip is None and torch.cuda.get_device_capability(x.device) >= OLDEST
    return os.environ.get("TRITON_INTERPRET") == "1"


def make_tiles(row_sizes: list[int], column_sizes: list[int]) -> list[tuple[int, int, int, int]]:
    """First and last stored row, first input and number of inputs of every tile: none crosses a group's border."""
    tiles = []
    first_row = first_column = 0
    for rows, columns in zip(row_sizes, column_sizes, strict=True):
        last_row = first_row + rows
        tiles += [(start, last_row, first_column, columns) for start in range(first_row, last_row, COLUMNS)]
        first_row += rows
        first_column += columns
    return tiles


def grouped_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tiles: Tensor,
    columns: Tensor,
    places: Tensor,
    out_features: int,
    gelu: bool,
) -> Tensor:
    """The product of all groups, and the bias and activation of all outputs.

    Args:
        x: Shape (tokens, in), its last axis contiguous.
        weight: Blocks, one below the other, shape (rows, widest group).
        bias: Shape (out,), or None.
        tiles: Of :func:`make_tiles`, shape (tiles, 4), integers.
        columns: Inputs in the order of the groups, shape (Σ columns,), integers.
        places: Where every stored row's output goes, shape (rows,), integers.
        out_features: Width of the output; what no row writes is its bias.
        gelu: Apply GELU.

    Returns:
        Shape (tokens, out), in the dtype of ``x``.
    """
    output = x.new_zeros(len(x), out_features) if len(places) < out_features else x.new_empty(len(x), out_features)
    if len(places) < out_features and bias is not None:
        output += torch.nn.functional.gelu(bias) if gelu else bias
    grid = (-(-len(x) // ROWS), len(tiles))
    _kernel()[grid](
        x,
        weight,
        bias if bias is not None else weight,
        output,
        columns,
        places,
        tiles,
        len(x),
        weight.stride(0),
        x.stride(0),
        out_features,
        HAS_BIAS=bias is not None,
        GELU=gelu,
        BLOCK_M=ROWS,
        BLOCK_N=COLUMNS,
        BLOCK_K=INNER,
    )
    return output
