"""``pgb``: importance of every weight → groups per matrix → permutations → compensation.

Lim, Lee and Choi, "PGB: One-Shot Pruning for BERT via Weight Grouping and Permutation", arXiv 2502.03984.
"""

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import distributed
from bertsurgeon.architectures import Architecture, Encoder, unfuse
from bertsurgeon.budgets import Groups, Sparsity, Threshold
from bertsurgeon.calibration import Batch, MatrixKey, Statistics, collect_statistics, make_batches
from bertsurgeon.checkpoint import attach_plan
from bertsurgeon.compensation import apply_plan
from bertsurgeon.methods.base import Method, PruneReport, PruneResult, check_dense, runs_in_bf16
from bertsurgeon.methods.pgb.config import PgbConfig
from bertsurgeon.methods.pgb.group_counts import GroupCounts, counts_by_sparsity, counts_by_threshold, counts_uniform
from bertsurgeon.methods.pgb.importance import score_matrices
from bertsurgeon.methods.pgb.permutation import plan_groups
from bertsurgeon.plan import ModelPlan
from bertsurgeon.prediction import evaluating
from bertsurgeon.timings import Timings

DEFAULT_SAMPLES = 1024
"""Calibration sequences if the configuration names no number."""


def prune_pgb(
    model: PreTrainedModel,
    config: PgbConfig,
    data: Any,
    tokenizer: PreTrainedTokenizerBase | None = None,
    teacher: PreTrainedModel | None = None,
) -> PruneResult:
    """Prunes a dense model by permutation and grouping; see :func:`bertsurgeon.prune`."""
    check_dense(model)
    timings = Timings()
    samples = config.samples or DEFAULT_SAMPLES
    batches = make_batches(data, tokenizer, samples, config.batch_size, config.seed, model=model)
    dense = unfuse(model)
    with evaluating(dense):
        with timings.step("statistics"):
            statistics = gather_statistics(dense, config, batches)
        with timings.step("importance"):
            scores = score_matrices(dense, statistics, config.importance, config.obs_damping)
        with timings.step("plan"):
            plan = distributed.run_on_main(lambda: make_plan(Encoder(dense).architecture, config, scores))
        with timings.step("compensation"):
            pruned = apply_plan(
                dense,
                plan,
                config.compensation,
                batches=batches,
                moments=statistics.moments,
                damping=config.damping,
                bf16=runs_in_bf16(config.calibration_precision, dense.device),
            )
    attach_plan(pruned, plan)
    return PruneResult(pruned, PruneReport.build(plan, config, dense, batches, timings))


def gather_statistics(model: PreTrainedModel, config: PgbConfig, batches: list[Batch]) -> Statistics:
    """Passes over the calibration data once for what ``config`` needs; not at all if it needs nothing."""
    gradients = config.importance != "magnitude"
    moments = config.compensation == "independent"
    if not gradients and not moments:
        return Statistics()
    return collect_statistics(
        model,
        batches,
        gradients=gradients,
        block_size=config.obs_block_size if config.importance == "obs" else None,
        moments=moments,
        seed=config.seed,
        bf16=runs_in_bf16(config.calibration_precision, model.device),
    )


def make_plan(architecture: Architecture, config: PgbConfig, scores: dict[MatrixKey, Tensor]) -> ModelPlan:
    """Finds group counts and permutations: the plan, before anything is changed.

    Args:
        architecture: Entry of the model in the table of architectures.
        config: The options.
        scores: Importance by (layer, role), shape (out, in).

    Raises:
        OptionError: If the budget leaves nothing, or asks for more groups than a matrix has channels.
    """
    counts: GroupCounts
    match config.budget:
        case Sparsity(share):
            counts = counts_by_sparsity(scores, share, config.max_groups, architecture.positional)
        case Threshold(tau):
            counts = counts_by_threshold(scores, tau, config.max_groups, architecture.positional)
        case Groups(count):
            counts = counts_uniform(scores, count)
        case _:
            raise AssertionError("the configuration checks the budget")
    return plan_groups(architecture.name, scores, counts, config.grouping, config.permutation_steps, config.seed)


PGB = Method("pgb", "permutation and grouping (arXiv 2502.03984)", PgbConfig, prune_pgb)
