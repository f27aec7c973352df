"""``auto``: curves of every sub-layer → one budget → a plan → sequential compensation."""

from transformers import PreTrainedModel

from bertsurgeon import distributed
from bertsurgeon.architectures import Encoder
from bertsurgeon.benchmark import random_inputs
from bertsurgeon.compensation import apply_plan
from bertsurgeon.config import PruneConfig
from bertsurgeon.methods.auto.costs import Cost, Flops, Weights
from bertsurgeon.methods.auto.latency_model import DeploymentTarget, fit_costs
from bertsurgeon.methods.auto.measurements import Calibration
from bertsurgeon.methods.auto.search import allocate, full_cost, make_allocated_plan
from bertsurgeon.methods.auto.speedup import measure_costs, meet_speedup
from bertsurgeon.methods.report import timed
from bertsurgeon.plan import ModelPlan


def prune_auto(
    model: PreTrainedModel,
    calibration: Calibration,
    config: PruneConfig,
    seconds: dict[str, float],
) -> tuple[PreTrainedModel, ModelPlan]:
    """The pruned model and its plan; the time of each step is written to ``seconds``."""
    seconds.update(calibration.seconds)
    plan = timed(
        seconds,
        "allocation",
        lambda: distributed.run_on_main(lambda: plan_auto(model, calibration, config)),
    )
    pruned = timed(
        seconds,
        "compensation",
        lambda: apply_plan(
            model,
            plan,
            config.compensation,
            batches=calibration.batches,
            damping=config.damping,
            curvature=calibration.curvature,
            target=config.target,
            token_weights=calibration.token_weights,
        ),
    )
    return pruned, plan


def plan_auto(model: PreTrainedModel, calibration: Calibration, config: PruneConfig) -> ModelPlan:
    """The plan that loses least within the budget.

    Raises:
        OptionError: If the budget leaves nothing.
    """
    curves = calibration.curves
    encoder = Encoder(model)
    shapes = encoder.shapes

    def plan_for(share: float, cost: Cost) -> ModelPlan:
        choices = allocate(
            curves,
            cost,
            share * full_cost(curves, cost),
            removal="removal" in config.structures,
            low_rank="low_rank" in config.structures,
            groups="groups" in config.structures,
        )
        return make_allocated_plan(encoder.architecture.name, shapes, curves, choices)

    if config.sparsity is not None:
        return plan_for(1 - config.sparsity, Weights())
    if config.flops is not None:
        return plan_for(1 - config.flops, Flops())
    assert config.speedup is not None
    shape = config.speedup_batch_size, config.speedup_length
    target = DeploymentTarget(config.speedup_runtime, config.speedup_precision, random_inputs([model], *shape))
    in_pytorch = target.runtime == "pytorch"
    cost = measure_costs(model, *shape) if in_pytorch else fit_costs(model, curves, target, config.seed)
    return meet_speedup(model, config.speedup, lambda share: plan_for(share, cost), target)
