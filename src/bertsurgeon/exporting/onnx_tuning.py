"""What ONNX Runtime computes slowly, said in a way that it computes fast. Outputs stay the same."""

from typing import TYPE_CHECKING

import numpy as np

from bertsurgeon.exporting.onnx_edit import drop_unread, look_up_integers

if TYPE_CHECKING:
    import onnx_ir as ir


def tune(model: "ir.Model") -> None:
    """All of it, in place, as the last step before a graph is written."""
    keep_norms_apart(model.graph)
    look_up_bytes(model.graph)


def keep_norms_apart(graph: "ir.Graph") -> int:
    """Adds what a LayerNorm reads by ``Sum`` instead of ``Add``, which ONNX Runtime does not fuse with the norm.

    On CPUs its fused ``SkipLayerNormalization`` takes several times as long as an addition and a norm
    (``experiments/skip_norm.py``).

    Returns:
        The number of sums.
    """
    count = 0
    for node in graph:
        added = node.inputs[0].producer() if node.op_type == "LayerNormalization" and node.inputs[0] else None
        if added is not None and added.op_type == "Add" and added.domain == "":
            added.op_type = "Sum"
            count += 1
    return count


def look_up_bytes(graph: "ir.Graph") -> int:
    """Looks up rows of INT8 tables before they are made floats: otherwise the whole table is, in every run.

    Returns:
        The number of tables.
    """
    count = 0
    for node in list(graph):
        made = node.inputs[0].producer() if node.op_type == "Gather" and node.inputs[0] else None
        if made is None or made.op_type != "DequantizeLinear":
            continue
        arrays = [None if one is None or one.const_value is None else one.const_value.numpy() for one in made.inputs]
        axes = [one.attributes["axis"].as_int() if "axis" in one.attributes else 0 for one in (node, made)]
        if any(array is None for array in arrays) or axes != [0, 0] or len(made.outputs[0].uses()) != 1:
            continue
        integers, scales, *zeros = (array for array in arrays if array is not None)
        if integers.ndim != 2 or scales.shape != integers.shape[:1] or any(np.any(zero) for zero in zeros):
            continue
        read = [value for value in made.inputs if value is not None]
        look_up_integers(graph, node, integers, scales)
        graph.remove(made, safe=True)
        for value in read:
            drop_unread(graph, value)
        count += 1
    return count
