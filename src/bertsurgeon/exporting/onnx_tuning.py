"""Rewrites of ONNX graphs that make ONNX Runtime faster; outputs do not change."""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from bertsurgeon.exporting.onnx_graph import add_constant, constant_array, insert, remove_if_unused

if TYPE_CHECKING:
    import onnx_ir as ir


def tune(model: "ir.Model") -> None:
    """Applies the rewrites that come last, before a graph is written.

    Args:
        model: Changed in place.
    """
    prevent_norm_fusion(model.graph)
    move_dequantization_after_lookup(model.graph)


def merge_products(model: "ir.Model") -> None:
    """Merges products that read the same value into one product, and splits its output.

    Query, key and value become one product; so do the first factors of their low ranks, and their blocks in aligned
    groups. Biases are added before the split. In fp32 this saves no time (``experiments/merged_products.py``). In INT8
    it does, because ONNX Runtime computes three products with a common quantized input in fp32.

    Args:
        model: Changed in place.
    """
    from onnx_ir.passes import common

    readers: dict[int, list[ir.Node]] = defaultdict(list)
    for node in model.graph:
        if node.op_type == "MatMul" and node.domain == "" and constant_array(node.inputs[1]) is not None:
            readers[id(node.inputs[0])].append(node)
    for nodes in readers.values():
        if len(nodes) > 1:
            _merge(model, nodes)
    common.RemoveUnusedNodesPass()(model)


def _merge(model: "ir.Model", nodes: "list[ir.Node]") -> None:
    import onnx_ir as ir

    name = "+".join(str(node.name) for node in nodes)
    x = nodes[0].inputs[0]
    weights = [weight for node in nodes if (weight := constant_array(node.inputs[1])) is not None]
    additions = [_find_bias(node) for node in nodes]
    old_outputs = [
        (node if addition is None else addition[0]).outputs[0] for node, addition in zip(nodes, additions, strict=True)
    ]
    widths = [weight.shape[1] for weight in weights]
    product = ir.node("MatMul", [x, add_constant(model.graph, f"{name}.weight", np.concatenate(weights, 1))])
    new_nodes = [product]
    merged = product.outputs[0]
    if any(addition is not None for addition in additions):
        biases = [
            np.zeros(width, np.float32) if addition is None else addition[1]
            for width, addition in zip(widths, additions, strict=True)
        ]
        addition_node = ir.node("Add", [merged, add_constant(model.graph, f"{name}.bias", np.concatenate(biases))])
        new_nodes.append(addition_node)
        merged = addition_node.outputs[0]
    sizes = add_constant(model.graph, f"{name}.sizes", np.array(widths, np.int64))
    split = ir.node("Split", [merged, sizes], {"axis": -1}, num_outputs=len(widths))
    new_nodes.append(split)
    for node in new_nodes:
        node.name = name if node is product else f"{name}.{node.op_type.lower()}"
        for index, output in enumerate(node.outputs):
            output.name = f"{node.name}.output.{index}"
            output.dtype = ir.DataType.FLOAT
    model.graph.insert_after(nodes[0], new_nodes)
    for old_output, new_output in zip(old_outputs, split.outputs, strict=True):
        new_output.shape = old_output.shape
        ir.convenience.replace_all_uses_with(old_output, new_output)


def _find_bias(node: "ir.Node") -> "tuple[ir.Node, np.ndarray[Any, Any]] | None":
    """Returns the addition of a constant vector, and the vector, if it is the only use of a product."""
    uses = node.outputs[0].uses()
    if len(uses) != 1:
        return None
    [(user, _)] = uses
    if user.op_type != "Add":
        return None
    for operand in user.inputs:
        value = constant_array(operand)
        if value is not None and value.ndim == 1:
            return user, value
    return None


def prevent_norm_fusion(graph: "ir.Graph") -> int:
    """Replaces ``Add`` before a LayerNorm by ``Sum``, which ONNX Runtime does not fuse with the norm.

    On CPUs the fused ``SkipLayerNormalization`` takes several times as long as an addition and a norm
    (``experiments/skip_norm.py``).

    Args:
        graph: Changed in place.

    Returns:
        The number of additions replaced.
    """
    count = 0
    for node in graph:
        addition = node.inputs[0].producer() if node.op_type == "LayerNormalization" and node.inputs[0] else None
        if addition is not None and addition.op_type == "Add" and addition.domain == "":
            addition.op_type = "Sum"
            count += 1
    return count


def move_dequantization_after_lookup(graph: "ir.Graph") -> int:
    """Looks up rows of INT8 tables before dequantization, so that a run does not dequantize the whole table.

    Args:
        graph: Changed in place.

    Returns:
        The number of lookups changed.
    """
    count = 0
    for node in list(graph):
        source = node.inputs[0].producer() if node.op_type == "Gather" and node.inputs[0] else None
        if source is None or source.op_type != "DequantizeLinear":
            continue
        values = [value for value in source.inputs if value is not None]
        arrays = [None if value.const_value is None else value.const_value.numpy() for value in values]
        axes = [each.attributes["axis"].as_int() if "axis" in each.attributes else 0 for each in (node, source)]
        if any(array is None for array in arrays) or axes != [0, 0] or len(source.outputs[0].uses()) != 1:
            continue
        integers, scales, *zero_points = (array for array in arrays if array is not None)
        if integers.ndim != 2 or scales.shape != integers.shape[:1] or any(np.any(zero) for zero in zero_points):
            continue
        look_up_integers(graph, node, integers, scales)
        graph.remove(source, safe=True)
        for value in values:
            remove_if_unused(graph, value)
        count += 1
    return count


def look_up_integers(
    graph: "ir.Graph", lookup: "ir.Node", integers: "np.ndarray[Any, Any]", scales: "np.ndarray[Any, Any]"
) -> None:
    """Replaces a lookup of rows by lookups of integers and scales, which are multiplied afterwards.

    Args:
        graph: Changed in place.
        lookup: A ``Gather`` of whole rows.
        integers: Shape (rows, columns).
        scales: Shape (rows,).
    """
    import onnx_ir as ir

    table, ids = lookup.inputs
    assert table is not None
    rows = insert(graph, lookup, "Gather", [add_constant(graph, f"{table.name}_int8", integers), ids])
    factors = insert(graph, lookup, "Gather", [add_constant(graph, f"{table.name}_scale", scales.reshape(-1, 1)), ids])
    floats = insert(graph, lookup, "Cast", [rows], {"to": ir.DataType.FLOAT.value})
    scaled = insert(graph, lookup, "Mul", [floats, factors])
    scaled.shape, scaled.dtype = lookup.outputs[0].shape, ir.DataType.FLOAT
    ir.convenience.replace_all_uses_with(lookup.outputs[0], scaled)
    graph.remove(lookup, safe=True)
