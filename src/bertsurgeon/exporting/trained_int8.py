"""INT8 as a model was trained for it: its own ranges and integers are written into the graph, nothing is calibrated.

Every matrix of the encoder multiplies bytes: its inputs are rounded by the range it was trained with, its weights are
the integers that training left. Embeddings are looked up as integers and scaled. What was not trained stays as it is.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.checkpoint import InputRange, get_ranges
from bertsurgeon.exporting.onnx_edit import constant, drop_unread, insert, look_up_integers
from bertsurgeon.layers import is_on_grid, quantize_rows

if TYPE_CHECKING:
    import onnx_ir as ir


def quantize_as_trained(traced: "ir.Model", model: PreTrainedModel) -> int:
    """Rewrites a traced graph, in place.

    Args:
        traced: In floating point, with named products (:func:`bertsurgeon.exporting.onnx_graph.trace`).
        model: With ranges in its configuration.

    Returns:
        The number of products that multiply bytes.
    """
    ranges = get_ranges(model)
    assert ranges is not None
    encoder = Encoder(model)
    by_name = {encoder.matrix_name(*key): found for key, found in ranges.items()}
    rounded: dict[tuple[int, InputRange], ir.Value] = {}
    count = 0
    for node in list(traced.graph):
        names = str(node.name).split("+")  # products that read the same value were made one
        if node.op_type == "MatMul" and names[0] in by_name:
            _quantize_product(traced, node, by_name[names[0]], rounded)
            count += 1
        elif node.op_type == "Gather":
            _quantize_lookup(traced, node)
    return count


def _quantize_product(
    traced: "ir.Model", node: "ir.Node", found: InputRange, rounded: "dict[tuple[int, InputRange], ir.Value]"
) -> None:
    x, weight = node.inputs
    assert x is not None
    assert weight is not None
    assert weight.const_value is not None
    if (id(x), found) not in rounded:
        scale = constant(traced.graph, f"{node.name}.input_scale", np.float32(found.scale))
        zero = constant(traced.graph, f"{node.name}.input_zero_point", np.uint8(found.zero_point))
        q = insert(traced.graph, node, "QuantizeLinear", [x, scale, zero])
        rounded[id(x), found] = insert(traced.graph, node, "DequantizeLinear", [q, scale, zero])
    integers, scales = quantize_rows(torch.from_numpy(weight.const_value.numpy().T.copy()))
    values = [
        constant(traced.graph, f"{node.name}.weight_int8", integers.numpy().T.copy()),
        constant(traced.graph, f"{node.name}.weight_scale", scales.clamp_min(torch.finfo(torch.float32).tiny).numpy()),
        constant(traced.graph, f"{node.name}.weight_zero_point", np.zeros(len(scales), np.int8)),
    ]
    w = insert(traced.graph, node, "DequantizeLinear", values, {"axis": 1})
    node.replace_input_with(0, rounded[id(x), found])
    node.replace_input_with(1, w)
    drop_unread(traced.graph, weight)


def _quantize_lookup(traced: "ir.Model", node: "ir.Node") -> None:
    """Looks up integers and scales instead of rows, where that says the same."""
    table = node.inputs[0]
    array = None if table is None or table.const_value is None else table.const_value.numpy()
    if array is None or array.dtype != np.float32 or array.ndim != 2 or not is_on_grid(torch.from_numpy(array)):
        return
    assert table is not None
    integers, scales = quantize_rows(torch.from_numpy(array))
    look_up_integers(traced.graph, node, integers.numpy(), scales.numpy())
    drop_unread(traced.graph, table)
