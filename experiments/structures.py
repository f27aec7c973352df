"""How much each structure loses on single matrices, and on single sub-layers of a fine-tuned model.

    python experiments/structures.py --model runs/cola-0 --task cola --data-dir ../shared/data/glue

Single matrices: the share of the output's variance that is lost at a share of the weights, each structure with its best
weights. Single sub-layers: the divergence KL(dense ‖ pruned) on 512 training texts that are not calibrated on, with one
attention (or feed-forward part) replaced and everything else dense, mean over the layers.
"""

import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Statistics, collect_statistics, make_batches
from bertsurgeon.compensation import apply_plan, sqrt_metric
from bertsurgeon.compensation.solve import reduce_rank
from bertsurgeon.errors import OptionError
from bertsurgeon.methods.auto.costs import Weights
from bertsurgeon.methods.auto.curves import measure_curves
from bertsurgeon.methods.auto.groups import group_error
from bertsurgeon.methods.auto.removal import greedy_removal
from bertsurgeon.methods.auto.search import allocate, full_cost, make_allocated_plan
from bertsurgeon.methods.pgb.permutation import Grouping, find_groups
from bertsurgeon.plan import ROLES, SUB_LAYERS, Dense, Dropped, Grouped, LayerPlan, ModelPlan, Role, SubLayerName
from lib.common import make_task_parser, parse_arguments
from lib.factorizations import fewer_dimensions, relative_error, shared_factor, shuffled_blocks
from lib.models import Probe
from lib.results_store import ResultsStore

SHARES = (0.5, 0.25, 0.12)
DAMPING = 1e-3
SIZE = 768
"""Width of the synthetic matrices: BERT-base's."""


def slug(name: str) -> str:
    """Returns a name without spaces and punctuation."""
    return re.sub(r"\W+", "-", name).strip("-")


def single_matrix(weight: Tensor, covariance: Tensor, share: float) -> dict[str, float]:
    """Returns the error of each structure on one matrix, as a share of the output's variance."""
    out, inside = weight.shape
    plain = torch.ones(out, dtype=torch.float64)
    whole = float((weight @ covariance * weight).sum())
    rank = max(4, round(share * out * inside / (out + inside) / 4) * 4)
    removal = greedy_removal(weight, covariance, 1, DAMPING)
    energy = (weight.square() * covariance.diagonal()).numpy()
    errors = {
        "inputs removed": float(removal.errors[round((1 - share) * inside)]) / whole,
        "low rank": relative_error(weight, reduce_rank(weight, rank, covariance, 0.0, None), covariance, plain),
        "shuffled blocks": relative_error(
            weight, shuffled_blocks(weight, covariance, plain, rank, 4), covariance, plain
        ),
    }
    groups = round(1 / share)
    names: tuple[Grouping, ...] = ("sort", "assign")
    for name in names:
        parts = find_groups(energy, groups, name, 6, np.random.default_rng(0))
        structure = Grouped(*(tuple(tuple(map(int, group)) for group in part) for part in parts))
        errors[f"groups ({name})"] = group_error(weight, plain, covariance, structure, DAMPING) / whole
    return errors


def synthetic_matrices(trained: dict[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Makes matrices of BERT-base's width: random, with planted groups, and with trained spectra."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def rotation() -> Tensor:
        return torch.linalg.qr(normal(SIZE, SIZE)).Q

    def stretched(values: Tensor) -> Tensor:
        """Returns the same curve of values, interpolated to the size of the matrix."""
        positions = np.linspace(0, 1, SIZE)
        return torch.from_numpy(np.interp(positions, np.linspace(0, 1, len(values)), values.numpy()))

    white = torch.eye(SIZE, dtype=torch.float64)
    planted = 0.1 * normal(SIZE, SIZE)
    for rows in torch.arange(SIZE).chunk(4):
        planted[rows[:, None], rows] = normal(len(rows), len(rows))
    order, other = (torch.randperm(SIZE, generator=generator) for _ in range(2))
    made = {
        "random, white inputs": (normal(SIZE, SIZE), white),
        "four hidden groups and a tenth of noise, white inputs": (planted[order][:, other], white),
    }
    for name, (weight, covariance) in trained.items():
        values = stretched(torch.linalg.eigvalsh(covariance).clamp_min(1e-9))
        basis = rotation()
        inputs = basis * values @ basis.T
        made[f"random, inputs as of {name}"] = normal(SIZE, SIZE), inputs
        spectrum = stretched(torch.linalg.svdvals(weight @ sqrt_metric(covariance, 1e-6)[0]))
        safe = values.clamp_min(1e-3 * float(values.mean()))  # bounds the weights in directions with almost no variance
        inverse = basis / safe.sqrt() @ basis.T
        made[f"spectra of {name}"] = (rotation() * spectrum @ rotation()) @ inverse, inputs
    return made


class CalibratedProbe(Probe):
    """A probe of a model with its calibration statistics and error curves."""

    def __init__(self, folder: str, task: str, data_dir: Any, seed: int) -> None:
        super().__init__(folder, task, data_dir, seed)
        self.encoder = Encoder(self.model)
        batches = make_batches(self.train.remove_columns("labels"), self.tokenizer, None, 32, seed)
        self.statistics: Statistics = collect_statistics(
            self.model, batches, gradients=False, curvature=True, moments=True, seed=seed
        )
        self.curves = measure_curves(self.model, self.statistics, DAMPING, chunk=1)

    def weight(self, layer: int, role: Role) -> Tensor:
        """Returns one dense matrix, fp64."""
        return self.encoder.weight(layer, role).double()

    def metric(self, layer: int, role: Role) -> Tensor:
        """Returns the sensitivity of the loss to errors of the matrix's output."""
        return self.statistics.curvature[layer, role]

    def searched(self, layer: int, sub_layer: SubLayerName, share: float, **allowed: bool) -> PreTrainedModel:
        """Returns the model with one sub-layer pruned as ``auto`` does at this share."""
        [curve] = [curve for curve in self.curves if (curve.layer, curve.sub_layer) == (layer, sub_layer)]
        choices = allocate([curve], Weights(), share * full_cost([curve], Weights()), **allowed)
        plan = make_allocated_plan(self.encoder.architecture.name, self.encoder.shapes, [curve], choices)
        layer_plan = plan.layers[layer]
        structures = {role: layer_plan.matrices[role].structure for role in SUB_LAYERS[curve.sub_layer]}
        return self.compensated(layer, structures, layer_plan.units)

    def dropped(self, layer: int, sub_layer: SubLayerName) -> PreTrainedModel:
        """Returns the model without one sub-layer."""
        return self.compensated(layer, dict.fromkeys(SUB_LAYERS[sub_layer], Dropped()), None)

    def compensated(self, layer: int, structures: dict[Role, Any], units: Any) -> PreTrainedModel:
        """Returns the model with these structures in one layer, and everything else dense."""
        layers = []
        for index, shape in enumerate(self.encoder.shapes):
            dense: dict[Role, Any] = dict.fromkeys(ROLES, Dense())
            chosen = index == layer
            layers.append(LayerPlan.build(shape, dense | structures if chosen else dense, units if chosen else None))
        return apply_plan(
            self.model,
            ModelPlan(self.encoder.architecture.name, tuple(layers)),
            "independent",
            moments=self.statistics.moments,
            damping=DAMPING,
            curvature=self.statistics.curvature,
        )

    def replaced(
        self, layer: int, weights: dict[Role, Tensor], biases: dict[Role, Tensor] | None = None
    ) -> PreTrainedModel:
        """Returns the model with these weights; biases that are not given keep the mean of each matrix's output."""
        model = deepcopy(self.model)
        for role, new in weights.items():
            matrix = Encoder(model).linear(layer, role)
            mean = self.statistics.moments[layer, role].mean
            bias = (biases or {}).get(role, matrix.bias.detach().double() + (self.weight(layer, role) - new) @ mean)
            with torch.no_grad():
                matrix.weight.copy_(new)
                matrix.bias.copy_(bias)
        return model


def attention_candidates(probe: CalibratedProbe, layer: int, share: float) -> dict[str, Callable[[], PreTrainedModel]]:
    first: list[Role] = ["query", "key", "value"]
    everything: list[Role] = [*first, "attention_output"]
    moments = probe.statistics.moments
    inputs, contexts = (moments[layer, role].covariance for role in ("query", "attention_output"))
    weights = {role: probe.weight(layer, role) for role in everything}
    metrics = {role: probe.metric(layer, role) for role in everything}
    size = len(inputs)
    total = share * 4 * size**2

    def covariance(role: Role) -> Tensor:
        return contexts if role == "attention_output" else inputs

    def reduced(ranks: dict[Role, int]) -> dict[Role, Tensor]:
        shift = DAMPING * float(inputs.diagonal().mean())
        return {
            role: reduce_rank(weights[role], rank, covariance(role), shift, metrics[role])
            for role, rank in ranks.items()
        }

    def even() -> PreTrainedModel:
        return probe.replaced(layer, reduced(dict.fromkeys(everything, int(total / 8 / size))))

    def shared() -> PreTrainedModel:
        """Gives query, key and value one bottleneck; the output has the rank that the remaining weights allow."""
        errors = shared_factor([weights[r] for r in first], inputs, [metrics[r] for r in first], 1)[1]
        [curve] = [curve for curve in probe.curves if (curve.layer, curve.sub_layer) == (layer, "attention")]
        tail = curve.candidates[-1].rank_errors["attention_output"]
        ranks = range(8, int(total / 4 / size), 8)
        output_ranks = {rank: min(int((total - 4 * size * rank) / 2 / size), size // 2) for rank in ranks}
        rank = min(ranks, key=lambda rank: float(errors[rank] + tail[output_ranks[rank]]))
        new, _ = shared_factor([weights[r] for r in first], inputs, [metrics[r] for r in first], rank)
        return probe.replaced(
            layer, {**dict(zip(first, new, strict=True)), **reduced({"attention_output": output_ranks[rank]})}
        )

    def dimensions() -> PreTrainedModel:
        matrix = probe.encoder.linear(layer, "query")
        mean = moments[layer, "query"].mean
        width = probe.encoder.head_width
        new, bias, *_ = fewer_dimensions(
            weights, matrix.bias.detach().double(), mean, inputs, contexts, metrics, width, int(total / 2 / size)
        )
        return probe.replaced(layer, new, {"query": bias})

    def blocks() -> PreTrainedModel:
        rank = int(total / 8 / size / 4) * 4
        return probe.replaced(
            layer, {r: shuffled_blocks(weights[r], covariance(r), metrics[r], rank, 4) for r in everything}
        )

    def constant_scores() -> PreTrainedModel:
        """Removes query and key, so that attention is uniform; the saved weights go to value and output."""
        zeros: dict[Role, Tensor] = {role: torch.zeros_like(weights[role]) for role in ("query", "key")}
        rank = int(total / 4 / size)
        rest = {} if 2 * rank >= size else reduced({"value": rank, "attention_output": rank})
        return probe.replaced(layer, {**zeros, **rest})

    def search(**allowed: bool) -> Callable[[], PreTrainedModel]:
        return lambda: probe.searched(layer, "attention", share, **allowed)

    return {
        "heads removed": search(low_rank=False, groups=False),
        "low rank, the same for all four": even,
        "low rank, each its own": search(removal=False, groups=False),
        "low rank, one bottleneck for query, key and value": shared,
        "heads of fewer dimensions": dimensions,
        "no query and key": constant_scores,
        "shuffled blocks (Monarch)": blocks,
        "aligned groups": search(removal=False, low_rank=False),
        "heads removed and low rank (auto)": search(groups=False),
    }


def feed_forward_candidates(
    probe: CalibratedProbe, layer: int, share: float
) -> dict[str, Callable[[], PreTrainedModel]]:
    roles: tuple[Role, Role] = ("intermediate", "output")

    def blocks() -> PreTrainedModel:
        new: dict[Role, Tensor] = {}
        for role in roles:
            weight, inputs = probe.weight(layer, role), probe.statistics.moments[layer, role].covariance
            rank = int(share * weight.numel() / sum(weight.shape) / 4) * 4
            new[role] = shuffled_blocks(weight, inputs, probe.metric(layer, role), rank, 4)
        return probe.replaced(layer, new)

    def search(**allowed: bool) -> Callable[[], PreTrainedModel]:
        return lambda: probe.searched(layer, "feed_forward", share, **allowed)

    return {
        "neurons removed": search(low_rank=False, groups=False),
        "low rank, each its own": search(removal=False, groups=False),
        "shuffled blocks (Monarch)": blocks,
        "aligned groups": search(removal=False, low_rank=False),
        "neurons removed and low rank (auto)": search(groups=False),
    }


def replace(probe: CalibratedProbe, layer: int, sub_layer: SubLayerName, make: Callable[[], PreTrainedModel]) -> float:
    """Returns the divergence with one candidate; it drops the sub-layer if no structure fits the share."""
    try:
        return probe.divergence(make())
    except OptionError:
        return probe.divergence(probe.dropped(layer, sub_layer))


def main() -> None:
    arguments = parse_arguments(make_task_parser(__doc__))
    results = ResultsStore("structures", arguments)
    probe = CalibratedProbe(arguments.model, arguments.task, arguments.data_dir, arguments.seed)
    layers = range(len(probe.encoder.layers))
    candidates: dict[SubLayerName, Any] = {
        "attention": attention_candidates,
        "feed_forward": feed_forward_candidates,
    }
    for sub_layer, make in candidates.items():
        for share in SHARES:
            for name in make(probe, 0, share):
                results.run(
                    f"{arguments.task}/{sub_layer}-{share:g}/{slug(name)}",
                    lambda n=name, s=sub_layer, m=make, k=share: {
                        "divergences": [replace(probe, layer, s, m(probe, layer, k)[n]) for layer in layers]
                    },
                    {"task": arguments.task, "sub_layer": sub_layer, "share": share, "structure": name},
                )
    middle = len(layers) // 2
    trained: dict[str, tuple[Tensor, Tensor]] = {
        f"a trained {role.replace('_', ' ')} matrix": (
            probe.weight(middle, role),
            probe.statistics.moments[middle, role].covariance,
        )
        for role in SUB_LAYERS["attention"]
        if role != "key"
    }
    matrices = {**trained, **synthetic_matrices(trained)}
    for name, (weight, covariance) in matrices.items():
        for share in (0.5, 0.25):
            results.run(
                f"matrices/{slug(name)}-{share:g}",
                lambda w=weight, c=covariance, k=share: {"lost": single_matrix(w, c, k)},
                {"matrix": name, "size": list(weight.shape), "share": share},
            )


if __name__ == "__main__":
    main()
