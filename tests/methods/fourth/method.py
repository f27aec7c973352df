"""``zero``: drops whole feed-forward parts from the last layer on, until the budget is met."""

from typing import Any

from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import make_batches
from bertsurgeon.checkpoint import attach_plan
from bertsurgeon.compensation import apply_plan
from bertsurgeon.methods.base import Method, PruneReport, PruneResult, check_dense
from bertsurgeon.plan import Dense, Dropped, LayerPlan, ModelPlan, sub_layer_of
from bertsurgeon.timings import Timings
from fourth.config import ZeroConfig


def prune_zero(model: Any, config: ZeroConfig, data: Any, tokenizer: Any = None, teacher: Any = None) -> PruneResult:
    """Prunes a dense model."""
    check_dense(model)
    timings, encoder = Timings(), Encoder(model)
    batches = make_batches(data, tokenizer, config.samples or 64, config.batch_size, config.seed)
    shapes = encoder.shapes
    dropped: set[int] = set()
    plan = _plan(encoder, shapes, dropped)
    for layer in reversed(range(config.first_layer, len(shapes))):
        if plan.sparsity >= config.budget.amount:
            break
        dropped.add(layer)
        plan = _plan(encoder, shapes, dropped)
    with timings.step("compensation"):
        pruned = apply_plan(model, plan, "sequential", batches=batches, damping=config.damping)
    attach_plan(pruned, plan)
    return PruneResult(pruned, PruneReport.build(plan, config, model, batches, timings))


def _plan(encoder: Encoder, shapes: Any, dropped: set[int]) -> ModelPlan:
    layers = []
    for index, layer in enumerate(shapes):
        structures = {
            role: Dropped() if index in dropped and sub_layer_of(role) == "feed_forward" else Dense() for role in layer
        }
        layers.append(LayerPlan.build(layer, structures, {}))
    return ModelPlan(encoder.architecture.name, tuple(layers))


ZERO = Method("zero", "drops feed-forward parts from the last layer on", ZeroConfig, prune_zero)
