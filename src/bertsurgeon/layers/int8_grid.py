"""Weights on an INT8 grid: each row holds integer multiples, −127 to 127, of its own scale.

The scale is the largest absolute weight of the row divided by 127, rounded up to 16 significant bits. Products of such
a scale with 7-bit integers are exact in single precision, so rounding is idempotent, and integers and scales reproduce
the weights bit for bit.
"""

import torch
from torch import Tensor

MAX_INTEGER = 127

SCALE_BITS = 16
"""Significant bits of a scale."""


def row_scales(weight: Tensor) -> Tensor:
    """Computes the scale of each row.

    Args:
        weight: Shape (rows, columns), fp32.

    Returns:
        Shape (rows,), fp32; 0 for rows of zeros.
    """
    mantissa, exponent = torch.frexp(weight.detach().abs().amax(1) / MAX_INTEGER)
    return torch.ldexp((mantissa * 2**SCALE_BITS).ceil() / 2**SCALE_BITS, exponent)


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds weights to integers and scales.

    Args:
        weight: Shape (rows, columns), fp32.

    Returns:
        Integers, int8, shape (rows, columns), and scales, fp32, shape (rows,).
    """
    scales = row_scales(weight)
    steps = torch.where(scales > 0, scales, 1.0).unsqueeze(1)
    return (weight.detach() / steps).round().to(torch.int8), scales


def dequantize_rows(integers: Tensor, scales: Tensor) -> Tensor:
    """Computes the weights of integers and scales.

    Args:
        integers: Shape (rows, columns), int8.
        scales: Shape (rows,), fp32.

    Returns:
        Shape (rows, columns), fp32.
    """
    return integers.float() * scales.unsqueeze(1)


def round_rows(weight: Tensor) -> Tensor:
    """Rounds weights to their grid; gradients pass unchanged (straight-through estimator).

    Zeros stay zero. Rounding may create more of them.

    Args:
        weight: Shape (rows, columns), fp32.

    Returns:
        Shape (rows, columns), fp32.
    """
    rounded = dequantize_rows(*quantize_rows(weight))
    return rounded + (weight - weight.detach())


def is_on_grid(weight: Tensor) -> bool:
    """Returns whether rounding would leave the weights unchanged.

    Args:
        weight: Shape (rows, columns).
    """
    return weight.dtype == torch.float32 and torch.equal(dequantize_rows(*quantize_rows(weight)), weight.detach())
