"""Options and data of ``compress``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from bertsurgeon.budgets import SpeedupRuntime, check_types
from bertsurgeon.compression.bounds import Bound
from bertsurgeon.errors import ExportError, OptionError
from bertsurgeon.methods.base import check_choices, check_positive, check_seed
from bertsurgeon.options import documented, option
from bertsurgeon.runtime import Precision, require

if TYPE_CHECKING:
    from bertsurgeon.tasks import Data, Task

Objective = Literal["speed", "size"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "int8"]
Acceptance = Literal["measured", "shown"]

MAX_DROP, MIN_AGREEMENT = 1.0, 99.0
"""Default bounds: points of the task's metric, and percent of equal answers where there are no labels."""

MINUTES, MINUTES_WEIGHTS = 10.0, 10.7e6
"""Default search time, and the encoder weights that it is for; it grows in proportion to them."""

PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "pytorch": ("fp32",),
    "onnx": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
}
"""Precisions of each runtime."""


@documented
@dataclass(frozen=True)
class CompressConfig:
    """Options of :func:`bertsurgeon.compress`: what the model may lose, and what it is to gain.

    Raises:
        OptionError: If an option is outside its range, or two options contradict each other.

    Example:
        >>> from bertsurgeon import CompressConfig
        >>> CompressConfig(max_drop=0.5).max_drop
        0.5
    """

    max_drop: float | None = option(None, "Largest loss of the task's metric, in points. Default: 1.")
    min_agreement: float | None = option(
        None,
        "Smallest share of the dense model's answers that must stay the same, in percent; needs no labels. Default "
        f"without labels: {MIN_AGREEMENT:g}.",
    )
    confidence: float = option(0.95, "Confidence with which a bound is said to hold.")
    accept: Acceptance = option(
        "measured",
        "Models to choose from: those whose measured loss is within the bound (measured), or those whose loss is shown "
        "to be within it with the confidence (shown).",
        choices=get_args(Acceptance),
    )
    objective: Objective = option(
        "speed", "What to improve: speed in the runtime, or size of the model file.", choices=get_args(Objective)
    )
    runtime: SpeedupRuntime | None = option(
        None,
        "Runtime to compress for: pytorch, onnx or openvino. Default: openvino if it is installed, else onnx if that "
        "is, else pytorch.",
        choices=get_args(SpeedupRuntime),
        flag="--to",
    )
    precision: PrecisionChoice = option(
        "auto",
        "Precision in the runtime: fp32, bf16 (openvino), int8 (onnx and openvino), or auto: int8 where it "
        "stays within the bound, else a floating-point precision.",
        choices=get_args(PrecisionChoice),
    )
    batch_size: int = option(8, "Texts per batch for the speed.")
    length: int = option(128, "Tokens per text for the speed.")
    own_lengths: bool = option(
        False, "Measure the speed on batches of the validation texts instead, padded to their own lengths."
    )
    minutes: float | None = option(
        None,
        "Minutes after which no further model is tried. Default: 10 for 10 M encoder weights, in proportion to them.",
        flag="--time",
    )
    max_candidates: int = option(8, "Largest number of models that are tried, the dense ones included.")
    recover: bool = option(
        True,
        "Whether to train a pruned model, distilled from the dense one, where pruning alone exceeds the bound and "
        "there is time.",
        flag="--recover/--no-recover",
    )
    seed: int = option(0, "Random seed: fixes every random choice.", cli=False)

    def __post_init__(self) -> None:
        """Checks the types and the ranges."""
        check_types(self)
        check_choices(self)
        check_positive(self, "batch_size", "length", "max_candidates")
        check_seed(self.seed)
        if self.max_drop is not None and self.min_agreement is not None:
            raise OptionError("Name one bound: either max_drop or min_agreement.")
        if self.max_drop is not None and not 0 < self.max_drop < 100:
            raise OptionError(f"max_drop must lie between 0 and 100 points, not {self.max_drop:g}.")
        if self.min_agreement is not None and not 0 < self.min_agreement < 100:
            raise OptionError(f"min_agreement must lie between 0 and 100 percent, not {self.min_agreement:g}.")
        if not 0.5 < self.confidence < 1:
            raise OptionError(f"The confidence must lie between 0.5 and 1, not {self.confidence:g}.")
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise OptionError(f"The time must be a number of minutes greater than 0, not {self.minutes:g}.")
        if self.max_candidates < 2:
            raise OptionError("A search needs at least 2 candidates: the dense model and another one.")
        if self.runtime is not None and self.precision not in ("auto", *PRECISIONS[self.runtime]):
            raise OptionError(
                f"{self.runtime} runs in {' or '.join(PRECISIONS[self.runtime])}, not in {self.precision}; choose one "
                "of these, or another runtime."
            )

    def bound(self, metric: str | None) -> Bound:
        """Returns the bound that must hold.

        Args:
            metric: The task's primary metric; None if there are no labels.

        Raises:
            OptionError: If a drop of a metric is bounded and there are no labels.
        """
        if metric is None and self.max_drop is not None:
            raise OptionError("max_drop is a loss of the task's metric, which needs labels; use min_agreement.")
        if metric is None or self.min_agreement is not None:
            agreement = MIN_AGREEMENT if self.min_agreement is None else self.min_agreement
            return Bound("min_agreement", 100.0 - agreement, self.confidence, "agreement")
        return Bound("max_drop", MAX_DROP if self.max_drop is None else self.max_drop, self.confidence, metric)

    def target_runtime(self) -> SpeedupRuntime:
        """Returns the runtime: the one that is named, else the first that is installed.

        Raises:
            OptionError: If no installed runtime has the precision.
        """
        if self.runtime is not None:
            return self.runtime
        installed: list[SpeedupRuntime] = [
            *(("openvino",) if _is_installed("openvino", "onnxscript") else ()),
            *(("onnx",) if _is_installed("onnxruntime", "onnxscript") else ()),
            "pytorch",
        ]
        fitting = [runtime for runtime in installed if self.precision in ("auto", *PRECISIONS[runtime])]
        if not fitting:
            raise OptionError(
                f"No installed runtime runs in {self.precision}; run: pip install 'bertsurgeon[openvino,int8]'."
            )
        return fitting[0]


@dataclass(frozen=True)
class CompressData:
    """The data of :func:`bertsurgeon.compress`.

    Attributes:
        training: Texts on which pruning is calibrated and recovered: what the dense model was trained on, or unlabeled
            texts of the same kind.
        validation: Texts on which candidates are compared with the dense model, with labels if there is a task.
        task: The task; None if there are only texts, and agreement with the dense model is what counts.
        test: Texts that the search does not use, on which the chosen model is confirmed; None to set half of the
            validation data aside if there is enough of it.
        calibration: Texts for the calibration alone; None for the training texts.
    """

    training: Data
    validation: Data
    task: Task | None = None
    test: Data | None = None
    calibration: Data | None = None


def _is_installed(*packages: str) -> bool:
    try:
        for package in packages:
            require(package, package)
    except ExportError:
        return False
    return True
