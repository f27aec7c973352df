"""Passes over the data that build inverse Fisher blocks, of as many matrices at a time as memory holds."""

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
"""The sum over a batch of the samples' losses; the generator draws what labels would have told."""


@dataclass(frozen=True)
class Piece:
    """Rows ``start`` … ``stop`` of a matrix."""

    key: PartKey
    start: int
    stop: int


def plan_passes(
    shapes: Mapping[PartKey, tuple[int, int]], block_size: int, dtype: torch.dtype, memory: int
) -> list[list[Piece]]:
    """Which rows each pass over the data is for, so that their blocks fit into ``memory`` bytes.

    Raises:
        OptionError: If a single row does not fit.
    """
    passes: list[list[Piece]] = [[]]
    room = memory
    for key, (rows, columns) in shapes.items():
        row_bytes = blocks_per_row(columns, block_size) * block_size**2 * dtype.itemsize
        start = 0
        while start < rows:
            if room < row_bytes:
                passes.append([])
                room = memory
            count = min(rows - start, room // row_bytes)
            if count == 0:
                raise OptionError(
                    f"The Fisher blocks of one row take {row_bytes / 1e9:.2g} GB; allow more memory, or take smaller "
                    "blocks."
                )
            passes[-1].append(Piece(key, start, start + count))
            room -= count * row_bytes
            start += count
    return [pieces for pieces in passes if pieces]


def count_gradients(batches: Sequence[Batch], batch_size: int) -> int:
    """Gradients that the data gives: one for every ``batch_size`` samples of a batch, and one for the rest of it."""
    return sum(-(-count_samples(batch) // batch_size) for batch in batches)


def collect_inverses(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    masks: Masks,
    pieces: Sequence[Piece],
    loss: Loss,
    *,
    block_size: int,
    damping: float,
    batch_size: int = 1,
    dtype: torch.dtype = torch.float32,
    with_mean: bool = False,
    seed: int = 0,
) -> dict[Piece, InverseFisher]:
    """Runs the model over the data once, in evaluation mode; its weights and gradients are left as they are.

    It ends as soon as rounding has eaten the damping of a block, with all of them lost: they are for a wider type then.

    Memory beyond the blocks, the model and its activations: some MiB of gradients at a time.

    Args:
        model: Dense or masked.
        batches: Padded batches, with ``labels`` or without, as ``loss`` wants them.
        masks: What is left; gradients of pruned weights count as zero.
        pieces: Rows to collect for.
        loss: Whose gradients.
        block_size: Weights of a Fisher block.
        damping: λ, absolute.
        batch_size: Samples whose mean gradient counts as one; they are neighbours in a batch.
        dtype: Of the blocks.
        with_mean: Keep the mean gradient as well.
        seed: Of the generator ``loss`` is given: together with the number of the batch, the same in every pass.

    Raises:
        ModelError: If a loss is not finite.
    """
    gradients = count_gradients(batches, batch_size)
    found: dict[Piece, FisherBlocks] = {}
    by_matrix: dict[MatrixKey, dict[PartKey, list[Piece]]] = {}
    for piece in pieces:
        columns = masks[piece.key].shape[1]
        rows = piece.stop - piece.start
        found[piece] = FisherBlocks(rows, columns, block_size, gradients, dtype, torch.device(model.device), with_mean)
        by_matrix.setdefault(piece.key[:2], {}).setdefault(piece.key, []).append(piece)
    encoder = Encoder(model)
    parts = model_parts(encoder)

    def receive(matrix: MatrixKey, x: Tensor, delta: Tensor) -> None:
        if x.shape[:2] != mask.shape:  # positions, which some matrices read, too, are no sample's own
            return
        x, delta = x.float(), delta.float()
        for key, own in by_matrix[matrix].items():
            for inputs, outputs in _join_samples(parts[key].inputs(x), parts[key].outputs(delta), batch_size):
                for piece in own:
                    _add_rows(found[piece], inputs, outputs[..., piece.start : piece.stop], masks[key][piece.start :])

    mask = torch.empty(0)  # of the batch at hand
    matrices = {matrix: encoder.matrix(*matrix) for matrix in by_matrix}
    generator = torch.Generator()
    with evaluating(model), backward_leaf(model) as leaf, gradient_hooks(matrices, receive):
        for number, batch in enumerate(progress.track(batches, "Inverting the Fisher")):
            generator.manual_seed(seed + number)
            on_device = {name: value.to(model.device) for name, value in batch.items()}
            mask = token_mask(model, on_device)
            backpropagate(loss(model, on_device, generator), leaf)
            if any(blocks.loses(damping) for blocks in found.values()):
                return {piece: blocks.give_up() for piece, blocks in found.items()}
    return {piece: blocks.invert(damping) for piece, blocks in found.items()}


def _join_samples(x: Tensor, delta: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Makes the mean gradient of neighbours one gradient: their tokens follow each other, their δ share the weight."""
    samples, tokens = x.shape[:2]
    whole = samples - samples % batch_size
    for part, size in ((slice(0, whole), batch_size), (slice(whole, None), samples - whole)):
        if size and len(x[part]):
            yield (
                x[part].reshape(-1, size * tokens, x.shape[-1]),
                delta[part].reshape(-1, size * tokens, delta.shape[-1]) / size,
            )


def _add_rows(blocks: FisherBlocks, x: Tensor, delta: Tensor, mask: Tensor) -> None:
    """Hands gradients on, some rows at a time."""
    step = max(1, CHUNK_ELEMENTS // (len(x) * x.shape[-1]))
    for row in range(0, delta.shape[-1], step):
        g = torch.bmm(delta[..., row : row + step].transpose(1, 2), x)
        blocks.add(g.mul_(mask[row : row + g.shape[1]]), row)
