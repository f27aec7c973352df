"""``auto``: curves of every sub-layer → one search for the budget → a plan → sequential compensation."""

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import distributed
from bertsurgeon.architectures import Encoder, unfuse
from bertsurgeon.benchmark import random_inputs
from bertsurgeon.budgets import Flops, Sparsity, Speedup
from bertsurgeon.checkpoint import attach_plan
from bertsurgeon.compensation import apply_plan
from bertsurgeon.methods.auto import costs
from bertsurgeon.methods.auto.config import AutoConfig
from bertsurgeon.methods.auto.latency_model import DeploymentTarget, fit_costs
from bertsurgeon.methods.auto.measurements import Calibration, calibrate
from bertsurgeon.methods.auto.search import allocate, full_cost, make_allocated_plan
from bertsurgeon.methods.auto.speedup import measure_costs, meet_speedup
from bertsurgeon.methods.base import Method, PruneReport, PruneResult, check_dense, runs_in_bf16
from bertsurgeon.plan import ModelPlan
from bertsurgeon.prediction import evaluating
from bertsurgeon.timings import Timings


def prune_auto(
    model: PreTrainedModel,
    config: AutoConfig,
    data: Any,
    tokenizer: PreTrainedTokenizerBase | None = None,
    teacher: PreTrainedModel | None = None,
) -> PruneResult:
    """Prunes a dense model to a budget, from its data or a calibration; see :func:`bertsurgeon.prune`."""
    check_dense(model)
    if isinstance(data, Calibration):
        calibration = data
        calibration.check(model, config)
    else:
        calibration = calibrate(model, config, data, tokenizer)
    timings = Timings()
    timings.seconds.update(calibration.seconds)
    dense = unfuse(model)
    with evaluating(dense):
        with timings.step("allocation"):
            plan = distributed.run_on_main(lambda: plan_budget(dense, config, calibration))
        with timings.step("compensation"):
            pruned = apply_calibrated_plan(dense, plan, config, calibration)
    return PruneResult(pruned, PruneReport.build(plan, config, dense, calibration.batches, timings))


def apply_calibrated_plan(
    model: PreTrainedModel, plan: ModelPlan, config: AutoConfig, calibration: Calibration
) -> PreTrainedModel:
    """Applies a plan to a dense model, and compensates in sequence.

    Args:
        model: The dense model, without fused matrices.
        plan: What each matrix keeps.
        config: The options.
        calibration: The model's calibration.

    Returns:
        The pruned model, with the plan attached.
    """
    pruned = apply_plan(
        model,
        plan,
        "sequential",
        batches=calibration.batches,
        damping=config.damping,
        curvature=calibration.curvature,
        target=config.target,
        token_weights=calibration.token_weights,
        bf16=runs_in_bf16(config.calibration_precision, model.device),
    )
    attach_plan(pruned, plan)
    return pruned


def plan_budget(model: PreTrainedModel, config: AutoConfig, calibration: Calibration) -> ModelPlan:
    """Finds the plan with the smallest predicted error within the budget.

    Args:
        model: The dense model, without fused matrices.
        config: The options.
        calibration: Curves of the model's sub-layers.

    Raises:
        OptionError: If the budget leaves nothing.
    """

    def plan_share(share: float, cost: costs.Cost, is_final: bool = True) -> ModelPlan:
        return plan_for_share(model, config, calibration, cost, share, note_rest=is_final)[0]

    match config.budget:
        case Sparsity(share):
            return plan_share(1 - share, costs.Weights())
        case Flops(share, length):
            return plan_share(1 - share, costs.Flops(length))
        case Speedup(factor, runtime, precision, batch_size, length):
            target = DeploymentTarget(runtime, precision, random_inputs([model], batch_size, length))
            cost = measure_target_costs(model, calibration, target, config.seed)
            return meet_speedup(model, factor, lambda share: plan_share(share, cost, is_final=False), target)
    raise AssertionError("the configuration checks the budget")


def measure_target_costs(
    model: PreTrainedModel, calibration: Calibration, target: DeploymentTarget, seed: int, probes: int | None = None
) -> costs.Cost:
    """Measures what the parts of an encoder cost in the runtime and precision where it will run.

    Args:
        model: The dense model, without fused matrices.
        calibration: Curves of the model's sub-layers.
        target: Runtime, precision and batch.
        seed: Fixes the shapes of the encoders that are timed.
        probes: Encoders that are timed in a runtime other than PyTorch; None for the default.
    """
    if target.runtime == "pytorch":
        batch_size, length = target.batch["input_ids"].shape
        return measure_costs(model, batch_size, length)
    return fit_costs(model, calibration.curves, target, seed, probes)


def plan_for_share(
    model: PreTrainedModel,
    config: AutoConfig,
    calibration: Calibration,
    cost: costs.Cost,
    share: float,
    *,
    note_rest: bool = True,
) -> tuple[ModelPlan, float]:
    """Finds the plan with the smallest predicted error whose encoder costs a share of the dense one.

    Args:
        model: The dense model, without fused matrices.
        config: The options; the budget is not used.
        calibration: Curves of the model's sub-layers.
        cost: Unit of the cost.
        share: Cost of the pruned encoder divided by that of the dense one.
        note_rest: Warn if much of the budget is not used.

    Returns:
        The plan, and its predicted error in the unit of the curves.

    Raises:
        OptionError: If the share leaves nothing.
    """
    encoder, curves = Encoder(model), calibration.curves
    choices = allocate(
        curves,
        cost,
        share * full_cost(curves, cost),
        removal="removal" in config.structures,
        low_rank="low_rank" in config.structures,
        groups="groups" in config.structures,
        note_rest=note_rest,
    )
    plan = make_allocated_plan(encoder.architecture.name, encoder.shapes, curves, choices)
    return plan, sum(choice.error for choice in choices)


AUTO = Method(
    "auto",
    "one search over removed heads and neurons, low rank and aligned groups, from unlabeled text",
    AutoConfig,
    prune_auto,
    calibrate=calibrate,
)
