"""Models for ONNX Runtime and OpenVINO."""

from bertsurgeon.exporting.folder import ExportConfig, export
from bertsurgeon.exporting.onnx_graph import OPSET

__all__ = ["OPSET", "ExportConfig", "export"]
