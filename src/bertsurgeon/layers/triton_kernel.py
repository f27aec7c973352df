"""The kernel of :mod:`bertsurgeon.layers.triton_grouped`; imported only where Triton is installed."""

from typing import Any

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def grouped_kernel(
    x_ptr: Any,
    weight_ptr: Any,
    bias_ptr: Any,
    output_ptr: Any,
    column_ptr: Any,
    place_ptr: Any,
    tile_ptr: Any,
    tokens: Any,
    weight_stride: Any,
    x_stride: Any,
    output_stride: Any,
    HAS_BIAS: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """One tile of tokens and outputs; see :func:`bertsurgeon.layers.triton_grouped.grouped_linear`."""
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
    place = tl.load(place_ptr + n, mask=stored, other=0)
    if HAS_BIAS:
        total += tl.load(bias_ptr + place, mask=stored, other=0.0).to(tl.float32)[None, :]
    if GELU:
        total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
    tl.store(
        output_ptr + m[:, None] * output_stride + place[None, :],
        total.to(output_ptr.dtype.element_ty),
        mask=(m[:, None] < tokens) & stored[None, :],
    )
