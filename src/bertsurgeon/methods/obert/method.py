"""``obert`` in one shot: rounds of gradients, scores, masks and updates, with a compensation at the end.

Kurtic et al., "The Optimal BERT Surgeon", 2022, arXiv 2203.07259, with the greedy solver of CAP (Kuznedelev et al.,
2022, arXiv 2210.09223). The compensation is PGB's, on the support of the masks.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.architectures import Encoder, unfuse
from bertsurgeon.calibration import Batch, make_batches, summed_loss
from bertsurgeon.checkpoint import attach_sparse, count_kept, get_plan
from bertsurgeon.compensation import refit_masked
from bertsurgeon.errors import OptionError
from bertsurgeon.layers.masks import masks_of, sparsity_of
from bertsurgeon.methods.base import Method, PruneReport, PruneResult, SparseReport, check_matrices
from bertsurgeon.methods.obert.collect import count_gradients
from bertsurgeon.methods.obert.config import ObertConfig
from bertsurgeon.methods.obert.patterns import Pattern
from bertsurgeon.methods.obert.step import Step, prune_step
from bertsurgeon.plan import dense_plan
from bertsurgeon.prediction import evaluating
from bertsurgeon.recovery import pruning_loss
from bertsurgeon.tasks import as_dataset, check_same_head, collect_data, has_labels, is_batches
from bertsurgeon.timings import Timings

DEFAULT_GRADIENTS = 1024
"""Gradients (m of the paper) if the configuration names no number of samples."""


def prune_obert(
    model: PreTrainedModel,
    config: ObertConfig,
    data: Any,
    tokenizer: PreTrainedTokenizerBase | None = None,
    teacher: PreTrainedModel | None = None,
) -> PruneResult:
    """Sets weights of a dense, sparse or pruned model to zero; see :func:`bertsurgeon.prune`."""
    check_matrices(model)
    if teacher is not None:
        check_same_head(model, teacher)
    timings = Timings()
    batches, regression_batches = make_obert_batches(model, config, data, tokenizer)
    original = unfuse(model)
    check_gradients(original, config, batches, teacher)
    options = config.step_config()
    pruned = deepcopy(original)
    masks = masks_of(pruned)
    steps: list[Step] = []
    for target in round_targets(sparsity_of(masks), config.budget.amount, config.recomputations, options.pattern):
        with timings.step(f"round {len(steps) + 1}"):
            loss = pruning_loss(pruned, teacher)
            steps.append(prune_step(pruned, batches, target, options, masks, loss))
        masks = steps[-1].masks
    if config.compensation == "sequential":
        with timings.step("compensation"), evaluating(original), evaluating(pruned):
            refit_masked(original, pruned, masks, regression_batches, config.damping)
    width = options.pattern.width
    attach_sparse(pruned, width)
    passes = sum(step.passes for step in steps)
    progress.note(
        f"{len(steps)} {'round' if len(steps) == 1 else 'rounds'}, {passes} {'pass' if passes == 1 else 'passes'} over "
        "the data."
    )
    precision = max(step.precision for step in steps)
    sparse = SparseReport(width, count_kept(pruned), sparsity_of(masks), steps[-1].gradients, passes, precision)
    encoder = Encoder(original)
    plan = get_plan(original) or dense_plan(encoder.architecture.name, encoder.shapes)
    return PruneResult(pruned, PruneReport.build(plan, config, original, batches, timings, sparse))


def requested_samples(config: ObertConfig) -> int:
    """Number of calibration sequences that the configuration asks for."""
    return config.samples or DEFAULT_GRADIENTS * config.fisher_batch_size


def make_obert_batches(
    model: PreTrainedModel, config: ObertConfig, data: Any, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[list[Batch], list[Batch]]:
    """The batches for gradients, which are counted in texts, and for regressions, which are counted in tokens.

    A batch holds whole gradients. Data that is batched already serves both; other data is tokenized once.
    """
    data = collect_data(data)
    batched = is_batches(data)
    if not batched:
        data = as_dataset(data, tokenizer, model)
    joined = config.fisher_batch_size
    size = max(1, config.batch_size // joined) * joined
    batches = make_batches(data, tokenizer, requested_samples(config), size, config.seed, model=model)
    if config.compensation == "none" or batched:
        return batches, batches
    return batches, make_batches(data, tokenizer, None, config.batch_size, config.seed, model=model)


def check_gradients(
    model: PreTrainedModel, config: ObertConfig, batches: Sequence[Batch], teacher: PreTrainedModel | None
) -> None:
    """Checks that the data gives the gradients that the options need, and notes if they are fewer than requested.

    Raises:
        OptionError: If the update needs the gradient of a loss and there is none.
    """
    options = config.step_config()
    unlabeled = not all(map(has_labels, batches))
    if options.update == "woodtaylor" and unlabeled and pruning_loss(model, teacher) is summed_loss:
        raise OptionError("The update woodtaylor needs the gradient of a loss: give labels, or another teacher.")
    if options.score == "magnitude":
        return
    requested = -(-requested_samples(config) // options.batch_size)
    available = count_gradients(batches, options.batch_size)
    if available < requested:
        progress.note(
            f"{requested} gradients were requested, the data gives {available}: the Fisher information is their mean."
        )


def round_targets(start: float, target: float, rounds: int, pattern: Pattern) -> list[float]:
    """The sparsity after each round: each removes the same share, and the last one ends exactly at the target.

    A round in which no group of N:M would lose another weight is left out.
    """
    targets = [start + (target - start) * number / rounds for number in range(1, rounds)] + [target]
    if not pattern.group:
        return targets
    quotas = {pattern.quota(share): share for share in targets}
    return [quota / pattern.group for quota in quotas if quota > pattern.quota(start)]


OBERT = Method(
    "obert",
    "second-order pruning of single weights, blocks or N:M (arXiv 2203.07259)",
    ObertConfig,
    prune_obert,
    accepts_teacher=True,
)
