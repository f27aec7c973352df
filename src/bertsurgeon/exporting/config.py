"""How to export."""

from dataclasses import dataclass
from typing import Literal

from bertsurgeon.errors import OptionError
from bertsurgeon.exporting.onnx_graph import OPSET
from bertsurgeon.exporting.verify import TOLERANCES
from bertsurgeon.runtime import Precision, Runtime

Quantization = Literal["static", "dynamic", "trained"]


@dataclass(frozen=True)
class ExportConfig:
    """How to export.

    Attributes:
        runtime: ``onnx`` (ONNX Runtime) or ``openvino``.
        precision: ``fp32``, ``bf16`` (OpenVINO) or ``int8``.
        opset: Of the ONNX operators.
        quantization: INT8 with the ranges a model was ``trained`` with, or with ranges found beforehand (``static``) or
            at run time (``dynamic``, ONNX). None for trained ones where the model has them, else static.
        samples: Texts to calibrate INT8 on.
        tolerance: Largest relative error of the outputs; None for the precision's own.
        seed: Fixes the texts.
    """

    runtime: Runtime = "onnx"
    precision: Precision = "fp32"
    opset: int = OPSET
    quantization: Quantization | None = None
    samples: int = 256
    tolerance: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks what goes together.

        Raises:
            OptionError: If something does not.
        """
        if self.runtime not in ("onnx", "openvino") or self.precision not in ("fp32", "bf16", "int8"):
            raise OptionError("Export to onnx or openvino, in fp32, bf16 or int8.")
        if self.precision == "bf16" and self.runtime == "onnx":
            raise OptionError("ONNX Runtime has no bfloat16 products on a CPU; export to openvino, or use int8.")
        if self.quantization == "dynamic" and (self.runtime, self.precision) != ("onnx", "int8"):
            raise OptionError("Dynamic quantization is for onnx in int8.")
        if self.quantization == "trained" and self.precision != "int8":
            raise OptionError("Trained ranges are for int8.")
        if self.opset < 18:
            raise OptionError(f"The exporter needs an opset of at least 18, not {self.opset}.")
        if self.samples < 1 or (self.tolerance is not None and not self.tolerance > 0):
            raise OptionError("Export needs at least one sample, and a tolerance greater than 0.")

    @property
    def limit(self) -> float:
        """The largest relative error that is accepted."""
        return TOLERANCES[self.precision] if self.tolerance is None else self.tolerance
