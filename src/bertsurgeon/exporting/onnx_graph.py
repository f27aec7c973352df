"""From a lowered model to an ONNX graph."""

import ast
import contextlib
import io
import logging
import warnings
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bertsurgeon.benchmark import random_inputs
from bertsurgeon.calibration import PIXELS
from bertsurgeon.errors import ExportError, first_line
from bertsurgeon.exporting.lowering import Graph
from bertsurgeon.exporting.onnx_edit import constant

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET = 20
"""The default operator set: the first one with Gelu."""


def trace(graph: Graph, opset: int = OPSET) -> "ir.Model":
    """Exports to ONNX with a dynamic batch and, for texts, sequence axis.

    Args:
        graph: What to trace. Images have one size, that of the model's configuration.
        opset: Of the standard operators.

    Raises:
        ExportError: If the model cannot be traced.
    """
    from onnx_ir.passes import common

    example: tuple[torch.Tensor, ...]
    axes: tuple[dict[int, str], ...]
    if graph.inputs == (PIXELS,):
        example, axes = (random_inputs([graph.model], 2, 1)[PIXELS],), ({0: "batch"},)
    else:
        # two sizes that differ: equal ones would be taken for one and the same
        example = tuple(torch.ones(2, 3, dtype=torch.long) for _ in graph.inputs)
        axes = tuple({0: "batch", 1: "sequence"} for _ in graph.inputs)
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
                verbose=False,
            )
    except Exception as error:  # the exporter raises types of torch.export, onnxscript and its own
        raise ExportError(f"The model cannot be traced: {_cause(error)}.") from error
    model: ir.Model = program.model
    name_products(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.ClearMetadataAndDocStringPass()(model)  # stack traces, with this machine's paths
    return model


def _cause(error: Exception) -> str:
    """What went wrong first: the exporter wraps it, and says how to ask for help with it."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return f"{type(error).__name__}, {first_line(error)}"


def name_products(model: "ir.Model") -> None:
    """Names every product with a constant by the module it comes from, numbered where a module has several."""
    seen: dict[str, int] = defaultdict(int)
    for node in model.graph:
        if node.op_type in ("MatMul", "Gemm") and _constant(node.inputs[1]) is not None:
            scopes = ast.literal_eval(
                node.metadata_props.get("pkg.torch.onnx.name_scopes", "['', 'model.product', '']")
            )
            path = scopes[-2].removeprefix("model.")
            seen[path] += 1
            node.name = path if seen[path] == 1 else f"{path}.{seen[path]}"


def merge_products(model: "ir.Model") -> None:
    """Computes products that read the same value by one product, and splits its outputs.

    Query, key and value become one product; so do the first factors of their low ranks, and their blocks in aligned
    groups. Biases are added before the split. In floats that saves nothing (``experiments/merged_products.py``).
    In INT8 it does in ONNX Runtime, which computes three products that share their quantized input in floats.
    """
    from onnx_ir.passes import common

    readers: dict[int, list[ir.Node]] = defaultdict(list)
    for node in model.graph:
        if node.op_type == "MatMul" and node.domain == "" and _constant(node.inputs[1]) is not None:
            readers[id(node.inputs[0])].append(node)
    for nodes in readers.values():
        if len(nodes) > 1:
            _merge(model, nodes)
    common.RemoveUnusedNodesPass()(model)


def _merge(model: "ir.Model", nodes: "list[ir.Node]") -> None:
    import onnx_ir as ir

    name = "+".join(str(node.name) for node in nodes)
    x = nodes[0].inputs[0]
    weights = [_constant(node.inputs[1]) for node in nodes]
    shift = [_bias_of(node) for node in nodes]
    ends = [node.outputs[0] if found is None else found[0].outputs[0] for node, found in zip(nodes, shift, strict=True)]
    widths = [weight.shape[1] for weight in weights if weight is not None]
    weight = constant(model.graph, f"{name}.weight", np.concatenate([w for w in weights if w is not None], 1))
    product = ir.node("MatMul", [x, weight])
    new = [product]
    merged = product.outputs[0]
    if any(found is not None for found in shift):
        biases = [
            np.zeros(width, np.float32) if found is None else found[1]
            for width, found in zip(widths, shift, strict=True)
        ]
        added = ir.node("Add", [merged, constant(model.graph, f"{name}.bias", np.concatenate(biases))])
        new.append(added)
        merged = added.outputs[0]
    sizes = constant(model.graph, f"{name}.sizes", np.array(widths, np.int64))
    split = ir.node("Split", [merged, sizes], {"axis": -1}, num_outputs=len(widths))
    new.append(split)
    for node in new:
        node.name = name if node is product else f"{name}.{node.op_type.lower()}"
        for place, output in enumerate(node.outputs):
            output.name = f"{node.name}.output.{place}"
            output.dtype = ir.DataType.FLOAT
    model.graph.insert_after(nodes[0], new)
    for end, part in zip(ends, split.outputs, strict=True):
        part.shape = end.shape
        ir.convenience.replace_all_uses_with(end, part)


def _bias_of(node: "ir.Node") -> "tuple[ir.Node, np.ndarray[Any, Any]] | None":
    """The addition of a constant vector that is all that happens to a product."""
    uses = node.outputs[0].uses()
    if len(uses) != 1:
        return None
    [(user, _)] = uses
    if user.op_type != "Add":
        return None
    for operand in user.inputs:
        value = _constant(operand)
        if value is not None and value.ndim == 1:
            return user, value
    return None


def _constant(value: "ir.Value | None") -> "np.ndarray[Any, Any] | None":
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    array = value.const_value.numpy()
    return array if array.dtype == np.float32 and array.ndim in (1, 2) else None


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The exporter prints its steps and warns of packages that encoders do not need."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
