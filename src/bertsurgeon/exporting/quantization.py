"""INT8 quantization of graphs: static (NNCF), dynamic (each token), or as trained (quantization-aware training).

Static quantization is NNCF's for both runtimes: it migrates outliers of the activations into the weights (SmoothQuant,
Xiao et al., 2023, arXiv 2211.10438), which halves the error of a fine-tuned MiniLM compared with min-max ranges
(docs/performance.md). Weights are quantized per channel, including embeddings.

A model that was trained for INT8 keeps its own ranges and integers; nothing is calibrated. Every matrix of the encoder
multiplies integers, and embeddings are looked up as integers and scaled.
"""

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Batch
from bertsurgeon.checkpoint import InputRange, get_plan, get_ranges
from bertsurgeon.exporting.onnx_graph import add_constant, constant_array, insert, remove_if_unused
from bertsurgeon.exporting.onnx_tuning import look_up_integers
from bertsurgeon.exporting.outliers import SplitLinear
from bertsurgeon.exporting.verify import Arrays, compare, reference
from bertsurgeon.layers import is_on_grid, quantize_rows
from bertsurgeon.runtime import require
from bertsurgeon.tasks import find_head, model_class_names

if TYPE_CHECKING:
    import onnx_ir as ir

STEPS = 255
"""Quantization steps between the smallest and the largest value."""

_LARGEST_INT8 = 127

_SMALLEST_RANGE = 1e-30
"""Smallest range of a token; the tokens below it are zero."""


def quantize_statically(model: Any, inputs: Sequence[Arrays], kept_float: Sequence[str] = ()) -> Any:
    """Quantizes a graph with activation ranges calibrated on example inputs.

    Args:
        model: An ``onnx.ModelProto`` or an ``openvino.Model`` in floating point.
        inputs: Inputs of the graph, one entry per batch.
        kept_float: Names of products that stay in floating point.

    Returns:
        The quantized model, of the same type.
    """
    nncf = require("nncf", "int8")
    with _silence():
        return nncf.quantize(
            model,
            nncf.Dataset(list(inputs)),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(inputs),
            ignored_scope=nncf.IgnoredScope(names=list(kept_float)),
        )


def quantize_dynamically(graph_model: "ir.Model") -> int:
    """Quantizes the weights of a graph; each token's range is computed at run time, from its largest magnitude.

    The range of a token depends on no other token, so padding and the other texts of a batch do not change answers.
    (ONNX Runtime's own dynamic quantization has one range for all tokens of a batch.) Tokens are scaled to [-1, 1] and
    quantized there with constants, because ONNX Runtime multiplies integers only where these are constant.

    Args:
        graph_model: In floating point; changed in place.

    Returns:
        The number of products that multiply integers.
    """
    graph = graph_model.graph
    one = InputRange(1 / _LARGEST_INT8, _LARGEST_INT8 + 1)
    count = 0
    for node in list(graph):
        weight = node.inputs[1] if node.op_type == "MatMul" and node.domain == "" else None
        array = constant_array(weight)
        if array is None or array.ndim != 2:
            continue
        last_axis = add_constant(graph, f"{node.name}.last_axis", np.array([-1]))
        smallest = add_constant(graph, f"{node.name}.smallest", np.float32(_SMALLEST_RANGE))
        magnitudes = insert(graph, node, "Abs", [node.inputs[0]])
        largest = insert(graph, node, "ReduceMax", [magnitudes, last_axis], {"keepdims": 1})
        ranges = insert(graph, node, "Max", [largest, smallest])
        node.replace_input_with(0, insert(graph, node, "Div", [node.inputs[0], ranges]))
        _quantize_product(graph_model, node, one, {})
        _scale_output(graph, node, ranges)
        count += 1
    return count


def _scale_output(graph: "ir.Graph", node: "ir.Node", factors: "ir.Value") -> None:
    """Multiplies the output of a product."""
    import onnx_ir as ir

    output = node.outputs[0]
    scaling = ir.node("Mul", [output, factors])
    scaling.name = f"{node.name}.scaled"
    scaled = scaling.outputs[0]
    scaled.name, scaled.shape, scaled.dtype = f"{scaling.name}.output", output.shape, ir.DataType.FLOAT
    graph.insert_after(node, scaling)
    ir.convenience.replace_all_uses_with(output, scaled, replace_graph_outputs=True)
    scaling.replace_input_with(0, output)


def product_names(model: Any) -> list[str]:
    """Returns the names of the products of an ``onnx.ModelProto`` or an ``openvino.Model``."""
    if hasattr(model, "get_ordered_ops"):
        return [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() == "MatMul"]
    return [node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppresses the quantizers' progress on standard output and their warnings."""
    loggers = [logging.getLogger(), logging.getLogger("nncf")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def sub_layer_matrices(model: PreTrainedModel) -> list[tuple[str, ...]]:
    """Returns the names of the matrices of each sub-layer that a model has.

    Args:
        model: Dense or pruned.
    """
    encoder = Encoder(model)
    plan = get_plan(model)
    return [
        tuple(encoder.matrix_name(index, role) for role in roles)
        for index in range(len(encoder.layers))
        for sub_layer, roles in encoder.sub_layers.items()
        if plan is None or not plan.layers[index].is_dropped(sub_layer)
    ]


@torch.no_grad()
def rank_sub_layers(
    model: PreTrainedModel, batches: Sequence[Batch], expected: Sequence[Arrays]
) -> list[tuple[float, tuple[str, ...]]]:
    """Measures the sensitivity of sub-layers to INT8 by quantizing one at a time in PyTorch.

    Args:
        model: In evaluation mode; left as it is. Outlier channels that are split off stay in floating point.
        batches: Batches to run.
        expected: Outputs of the model by name, for each batch.

    Returns:
        Relative error of the outputs and names of the matrices of each sub-layer, in descending order of the error.
    """
    sensitivities = []
    head = find_head(model_class_names(model), model.config)
    for names in sub_layer_matrices(model):
        with ExitStack() as stack:
            for name in names:
                matrix = model.get_submodule(name)
                stack.enter_context(_quantized(matrix.source if isinstance(matrix, SplitLinear) else matrix))
            outputs = reference(model, batches, tuple(expected[0]))[1]
        sensitivities.append((compare(outputs, expected, batches, head).relative_error, names))
    return sorted(sensitivities, key=lambda pair: -pair[0])


@contextmanager
def _quantized(matrix: nn.Module) -> Iterator[None]:
    """Rounds the weights (per row) and the inputs (per tensor) of a matrix to INT8."""
    originals = {name: value.detach().clone() for name, value in matrix.named_parameters() if value.dim() == 2}
    handle = matrix.register_forward_pre_hook(lambda _, inputs: (_round(inputs[0], inputs[0].min(), inputs[0].max()),))
    try:
        for name, value in originals.items():
            largest = value.abs().amax(1, keepdim=True)
            matrix.get_parameter(name).copy_(_round(value, -largest, largest))
        yield
    finally:
        handle.remove()
        for name, value in originals.items():
            matrix.get_parameter(name).copy_(value)


def _round(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    step = ((high - low) / STEPS).clamp_min(torch.finfo(x.dtype).tiny)
    return ((x - low) / step).round() * step + low


def quantize_as_trained(graph_model: "ir.Model", model: PreTrainedModel) -> int:
    """Quantizes a graph with the ranges and integers of quantization-aware training.

    Args:
        graph_model: Traced in floating point, with named products
            (:func:`bertsurgeon.exporting.onnx_graph.trace`); changed in place.
        model: The model it was traced from, with ranges in its configuration.

    Returns:
        The number of products that multiply integers.
    """
    ranges = get_ranges(model)
    assert ranges is not None
    encoder = Encoder(model)
    ranges_by_name = {encoder.matrix_name(*key): input_range for key, input_range in ranges.items()}
    quantized_inputs: dict[tuple[int, InputRange], ir.Value] = {}
    count = 0
    for node in list(graph_model.graph):
        names = str(node.name).split("+")  # merged products read the same value
        if node.op_type == "MatMul" and names[0] in ranges_by_name:
            _quantize_product(graph_model, node, ranges_by_name[names[0]], quantized_inputs)
            count += 1
        elif node.op_type == "Gather":
            _quantize_lookup(graph_model, node)
    return count


def _quantize_product(
    graph_model: "ir.Model",
    node: "ir.Node",
    input_range: InputRange,
    quantized_inputs: "dict[tuple[int, InputRange], ir.Value]",
) -> None:
    graph = graph_model.graph
    x, weight = node.inputs
    assert x is not None
    assert weight is not None
    assert weight.const_value is not None
    if (id(x), input_range) not in quantized_inputs:
        scale = add_constant(graph, f"{node.name}.input_scale", np.float32(input_range.scale))
        zero_point = add_constant(graph, f"{node.name}.input_zero_point", np.uint8(input_range.zero_point))
        integer_input = insert(graph, node, "QuantizeLinear", [x, scale, zero_point])
        quantized_inputs[id(x), input_range] = insert(
            graph, node, "DequantizeLinear", [integer_input, scale, zero_point]
        )
    integers, scales = quantize_rows(torch.from_numpy(weight.const_value.numpy().T.copy()))
    weight_values = [
        add_constant(graph, f"{node.name}.weight_int8", integers.numpy().T.copy()),
        add_constant(graph, f"{node.name}.weight_scale", scales.clamp_min(torch.finfo(torch.float32).tiny).numpy()),
        add_constant(graph, f"{node.name}.weight_zero_point", np.zeros(len(scales), np.int8)),
    ]
    node.replace_input_with(0, quantized_inputs[id(x), input_range])
    node.replace_input_with(1, insert(graph, node, "DequantizeLinear", weight_values, {"axis": 1}))
    remove_if_unused(graph, weight)


def _quantize_lookup(graph_model: "ir.Model", node: "ir.Node") -> None:
    """Looks up integers and scales instead of floats, if the table is on the INT8 grid."""
    table = node.inputs[0]
    array = None if table is None or table.const_value is None else table.const_value.numpy()
    if array is None or array.dtype != np.float32 or array.ndim != 2 or not is_on_grid(torch.from_numpy(array)):
        return
    assert table is not None
    integers, scales = quantize_rows(torch.from_numpy(array))
    look_up_integers(graph_model.graph, node, integers.numpy(), scales.numpy())
    remove_if_unused(graph_model.graph, table)
