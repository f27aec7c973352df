"""Models for ONNX Runtime and OpenVINO."""

from bertsurgeon.exporting.config import ExportConfig, Quantization
from bertsurgeon.exporting.folder import export
from bertsurgeon.exporting.onnx_graph import OPSET
from bertsurgeon.exporting.trial import open_trial

__all__ = ["OPSET", "ExportConfig", "Quantization", "export", "open_trial"]
