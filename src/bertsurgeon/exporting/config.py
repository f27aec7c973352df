"""How to export."""

from dataclasses import dataclass
from typing import Literal, get_args

from bertsurgeon.errors import OptionError
from bertsurgeon.exporting.onnx_graph import OPSET
from bertsurgeon.exporting.verify import TOLERANCES
from bertsurgeon.runtime import Precision, Runtime

Quantization = Literal["static", "dynamic", "trained"]

OPSETS = 18, 25
"""The first and the last operator set that the exporter writes: those that onnxscript converts between."""

LAST_STATIC = 20
"""The last one for static INT8 in ONNX: beyond it, ONNX Runtime does not load what NNCF makes of a graph."""


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
        self._check_quantization()
        self._check_opset()
        if self.samples < 1 or (self.tolerance is not None and not self.tolerance > 0):
            raise OptionError("Export needs at least one sample, and a tolerance greater than 0.")

    def _check_quantization(self) -> None:
        if self.quantization is None:
            return
        if self.quantization not in get_args(Quantization):
            raise OptionError(f"The quantization is static, dynamic or trained, not {self.quantization!r}.")
        if self.precision != "int8":
            raise OptionError(f"A quantization is for int8, not for {self.precision}; leave it out, or choose int8.")
        if self.quantization == "dynamic" and self.runtime != "onnx":
            raise OptionError("Dynamic quantization is for onnx in int8.")

    def _check_opset(self) -> None:
        first, last = OPSETS
        if not first <= self.opset <= last:
            raise OptionError(f"The exporter writes opsets from {first} to {last}, not {self.opset}.")
        if (self.runtime, self.quantization) == ("onnx", "static") and self.opset > LAST_STATIC:
            raise OptionError(
                f"Static quantization for onnx needs an opset of at most {LAST_STATIC}, not {self.opset}; take that, "
                "or dynamic quantization."
            )

    @property
    def limit(self) -> float:
        """The largest relative error that is accepted."""
        return TOLERANCES[self.precision] if self.tolerance is None else self.tolerance
