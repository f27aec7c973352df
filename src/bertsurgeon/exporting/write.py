"""From a lowered model to a graph file of a runtime, in the precision of the export."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from bertsurgeon import progress
from bertsurgeon.architectures import Encoder
from bertsurgeon.benchmark import fitting_length, random_inputs, time_batches
from bertsurgeon.calibration import Batch
from bertsurgeon.exporting.bounds import QualityBound
from bertsurgeon.exporting.config import ExportConfig
from bertsurgeon.exporting.lowering import Graph, has_groups, lower
from bertsurgeon.exporting.onnx_graph import save_graph, serialize, trace
from bertsurgeon.exporting.onnx_tuning import merge_products, tune
from bertsurgeon.exporting.outliers import OUTLIERS, Outliers, split_outliers
from bertsurgeon.exporting.quantization import (
    product_names,
    quantize_as_trained,
    quantize_dynamically,
    quantize_statically,
    rank_sub_layers,
    sub_layer_matrices,
)
from bertsurgeon.exporting.verify import Arrays, Check, compare, run_session, to_arrays
from bertsurgeon.runtime import Manifest, Precision, RuntimeModel, Session, open_session, require
from bertsurgeon.storage import temporary_folder
from bertsurgeon.tasks import Head, find_head, model_class_names

TIMED_SHAPE = (8, 128)
"""Texts and tokens of the batch on which grouped layers are timed against dense ones."""


@dataclass(frozen=True)
class ExportJob:
    """An export in progress.

    Attributes:
        config: Options.
        model: The PyTorch model, in evaluation mode.
        calibration: Batches on which static INT8 is calibrated.
        checked: Batches on which outputs are compared.
        inputs: Names of the graph's inputs.
        outputs: Names of the graph's outputs.
        expected: Outputs of the PyTorch model by name, for each batch of ``checked``: those that are compared.
        limit: Maximum relative error of the outputs.
        bound: What the export may lose on validation data; None if its outputs alone are compared.
        outliers: Outlier channels that are multiplied in floating point.
    """

    config: ExportConfig
    model: PreTrainedModel
    calibration: list[Batch]
    checked: list[Batch]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    expected: list[Arrays]
    limit: float = inf
    bound: QualityBound | None = None
    outliers: Outliers = field(default_factory=dict)

    @property
    def head(self) -> Head | None:
        """The model's head; None if it is unknown."""
        return find_head(model_class_names(self.model), self.model.config)

    @property
    def compared(self) -> tuple[str, ...]:
        """Names of the outputs that are compared, and that a session computes."""
        return tuple(self.expected[0])

    def split_model(self) -> PreTrainedModel:
        """Returns a copy of the model whose outlier channels are multiplied apart, as in the graph."""
        model = deepcopy(self.model)
        split_outliers(Encoder(model), self.outliers)
        return model

    def open(self, model: Any, precision: Precision) -> Session:
        """Opens a graph, as a file or in memory, in the runtime."""
        return open_session(self.config.runtime, model, precision, outputs=self.compared)

    def check(self, session: Session) -> Check:
        """Compares the outputs of a session with those of PyTorch."""
        return compare(run_session(session, self.checked, self.inputs), self.expected, self.checked, self.head)

    def as_model(self, session: Session) -> RuntimeModel:
        """Returns a session as a model."""
        manifest = Manifest(self.config.runtime, self.config.precision, self.inputs, self.compared, 0)
        return RuntimeModel(session, manifest, stock_config(self.model))


def trace_model(job: ExportJob) -> Any:
    """Traces the model of a job, with grouped layers as slices.

    Returns:
        An ``onnx_ir.Model``.

    Raises:
        ExportError: If the model cannot be traced.
    """
    return trace(Graph(lower(job.model, outliers=job.outliers), job.inputs, job.outputs), job.config.opset)


def trace_fastest(job: ExportJob) -> Any:
    """Traces the model of a job; grouped layers become slices or zero-filled dense products, whichever is faster.

    Returns:
        An ``onnx_ir.Model``.

    Raises:
        ExportError: If the model cannot be traced.
    """
    config, model = job.config, job.model
    grouped = trace_model(job)
    if not has_groups(model):
        return grouped
    filled = trace(Graph(lower(model, fill_groups=True, outliers=job.outliers), job.inputs, job.outputs), config.opset)
    batch = random_inputs([model], TIMED_SHAPE[0], fitting_length([model], TIMED_SHAPE[1]))
    with temporary_folder() as folder:
        sessions: dict[str, Any] = {}
        for name, graph in (("grouped", grouped), ("filled", filled)):
            file = folder / f"{name}.onnx"
            save_graph(graph, file)
            precision: Precision = "bf16" if config.precision == "bf16" else "fp32"
            session = job.open(file, precision)
            sessions[name] = lambda s=session, **batch: s.run(to_arrays(batch, job.inputs))
        latencies = time_batches(sessions, [batch], runs=5, warmup=2)
    if latencies["grouped"].p50_ms <= latencies["filled"].p50_ms:
        return grouped
    progress.note(
        "Grouped layers are exported as dense products, because their gathers take more time in this runtime than the "
        "smaller products save."
    )
    return filled


def write(graph_model: Any, file: Path, job: ExportJob) -> tuple[str, ...]:
    """Converts a traced graph to the precision of the export and writes it in the format of its runtime.

    Args:
        graph_model: An ``onnx_ir.Model``; changed in place.
        file: Where to write it.
        job: The export.

    Returns:
        Names of the products that stay in floating point although the precision is INT8.
    """
    return (_write_onnx if job.config.runtime == "onnx" else _write_openvino)(graph_model, file, job)


def _write_onnx(graph_model: Any, file: Path, job: ExportJob) -> tuple[str, ...]:
    onnx_ir = require("onnx_ir", "onnx")
    kept_float: tuple[str, ...] = ()
    if job.config.precision == "int8":
        merge_products(graph_model)
    if job.config.quantization == "dynamic":
        quantize_dynamically(graph_model)
    elif job.config.quantization == "static":
        model, kept_float = _quantize_within_limit(
            serialize(graph_model), job, lambda proto: job.open(proto.SerializeToString(), "int8")
        )
        graph_model = onnx_ir.serde.deserialize_model(model)
    elif job.config.quantization == "trained":
        quantize_as_trained(graph_model, job.model)
    tune(graph_model)
    save_graph(graph_model, file)
    return kept_float


def _write_openvino(graph_model: Any, file: Path, job: ExportJob) -> tuple[str, ...]:
    openvino = require("openvino", "openvino")
    kept_float: tuple[str, ...] = ()
    if job.config.quantization == "trained":
        quantize_as_trained(graph_model, job.model)
    with temporary_folder() as folder:
        save_graph(graph_model, folder / "model.onnx")
        model = openvino.convert_model(folder / "model.onnx")
        if job.config.quantization == "static":
            model, kept_float = _quantize_within_limit(model, job, lambda quantized: job.open(quantized, "int8"))
        # bfloat16 products do not use the bits that 16-bit weights lack
        openvino.save_model(model, file, compress_to_fp16=job.config.precision == "bf16")
    return kept_float


def _quantize_within_limit(model: Any, job: ExportJob, load: Callable[[Any], Session]) -> tuple[Any, tuple[str, ...]]:
    """Quantizes all products statically or, if that exceeds a bound, all but those of sensitive sub-layers.

    Args:
        model: An ``onnx.ModelProto`` or an ``openvino.Model``.
        job: The export.
        load: Opens a session of such a model.

    Returns:
        The first model that holds the bounds, or else the one with the smallest error, and the encoder products that
        stay in floating point.
    """
    inputs = [to_arrays(batch, job.inputs) for batch in job.calibration]
    products = product_names(model)
    encoder = [name for names in sub_layer_matrices(job.model) for name in names]
    apart = [product for product in products if product.endswith(f".{OUTLIERS}")]
    # the head processes few tokens and takes little time, but its errors reach the outputs undamped
    head = [product for product in products if not any(name in product for name in (*encoder, "matmul"))]

    def attempt(kept_float: tuple[str, ...]) -> tuple[bool, float, Any, tuple[str, ...]]:
        quantized = quantize_statically(deepcopy(model), inputs, [*head, *apart, *kept_float])
        session = load(quantized)
        error = job.check(session).relative_error
        holds = error <= job.limit and (job.bound is None or job.bound.measure(job.as_model(session)).holds)
        return not holds, error, quantized, kept_float

    best = attempt(())
    if best[0]:
        progress.note(
            f"INT8 in all products has a relative error of {best[1]:.2g} and exceeds the bound; the most sensitive "
            "sub-layers stay in floating point."
        )
        ranked = [names for _, names in rank_sub_layers(job.split_model(), job.checked, job.expected)]
        count = 1
        while best[0] and count <= len(ranked):
            sensitive = [name for names in ranked[:count] for name in names]
            kept_float = tuple(product for product in products if any(name in product for name in sensitive))
            best = min(best, attempt(kept_float), key=lambda result: result[:2])
            count *= 2
    return best[2:]


def stock_config(model: PreTrainedModel) -> PretrainedConfig:
    """Returns the configuration with the name of the model class and without the plan, which the graph contains."""
    config = deepcopy(model.config)
    config.architectures = [type(model).__name__]
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config
