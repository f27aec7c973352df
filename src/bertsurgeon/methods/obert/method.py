"""The Optimal BERT Surgeon in one shot: rounds of gradients, scores, masks and updates, and compensation at the end.

Kurtic et al., 2022, arXiv 2203.07259, with the greedy solver of CAP (Kuznedelev et al., 2022, arXiv 2210.09223). The
compensation is PGB's, on the support that the masks leave.
"""

from collections.abc import Sequence
from copy import deepcopy
from functools import partial

from transformers import PreTrainedModel

from bertsurgeon import progress
from bertsurgeon.calibration import Batch, summed_loss
from bertsurgeon.checkpoint import attach_sparse, count_kept
from bertsurgeon.compensation import refit_masked
from bertsurgeon.config import PruneConfig
from bertsurgeon.errors import OptionError
from bertsurgeon.layers.masks import masks_of, sparsity_of
from bertsurgeon.methods.obert.collect import count_gradients
from bertsurgeon.methods.obert.patterns import Pattern
from bertsurgeon.methods.obert.step import Step, prune_step
from bertsurgeon.methods.report import SparseReport, timed
from bertsurgeon.prediction import evaluating
from bertsurgeon.recovery import pruning_loss
from bertsurgeon.tasks import check_same_head, has_labels

OBERT_GRADIENTS = 1024
"""Gradients (m), where no number of samples is asked for; the paper's."""


def obert_samples(config: PruneConfig) -> int:
    """Calibration sequences that are asked for."""
    return config.samples or OBERT_GRADIENTS * config.fisher_batch_size


def prune_obert(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    config: PruneConfig,
    seconds: dict[str, float],
    teacher: PreTrainedModel | None = None,
    refit: Sequence[Batch] = (),
) -> tuple[PreTrainedModel, SparseReport]:
    """A sparse copy of a model, dense or sparse, and what was done; the time of each round is written to ``seconds``.

    Args:
        model: Left as it is.
        batches: What gradients are taken from.
        config: The options.
        seconds: Filled in.
        teacher: Gradients are those of the distillation from this model, once the pruned one differs from it.
        refit: What the compensation is fitted to.

    Raises:
        OptionError: If the model is as sparse already, or an option does not fit model or data.
        ModelError: If the teacher predicts something else, or the Fisher information cannot be inverted.
    """
    assert config.sparsity is not None
    options = config.step_options()
    if teacher is not None:
        check_same_head(model, teacher)
    unlabelled = not all(map(has_labels, batches))
    if options.update == "woodtaylor" and unlabelled and pruning_loss(model, teacher) is summed_loss:
        raise OptionError("The update woodtaylor needs the gradient of a loss: give labels, or another teacher.")
    if options.score != "magnitude":
        asked, found = -(-obert_samples(config) // options.batch_size), count_gradients(batches, options.batch_size)
        if found < asked:
            progress.note(f"{asked} gradients were asked for, the data gives {found}: the Fisher is the mean of these.")
    pruned = deepcopy(model)
    masks = masks_of(pruned)
    steps: list[Step] = []
    for target in round_targets(sparsity_of(masks), config.sparsity, config.recomputations, options.pattern):
        loss = pruning_loss(pruned, teacher)
        run = partial(prune_step, pruned, batches, target, options, masks, loss)
        steps.append(timed(seconds, f"round {len(steps) + 1}", run))
        masks = steps[-1].masks
    if config.compensation == "sequential":
        with evaluating(model), evaluating(pruned):
            run_refit = partial(refit_masked, model, pruned, masks, refit, config.damping)
            timed(seconds, "compensation", run_refit)
    passes = sum(step.passes for step in steps)
    rounds, times = ("round" if len(steps) == 1 else "rounds"), ("pass" if passes == 1 else "passes")
    progress.note(f"{len(steps)} {rounds}, {passes} {times} over the data.")
    attach_sparse(pruned, options.pattern.width)
    precision = max(step.precision for step in steps)
    return pruned, SparseReport(count_kept(pruned), sparsity_of(masks), steps[-1].gradients, passes, precision)


def round_targets(start: float, target: float, rounds: int, pattern: Pattern) -> list[float]:
    """The sparsity after each round: the same share every time, the last one exact.

    A round in which no group of N:M would lose another weight is left out.
    """
    targets = [start + (target - start) * number / rounds for number in range(1, rounds)] + [target]
    if not pattern.group:
        return targets
    lost = {pattern.quota(share): share for share in targets}
    return [quota / pattern.group for quota in lost if quota > pattern.quota(start)]
