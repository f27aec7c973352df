"""PGB from end to end: statistics → importance → group counts → permutation → compensation → a smaller model."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon.architectures import Architecture, get_architecture
from bertsurgeon.budget import GroupCounts, counts_by_sparsity, counts_by_threshold, counts_uniform
from bertsurgeon.calibration import Batch, MatrixKey, Statistics, collect_statistics, make_batches
from bertsurgeon.checkpoint import attach_plan, check_finite, get_plan
from bertsurgeon.compensation import apply_plan
from bertsurgeon.config import PruneConfig
from bertsurgeon.errors import ModelError
from bertsurgeon.grouping import plan_groups
from bertsurgeon.importance import score_matrices
from bertsurgeon.plan import ModelPlan


@dataclass
class PruneReport:
    """What pruning did.

    Attributes:
        plan: What each matrix keeps.
        config: The options.
        samples: Calibration sequences used.
        tokens: Calibration tokens used, padding excluded.
        seconds: Time of each step.
    """

    plan: ModelPlan
    config: PruneConfig
    samples: int
    tokens: int
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def sparsity(self) -> float:
        """Share of the encoder's weights that is gone."""
        return self.plan.sparsity

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the plan (which the checkpoint holds)."""
        return {
            "config": self.config.to_dict(),
            "encoder_weights": {"dense": self.plan.size, "kept": self.plan.kept},
            "sparsity": self.sparsity,
            "samples": self.samples,
            "tokens": self.tokens,
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
        }


def prune(
    model: PreTrainedModel,
    data: Dataset | Iterable[Mapping[str, Any]],
    config: PruneConfig,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[PreTrainedModel, PruneReport]:
    """Prunes a fine-tuned encoder in one shot.

    Args:
        model: A dense fine-tuned model of a supported architecture; left as it is.
        data: Calibration data: a tokenized dataset, or an iterable of batches such as a ``DataLoader``. Labels are used
            where there are any.
        config: The options.
        tokenizer: Pads the batches of a dataset; not needed for ready batches.

    Returns:
        The pruned model, ready for ``save_pretrained`` or further training, and a report.

    Raises:
        ModelError: If the model is not supported, already pruned, or has broken weights.
        DataError: If the calibration data is empty or not tokenized.
        OptionError: If options are impossible for this model.
    """
    architecture = get_architecture(model.config.model_type)
    if get_plan(model) is not None:
        raise ModelError("The model is pruned already; start from the dense one.")
    check_finite(model)
    architecture.shapes(model)
    batches = make_batches(data, tokenizer, config.samples, config.batch_size, config.seed)
    torch.manual_seed(config.seed)
    training = model.training
    try:
        return _prune(model.eval(), architecture, batches, config)
    finally:
        model.train(training)


def _prune(
    model: PreTrainedModel, architecture: Architecture, batches: list[Batch], config: PruneConfig
) -> tuple[PreTrainedModel, PruneReport]:
    seconds: dict[str, float] = {}
    statistics = _timed(seconds, "statistics", lambda: gather_statistics(model, architecture, batches, config))
    scores = _timed(
        seconds,
        "importance",
        lambda: score_matrices(model, architecture, statistics, config.importance, config.obs_damping),
    )
    plan = _timed(seconds, "plan", lambda: make_plan(architecture, scores, config))
    pruned = _timed(
        seconds,
        "compensation",
        lambda: apply_plan(
            model,
            architecture,
            plan,
            config.compensation,
            batches=batches,
            moments=statistics.moments,
            damping=config.damping,
        ),
    )
    attach_plan(pruned, plan)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    samples = sum(len(batch["input_ids"]) for batch in batches)
    return pruned, PruneReport(plan, config, samples, tokens, seconds)


def gather_statistics(
    model: PreTrainedModel, architecture: Architecture, batches: list[Batch], config: PruneConfig
) -> Statistics:
    """The one pass over the calibration data that ``config`` needs (none, if it needs nothing from it)."""
    gradients = config.importance != "magnitude"
    moments = config.compensation == "independent"
    if not gradients and not moments:
        return Statistics()
    return collect_statistics(
        model,
        architecture,
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
        counts = counts_by_sparsity(scores, config.sparsity, config.max_groups)
    elif config.threshold is not None:
        counts = counts_by_threshold(scores, config.threshold, config.max_groups)
    else:
        assert config.groups is not None
        counts = counts_uniform(scores, config.groups)
    return plan_groups(architecture.name, scores, counts, config.grouping, config.permutation_steps, config.seed)


def _timed(seconds: dict[str, float], name: str, step: Any) -> Any:
    start = time.perf_counter()
    result = step()
    seconds[name] = time.perf_counter() - start
    return result
