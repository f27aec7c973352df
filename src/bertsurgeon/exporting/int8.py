"""INT8 by the runtimes' own quantizers: NNCF for static, ONNX Runtime's for dynamic quantization.

Static quantization is NNCF's for both runtimes: it smooths activations into the weights before it (SmoothQuant, Xiao et
al., 2023, arXiv 2211.10438), which halves the error of a fine-tuned MiniLM against plain ranges (docs/performance.md).
Weights are quantized per channel, embeddings too.
"""

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bertsurgeon.exporting.verify import Arrays
from bertsurgeon.runtime import require


def quantize_statically(model: Any, texts: Sequence[Arrays], kept_float: Sequence[str] = ()) -> Any:
    """Quantizes an ``onnx.ModelProto`` or an ``openvino.Model`` with the ranges seen on these texts.

    Args:
        model: In floating point.
        texts: To calibrate on.
        kept_float: Names of products that stay in floating point.
    """
    nncf = require("nncf", "int8")
    with _quiet():
        return nncf.quantize(
            model,
            nncf.Dataset(list(texts)),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(texts),
            ignored_scope=nncf.IgnoredScope(names=list(kept_float)),
        )


def quantize_dynamically(model: Any, file: Path) -> None:
    """Quantizes the weights of an ``onnx.ModelProto``; activations find their ranges at run time."""
    quantization = require("onnxruntime.quantization", "onnx")
    del model.graph.value_info[:]  # the quantizer infers shapes anew and trips over those that are there
    with _quiet():
        quantization.quantize_dynamic(
            model,
            file,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )


def product_names(model: Any) -> list[str]:
    """Names of the products of an ``onnx.ModelProto`` or an ``openvino.Model``."""
    if hasattr(model, "get_ordered_ops"):
        return [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() == "MatMul"]
    return [node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizers print their steps to standard output, and warn of what does not matter here."""
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
