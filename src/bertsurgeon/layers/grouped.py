"""Linear layers of groups, which compute only the blocks that a plan keeps.

They keep the parameter name ``weight`` with a shape that no dense layer has: loading such a checkpoint without this
library fails on the shape instead of silently starting from random weights.
"""

import os
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bertsurgeon.plan import Grouped

TILE_TOKENS, TILE_ROWS = 64, 64
"""Tokens and output channels of one tile of the Triton kernel."""

KERNEL_TOKENS = {torch.float32: 256, torch.float16: 1024, torch.bfloat16: 1024}
"""Tokens up to which the Triton kernel is used: it starts once where PyTorch starts several kernels, but its products
are slower. With BERT-base's shapes on an H200 it takes 0.59 of the time for 128 tokens, 0.75 (bfloat16) and 1.3 (fp32)
for 1,024, and several times as long for 4,096 (``experiments/gpu.py``)."""

MIN_CAPABILITY = (7, 0)
"""Compute capability of the oldest GPUs that the Triton kernel supports: those with tensor cores."""


@cache
def _kernel() -> ModuleType | None:
    """Imports the Triton kernel; None if Triton is not installed."""
    try:
        from bertsurgeon.layers import triton_grouped
    except ImportError:
        return None
    return triton_grouped


def should_run_kernel(x: Tensor) -> bool:
    """Returns whether the Triton kernel serves ``x``: few tokens on a recent GPU, or a CPU if interpreted."""
    if _kernel() is None or x.dtype not in KERNEL_TOKENS:
        return False
    if x.is_cuda:
        few = x.numel() // x.shape[-1] <= KERNEL_TOKENS[x.dtype]
        return few and torch.version.hip is None and torch.cuda.get_device_capability(x.device) >= MIN_CAPABILITY
    return os.environ.get("TRITON_INTERPRET") == "1"


def make_tiles(row_sizes: list[int], column_sizes: list[int]) -> list[tuple[int, int, int, int]]:
    """Splits the stored rows of a grouped weight into tiles of at most ``TILE_ROWS`` rows, none across two groups.

    Args:
        row_sizes: Output channels of each group.
        column_sizes: Input channels of each group.

    Returns:
        For each tile its first stored row, the end of its group's rows, its group's first gathered input, and its
        group's number of inputs.
    """
    tiles = []
    first_row = first_column = 0
    for rows, columns in zip(row_sizes, column_sizes, strict=True):
        last_row = first_row + rows
        tiles += [(start, last_row, first_column, columns) for start in range(first_row, last_row, TILE_ROWS)]
        first_row += rows
        first_column += columns
    return tiles


class _Permute(torch.autograd.Function):
    """Reorders channels by a permutation; the gradient is reordered back instead of scattered and added."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, chunk: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.chunk = chunk
        return gather_channels(x, index, chunk)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        return gather_channels(gradients[0], inverse, ctx.chunk), None, None, None


def gather_channels(x: Tensor, index: Tensor, chunk: int = 1) -> Tensor:
    """Selects channels of the last axis.

    Whole chunks of channels are copied in one piece. For single channels, ``gather`` is several times faster on a CPU
    than ``index_select``.

    Args:
        x: Shape (…, channels).
        index: Channels to select, shape (selected,).
        chunk: Number of neighboring channels that ``index`` keeps together, see :func:`chunk_of`.

    Returns:
        Shape (…, selected).
    """
    if chunk > 1:
        chunks = x.view(*x.shape[:-1], x.shape[-1] // chunk, chunk)
        return chunks.index_select(-2, index[::chunk] // chunk).flatten(-2)
    return x.gather(-1, index.expand(*x.shape[:-1], -1))


def chunk_of(index: Sequence[int] | np.ndarray[Any, Any], size: int) -> int:
    """Returns the largest power of two such that ``index`` consists of whole chunks of that many neighboring channels.

    Args:
        index: Channels, in the order in which they are gathered.
        size: Number of channels that are gathered from.
    """
    order, chunk = np.asarray(index), 1
    while size % (2 * chunk) == 0 and len(order) % (2 * chunk) == 0:
        rows = order.reshape(-1, 2 * chunk)
        if (rows[:, 0] % (2 * chunk)).any() or (rows != rows[:, :1] + np.arange(2 * chunk)).any():
            break
        chunk *= 2
    return chunk


class GroupedLinear(nn.Module):
    """A block-diagonal linear map between permuted channels (PGB: grouping and re-permutation).

    Output channels ``row_groups[g]`` read input channels ``column_groups[g]`` only. Inputs are gathered into the order
    of the groups, each group is one product, and outputs return to their original positions, so that nothing outside
    the layer changes. An output channel that is in no group equals its bias.

    Args:
        in_features: Input channels of the dense matrix.
        out_features: Output channels of the dense matrix.
        structure: The groups.
        bias: Whether the layer has a bias.

    Attributes:
        weight: The blocks, one below the other: shape (Σ rows of the groups, widest group's columns). A group that is
            narrower than the widest one leaves the end of its rows unused (zero).
        bias: Shape (out_features,), in the original order, or None.
        activation: ``gelu`` if the layer also applies the activation that follows it; see
            :func:`bertsurgeon.layers.inference.prepare_for_inference`.
    """

    weight: nn.Parameter
    column_index: Tensor
    row_index: Tensor
    row_order: Tensor
    column_inverse: Tensor
    row_inverse: Tensor
    tiles: Tensor
    activation: Literal["none", "gelu"]

    def __init__(self, in_features: int, out_features: int, structure: Grouped, bias: bool = True) -> None:
        super().__init__()
        structure.check(out_features, in_features)
        self.in_features = in_features
        self.out_features = out_features
        self.structure = structure
        self.row_sizes = [len(group) for group in structure.row_groups]
        self.column_sizes = [len(group) for group in structure.column_groups]
        self.weight = nn.Parameter(torch.zeros(sum(self.row_sizes), max(self.column_sizes)))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.register_buffer("column_index", torch.empty(0, dtype=torch.long), persistent=False)
        self.register_buffer("row_index", torch.empty(0, dtype=torch.long), persistent=False)
        self.register_buffer("column_inverse", torch.empty(0, dtype=torch.long), persistent=False)
        self.register_buffer("row_inverse", torch.empty(0, dtype=torch.long), persistent=False)
        self.register_buffer("row_order", torch.empty(0, dtype=torch.long), persistent=False)
        self.register_buffer("tiles", torch.empty(0, dtype=torch.int32), persistent=False)
        self.activation = "none"
        self.reset_indices()

    def reset_indices(self) -> None:
        """Computes the gather indices from the structure; checkpoints do not store them."""
        device = None if self.weight.is_meta else self.weight.device
        columns = [channel for group in self.structure.column_groups for channel in group]
        rows = [channel for group in self.structure.row_groups for channel in group]
        position = np.full(self.out_features, len(rows))  # channels in no group read the zero column after all groups
        position[rows] = np.arange(len(rows))
        self.column_index = torch.tensor(columns, device=device)
        self.row_index = torch.tensor(position, device=device)
        # inverse permutations, for gradients; empty where channels were removed
        empty = torch.empty(0, dtype=torch.long, device=device)
        self.column_inverse = self.column_index.argsort() if len(columns) == self.in_features else empty
        self.row_inverse = torch.tensor(rows, device=device) if len(rows) == self.out_features else empty
        tiles = make_tiles(self.row_sizes, self.column_sizes)
        self.tiles = torch.tensor(tiles, dtype=torch.int32, device=device)
        self.row_order = torch.tensor(rows, device=device)
        self.column_chunk = chunk_of(columns, self.in_features)
        self.row_chunk = chunk_of(position, len(rows) + (len(rows) < self.out_features))
        self.gathers = columns != list(range(self.in_features))
        self.scatters = rows != list(range(self.out_features))

    @classmethod
    def from_dense(cls, structure: Grouped, weight: Tensor, bias: Tensor | None) -> "GroupedLinear":
        """Makes the layer that keeps the diagonal blocks of a dense weight.

        Args:
            structure: The groups.
            weight: Shape (out_features, in_features).
            bias: Shape (out_features,), or None.
        """
        layer = cls(weight.shape[1], weight.shape[0], structure, bias is not None).to(weight.device, weight.dtype)
        layer.take_blocks(weight)
        if layer.bias is not None and bias is not None:
            layer.bias.data.copy_(bias)
        return layer

    @torch.no_grad()
    def take_blocks(self, weight: Tensor) -> None:
        """Copies the diagonal blocks of a dense weight, shape (out_features, in_features), into this layer."""
        for block, rows, columns in self.blocks():
            block.copy_(weight[rows][:, columns])

    def spread(self, blocks: Sequence[Tensor]) -> Tensor:
        """Places one tensor per block in a dense matrix of zeros, shape (out_features, in_features)."""
        dense = torch.zeros(self.out_features, self.in_features, dtype=blocks[0].dtype, device=self.weight.device)
        for (_, rows, columns), block in zip(self.blocks(), blocks, strict=True):
            dense[rows.unsqueeze(1), columns] = block.to(dense.device)
        return dense

    def dense_weight(self) -> Tensor:
        """Returns the weight as a dense matrix filled with zeros, shape (out_features, in_features)."""
        return self.spread([block.detach() for block, _, _ in self.blocks()])

    def blocks(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Returns for each group a view of its weights, its output channels, and its input channels."""
        device = self.weight.device
        return [
            (
                weight[:, : len(columns)],
                torch.tensor(rows, device=device),
                torch.tensor(columns, device=device),
            )
            for weight, rows, columns in zip(
                self.weight.split(self.row_sizes),
                self.structure.row_groups,
                self.structure.column_groups,
                strict=True,
            )
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, in_features) to (…, out_features)."""
        for_inference = self._is_inference(x)
        if for_inference and should_run_kernel(x):
            return self._run_kernel(x)
        gathered = self._permute(x, self.column_index, self.column_inverse, self.column_chunk) if self.gathers else x
        output = self._multiply_in_place(gathered) if for_inference else self._multiply(gathered)
        if self.scatters:
            output = self._permute(output, self.row_index, self.row_inverse, self.row_chunk)
        if for_inference:
            return self._finish_in_place(output)
        output = output if self.bias is None else output + self.bias
        return F.gelu(output) if self.activation == "gelu" else output

    def _run_kernel(self, x: Tensor) -> Tensor:
        """Computes the whole layer in one kernel (:mod:`bertsurgeon.layers.triton_grouped`)."""
        kernel = _kernel()
        assert kernel is not None
        output: Tensor = kernel.grouped_linear(
            x.reshape(-1, x.shape[-1]).contiguous(),
            self.weight,
            self.bias,
            self.tiles,
            self.column_index if self.gathers else torch.arange(x.shape[-1], device=x.device),
            self.row_order,
            self.out_features,
            self.activation == "gelu",
        )
        return output.view(*x.shape[:-1], self.out_features)

    def _multiply(self, x: Tensor) -> Tensor:
        """Multiplies each group and concatenates the products; differentiable."""
        products = [
            F.linear(part, weight[:, :width])
            for part, weight, width in zip(
                x.split(self.column_sizes, dim=-1),
                self.weight.split(self.row_sizes),
                self.column_sizes,
                strict=True,
            )
        ]
        if sum(self.row_sizes) < self.out_features:  # the zero column that channels in no group read
            products.append(x.new_zeros(*x.shape[:-1], 1))
        return torch.cat(products, dim=-1) if len(products) > 1 else products[0]

    def _is_inference(self, x: Tensor) -> bool:
        """Returns whether the call is neither differentiated, nor traced, nor in another precision."""
        return not (
            torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or torch.is_autocast_enabled(x.device.type)
            or x.dtype != self.weight.dtype
        )

    def _multiply_in_place(self, x: Tensor) -> Tensor:
        """Multiplies each group into its slice of the output; measured by experiments/grouped_layers.py."""
        flat = x.reshape(-1, x.shape[-1])
        rows = sum(self.row_sizes)
        constant = int(rows < self.out_features)  # the zero column that channels in no group read
        output = x.new_empty(len(flat), rows + constant)
        output[:, rows:] = 0
        groups = len(self.row_sizes)
        if len(set(self.row_sizes)) == len(set(self.column_sizes)) == 1 and not constant:
            blocks = self.weight.view(groups, self.row_sizes[0], self.column_sizes[0])
            inputs = flat.view(-1, groups, self.column_sizes[0])
            results = output.view(-1, groups, self.row_sizes[0])
            torch.bmm(inputs.transpose(0, 1), blocks.transpose(1, 2), out=results.transpose(0, 1))
        else:
            for part, weight, width, result in zip(
                flat.split(self.column_sizes, dim=-1),
                self.weight.split(self.row_sizes),
                self.column_sizes,
                output[:, :rows].split(self.row_sizes, dim=-1),
                strict=True,
            ):
                torch.mm(part, weight[:, :width].t(), out=result)
        return output.view(*x.shape[:-1], output.shape[-1])

    def _finish_in_place(self, output: Tensor) -> Tensor:
        """Applies bias and activation in place: writing to new memory costs more than their arithmetic."""
        if self.bias is not None:
            output.add_(self.bias)
        return torch.ops.aten.gelu_(output) if self.activation == "gelu" else output

    @staticmethod
    def _permute(x: Tensor, index: Tensor, inverse: Tensor, chunk: int) -> Tensor:
        if len(inverse) and x.requires_grad and torch.is_grad_enabled():
            permuted: Tensor = _Permute.apply(x, index, inverse, chunk)  # type: ignore[no-untyped-call]
            return permuted
        return gather_channels(x, index, chunk)

    def extra_repr(self) -> str:
        """Describes the layer when the model is printed."""
        return f"in_features={self.in_features}, out_features={self.out_features}, groups={self.structure.groups}"
