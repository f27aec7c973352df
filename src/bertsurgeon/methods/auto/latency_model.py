"""Latency model of a runtime: small random encoders are timed where the model will run, and costs of parts are fitted.

Runtimes fuse products with their surroundings (quantization, biases, activations), so that none can be timed alone.
"""

import random
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn
from transformers import PreTrainedModel

from bertsurgeon import progress
from bertsurgeon.architectures import Encoder
from bertsurgeon.benchmark import Runnable, time_batches
from bertsurgeon.budgets import SpeedupRuntime
from bertsurgeon.calibration import Batch
from bertsurgeon.checkpoint import attach_plan
from bertsurgeon.exporting import ExportConfig, open_for_timing
from bertsurgeon.layers import install_plan
from bertsurgeon.methods.auto.candidates import SubLayerCurve
from bertsurgeon.methods.auto.costs import FittedMilliseconds, plan_cost
from bertsurgeon.methods.auto.search import Choice, make_allocated_plan
from bertsurgeon.plan import ModelPlan, Role
from bertsurgeon.runtime import Precision

PROBES = 16
"""Encoders that are timed; the model has seven unknown costs, and the time outside the encoder is the eighth."""

PROBE_LAYERS = 2
"""Layers of these encoders that are not empty."""

PROBE_DROPPED = 0.2
"""Share of their sub-layers that are dropped."""

PROBE_LOW_RANK = 0.6
"""Share of their matrices that have a low rank."""

PROBE_VOCAB_SIZE = 1000
"""Vocabulary size of the encoders that are timed."""

_RUNS = 15
_UNKNOWNS = 7


@dataclass(frozen=True)
class DeploymentTarget:
    """Where a model will run, and the batch that it is timed on.

    Attributes:
        runtime: ``pytorch``, ``onnx`` or ``openvino``.
        precision: Precision of the runtime's computations.
        batch: One batch of model inputs.
    """

    runtime: SpeedupRuntime
    precision: Precision
    batch: Batch

    def open(self, model: PreTrainedModel, plan: ModelPlan | None = None) -> Runnable:
        """Opens a model in the runtime.

        Args:
            model: The dense model.
            plan: Shapes of a pruned model, which gets random weights; None opens the dense model itself.
        """
        if plan is not None:
            model = deepcopy(model)
            install_plan(model, plan)
            attach_plan(model, plan)
            generator = torch.Generator(model.device).manual_seed(0)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.normal_(std=0.02, generator=generator)
        if self.runtime == "pytorch":
            return model
        return open_for_timing(model, ExportConfig(self.runtime, self.precision), self.batch)


def fit_costs(
    model: PreTrainedModel,
    curves: list[SubLayerCurve],
    target: DeploymentTarget,
    seed: int = 0,
    probes: int | None = None,
) -> FittedMilliseconds:
    """Times encoders with few layers of random shapes, and fits the costs of their parts.

    Args:
        model: The dense model.
        curves: Curves of all sub-layers; their candidates are the shapes that are drawn.
        target: Where the encoders are timed.
        seed: Fixes the shapes.
        probes: Encoders that are timed; None for ``PROBES``.

    Raises:
        ExportError: If the model cannot be exported to the runtime.
    """
    generator = random.Random(seed)
    encoder = Encoder(model)
    shapes = encoder.shapes
    plans = [
        make_allocated_plan(encoder.architecture.name, shapes, curves, [_draw(curve, generator) for curve in curves])
        for _ in range(probes or PROBES)
    ]
    model, target = _shrink_vocabulary(model, target)
    models = {
        str(number): target.open(model, plan)
        for number, plan in enumerate(progress.track(plans, "Building encoders to be timed"))
    }
    latencies = time_batches(models, [target.batch], _RUNS)
    return fit(plans, [latencies[name].p50_ms for name in models])


def fit(plans: Sequence[ModelPlan], milliseconds: Sequence[float]) -> FittedMilliseconds:
    """Fits non-negative costs to measured times, with the smallest relative squared error.

    Args:
        plans: Plans of the encoders that were timed.
        milliseconds: Time of each; what is outside the encoder takes the same time in all of them.
    """
    units = [_as_cost(unit) for unit in np.eye(_UNKNOWNS)]
    times = np.asarray(milliseconds)
    counts = np.asarray([[1.0, *(plan_cost(plan, unit) for unit in units)] for plan in plans])
    scale = np.maximum(counts.max(0), 1)  # counts reach from one product to millions of weights
    solution, _ = nnls(counts / scale / times[:, None], np.ones(len(times)))
    return _as_cost((solution / scale)[1:])


def _as_cost(values: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]]) -> FittedMilliseconds:
    product, weight, inputs, outputs, sub_layer, attention, feed_forward = map(float, values)
    return FittedMilliseconds(
        product,
        weight,
        inputs,
        outputs,
        {"attention": sub_layer, "feed_forward": sub_layer},
        {"attention": attention, "feed_forward": feed_forward},
    )


def _shrink_vocabulary(model: PreTrainedModel, target: DeploymentTarget) -> tuple[PreTrainedModel, DeploymentTarget]:
    """Copy with a small embedding table, and a matching batch; the table's size affects memory, not latency."""
    table = model.get_input_embeddings()
    if not isinstance(table, nn.Embedding) or table.num_embeddings <= PROBE_VOCAB_SIZE:
        return model, target
    small = nn.Embedding(PROBE_VOCAB_SIZE, table.embedding_dim, device=model.device, dtype=model.dtype)
    model = deepcopy(model)
    model.set_input_embeddings(small)
    return model, replace(target, batch={**target.batch, "input_ids": target.batch["input_ids"] % PROBE_VOCAB_SIZE})


def _draw(curve: SubLayerCurve, generator: random.Random) -> Choice:
    """Draws units and ranks for a sub-layer; some sub-layers, and all of the later layers, are dropped."""
    if curve.layer >= PROBE_LAYERS or generator.random() < PROBE_DROPPED:
        return Choice(None, {}, 0, 0)
    candidate = generator.choice(curve.candidates)
    ranks: dict[Role, int | None] = dict.fromkeys(candidate.shapes)
    for role, (outputs, inputs) in candidate.shapes.items():
        largest = outputs * inputs // (outputs + inputs)  # the factors of a larger rank have more weights
        if largest > 1 and generator.random() < PROBE_LOW_RANK:
            ranks[role] = generator.randint(1, largest)
    return Choice(candidate, ranks, 0, 0)
