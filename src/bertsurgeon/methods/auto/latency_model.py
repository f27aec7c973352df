"""What parts of an encoder cost where it will run: small random encoders are timed there, and the costs fitted.

Runtimes fuse products with what is around them (quantization, biases, activations), so that none can be timed alone.
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

TRIALS = 16
"""Encoders that are timed; a cost has seven unknown parts, and the rest of the model is the eighth."""

LAYERS = 2
"""Layers that an encoder has, the others being empty."""

DROPPED = 0.2
"""Share of its sub-layers that are dropped."""

LOW_RANK = 0.6
"""Share of its matrices that are of low rank."""

WORDS = 1000
"""That it knows."""

_RUNS = 15
_PARTS = 7


@dataclass(frozen=True)
class DeploymentTarget:
    """Where a model will run.

    Attributes:
        runtime: ``pytorch``, ``onnx`` or ``openvino``.
        precision: What it computes in there.
        batch: What it is timed on.
    """

    runtime: SpeedupRuntime
    precision: Precision
    batch: Batch

    def open(self, model: PreTrainedModel, plan: ModelPlan | None = None) -> Runnable:
        """The model there; pruned by a plan, it has the right shapes and random weights."""
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
    place: DeploymentTarget,
    seed: int = 0,
) -> FittedMilliseconds:
    """Times some encoders, each with a few layers, of random shapes, and fits what their parts cost.

    Args:
        model: The dense model.
        curves: What sub-layers may keep.
        place: Where to time.
        seed: Of the shapes.

    Raises:
        ExportError: If the model cannot be brought there.
    """
    choose = random.Random(seed)
    encoder = Encoder(model)
    shapes = encoder.shapes
    plans = [
        make_allocated_plan(encoder.architecture.name, shapes, curves, [_draw(curve, choose) for curve in curves])
        for _ in range(TRIALS)
    ]
    model, place = _forget_words(model, place)
    models = {
        str(number): place.open(model, plan)
        for number, plan in enumerate(progress.track(plans, "Building encoders to be timed"))
    }
    latencies = time_batches(models, [place.batch], _RUNS)
    return fit(plans, [latencies[name].p50_ms for name in models])


def fit(plans: Sequence[ModelPlan], milliseconds: Sequence[float]) -> FittedMilliseconds:
    """The costs, none of them negative, that explain the times with the smallest relative squared error.

    Args:
        plans: Of the models that were timed.
        milliseconds: Each one's time; what is not the encoder's takes the same time in all of them.
    """
    parts = [_cost_of(part) for part in np.eye(_PARTS)]
    times = np.asarray(milliseconds)
    counts = np.asarray([[1.0, *(plan_cost(plan, part) for part in parts)] for plan in plans])
    scale = np.maximum(counts.max(0), 1)  # counts are of one product and of millions of weights
    found, _ = nnls(counts / scale / times[:, None], np.ones(len(times)))
    return _cost_of((found / scale)[1:])


def _cost_of(values: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]]) -> FittedMilliseconds:
    product, weight, inputs, outputs, sub_layer, attention, feed_forward = map(float, values)
    return FittedMilliseconds(
        product,
        weight,
        inputs,
        outputs,
        {"attention": sub_layer, "feed_forward": sub_layer},
        {"attention": attention, "feed_forward": feed_forward},
    )


def _forget_words(model: PreTrainedModel, place: DeploymentTarget) -> tuple[PreTrainedModel, DeploymentTarget]:
    """A copy that knows few words, and a batch of them: tables of words take memory, not time."""
    table = model.get_input_embeddings()
    if not isinstance(table, nn.Embedding) or table.num_embeddings <= WORDS:
        return model, place
    few = nn.Embedding(WORDS, table.embedding_dim, device=model.device, dtype=model.dtype)
    model = deepcopy(model)
    model.set_input_embeddings(few)
    return model, replace(place, batch={**place.batch, "input_ids": place.batch["input_ids"] % WORDS})


def _draw(curve: SubLayerCurve, choose: random.Random) -> Choice:
    """Some of a sub-layer's units, some of its matrices in a low rank; nothing of some, and of most layers."""
    if curve.layer >= LAYERS or choose.random() < DROPPED:
        return Choice(None, {}, 0, 0)
    option = choose.choice(curve.options)
    ranks: dict[Role, int | None] = dict.fromkeys(option.shapes)
    for role, (outputs, inputs) in option.shapes.items():
        most = outputs * inputs // (outputs + inputs)  # of more, two factors are larger than the matrix
        if most > 1 and choose.random() < LOW_RANK:
            ranks[role] = choose.randint(1, most)
    return Choice(option, ranks, 0, 0)
