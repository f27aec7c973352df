"""What all ways of compensation share: the dense model's matrices, and which of them a plan changes."""

from typing import Literal

from torch import Tensor

from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import MatrixKey
from bertsurgeon.plan import Channels, Dense, LayerPlan, Role, sub_layer_of

Target = Literal["dense", "residual"]
Curvature = dict[MatrixKey, Tensor]
TokenWeights = dict[MatrixKey, list[Tensor]]


def is_changed(layer: LayerPlan, role: Role) -> bool:
    """Whether a matrix loses anything (or its channels change their order)."""
    return not isinstance(layer.matrices[role].structure, Dense) or sub_layer_of(role) in layer.units


def dense_matrix(encoder: Encoder, layer: int, role: Role, rows: Channels | None = None) -> tuple[Tensor, Tensor]:
    """Weight and bias of one matrix of the dense model (a missing bias is zero), or some of their rows."""
    matrix = encoder.linear(layer, role)
    weight = matrix.weight.detach()
    bias = weight.new_zeros(len(weight)) if matrix.bias is None else matrix.bias.detach()
    return (weight, bias) if rows is None else (weight[list(rows)], bias[list(rows)])


def rows_of(metric: Tensor | None, rows: Channels | None) -> Tensor | None:
    """The part of a metric, shape (out, out) or its diagonal (out,), that belongs to the stored outputs."""
    if metric is None or rows is None:
        return metric
    part = metric[list(rows)]
    return part if metric.dim() == 1 else part[:, list(rows)]
