"""INT8 as a model was trained for it: its own ranges and integers are written into the graph, nothing is calibrated.

Every matrix of the encoder multiplies bytes: its inputs are rounded by the range it was trained with, its weights are
the integers that training left. Embeddings are looked up as integers and scaled. What was not trained stays as it is.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel

from bertsurgeon.architectures import get_architecture
from bertsurgeon.checkpoint import InputRange, get_ranges
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
    architecture = get_architecture(model.config.model_type)
    by_name = {architecture.matrix_name(model, *key): found for key, found in ranges.items()}
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
        scale = _constant(traced, f"{node.name}.input_scale", np.float32(found.scale))
        zero = _constant(traced, f"{node.name}.input_zero_point", np.uint8(found.zero_point))
        (q,) = _insert(traced, node, "QuantizeLinear", [x, scale, zero])
        (rounded[id(x), found],) = _insert(traced, node, "DequantizeLinear", [q, scale, zero])
    integers, scales = quantize_rows(torch.from_numpy(weight.const_value.numpy().T.copy()))
    values = [
        _constant(traced, f"{node.name}.weight_int8", integers.numpy().T.copy()),
        _constant(traced, f"{node.name}.weight_scale", scales.clamp_min(torch.finfo(torch.float32).tiny).numpy()),
        _constant(traced, f"{node.name}.weight_zero_point", np.zeros(len(scales), np.int8)),
    ]
    (w,) = _insert(traced, node, "DequantizeLinear", values, {"axis": 1})
    node.replace_input_with(0, rounded[id(x), found])
    node.replace_input_with(1, w)
    _drop(traced, weight)


def _quantize_lookup(traced: "ir.Model", node: "ir.Node") -> None:
    """Looks up integers and scales instead of rows, where that says the same."""
    import onnx_ir as ir

    table, ids = node.inputs
    array = None if table is None or table.const_value is None else table.const_value.numpy()
    if array is None or array.dtype != np.float32 or array.ndim != 2 or not is_on_grid(torch.from_numpy(array)):
        return
    assert table is not None
    integers, scales = quantize_rows(torch.from_numpy(array))
    name = table.name
    (q,) = _insert(traced, node, "Gather", [_constant(traced, f"{name}_int8", integers.numpy()), ids])
    (s,) = _insert(traced, node, "Gather", [_constant(traced, f"{name}_scale", scales.unsqueeze(1).numpy()), ids])
    (x,) = _insert(traced, node, "Cast", [q], {"to": ir.DataType.FLOAT.value})
    (rows,) = _insert(traced, node, "Mul", [x, s])
    rows.shape, rows.dtype = node.outputs[0].shape, ir.DataType.FLOAT
    ir.convenience.replace_all_uses_with(node.outputs[0], rows)
    traced.graph.remove(node, safe=True)
    _drop(traced, table)


def _insert(
    traced: "ir.Model",
    before: "ir.Node",
    op: str,
    inputs: "Sequence[ir.Value | None]",
    attributes: dict[str, Any] | None = None,
) -> "tuple[ir.Value, ...]":
    import onnx_ir as ir

    node = ir.node(op, inputs, attributes or {})
    node.name = f"{before.name}.{op.lower()}.{len(traced.graph)}"
    node.outputs[0].name = f"{node.name}.output"
    traced.graph.insert_before(before, node)
    return tuple(node.outputs)


def _constant(traced: "ir.Model", name: str, array: "np.ndarray[Any, Any] | np.generic") -> "ir.Value":
    import onnx_ir as ir

    tensor = ir.tensor(np.asarray(array), name=name)
    value = ir.Value(name=name, shape=ir.Shape(np.shape(array)), type=ir.TensorType(tensor.dtype), const_value=tensor)
    traced.graph.register_initializer(value)
    return value


def _drop(traced: "ir.Model", value: "ir.Value") -> None:
    """Takes an initializer that nobody reads any more out of the file."""
    if not value.uses():
        traced.graph.initializers.pop(str(value.name), None)
