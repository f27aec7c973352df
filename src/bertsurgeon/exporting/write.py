"""From a traced graph to a file in the precision asked for."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedModel

from bertsurgeon import progress
from bertsurgeon.calibration import Batch
from bertsurgeon.exporting import int8
from bertsurgeon.exporting.config import ExportConfig
from bertsurgeon.exporting.onnx_edit import save_graph, serialize
from bertsurgeon.exporting.onnx_graph import merge_products
from bertsurgeon.exporting.onnx_tuning import tune
from bertsurgeon.exporting.sensitivity import encoder_matrices, rank_sub_layers
from bertsurgeon.exporting.trained_int8 import quantize_as_trained
from bertsurgeon.exporting.verify import Arrays, Check, answers_of, compare, to_arrays
from bertsurgeon.runtime import Session, open_session, require
from bertsurgeon.tasks import find_head, model_class_names


@dataclass(frozen=True)
class Job:
    """What writing needs beside the graph."""

    config: ExportConfig
    model: PreTrainedModel
    calibration: list[Batch]
    checked: list[Batch]
    inputs: tuple[str, ...]
    wanted: list[Arrays]

    def check(self, session: Session) -> Check:
        """Compares a session with PyTorch."""
        head = find_head(model_class_names(self.model), self.model.config)
        return compare(answers_of(session, self.checked, self.inputs), self.wanted, self.checked, head)

    def quantize(self, model: Any, load: Callable[[Any], Session]) -> tuple[Any, tuple[str, ...]]:
        """INT8 everywhere or, where that differs too much, everywhere but in the sub-layers that it hurts most.

        Args:
            model: An ``onnx.ModelProto`` or an ``openvino.Model``.
            load: Opens a session of one.

        Returns:
            The best of those tried, and the products it leaves in floating point.
        """
        texts = [to_arrays(batch, self.inputs) for batch in self.calibration]
        limit = self.config.limit
        products = int8.product_names(model)
        encoder = [name for matrices in encoder_matrices(self.model) for name in matrices]
        # the head sees few tokens and takes no time, but its errors reach the outputs undiminished
        head = [product for product in products if not any(name in product for name in (*encoder, "matmul"))]

        def attempt(kept: tuple[str, ...]) -> tuple[float, Any, tuple[str, ...]]:
            quantized = int8.quantize_statically(deepcopy(model), texts, [*head, *kept])
            return self.check(load(quantized)).relative_error, quantized, kept

        best = attempt(())
        if best[0] > limit:
            progress.note(f"INT8 everywhere differs by {best[0]:.2g}; looking for what must stay in floating point.")
            ranked = [names for _, names in rank_sub_layers(self.model, self.checked, self.wanted)]
            count = 1
            while best[0] > limit and count <= len(ranked):
                matrices = [name for names in ranked[:count] for name in names]
                kept = tuple(product for product in products if any(name in product for name in matrices))
                best = min(best, attempt(kept), key=lambda one: one[0])
                count *= 2
        return best[1:]


def write(traced: Any, file: Path, job: Job) -> tuple[str, ...]:
    """Brings a traced graph into its precision and writes it as its runtime reads it.

    Returns:
        The products that stay in floating point though the precision is INT8.
    """
    return (_write_onnx if job.config.runtime == "onnx" else _write_openvino)(traced, file, job)


def _write_onnx(traced: Any, file: Path, job: Job) -> tuple[str, ...]:
    onnx_ir = require("onnx_ir", "onnx")
    kept: tuple[str, ...] = ()
    if job.config.precision == "int8":
        merge_products(traced)
    if job.config.quantization == "dynamic":
        with TemporaryDirectory() as folder:
            quantized = Path(folder) / file.name
            int8.quantize_dynamically(serialize(traced), quantized)
            traced = onnx_ir.load(quantized)
    elif job.config.quantization == "static":
        model = serialize(traced)
        model, kept = job.quantize(model, lambda one: open_session("onnx", one.SerializeToString(), "int8"))
        traced = onnx_ir.serde.deserialize_model(model)
    elif job.config.quantization == "trained":
        quantize_as_trained(traced, job.model)
    tune(traced)
    save_graph(traced, file)
    return kept


def _write_openvino(traced: Any, file: Path, job: Job) -> tuple[str, ...]:
    openvino = require("openvino", "openvino")
    kept: tuple[str, ...] = ()
    if job.config.quantization == "trained":
        quantize_as_trained(traced, job.model)
    with TemporaryDirectory() as folder:
        save_graph(traced, Path(folder) / "model.onnx")
        model = openvino.convert_model(Path(folder) / "model.onnx")
        if job.config.quantization == "static":
            model, kept = job.quantize(model, lambda one: open_session("openvino", one, "int8"))
        # weights of 16 bits lose nothing that products in bfloat16 would see
        openvino.save_model(model, file, compress_to_fp16=job.config.precision == "bf16")
    return kept
