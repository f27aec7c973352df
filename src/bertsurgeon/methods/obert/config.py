"""Options of ``obert``."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from bertsurgeon.budgets import Budget, Sparsity
from bertsurgeon.errors import OptionError
from bertsurgeon.methods.base import PruneConfig, check_positive, check_unused
from bertsurgeon.methods.obert.patterns import Pattern
from bertsurgeon.methods.obert.selection import Scope
from bertsurgeon.methods.obert.step import Score, StepConfig, Update
from bertsurgeon.options import documented, option

MaskCompensation = Literal["sequential", "none"]


@documented
@dataclass(frozen=True)
class ObertConfig(PruneConfig):
    """Options of oBERT, the Optimal BERT Surgeon (Kurtic et al., 2022, arXiv 2203.07259), in one shot.

    Raises:
        OptionError: If an option is outside its range, or has no effect.

    Example:
        >>> from bertsurgeon import ObertConfig, Sparsity
        >>> ObertConfig(Sparsity(0.9), pattern="block").step_config().pattern.name
        '1x4'
    """

    method: ClassVar[str] = "obert"
    budgets: ClassVar[tuple[type[Budget], ...]] = (Sparsity,)

    pattern: str = option(
        "unstructured",
        "Weights pruned together: unstructured (single ones), 1xN (N consecutive weights of a row; block is 1x4), or "
        "N:M (N of every M consecutive weights stay).",
    )
    mask_scope: Scope = option(
        "global",
        "Where units compete: global (all matrices together) or matrix (each loses the same share).",
        choices=get_args(Scope),
    )
    score: Score = option(
        "fisher-block",
        "Score of a unit: fisher-block (oBERT's) or magnitude, which needs no gradients.",
        choices=get_args(Score),
    )
    update: Update | None = option(
        None,
        "Update of the remaining weights: obert; greedy (each Fisher block weight by weight, with updates in between); "
        "woodtaylor (with the mean gradient); or none. Default: obert, with the score magnitude none.",
    )
    recomputations: int = option(1, "Rounds of gradients and pruning; each removes the same share.")
    fisher_block_size: int = option(32, "Weights per inverted Fisher block; a row's last block may be shorter.")
    fisher_damping: float = option(1e-7, "Damping λ of the Fisher information, absolute.")
    fisher_batch_size: int = option(1, "Texts whose mean gradient counts as one.")
    memory_gb: float = option(
        4.0, "Memory for inverted Fisher blocks in 10⁹ bytes; if they need more, the data is passed over several times."
    )
    compensation: MaskCompensation = option(
        "sequential",
        "How remaining weights are refitted after the last round: sequential (layer by layer) or none (the paper's).",
        choices=get_args(MaskCompensation),
    )

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        check_positive(self, "recomputations", "fisher_block_size", "fisher_batch_size")
        if self.update is not None and self.update not in get_args(Update):
            raise OptionError(f"update must be one of {', '.join(get_args(Update))}, not {self.update!r}.")
        if not 0 < self.fisher_damping < float("inf") or not 0 < self.memory_gb < float("inf"):
            raise OptionError("fisher_damping and memory_gb must be greater than 0.")
        check_unused(
            self,
            ("fisher_block_size", "fisher_batch_size", "fisher_damping", "memory_gb"),
            self.score == "magnitude",
            "the score magnitude",
        )
        pattern = self.step_config().pattern
        if pattern.sparsity is not None and self.budget.amount != pattern.sparsity:
            raise OptionError(
                f"The pattern {pattern.name} removes a share of {pattern.sparsity:g}; the sparsity must be that, not "
                f"{self.budget.amount:g}."
            )

    def step_config(self) -> StepConfig:
        """Options of one pruning step.

        Raises:
            OptionError: If there is no such pattern, or the score allows no update.
        """
        return StepConfig(
            pattern=Pattern.parse(self.pattern),
            scope=self.mask_scope,
            score=self.score,
            update=self.update or ("none" if self.score == "magnitude" else "obert"),
            block_size=self.fisher_block_size,
            damping=self.fisher_damping,
            batch_size=self.fisher_batch_size,
            memory=int(self.memory_gb * 1e9),
            seed=self.seed,
        )
