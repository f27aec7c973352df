"""Options of an export."""

from dataclasses import dataclass
from typing import Literal, get_args

from bertsurgeon.errors import OptionError
from bertsurgeon.exporting.onnx_graph import OPSET
from bertsurgeon.exporting.verify import TOLERANCES
from bertsurgeon.options import documented, option
from bertsurgeon.runtime import Precision, Runtime

Quantization = Literal["static", "dynamic", "trained"]

OPSETS = 18, 25
"""First and last operator set between which onnxscript converts."""

LAST_STATIC_OPSET = 20
"""Last operator set for static INT8 in ONNX; ONNX Runtime does not load NNCF's output with later ones."""


@documented
@dataclass(frozen=True)
class ExportConfig:
    """Export options.

    Raises:
        OptionError: If a value is out of range, or two options contradict each other.
    """

    runtime: Runtime = option(
        "onnx", "Runtime to export to: ONNX Runtime or OpenVINO.", choices=get_args(Runtime), flag="--to"
    )
    precision: Precision = option("fp32", "Precision; bf16 requires openvino.", choices=get_args(Precision))
    opset: int = option(OPSET, f"Version of the ONNX operators, {OPSETS[0]} to {OPSETS[1]}.")
    quantization: Quantization | None = option(
        None,
        "Source of the activation ranges of int8: the model's own training, calibration on the data (static), or each "
        "token at run time (dynamic, onnx only). Default: trained if the model was trained for int8, else static.",
        choices=get_args(Quantization),
    )
    samples: int = option(256, "Texts on which static int8 is calibrated.")
    tolerance: float | None = option(
        None,
        "Maximum relative error of the outputs: the root mean square of the differences from PyTorch divided by the "
        "outputs' standard deviation. Default: "
        + ", ".join(f"{limit:g} in {precision}" for precision, limit in TOLERANCES.items())
        + "; in int8 only where neither of the two bounds below applies.",
    )
    max_drop: float | None = option(
        None,
        "Largest loss of the task's metric against PyTorch, in points, measured with the exported model on the "
        "validation data; above it nothing is written. Default for int8 with labeled data and without a tolerance: 1, "
        "or 3 answers on fewer than 300 texts.",
    )
    min_agreement: float | None = option(
        None,
        "Smallest share of the PyTorch model's answers that must stay the same, in percent, measured on the "
        "validation data; needs no labels.",
    )
    invariance: bool = option(
        True,
        "Whether to measure how far answers depend on padding, the other texts of a batch, threads and the processor.",
        flag="--invariance/--no-invariance",
    )
    seed: int = option(0, "Seed of the choice of texts.")

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.runtime not in get_args(Runtime):
            raise OptionError(f"The runtime must be onnx or openvino, not {self.runtime!r}.")
        if self.precision not in get_args(Precision):
            raise OptionError(f"The precision must be fp32, bf16 or int8, not {self.precision!r}.")
        if self.precision == "bf16" and self.runtime == "onnx":
            raise OptionError("ONNX Runtime has no bfloat16 matrix products on a CPU; export to openvino, or use int8.")
        self._check_quantization()
        self._check_opset()
        if self.samples < 1:
            raise OptionError(f"Export needs at least one sample, not {self.samples}.")
        if self.tolerance is not None and not self.tolerance > 0:
            raise OptionError(f"The tolerance must be greater than 0, not {self.tolerance}.")
        self._check_bounds()

    def _check_quantization(self) -> None:
        if self.quantization is None:
            return
        if self.quantization not in get_args(Quantization):
            raise OptionError(f"The quantization must be static, dynamic or trained, not {self.quantization!r}.")
        if self.precision != "int8":
            raise OptionError(
                f"A quantization applies to int8, not to {self.precision}; remove it, or use the precision int8."
            )
        if self.quantization == "dynamic" and self.runtime != "onnx":
            raise OptionError("Dynamic quantization requires the runtime onnx; use it, or static quantization.")

    def _check_bounds(self) -> None:
        if self.max_drop is not None and self.min_agreement is not None:
            raise OptionError("Name one bound: either max_drop or min_agreement.")
        if self.max_drop is not None and not 0 <= self.max_drop < 100:
            raise OptionError(f"max_drop must lie between 0 and 100 points, not {self.max_drop:g}.")
        if self.min_agreement is not None and not 0 < self.min_agreement <= 100:
            raise OptionError(f"min_agreement must lie between 0 and 100 percent, not {self.min_agreement:g}.")

    def _check_opset(self) -> None:
        first, last = OPSETS
        if not first <= self.opset <= last:
            raise OptionError(f"The exporter supports opsets from {first} to {last}, not {self.opset}.")
        if (self.runtime, self.quantization) == ("onnx", "static") and self.opset > LAST_STATIC_OPSET:
            raise OptionError(
                f"Static quantization for onnx supports opsets of at most {LAST_STATIC_OPSET}, not {self.opset}; use "
                "a lower opset, or dynamic quantization."
            )

    @property
    def has_bound(self) -> bool:
        """Whether the loss of the task's metric, or of equal answers, is bounded by an option."""
        return self.max_drop is not None or self.min_agreement is not None

    @property
    def limit(self) -> float:
        """Maximum relative error of the outputs that is accepted, where no other bound applies."""
        return TOLERANCES[self.precision] if self.tolerance is None else self.tolerance
