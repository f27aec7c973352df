"""Export of models to ONNX Runtime and OpenVINO."""

from bertsurgeon.exporting.config import ExportConfig, Quantization
from bertsurgeon.exporting.export import export, open_for_timing
from bertsurgeon.exporting.invariance import worst
from bertsurgeon.exporting.onnx_graph import OPSET

__all__ = ["OPSET", "ExportConfig", "Quantization", "export", "open_for_timing", "worst"]
