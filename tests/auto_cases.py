"""Calibrations, plans and costs that the tests of the method ``auto`` share."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon import AutoConfig, Calibration, Sparsity, calibrate
from bertsurgeon.architectures import Encoder
from bertsurgeon.methods.auto.candidates import Candidate, SubLayerCurve
from bertsurgeon.plan import ROLES, Dense, LayerPlan, LowRank, ModelPlan, Role, Structure, SubLayerName, Units

ONES: dict[SubLayerName, float] = {"attention": 1.0, "feed_forward": 1.0}
Batches = list[dict[str, Tensor]]
Factory = Callable[..., PreTrainedModel]
LogitsOf = Callable[[PreTrainedModel, dict[str, Tensor]], Tensor]


def calibrate_tiny(model: PreTrainedModel) -> Calibration:
    """Calibration on random tokens without padding."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(2, 100, (4, 8, 12), generator=generator)
    batches = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids]
    return calibrate(model, AutoConfig(Sparsity(0.5), damping=1e-2), batches)


def make_curve(half_error: float, dropped: float = 1.0) -> SubLayerCurve:
    """Feed-forward part of eight units with four inputs and outputs, which may keep four, eight or no units."""
    shapes: dict[Role, tuple[int, int]] = {"intermediate": (8, 4), "output": (4, 8)}
    half: dict[Role, tuple[int, int]] = {"intermediate": (4, 4), "output": (4, 4)}
    rank_errors: dict[Role, Tensor] = {role: torch.zeros(5, dtype=torch.float64) for role in shapes}
    candidates = (
        Candidate((tuple(range(4)),), half_error, half, rank_errors),
        Candidate((tuple(range(8)),), 0.0, shapes, rank_errors),
    )
    return SubLayerCurve(0, "feed_forward", 8, 1, dropped, candidates)


def plan_of(model: PreTrainedModel, units: dict[SubLayerName, Units], ranks: dict[Role, int]) -> ModelPlan:
    """Every layer with these units and ranks."""
    shapes = Encoder(model).shapes
    structures: dict[Role, Structure] = {role: LowRank(ranks[role]) if role in ranks else Dense() for role in ROLES}
    return ModelPlan(model.config.model_type, tuple(LayerPlan.build(shape, structures, units) for shape in shapes))
