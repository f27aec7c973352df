"""Options of ``auto``: of its calibration, which serves many budgets, and of pruning to one of them."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from bertsurgeon.budgets import Budget, Flops, Sparsity, Speedup, check_types
from bertsurgeon.compensation import Target
from bertsurgeon.errors import OptionError
from bertsurgeon.methods.base import (
    CALIBRATION_PRECISION,
    CalibrationPrecision,
    PruneConfig,
    check_choices,
    check_positive,
    check_seed,
    check_unused,
)
from bertsurgeon.options import documented, option

Metric = Literal["fisher", "plain"]
StructureName = Literal["removal", "low_rank", "groups"]


@documented
@dataclass(frozen=True)
class CalibrationConfig:
    """Options of :func:`bertsurgeon.calibrate`: what ``auto`` measures once for any number of budgets.

    Raises:
        OptionError: If an option is outside its range, or has no effect.
    """

    samples: int | None = option(None, "Calibration texts. Default: as many as make enough tokens.")
    batch_size: int = option(32, "Calibration texts per batch.", cli=False)
    damping: float = option(1e-3, "Ridge λ of the regressions, relative to the mean variance of the inputs.")
    seed: int = option(0, "Random seed: fixes the calibration texts and every random choice.", cli=False)
    structures: tuple[StructureName, ...] = option(
        ("removal", "low_rank"),
        "Structures to choose from: removal (of heads and neurons), low_rank, and (aligned) groups.",
        choices=get_args(StructureName),
    )
    group_chunk: int = option(
        1,
        "Adjacent channels of the residual stream that groups read and write together: 1 keeps most quality, 32 lets "
        "runtimes copy blocks instead of gathering single channels.",
    )
    metric: Metric = option(
        "fisher",
        "Weight of errors: fisher (sensitivity of the loss to them) or plain (equal weights).",
        choices=get_args(Metric),
    )
    token_weighting: float = option(
        0.5,
        "Share of a text's weight in the regressions that its tokens get in proportion to the sensitivity of the loss "
        "to them; the rest is spread evenly. For the metric fisher.",
    )
    fisher_temperature: float = option(
        2.0,
        "Softens the model's predictions for the metric fisher: at 1, few texts count, those that the model is unsure "
        "of; the higher it is, the more all of them count.",
    )
    calibration_precision: CalibrationPrecision = option(
        "fp32", CALIBRATION_PRECISION, choices=get_args(CalibrationPrecision)
    )
    use_labels: bool = option(
        False, "Take the gradients for the metric fisher from labels instead of the model's own predictions."
    )

    def __post_init__(self) -> None:
        """Checks the options."""
        check_types(self)
        check_choices(self)
        check_positive(self, "samples", "batch_size", "group_chunk")
        check_seed(self.seed)
        if not 0 <= self.damping < float("inf"):
            raise OptionError(f"The damping must be at least 0, not {self.damping:g}.")
        if not 0 <= self.token_weighting <= 1:
            raise OptionError(f"token_weighting must lie between 0 and 1, not {self.token_weighting:g}.")
        if not 1 <= self.fisher_temperature < float("inf"):
            raise OptionError(f"fisher_temperature must be finite and at least 1, not {self.fisher_temperature:g}.")
        check_unused(
            self,
            ("use_labels", "token_weighting", "fisher_temperature"),
            self.metric == "plain",
            "the metric plain, which takes no gradients",
        )
        check_unused(self, ("fisher_temperature",), self.use_labels, "gradients from labels")
        check_unused(self, ("group_chunk",), "groups" not in self.structures, "structures without groups")


@documented
@dataclass(frozen=True)
class AutoConfig(CalibrationConfig, PruneConfig):
    """Options of ``auto``: one search over removed heads and neurons, low rank and aligned groups.

    Raises:
        OptionError: If an option is outside its range, or has no effect.

    Example:
        >>> from bertsurgeon import AutoConfig, Sparsity
        >>> AutoConfig(Sparsity(0.5)).structures
        ('removal', 'low_rank')
    """

    method: ClassVar[str] = "auto"
    budgets: ClassVar[tuple[type[Budget], ...]] = (Sparsity, Flops, Speedup)

    target: Target = option(
        "dense",
        "What each sub-layer is fitted to: the dense sub-layer's output, or the dense residual stream.",
        choices=get_args(Target),
    )

    def __post_init__(self) -> None:
        """Checks the options."""
        PruneConfig.__post_init__(self)
        CalibrationConfig.__post_init__(self)
