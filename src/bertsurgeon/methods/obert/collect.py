"""Passes over the data that build inverse Fisher blocks, in each pass of as many rows as fit into memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon import progress
from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import (
    Batch,
    MatrixKey,
    backpropagate,
    backward_leaf,
    blocks_per_row,
    count_samples,
    gradient_hooks,
    token_mask,
)
from bertsurgeon.calibration.gradients import CHUNK_ELEMENTS
from bertsurgeon.calibration.inverse_fisher import FisherBlocks, InverseFisher
from bertsurgeon.errors import OptionError
from bertsurgeon.layers import PartKey, model_parts
from bertsurgeon.layers.masks import Masks
from bertsurgeon.prediction import evaluating

Loss = Callable[[PreTrainedModel, Batch, torch.Generator], Tensor]
"""Sum of the losses of a batch's samples; pseudo-labels are sampled with the generator if the batch has no labels."""


@dataclass(frozen=True)
class RowRange:
    """Rows ``start`` … ``stop`` of a matrix (``stop`` excluded)."""

    key: PartKey
    start: int
    stop: int


def plan_passes(
    shapes: Mapping[PartKey, tuple[int, int]], block_size: int, dtype: torch.dtype, memory: int
) -> list[list[RowRange]]:
    """Distributes all rows over passes, so that the Fisher blocks of each pass fit into memory.

    Args:
        shapes: Shape (out, in) of each matrix.
        block_size: Weights per Fisher block.
        dtype: Type of the blocks.
        memory: Largest number of bytes that the blocks of a pass take.

    Raises:
        OptionError: If a single row does not fit.
    """
    passes: list[list[RowRange]] = [[]]
    free = memory
    for key, (rows, columns) in shapes.items():
        row_bytes = blocks_per_row(columns, block_size) * block_size**2 * dtype.itemsize
        start = 0
        while start < rows:
            if free < row_bytes:
                passes.append([])
                free = memory
            count = min(rows - start, free // row_bytes)
            if count == 0:
                raise OptionError(
                    f"The Fisher blocks of one row take {row_bytes / 1e9:.2g} GB; allow more memory, or use smaller "
                    "blocks."
                )
            passes[-1].append(RowRange(key, start, start + count))
            free -= count * row_bytes
            start += count
    return [ranges for ranges in passes if ranges]


def count_gradients(batches: Sequence[Batch], batch_size: int) -> int:
    """Number of gradients of the data: one per ``batch_size`` samples of a batch, and one for its remainder."""
    return sum(-(-count_samples(batch) // batch_size) for batch in batches)


def collect_inverses(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    masks: Masks,
    ranges: Sequence[RowRange],
    loss: Loss,
    *,
    block_size: int,
    damping: float,
    batch_size: int = 1,
    dtype: torch.dtype = torch.float32,
    with_mean: bool = False,
    seed: int = 0,
) -> dict[RowRange, InverseFisher]:
    """Runs the model over the data once and builds inverse Fisher blocks; the model is left unchanged.

    The pass ends early if the blocks are imprecise, as rounding errors exceed the damping: all of them are then marked
    so, and a wider type is required. Memory besides the blocks, the model and its activations: some MiB of gradients.

    Args:
        model: Dense or masked.
        batches: Padded batches, with or without ``labels``, as ``loss`` requires.
        masks: Weights that are not pruned; gradients of pruned weights count as zero.
        ranges: Rows to collect for.
        loss: Loss whose gradients are taken.
        block_size: Weights per Fisher block.
        damping: λ, absolute.
        batch_size: Number of neighboring samples of a batch whose mean gradient counts as one gradient.
        dtype: Type of the blocks.
        with_mean: Keep the mean gradient, too.
        seed: Seed of the generator that ``loss`` is called with; the number of the batch is added, so that all passes
            draw the same pseudo-labels.

    Raises:
        ModelError: If a loss is not finite.
    """
    gradients = count_gradients(batches, batch_size)
    fisher: dict[RowRange, FisherBlocks] = {}
    by_matrix: dict[MatrixKey, dict[PartKey, list[RowRange]]] = {}
    for row_range in ranges:
        columns = masks[row_range.key].shape[1]
        rows = row_range.stop - row_range.start
        fisher[row_range] = FisherBlocks(
            rows, columns, block_size, gradients, dtype, torch.device(model.device), with_mean
        )
        by_matrix.setdefault(row_range.key[:2], {}).setdefault(row_range.key, []).append(row_range)
    encoder = Encoder(model)
    parts = model_parts(encoder)

    def receive(matrix: MatrixKey, x: Tensor, delta: Tensor) -> None:
        if x.shape[:2] != mask.shape:  # positions, which some matrices also read, belong to no sample
            return
        x, delta = x.float(), delta.float()
        for key, part_ranges in by_matrix[matrix].items():
            for inputs, outputs in _join_samples(parts[key].inputs(x), parts[key].outputs(delta), batch_size):
                for row_range in part_ranges:
                    _add_rows(
                        fisher[row_range],
                        inputs,
                        outputs[..., row_range.start : row_range.stop],
                        masks[key][row_range.start :],
                    )

    mask = torch.empty(0)  # real tokens of the current batch
    matrices = {matrix: encoder.matrix(*matrix) for matrix in by_matrix}
    generator = torch.Generator()
    with evaluating(model), backward_leaf(model) as leaf, gradient_hooks(matrices, receive):
        for number, batch in enumerate(progress.track(batches, "Inverting the Fisher")):
            generator.manual_seed(seed + number)
            on_device = {name: value.to(model.device) for name, value in batch.items()}
            mask = token_mask(model, on_device)
            backpropagate(loss(model, on_device, generator), leaf)
            if any(blocks.is_imprecise(damping) for blocks in fisher.values()):
                return {row_range: blocks.stop_imprecise() for row_range, blocks in fisher.items()}
    return {row_range: blocks.invert(damping) for row_range, blocks in fisher.items()}


def _join_samples(x: Tensor, delta: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Joins neighboring samples so that their mean gradient is one gradient: tokens are concatenated, δ is divided."""
    samples, tokens = x.shape[:2]
    whole = samples - samples % batch_size
    for part, size in ((slice(0, whole), batch_size), (slice(whole, None), samples - whole)):
        if size and len(x[part]):
            yield (
                x[part].reshape(-1, size * tokens, x.shape[-1]),
                delta[part].reshape(-1, size * tokens, delta.shape[-1]) / size,
            )


def _add_rows(blocks: FisherBlocks, x: Tensor, delta: Tensor, mask: Tensor) -> None:
    """Computes gradients and adds them, some rows at a time."""
    step = max(1, CHUNK_ELEMENTS // (len(x) * x.shape[-1]))
    for row in range(0, delta.shape[-1], step):
        g = torch.bmm(delta[..., row : row + step].transpose(1, 2), x)
        blocks.add(g.mul_(mask[row : row + g.shape[1]]), row)
