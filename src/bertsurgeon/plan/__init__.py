"""The plan: what each matrix of an encoder keeps, as plain data."""

from bertsurgeon.plan.channels import Channels, format_channels, parse_channels
from bertsurgeon.plan.model_plan import (
    ALL_ROLES,
    ROLES,
    SUB_LAYERS,
    LayerPlan,
    MatrixPlan,
    ModelPlan,
    Role,
    SubLayerName,
    dense_plan,
    fold_constants,
    sub_layer_of,
    sub_layers,
    unit_axis,
)
from bertsurgeon.plan.structures import Dense, Dropped, Grouped, LowRank, Structure, structure_from_dict
from bertsurgeon.plan.units import Units, unit_channels

__all__ = [
    "ALL_ROLES",
    "ROLES",
    "SUB_LAYERS",
    "Channels",
    "Dense",
    "Dropped",
    "Grouped",
    "LayerPlan",
    "LowRank",
    "MatrixPlan",
    "ModelPlan",
    "Role",
    "Structure",
    "SubLayerName",
    "Units",
    "dense_plan",
    "fold_constants",
    "format_channels",
    "parse_channels",
    "structure_from_dict",
    "sub_layer_of",
    "sub_layers",
    "unit_axis",
    "unit_channels",
]
