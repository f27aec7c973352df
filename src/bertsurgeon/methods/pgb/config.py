"""Options of ``pgb``."""

from dataclasses import dataclass
from typing import ClassVar, get_args

from bertsurgeon.budgets import Budget, Groups, Sparsity, Threshold
from bertsurgeon.compensation import Compensation
from bertsurgeon.errors import OptionError
from bertsurgeon.methods.base import (
    CALIBRATION_PRECISION,
    CalibrationPrecision,
    PruneConfig,
    check_positive,
    check_unused,
)
from bertsurgeon.methods.pgb.importance import Importance
from bertsurgeon.methods.pgb.permutation import Grouping
from bertsurgeon.options import documented, option


@documented
@dataclass(frozen=True)
class PgbConfig(PruneConfig):
    """Options of PGB, permutation and grouping for BERT (Lim, Lee and Choi, arXiv 2502.03984).

    Raises:
        OptionError: If an option is outside its range, or has no effect.

    Example:
        >>> from bertsurgeon import PgbConfig, Sparsity
        >>> PgbConfig(Sparsity(0.5)).grouping
        'sort'
    """

    method: ClassVar[str] = "pgb"
    budgets: ClassVar[tuple[type[Budget], ...]] = (Sparsity, Threshold, Groups)

    importance: Importance = option(
        "fisher",
        "Score of a weight: fisher (½w²F), obs (w²/(2[F⁻¹]_ii)) or magnitude (w²).",
        choices=get_args(Importance),
    )
    obs_block_size: int = option(
        32, "Weights per inverted Fisher block, for obs; memory is 4 · this bytes per encoder weight."
    )
    obs_damping: float = option(1e-2, "Damping λ of the Fisher information relative to its mean diagonal, for obs.")
    max_groups: int = option(6, "G_max of the paper; a matrix that would need more groups is dropped.")
    grouping: Grouping = option(
        "sort",
        "How channels are grouped: sort (the paper's), assign (balanced assignment), none or random.",
        choices=get_args(Grouping),
    )
    permutation_steps: int = option(6, "N_perm of the paper: rounds of row and column permutations.")
    compensation: Compensation = option(
        "sequential",
        "How kept weights are refitted: sequential (on what the pruned model computes), independent (each matrix on "
        "the dense model's inputs) or none.",
        choices=get_args(Compensation),
    )

    calibration_precision: CalibrationPrecision = option(
        "fp32", CALIBRATION_PRECISION, choices=get_args(CalibrationPrecision)
    )

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        check_positive(self, "obs_block_size", "max_groups", "permutation_steps")
        if not 0 < self.obs_damping < float("inf"):
            raise OptionError(f"obs_damping must be greater than 0, not {self.obs_damping:g}.")
        check_unused(
            self, ("max_groups",), isinstance(self.budget, Groups), "the budget Groups, which sets their number"
        )
        check_unused(self, ("permutation_steps",), self.grouping == "none", "the grouping none")
        check_unused(
            self, ("obs_block_size", "obs_damping"), self.importance != "obs", f"the importance {self.importance}"
        )
