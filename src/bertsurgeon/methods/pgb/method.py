"""PGB: statistics → importance → group counts → permutation → compensation."""

from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon import distributed
from bertsurgeon.architectures import Architecture, Encoder
from bertsurgeon.calibration import Batch, MatrixKey, Statistics, collect_statistics
from bertsurgeon.compensation import apply_plan
from bertsurgeon.config import PruneConfig
from bertsurgeon.methods.pgb.group_counts import GroupCounts, counts_by_threshold, counts_uniform
from bertsurgeon.methods.pgb.importance import score_matrices
from bertsurgeon.methods.pgb.permutation import plan_groups
from bertsurgeon.methods.pgb.target_sparsity import counts_by_sparsity
from bertsurgeon.methods.report import timed
from bertsurgeon.plan import ModelPlan

PGB_SAMPLES = 1024
"""Calibration sequences, where none are asked for."""


def prune_pgb(
    model: PreTrainedModel,
    batches: list[Batch],
    config: PruneConfig,
    seconds: dict[str, float],
) -> tuple[PreTrainedModel, ModelPlan]:
    """The pruned model and its plan; the time of each step is written to ``seconds``."""
    statistics = timed(seconds, "statistics", lambda: gather_statistics(model, batches, config))
    scores = timed(
        seconds,
        "importance",
        lambda: score_matrices(model, statistics, config.importance, config.obs_damping),
    )
    plan = timed(
        seconds, "plan", lambda: distributed.run_on_main(lambda: make_plan(Encoder(model).architecture, scores, config))
    )
    pruned = timed(
        seconds,
        "compensation",
        lambda: apply_plan(
            model,
            plan,
            config.compensation,
            batches=batches,
            moments=statistics.moments,
            damping=config.damping,
        ),
    )
    return pruned, plan


def gather_statistics(model: PreTrainedModel, batches: list[Batch], config: PruneConfig) -> Statistics:
    """The one pass over the calibration data that ``config`` needs (none, if it needs nothing from it)."""
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
    )


def make_plan(architecture: Architecture, scores: dict[MatrixKey, Tensor], config: PruneConfig) -> ModelPlan:
    """Group counts and permutations: the plan, before anything is changed."""
    counts: GroupCounts
    if config.sparsity is not None:
        counts = counts_by_sparsity(scores, config.sparsity, config.max_groups, architecture.positional)
    elif config.threshold is not None:
        counts = counts_by_threshold(scores, config.threshold, config.max_groups, architecture.positional)
    else:
        assert config.groups is not None
        counts = counts_uniform(scores, config.groups)
    return plan_groups(architecture.name, scores, counts, config.grouping, config.permutation_steps, config.seed)
