"""Linear layers that compute only what a plan keeps.

Both layers keep the parameter name ``weight`` with a shape that no dense layer has: loading such a checkpoint without
this library fails on the shape instead of silently starting from random weights.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bertsurgeon.layers.triton_grouped import can_run, grouped_linear, make_tiles
from bertsurgeon.plan import Grouped


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
    """Channels ``index`` of the last axis; where whole chunks of them stay together, these are copied in one piece.

    On a CPU ``gather`` is several times faster than ``index_select`` for single channels.
    """
    if chunk > 1:
        parts = x.view(*x.shape[:-1], x.shape[-1] // chunk, chunk)
        return parts.index_select(-2, index[::chunk] // chunk).flatten(-2)
    return x.gather(-1, index.expand(*x.shape[:-1], -1))


def chunk_of(index: Sequence[int] | np.ndarray[Any, Any], size: int) -> int:
    """The largest power of two such that ``index`` names whole chunks of that many neighbouring channels.

    Args:
        index: Channels.
        size: How many there are to choose from.
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

    Output channels ``row_groups[g]`` see input channels ``column_groups[g]`` only. Inputs are gathered into the order
    of the groups, one product per group, and outputs return to their original positions, so that nothing outside
    the layer changes. Output channels in no group are their bias.

    Attributes:
        weight: The blocks, one below the other: shape (Σ rows of the groups, widest group's columns). A group that is
            narrower than the widest one leaves the end of its rows unused (zero).
        bias: Shape (out_features,), in the original order, or None.
        activation: ``gelu`` where the layer applies the activation after it, too; see
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
        """Computes the gathering indices from the structure; they are not stored in checkpoints."""
        device = None if self.weight.is_meta else self.weight.device
        columns = [channel for group in self.structure.column_groups for channel in group]
        rows = [channel for group in self.structure.row_groups for channel in group]
        position = np.full(self.out_features, len(rows))  # a channel in no group is the one behind all groups'
        position[rows] = np.arange(len(rows))
        self.column_index = torch.tensor(columns, device=device)
        self.row_index = torch.tensor(position, device=device)
        # inverse permutations, for gradients; empty where channels were removed
        nothing = torch.empty(0, dtype=torch.long, device=device)
        self.column_inverse = self.column_index.argsort() if len(columns) == self.in_features else nothing
        self.row_inverse = torch.tensor(rows, device=device) if len(rows) == self.out_features else nothing
        tiles = make_tiles(self.row_sizes, self.column_sizes)
        self.tiles = torch.tensor(tiles, dtype=torch.int32, device=device)
        self.row_order = torch.tensor(rows, device=device)
        self.column_chunk = chunk_of(columns, self.in_features)
        self.row_chunk = chunk_of(position, len(rows) + (len(rows) < self.out_features))
        self.gathers = columns != list(range(self.in_features))
        self.scatters = rows != list(range(self.out_features))

    @classmethod
    def from_dense(cls, structure: Grouped, weight: Tensor, bias: Tensor | None) -> "GroupedLinear":
        """The layer that keeps the diagonal blocks of a dense weight.

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
        """Keeps the diagonal blocks of a dense weight, shape (out_features, in_features)."""
        for block, rows, columns in self.blocks():
            block.copy_(weight[rows][:, columns])

    def spread(self, blocks: Sequence[Tensor]) -> Tensor:
        """What is given for each block in its place, zero elsewhere, shape (out_features, in_features)."""
        dense = torch.zeros(self.out_features, self.in_features, dtype=blocks[0].dtype, device=self.weight.device)
        for (_, rows, columns), block in zip(self.blocks(), blocks, strict=True):
            dense[rows.unsqueeze(1), columns] = block.to(dense.device)
        return dense

    def dense_weight(self) -> Tensor:
        """The zero-filled dense twin of the weight, shape (out_features, in_features)."""
        return self.spread([block.detach() for block, _, _ in self.blocks()])

    def blocks(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Per group: a view of its weights, its output channels, its input channels."""
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
        if for_inference and can_run(x):
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
        """All of it in one kernel (:mod:`bertsurgeon.layers.triton_grouped`)."""
        output = grouped_linear(
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
        """One product per group, side by side; differentiable."""
        parts = [
            F.linear(part, weight[:, :width])
            for part, weight, width in zip(
                x.split(self.column_sizes, dim=-1),
                self.weight.split(self.row_sizes),
                self.column_sizes,
                strict=True,
            )
        ]
        if sum(self.row_sizes) < self.out_features:  # position Σ rows stands for "in no group"
            parts.append(x.new_zeros(*x.shape[:-1], 1))
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]

    def _is_inference(self, x: Tensor) -> bool:
        """Whether nobody differentiates, traces, or chooses another precision."""
        return not (
            torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or torch.is_autocast_enabled(x.device.type)
            or x.dtype != self.weight.dtype
        )

    def _multiply_in_place(self, x: Tensor) -> Tensor:
        """The same, each product written where it belongs: nothing is concatenated (experiments/grouped_layers.py)."""
        flat = x.reshape(-1, x.shape[-1])
        rows = sum(self.row_sizes)
        constant = int(rows < self.out_features)  # position Σ rows stands for "in no group"
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
        """Bias and activation where the products lie: what they write to elsewhere costs more than they do."""
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
        """Shown when the model is printed."""
        return f"in_features={self.in_features}, out_features={self.out_features}, groups={self.structure.groups}"


class DroppedLinear(nn.Module):
    """A linear map without weights: it outputs its bias (PGB: a matrix with no group left).

    Attributes:
        weight: Empty, shape (0, in_features).
        bias: Shape (out_features,), or None for a map that outputs zero.
    """

    weight: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.register_buffer("weight", torch.zeros(0, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @classmethod
    def from_dense(cls, weight: Tensor, bias: Tensor | None) -> "DroppedLinear":
        """The layer that keeps only the bias of a dense layer."""
        layer = cls(weight.shape[1], weight.shape[0], bias is not None).to(weight.device, weight.dtype)
        if layer.bias is not None and bias is not None:
            layer.bias.data.copy_(bias)
        return layer

    def dense_weight(self) -> Tensor:
        """The zero-filled dense twin of the weight, shape (out_features, in_features)."""
        return self.weight.new_zeros(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, in_features) to (…, out_features)."""
        zeros = x.new_zeros(*x.shape[:-1], self.out_features)
        # not bias.expand: a view of a parameter asks for gradients even under no_grad, which confuses tracers
        return zeros if self.bias is None else zeros + self.bias

    def extra_repr(self) -> str:
        """Shown when the model is printed."""
        return f"in_features={self.in_features}, out_features={self.out_features}"
