"""Inserting nodes and constants into an ONNX graph."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertsurgeon.errors import ExportError

if TYPE_CHECKING:
    import onnx_ir as ir

LARGEST = 2**31 - 2**20
"""Bytes of weights in one file: protocol buffers end at 2 GiB."""


def insert(
    graph: "ir.Graph",
    before: "ir.Node",
    op: str,
    inputs: "Sequence[ir.Value | None]",
    attributes: dict[str, Any] | None = None,
) -> "ir.Value":
    """Puts a node with one output before another, and returns the output."""
    import onnx_ir as ir

    node = ir.node(op, inputs, attributes or {})
    node.name = f"{before.name}.{op.lower()}.{len(graph)}"
    node.outputs[0].name = f"{node.name}.output"
    graph.insert_before(before, node)
    return node.outputs[0]


def constant(graph: "ir.Graph", name: str, array: "np.ndarray[Any, Any] | np.generic") -> "ir.Value":
    """Registers an initializer."""
    import onnx_ir as ir

    tensor = ir.tensor(np.asarray(array), name=name)
    value = ir.Value(name=name, shape=ir.Shape(np.shape(array)), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def drop_unread(graph: "ir.Graph", value: "ir.Value") -> None:
    """Takes an initializer that nobody reads any more out of the graph."""
    if not value.uses():
        graph.initializers.pop(str(value.name), None)


def look_up_integers(
    graph: "ir.Graph", lookup: "ir.Node", integers: "np.ndarray[Any, Any]", scales: "np.ndarray[Any, Any]"
) -> None:
    """Makes a lookup of rows one of integers and of their scales, which are multiplied afterwards.

    Args:
        graph: Rewritten in place.
        lookup: A ``Gather`` of whole rows.
        integers: Shape (rows, columns).
        scales: One for each row.
    """
    import onnx_ir as ir

    table, ids = lookup.inputs
    assert table is not None
    rows = insert(graph, lookup, "Gather", [constant(graph, f"{table.name}_int8", integers), ids])
    factors = insert(graph, lookup, "Gather", [constant(graph, f"{table.name}_scale", scales.reshape(-1, 1)), ids])
    found = insert(graph, lookup, "Cast", [rows], {"to": ir.DataType.FLOAT.value})
    scaled = insert(graph, lookup, "Mul", [found, factors])
    scaled.shape, scaled.dtype = lookup.outputs[0].shape, ir.DataType.FLOAT
    ir.convenience.replace_all_uses_with(lookup.outputs[0], scaled)
    graph.remove(lookup, safe=True)


def save_graph(model: "ir.Model", file: Path) -> None:
    """Writes a graph into one file or, where it is too large for that, with its weights in a second one beside it."""
    import onnx_ir as ir

    ir.save(model, file, external_data=f"{file.name}.data" if _weight_bytes(model) > LARGEST else None)


def serialize(model: "ir.Model") -> Any:
    """The graph as an ``onnx.ModelProto``, weights and all.

    Raises:
        ExportError: If it is too large.
    """
    import onnx_ir as ir

    if _weight_bytes(model) > LARGEST:
        raise ExportError(
            f"The weights take {_weight_bytes(model) / 1e9:.1f} GB, and quantizers for ONNX Runtime read at most 2; "
            "export to openvino, prune more, or trim the vocabulary."
        )
    return ir.serde.serialize_model(model)


def _weight_bytes(model: "ir.Model") -> int:
    found = [value.const_value for value in model.graph.initializers.values()]
    return sum(tensor.nbytes for tensor in found if tensor is not None)
