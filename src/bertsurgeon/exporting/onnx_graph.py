"""From a lowered model to an ONNX graph.

Query, key and value stay three products: one for all three is not faster (``experiments/merged_products.py``).
"""

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
        raise ExportError(
            f"The model cannot be traced ({first_line(error)}); export a dense copy made by to_dense."
        ) from error
    model: ir.Model = program.model
    name_products(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.ClearMetadataAndDocStringPass()(model)  # stack traces, with this machine's paths
    return model


def name_products(model: "ir.Model") -> None:
    """Names every product with a constant by the module it comes from, numbered where a module has several."""
    seen: dict[str, int] = defaultdict(int)
    for node in model.graph:
        if node.op_type in ("MatMul", "Gemm") and constant_of(node.inputs[1]) is not None:
            scopes = ast.literal_eval(
                node.metadata_props.get("pkg.torch.onnx.name_scopes", "['', 'model.product', '']")
            )
            path = scopes[-2].removeprefix("model.")
            seen[path] += 1
            node.name = path if seen[path] == 1 else f"{path}.{seen[path]}"


def constant_of(value: "ir.Value | None") -> "np.ndarray[Any, Any] | None":
    """A constant vector or matrix of floats; None for anything else."""
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
