"""The options of pruning, checked once."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from bertsurgeon.compensation import Compensation
from bertsurgeon.errors import OptionError
from bertsurgeon.grouping import Grouping
from bertsurgeon.importance import Importance

Method = Literal["pgb"]


@dataclass(frozen=True)
class PruneConfig:
    """How to prune. Exactly one of ``sparsity``, ``threshold`` and ``groups`` sets the group counts.

    Attributes:
        sparsity: Share of the encoder's weights to remove, between 0 and 1; met to within one block.
        threshold: τ of the paper's rule (1e-5 there), instead of ``sparsity``.
        groups: The same number of groups for every matrix, instead of ``sparsity``.
        method: ``pgb``.
        importance: ``fisher`` (½w²F), ``obs`` (w²/(2[F⁻¹]_ii)) or ``magnitude`` (w²).
        obs_block_size: Weights per inverted Fisher block, for ``obs``; memory is 4 · this bytes per encoder weight.
        obs_damping: λ relative to the Fisher's mean diagonal, for ``obs``.
        max_groups: G_max; a matrix that would need more groups is dropped.
        grouping: ``sort`` (the paper's), ``assign``, ``none`` or ``random``.
        permutation_steps: N_perm.
        compensation: ``sequential``, ``independent`` or ``none``.
        damping: λ of the compensation, relative to the mean variance of the inputs.
        samples: Calibration sequences.
        batch_size: Calibration sequences per batch.
        seed: Fixes every random choice.
    """

    sparsity: float | None = None
    threshold: float | None = None
    groups: int | None = None
    method: Method = "pgb"
    importance: Importance = "fisher"
    obs_block_size: int = 32
    obs_damping: float = 1e-2
    max_groups: int = 6
    grouping: Grouping = "sort"
    permutation_steps: int = 6
    compensation: Compensation = "sequential"
    damping: float = 1e-3
    samples: int = 1024
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            OptionError: If one is outside its range, or they contradict each other.
        """
        if sum(value is not None for value in (self.sparsity, self.threshold, self.groups)) != 1:
            raise OptionError("Give exactly one of sparsity, threshold and groups.")
        if self.sparsity is not None and not 0 < self.sparsity < 1:
            raise OptionError(
                f"The sparsity must lie strictly between 0 and 1, not {self.sparsity:g}: 0.5 removes half."
            )
        if self.threshold is not None and not 0 <= self.threshold < float("inf"):
            raise OptionError(f"The threshold must be a number of at least 0, not {self.threshold}.")
        for name, choices in (
            ("method", Method),
            ("importance", Importance),
            ("grouping", Grouping),
            ("compensation", Compensation),
        ):
            if getattr(self, name) not in get_args(choices):
                raise OptionError(f"{name} must be one of {', '.join(get_args(choices))}, not {getattr(self, name)!r}.")
        if self.damping < 0 or self.obs_damping <= 0:
            raise OptionError("The damping must not be negative (and be greater than 0 for obs).")
        for name in ("obs_block_size", "permutation_steps", "samples", "batch_size"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, not {getattr(self, name)}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for reports."""
        return asdict(self)
