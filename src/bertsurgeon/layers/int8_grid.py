"""Weights on an INT8 grid: each row holds multiples, −127 to 127, of a scale of its own.

A scale is the row's largest weight over 127, rounded up to 16 significant bits. Products of it with 7 bits then are
exact in single precision, so that rounding what is rounded already changes nothing, and integers and scales give the
very weights back.
"""

import torch
from torch import Tensor

LEVELS = 127
"""The largest integer."""

SCALE_BITS = 16


def row_scales(weight: Tensor) -> Tensor:
    """The scale of each row, zero where a row is.

    Args:
        weight: Shape (rows, columns), fp32.

    Returns:
        Shape (rows,), fp32.
    """
    mantissa, exponent = torch.frexp(weight.detach().abs().amax(1) / LEVELS)
    return torch.ldexp((mantissa * 2**SCALE_BITS).ceil() / 2**SCALE_BITS, exponent)


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The integers, int8, of the weight's shape, and the scales, shape (rows,)."""
    scales = row_scales(weight)
    steps = torch.where(scales > 0, scales, 1.0).unsqueeze(1)
    return (weight.detach() / steps).round().to(torch.int8), scales


def dequantize_rows(integers: Tensor, scales: Tensor) -> Tensor:
    """The weights, fp32."""
    return integers.float() * scales.unsqueeze(1)


def round_rows(weight: Tensor) -> Tensor:
    """The weights rounded to their grid; gradients pass as if they were not (straight-through).

    Zeros stay zeros. Rounding may make more of them.

    Args:
        weight: Shape (rows, columns), fp32.
    """
    rounded = dequantize_rows(*quantize_rows(weight))
    return rounded + (weight - weight.detach())


def is_on_grid(weight: Tensor) -> bool:
    """Whether rounding would change nothing."""
    return weight.dtype == torch.float32 and torch.equal(dequantize_rows(*quantize_rows(weight)), weight.detach())
