"""ONNX graphs: tracing a lowered model, inserting nodes and constants, saving."""

import ast
import contextlib
import io
import logging
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.torch_version import TorchVersion

from bertsurgeon.benchmark import random_inputs
from bertsurgeon.calibration import PIXELS
from bertsurgeon.errors import ExportError, first_line
from bertsurgeon.exporting.lowering import Graph

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET = 20
"""Default operator set: the first one with Gelu."""

BATCH, SEQUENCE = "batch", "sequence"
"""Names of the dynamic axes."""

MAX_FILE_BYTES = 2**31 - 2**20
"""Maximum size of the weights in one file: protocol buffers are limited to 2 GiB."""


def trace(graph: Graph, opset: int = OPSET) -> "ir.Model":
    """Exports to ONNX with dynamic batch and, for texts, sequence axes.

    Args:
        graph: The module to trace. Images have the size of the model's configuration.
        opset: Version of the standard operators.

    Returns:
        The graph; its products are named after their modules.

    Raises:
        ExportError: If the model cannot be traced.
    """
    from onnx_ir.passes import common

    example: tuple[torch.Tensor, ...]
    batch, sequence = _axis(BATCH), _axis(SEQUENCE)
    axes: tuple[dict[int, Any], ...]
    if graph.inputs == (PIXELS,):
        example, axes = (random_inputs([graph.model], 2, 1)[PIXELS],), ({0: batch},)
    else:
        # the two sizes differ because the exporter would identify axes of equal size
        example = tuple(torch.ones(2, 3, dtype=torch.long) for _ in graph.inputs)
        axes = tuple({0: batch, 1: sequence} for _ in graph.inputs)
    try:
        with _silence(), torch.no_grad():
            program: Any = torch.onnx.export(
                graph,
                example,
                input_names=graph.inputs,
                output_names=graph.outputs,
                dynamic_shapes=(axes,),
                opset_version=opset,
                dynamo=True,
                optimize=True,  # the default since torch 2.7
                verbose=False,
            )
    except Exception as error:  # the exporter raises types of torch.export, onnxscript and its own
        raise ExportError(f"The model cannot be traced: {_root_cause(error)}.") from error
    model: ir.Model = program.model
    _name_axes(model)
    _name_products(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.ClearMetadataAndDocStringPass()(model)  # stack traces contain paths of this machine
    return model


def _axis(name: str) -> Any:
    """Returns a dynamic axis; torch 2.6 takes no names (:func:`_name_axes`)."""
    return name if TorchVersion(torch.__version__) >= TorchVersion("2.7") else torch.export.Dim.DYNAMIC


def _name_axes(model: "ir.Model") -> None:
    """Names the first two axes of the inputs, and their equals in all shapes, where torch 2.6 has numbers for names."""
    import onnx_ir as ir

    shape = model.graph.inputs[0].shape
    assert shape is not None
    axes = zip(shape, (BATCH, SEQUENCE), strict=False)
    names = {axis.value: name for axis, name in axes if isinstance(axis, ir.SymbolicDim) and axis.value != name}
    values = [*model.graph.inputs, *model.graph.outputs, *(value for node in model.graph for value in node.outputs)]
    for value in values if names else ():
        if value.shape is not None:
            value.shape = ir.Shape(
                [names.get(axis.value, axis) if isinstance(axis, ir.SymbolicDim) else axis for axis in value.shape]
            )


def _root_cause(error: Exception) -> str:
    """Describes the first exception of a chain; the exporter wraps it in instructions for bug reports."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return f"{type(error).__name__}, {first_line(error)}"


def _name_products(model: "ir.Model") -> None:
    """Names each product with a constant after its module, numbered if a module has several."""
    counts: dict[str, int] = defaultdict(int)
    for node in model.graph:
        if node.op_type in ("MatMul", "Gemm") and constant_array(node.inputs[1]) is not None:
            scopes = ast.literal_eval(
                node.metadata_props.get("pkg.torch.onnx.name_scopes", "['', 'model.product', '']")
            )
            path = scopes[-2].removeprefix("model.")
            counts[path] += 1
            node.name = path if counts[path] == 1 else f"{path}.{counts[path]}"


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppresses the exporter's progress messages and its warnings about packages that encoders do not need."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def insert(
    graph: "ir.Graph",
    before: "ir.Node",
    op: str,
    inputs: "Sequence[ir.Value | None]",
    attributes: dict[str, Any] | None = None,
) -> "ir.Value":
    """Inserts a node with one output before another node.

    Args:
        graph: Changed in place.
        before: The node that follows.
        op: Operator of the new node.
        inputs: Its inputs.
        attributes: Its attributes.

    Returns:
        Its output.
    """
    import onnx_ir as ir

    node = ir.node(op, inputs, attributes or {})
    node.name = f"{before.name}.{op.lower()}.{len(graph)}"
    node.outputs[0].name = f"{node.name}.output"
    graph.insert_before(before, node)
    return node.outputs[0]


def add_constant(graph: "ir.Graph", name: str, array: "np.ndarray[Any, Any] | np.generic") -> "ir.Value":
    """Adds an initializer.

    Args:
        graph: Changed in place.
        name: Name of the initializer.
        array: Its value.
    """
    import onnx_ir as ir

    tensor = ir.tensor(np.asarray(array), name=name)
    value = ir.Value(name=name, shape=ir.Shape(np.shape(array)), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def constant_array(value: "ir.Value | None") -> "np.ndarray[Any, Any] | None":
    """Returns the array of a constant fp32 vector or matrix; None for any other value."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    array = value.const_value.numpy()
    return array if array.dtype == np.float32 and array.ndim in (1, 2) else None


def remove_if_unused(graph: "ir.Graph", value: "ir.Value") -> None:
    """Removes an initializer that no node uses."""
    if not value.uses():
        graph.initializers.pop(str(value.name), None)


def save_graph(model: "ir.Model", file: Path) -> None:
    """Writes a graph to one file; weights that do not fit into it go to a second file, ``NAME.data``.

    Args:
        model: The graph.
        file: Where to write it.
    """
    import onnx_ir as ir

    ir.save(model, file, external_data=f"{file.name}.data" if _weight_bytes(model) > MAX_FILE_BYTES else None)


def serialize(model: "ir.Model") -> Any:
    """Converts a graph to an ``onnx.ModelProto`` that includes the weights.

    Raises:
        ExportError: If it is too large.
    """
    import onnx_ir as ir

    if (size := _weight_bytes(model)) > MAX_FILE_BYTES:
        raise ExportError(
            f"The weights take {size / 1e9:.1f} GB, and the quantizers for ONNX Runtime accept at most 2 GB; export to "
            "openvino, prune more, or trim the vocabulary."
        )
    return ir.serde.serialize_model(model)


def _weight_bytes(model: "ir.Model") -> int:
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
