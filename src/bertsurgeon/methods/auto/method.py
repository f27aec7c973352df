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
from bertsurgeon.methods.base import Method, PruneReport, PruneResult, check_dense
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
            pruned = apply_plan(
                dense,
                plan,
                "sequential",
                batches=calibration.batches,
                damping=config.damping,
                curvature=calibration.curvature,
                target=config.target,
                token_weights=calibration.token_weights,
            )
    attach_plan(pruned, plan)
    return PruneResult(pruned, PruneReport.build(plan, config, dense, calibration.batches, timings))


def plan_budget(model: PreTrainedModel, config: AutoConfig, calibration: Calibration) -> ModelPlan:
    """Finds the plan with the smallest predicted error within the budget.

    Args:
        model: The dense model, without fused matrices.
        config: The options.
        calibration: Curves of the model's sub-layers.

    Raises:
        OptionError: If the budget leaves nothing.
    """
    encoder, curves = Encoder(model), calibration.curves
    shapes = encoder.shapes

    def plan_share(share: float, cost: costs.Cost, is_final: bool = True) -> ModelPlan:
        choices = allocate(
            curves,
            cost,
            share * full_cost(curves, cost),
            removal="removal" in config.structures,
            low_rank="low_rank" in config.structures,
            groups="groups" in config.structures,
            note_rest=is_final,
        )
        return make_allocated_plan(encoder.architecture.name, shapes, curves, choices)

    match config.budget:
        case Sparsity(share):
            return plan_share(1 - share, costs.Weights())
        case Flops(share, length):
            return plan_share(1 - share, costs.Flops(length))
        case Speedup(factor, runtime, precision, batch_size, length):
            target = DeploymentTarget(runtime, precision, random_inputs([model], batch_size, length))
            cost: costs.Cost = (
                measure_costs(model, batch_size, length)
                if runtime == "pytorch"
                else fit_costs(model, curves, target, config.seed)
            )
            return meet_speedup(model, factor, lambda share: plan_share(share, cost, is_final=False), target)
    raise AssertionError("the configuration checks the budget")


AUTO = Method(
    "auto",
    "one search over removed heads and neurons, low rank and aligned groups, from unlabeled text",
    AutoConfig,
    prune_auto,
    calibrate=calibrate,
)
