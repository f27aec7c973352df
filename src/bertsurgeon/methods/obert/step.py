"""One step of second-order pruning: Fisher blocks, scores, masks and updates, in place.

The step is independent of any schedule: one-shot pruning runs it once or in rounds, gradual pruning between training
steps.
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
from bertsurgeon.methods.obert.collect import Loss, RowRange, collect_inverses, count_gradients, plan_passes
from bertsurgeon.methods.obert.patterns import Pattern
from bertsurgeon.methods.obert.selection import Scope, select_units
from bertsurgeon.methods.obert.solve import greedy_scores, update_apart, update_jointly

Score = Literal["fisher-block", "magnitude"]
Update = Literal["obert", "greedy", "woodtaylor", "none"]


@dataclass(frozen=True)
class StepConfig:
    """Options of one pruning step.

    Attributes:
        pattern: Which weights are pruned together.
        scope: ``global`` if all matrices compete, ``matrix`` if each loses the same share.
        score: ``fisher-block`` (ρ of the Fisher blocks) or ``magnitude`` (w²).
        update: Update of the weights that are kept: ``obert``, ``greedy``, ``woodtaylor`` or ``none``.
        block_size: Weights per Fisher block.
        damping: λ, absolute.
        batch_size: Number of samples whose mean gradient counts as one gradient.
        memory: Largest number of bytes that Fisher blocks take; if they need more, there are several passes.
        seed: Seed of pseudo-labels.
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
        """Checks that score and update are compatible.

        Raises:
            OptionError: If the score is ``magnitude`` and there is an update, which requires Fisher blocks.
        """
        if self.score == "magnitude" and self.update != "none":
            raise OptionError(
                f"The score magnitude has no Fisher blocks for an update; use the update none, not {self.update}."
            )


@dataclass(frozen=True)
class Step:
    """Result of a step.

    Attributes:
        masks: Weights that are not pruned.
        gradients: m, the number of gradients whose mean is the Fisher information.
        passes: Number of passes over the data.
        precision: Bits of the numbers in Fisher blocks: 32, or 64 if rounding errors of 32 bits exceed the damping.
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
    options: StepConfig,
    masks: Masks | None = None,
    loss: Loss = summed_loss,
) -> Step:
    """Prunes the matrices of a model's layers, dense or pruned by a plan, in place.

    No other parameter changes, and pruned weights remain pruned. With several processes, each runs over all data and
    holds the Fisher blocks of a part of the rows: blocks take more memory and time than gradients.

    Args:
        model: Dense or masked, or pruned by a plan.
        batches: Padded batches for ``loss``; unused for ``magnitude``.
        sparsity: Share of the weights of the encoder's matrices that is zero afterwards; exact to one unit, for N:M to
            one of M.
        options: Options of the step.
        masks: Weights that are not pruned so far; None for all weights that are not zero.
        loss: Loss whose gradients determine the Fisher information.

    Raises:
        OptionError: If that share is pruned already, the pattern does not divide a row or a Fisher block, or the
            blocks of one row exceed the memory.
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
        scores = {key: _sum_units(w.float().square(), options.pattern.width) for key, w in weights.items()}
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
    """Passes over the data of one step; the Fisher blocks of the last pass are kept."""

    def __init__(
        self,
        model: PreTrainedModel,
        batches: Sequence[Batch],
        sparsity: float,
        options: StepConfig,
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
        self._last: dict[RowRange, InverseFisher] = {}

    def score(self) -> dict[PartKey, Tensor]:
        """Computes scores by matrix, shape (out, units of a row), fp32."""
        width = self.options.pattern.width
        for self.dtype in (torch.float32, torch.float64):
            scores = {key: torch.zeros(len(w), w.shape[1] // width, device=w.device) for key, w in self.weights.items()}
            self._last.clear()
            for ranges in self._collect():
                if distributed.any_process(any(fisher.is_imprecise for fisher in self._last.values())):
                    break
                for row_range in ranges:
                    scores[row_range.key][row_range.start : row_range.stop] = self._score_rows(
                        row_range, self._last[row_range]
                    )
            else:
                for matrix_scores in scores.values():  # zero in rows of other processes
                    distributed.all_reduce(matrix_scores)
                return scores
            if self.dtype == torch.float32:
                progress.note(
                    "The rounding errors of fp32 exceed the damping of the Fisher information; retrying in fp64."
                )
        raise ModelError(
            "The Fisher information cannot be inverted: rounding errors exceed its damping; raise the damping."
        )

    def update(self, after: Masks) -> None:
        """Updates the weights that are kept, after all passes, so that every pass runs the same model."""
        updated = {key: torch.zeros_like(weight) for key, weight in self.weights.items()}
        # starts with the last pass, whose blocks are still available
        for ranges in self._collect(backwards=True):
            for row_range in ranges:
                rows = slice(row_range.start, row_range.stop)
                updated[row_range.key][rows] = self._update_rows(
                    row_range, self._last[row_range], after[row_range.key][rows]
                )
        for key, weight in self.weights.items():
            distributed.all_reduce(updated[key])
            if not torch.isfinite(updated[key]).all():
                raise ModelError("The updated weights are not finite; raise the damping of the Fisher information.")
            weight.copy_(updated[key])

    def _collect(self, backwards: bool = False) -> Iterator[list[RowRange]]:
        """Yields this process' rows of each pass; ``_last`` holds their blocks, as two passes exceed the memory."""
        options = self.options
        shapes = {key: (w.shape[0], w.shape[1]) for key, w in self.weights.items()}
        passes = plan_passes(shapes, options.block_size, self.dtype, options.memory * distributed.world_size())
        for pass_ranges in reversed(passes) if backwards else passes:
            ranges = [part for row_range in pass_ranges if (part := _share(row_range)) is not None]
            if list(self._last) != ranges:
                self._last.clear()  # frees memory before the next blocks are allocated
                with torch.enable_grad():
                    self._last = collect_inverses(
                        self.model,
                        self.batches,
                        self.masks,
                        ranges,
                        self.loss,
                        block_size=options.block_size,
                        damping=options.damping,
                        batch_size=options.batch_size,
                        dtype=self.dtype,
                        with_mean=options.update == "woodtaylor",
                        seed=options.seed,
                    )
                self.passes += 1
            yield ranges

    def _score_rows(self, row_range: RowRange, fisher: InverseFisher) -> Tensor:
        width, size = self.options.pattern.width, self.options.block_size
        mask = self.masks[row_range.key][row_range.start : row_range.stop]
        kept = split_rows(unit_mask(mask, width), size // width)
        parts = []
        for chunk, inverse, _, target in self._chunks(row_range, fisher):
            if self.options.update == "greedy":
                group = self.options.pattern.group
                parts.append(greedy_scores(inverse, target, kept[chunk], width, group, self.quota))
            else:
                parts.append(unit_scores(inverse, target, width).float())
        return join_rows(torch.cat(parts), len(mask), mask.shape[1] // width)

    def _update_rows(self, row_range: RowRange, fisher: InverseFisher, after: Tensor) -> Tensor:
        before = self.masks[row_range.key][row_range.start : row_range.stop]
        pruned = split_rows(before & ~after, self.options.block_size)
        parts = []
        for chunk, inverse, weight, target in self._chunks(row_range, fisher):
            newly_pruned = pruned[chunk]
            if self.options.update == "greedy":
                updated = update_jointly(inverse, target, newly_pruned)
            else:
                updated = update_apart(inverse, target, newly_pruned, self.options.pattern.width)
            # WoodTaylor would also move the weights of blocks in which nothing is pruned
            parts.append(torch.where(newly_pruned.any(1, keepdim=True), updated, weight))
        return join_rows(torch.cat(parts), len(after), after.shape[1])

    def _chunks(self, row_range: RowRange, fisher: InverseFisher) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Yields some blocks at a time, fp64: their slice, F⁻¹, w, and t = w − F⁻¹g (t = w except for WoodTaylor)."""
        weights = split_rows(self.weights[row_range.key][row_range.start : row_range.stop], self.options.block_size)
        step = max(1, CHUNK_ENTRIES // self.options.block_size**2)
        for start in range(0, len(weights), step):
            chunk = slice(start, start + step)
            inverse, weight = fisher.inverse[chunk].double(), weights[chunk].double()
            target = weight
            if len(fisher.mean):
                target = weight - torch.einsum("bij,bj->bi", inverse, fisher.mean[chunk].double())
            yield chunk, inverse, weight, target


def _share(row_range: RowRange) -> RowRange | None:
    """Rows of a range that belong to this process; None if there are fewer rows than processes."""
    rows, rank, count = row_range.stop - row_range.start, distributed.rank(), distributed.world_size()
    start, stop = (row_range.start + number * rows // count for number in (rank, rank + 1))
    return RowRange(row_range.key, start, stop) if start < stop else None


def _sum_units(values: Tensor, width: int) -> Tensor:
    """Sums values over units: shape (out, in) becomes (out, in / width)."""
    return values.reshape(len(values), -1, width).sum(-1)
