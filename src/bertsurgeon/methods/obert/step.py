"""One step of second-order pruning: Fisher blocks, scores, masks, updates, all in place.

It decides nothing about when to prune and how far; one-shot pruning calls it once or in rounds, gradual pruning between
steps of training.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon import distributed, progress
from bertsurgeon.calibration import Batch, join_rows, split_rows, summed_loss
from bertsurgeon.calibration.inverse_fisher import CHUNK_ENTRIES, InverseFisher, unit_scores
from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.layers import PartKey
from bertsurgeon.layers.masks import Masks, encoder_weights, masks_of, sparsity_of, unit_mask
from bertsurgeon.methods.obert.collect import Loss, Piece, collect_inverses, count_gradients, plan_passes
from bertsurgeon.methods.obert.patterns import Pattern
from bertsurgeon.methods.obert.selection import Scope, select_units
from bertsurgeon.methods.obert.solve import greedy_scores, update_apart, update_jointly

Score = Literal["fisher-block", "magnitude"]
Update = Literal["obert", "greedy", "woodtaylor", "none"]


@dataclass(frozen=True)
class StepOptions:
    """How one step prunes.

    Attributes:
        pattern: What goes together.
        scope: ``global``: all matrices compete; ``matrix``: each loses the same share.
        score: ``fisher-block`` (ρ of the Fisher blocks) or ``magnitude`` (w²).
        update: Of the weights that are left: ``obert``, ``greedy``, ``woodtaylor`` or ``none``.
        block_size: Weights of a Fisher block.
        damping: λ, absolute.
        batch_size: Samples whose mean gradient counts as one.
        memory: Bytes that Fisher blocks may take; what does not fit is left to further passes over the data.
        seed: Fixes every random choice.
    """

    pattern: Pattern
    scope: Scope = "global"
    score: Score = "fisher-block"
    update: Update = "obert"
    block_size: int = 32
    damping: float = 1e-7
    batch_size: int = 1
    memory: int = 4 * 10**9
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks what belongs together.

        Raises:
            OptionError: If magnitudes are to be followed by updates, which need Fisher blocks.
        """
        if self.score == "magnitude" and self.update != "none":
            raise OptionError(f"The score magnitude knows no update; use none with it, not {self.update}.")


@dataclass(frozen=True)
class Step:
    """What a step did.

    Attributes:
        masks: What is left.
        gradients: m, the gradients the Fisher information is the mean of.
        passes: Over the data.
        precision: Bits of the Fisher blocks' numbers: 32, or 64 where 32 lost the damping.
    """

    masks: Masks
    gradients: int
    passes: int
    precision: int


@torch.no_grad()
def prune_step(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    sparsity: float,
    options: StepOptions,
    masks: Masks | None = None,
    loss: Loss = summed_loss,
) -> Step:
    """Prunes the matrices of a model's layers, or what a plan left of them, in place.

    Nothing else is touched, and what is pruned stays pruned. Several processes see all of the data, and hold the Fisher
    blocks of a part of the rows each: it is the blocks that take memory and time, more than the gradients.

    Args:
        model: Dense or masked, or pruned by a plan.
        batches: Padded batches for ``loss``; unused for ``magnitude``.
        sparsity: Share of the encoder's weights that is zero afterwards, of those that it has; exact to one unit, for
            N:M to one of M.
        options: How.
        masks: What is left so far; None for all that is not zero.
        loss: Whose gradients make up the Fisher information.

    Raises:
        OptionError: If as much is pruned already, the pattern does not fit, or a row's blocks exceed the memory.
        ModelError: If the Fisher information cannot be inverted.
    """
    masks = masks_of(model) if masks is None else masks
    weights = {key: weight.detach() for key, weight in encoder_weights(model).items()}
    for weight in weights.values():
        options.pattern.check(weight.shape[1], options.block_size)
    if sparsity_of(masks) >= sparsity:
        raise OptionError(
            f"The model is {sparsity_of(masks):.2%} sparse already; the sparsity must be greater, not {sparsity:.2%}."
        )
    run = _Run(model, batches, sparsity, options, masks, loss, weights)
    if options.score == "magnitude":
        scores = {key: _units(w.float().square(), options.pattern.width) for key, w in weights.items()}
    else:
        scores = run.score()
    kept = {key: unit_mask(mask, options.pattern.width) for key, mask in masks.items()}
    chosen = select_units(scores, kept, sparsity, options.pattern, options.scope)
    after = {
        key: masks[key] & unit.repeat_interleave(options.pattern.width, dim=1).to(masks[key].device)
        for key, unit in chosen.items()
    }
    if options.update != "none":
        run.update(after)
    for key, weight in weights.items():
        weight.masked_fill_(~after[key], 0)
    gradients = 0 if options.score == "magnitude" else count_gradients(batches, options.batch_size)
    return Step(after, gradients, run.passes, run.dtype.itemsize * 8)


class _Run:
    """The passes over the data of one step; the blocks of the last one stay at hand."""

    def __init__(
        self,
        model: PreTrainedModel,
        batches: Sequence[Batch],
        sparsity: float,
        options: StepOptions,
        masks: Masks,
        loss: Loss,
        weights: dict[PartKey, Tensor],
    ) -> None:
        self.model = model
        self.batches = batches
        self.quota = options.pattern.quota(sparsity)
        self.options = options
        self.masks = masks
        self.loss = loss
        self.weights = weights
        self.dtype = torch.float32
        self.passes = 0
        self._last: dict[Piece, InverseFisher] = {}

    def score(self) -> dict[PartKey, Tensor]:
        """Scores by matrix, shape (out, units of a row), fp32."""
        width = self.options.pattern.width
        for self.dtype in (torch.float32, torch.float64):
            scores = {key: torch.zeros(len(w), w.shape[1] // width, device=w.device) for key, w in self.weights.items()}
            self._last.clear()
            for pieces in self._collect():
                if distributed.any_process(any(fisher.is_lost for fisher in self._last.values())):
                    break
                for piece in pieces:
                    scores[piece.key][piece.start : piece.stop] = self._score_piece(piece, self._last[piece])
            else:
                for own in scores.values():  # zero where others have something
                    distributed.all_reduce(own)
                return scores
            if self.dtype == torch.float32:
                progress.note("Single precision loses the damping of the Fisher information; double precision it is.")
        raise ModelError("The Fisher information cannot be inverted: its damping is lost in rounding; raise it.")

    def update(self, after: Masks) -> None:
        """Moves the weights that are left, all at the end: every pass sees the model as it was."""
        moved = {key: torch.zeros_like(weight) for key, weight in self.weights.items()}
        # the blocks of the last pass are there still: begin with them
        for pieces in self._collect(backwards=True):
            for piece in pieces:
                rows = slice(piece.start, piece.stop)
                moved[piece.key][rows] = self._update_piece(piece, self._last[piece], after[piece.key][rows])
        for key, weight in self.weights.items():
            distributed.all_reduce(moved[key])
            if not torch.isfinite(moved[key]).all():
                raise ModelError("The updated weights are not finite; raise the damping of the Fisher information.")
            weight.copy_(moved[key])

    def _collect(self, backwards: bool = False) -> Iterator[list[Piece]]:
        """This process' pieces of each pass; their blocks are in ``_last``, as two passes' would not fit the memory."""
        options = self.options
        shapes = {key: (w.shape[0], w.shape[1]) for key, w in self.weights.items()}
        passes = plan_passes(shapes, options.block_size, self.dtype, options.memory * distributed.world_size())
        for whole in reversed(passes) if backwards else passes:
            pieces = [piece for each in whole if (piece := _share(each)) is not None]
            if list(self._last) != pieces:
                self._last.clear()  # frees the memory before the next blocks take it
                with torch.enable_grad():
                    self._last = collect_inverses(
                        self.model,
                        self.batches,
                        self.masks,
                        pieces,
                        self.loss,
                        block_size=options.block_size,
                        damping=options.damping,
                        batch_size=options.batch_size,
                        dtype=self.dtype,
                        with_mean=options.update == "woodtaylor",
                        seed=options.seed,
                    )
                self.passes += 1
            yield pieces

    def _score_piece(self, piece: Piece, fisher: InverseFisher) -> Tensor:
        width, size = self.options.pattern.width, self.options.block_size
        mask = self.masks[piece.key][piece.start : piece.stop]
        kept = split_rows(unit_mask(mask, width), size // width)
        parts = []
        for chunk, inverse, _, target in self._chunks(piece, fisher):
            if self.options.update == "greedy":
                group = self.options.pattern.group
                parts.append(greedy_scores(inverse, target, kept[chunk], width, group, self.quota))
            else:
                parts.append(unit_scores(inverse, target, width).float())
        return join_rows(torch.cat(parts), len(mask), mask.shape[1] // width)

    def _update_piece(self, piece: Piece, fisher: InverseFisher, after: Tensor) -> Tensor:
        before = self.masks[piece.key][piece.start : piece.stop]
        pruned = split_rows(before & ~after, self.options.block_size)
        parts = []
        for chunk, inverse, weight, target in self._chunks(piece, fisher):
            gone = pruned[chunk]
            if self.options.update == "greedy":
                moved = update_jointly(inverse, target, gone)
            else:
                moved = update_apart(inverse, target, gone, self.options.pattern.width)
            parts.append(torch.where(gone.any(1, keepdim=True), moved, weight))  # others would only be trained
        return join_rows(torch.cat(parts), len(after), after.shape[1])

    def _chunks(self, piece: Piece, fisher: InverseFisher) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Some blocks at a time, fp64: their place, F⁻¹, w, and t = w − F⁻¹g (t = w but for WoodTaylor)."""
        weights = split_rows(self.weights[piece.key][piece.start : piece.stop], self.options.block_size)
        step = max(1, CHUNK_ENTRIES // self.options.block_size**2)
        for start in range(0, len(weights), step):
            chunk = slice(start, start + step)
            inverse, weight = fisher.inverse[chunk].double(), weights[chunk].double()
            target = weight
            if len(fisher.mean):
                target = weight - torch.einsum("bij,bj->bi", inverse, fisher.mean[chunk].double())
            yield chunk, inverse, weight, target


def _share(piece: Piece) -> Piece | None:
    """This process' rows of a piece; None where there are too few for all."""
    rows, rank, count = piece.stop - piece.start, distributed.rank(), distributed.world_size()
    start, stop = (piece.start + number * rows // count for number in (rank, rank + 1))
    return Piece(piece.key, start, stop) if start < stop else None


def _units(values: Tensor, width: int) -> Tensor:
    """Sums over units: shape (out, in) becomes (out, in / width)."""
    return values.reshape(len(values), -1, width).sum(-1)
