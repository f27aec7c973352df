"""What all pruning methods have in common: the options, the result, and the entry in the table of methods."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch

from bertsurgeon.architectures import Encoder
from bertsurgeon.budgets import Budget, check_types
from bertsurgeon.calibration import Batch, count_samples, token_mask
from bertsurgeon.checkpoint import check_finite, get_plan, is_sparse
from bertsurgeon.devices import has_fast_bf16
from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.options import REQUIRED, documented, option
from bertsurgeon.plan import ModelPlan
from bertsurgeon.timings import Timings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CalibrationPrecision = Literal["auto", "fp32", "bf16"]

CALIBRATION_PRECISION = (
    "Precision in which the model runs on the calibration texts: fp32, bf16, or auto, which is bf16 on a CPU with "
    "instructions for it and fp32 elsewhere. Sums and regressions are in fp32 and fp64 in any case."
)
"""Help of the option."""


def runs_in_bf16(precision: CalibrationPrecision, device: torch.device) -> bool:
    """Returns whether a model runs in bfloat16 on the calibration texts."""
    return precision == "bf16" or (precision == "auto" and has_fast_bf16(device))


MAX_SEED = 2**32 - 1
"""Largest random seed that NumPy accepts."""


def check_choices(config: Any) -> None:
    """Checks the options of a configuration whose values can be listed.

    Raises:
        OptionError: If an option has none of its values.
    """
    for each in fields(config):
        choices, value = each.metadata.get("choices"), getattr(config, each.name)
        values = value if isinstance(value, tuple) else (value,)
        if choices and value != each.default and (not values or set(values) - set(choices)):
            raise OptionError(f"{each.name} must be one of {', '.join(map(str, choices))}, not {value!r}.")


def check_unused(config: Any, names: Iterable[str], condition: bool, where: str) -> None:
    """Refuses options that would have no effect.

    Args:
        config: A configuration.
        names: Options that have no effect under ``condition``.
        condition: True if they have none.
        where: Description of the condition, for the error.

    Raises:
        OptionError: If one of them differs from its default nevertheless.
    """
    defaults = {each.name: each.default for each in fields(config)}
    changed = [name for name in names if getattr(config, name) != defaults[name]]
    if condition and changed:
        raise OptionError(f"{changed[0]} has no effect with {where}; leave it out.")


def check_positive(config: Any, *names: str) -> None:
    """Checks options that count something.

    Raises:
        OptionError: If one of them is smaller than 1; None is accepted.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise OptionError(f"{name} must be at least 1, not {value}.")


def check_seed(seed: int) -> None:
    """Checks a random seed.

    Raises:
        OptionError: If NumPy does not accept it.
    """
    if not 0 <= seed <= MAX_SEED:
        raise OptionError(f"seed must lie between 0 and {MAX_SEED}, not {seed}.")


@documented
@dataclass(frozen=True)
class PruneConfig:
    """Options of every pruning method; each method has a configuration class of its own with more.

    Raises:
        OptionError: If an option is outside its range, or the method does not accept the budget.
    """

    method: ClassVar[str]
    budgets: ClassVar[tuple[type[Budget], ...]]

    budget: Budget = option(REQUIRED, "What to remove, such as Sparsity(0.5).", cli=False)
    samples: int | None = option(None, "Calibration texts. Default: as many as the method needs.")
    batch_size: int = option(32, "Calibration texts per batch.", cli=False)
    damping: float = option(
        1e-3, "Ridge λ of the compensation's regressions, relative to the mean variance of the inputs."
    )
    seed: int = option(0, "Random seed: fixes the calibration texts and every random choice.", cli=False)

    def __post_init__(self) -> None:
        """Checks the options."""
        if type(self) is PruneConfig:
            raise OptionError("PruneConfig is the base class; use AutoConfig, PgbConfig or ObertConfig.")
        check_types(self)
        if not isinstance(self.budget, self.budgets):
            names = ", ".join(f"{budget.__name__}(…)" for budget in self.budgets)
            raise OptionError(f"The budget of {self.method} must be one of {names}, not {self.budget!r}.")
        check_choices(self)
        check_positive(self, "samples", "batch_size")
        check_seed(self.seed)
        if not 0 <= self.damping < float("inf"):
            raise OptionError(f"The damping must be at least 0, not {self.damping:g}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for reports."""
        return {"method": self.method, **asdict(self), "budget": self.budget.to_dict()}


@dataclass(frozen=True)
class SparseReport:
    """What single-weight or block pruning did to matrices that keep their shapes.

    Attributes:
        block: Consecutive weights of a row that are pruned together.
        kept: Remaining weights, by layer and role.
        sparsity: Share of the encoder's weights that are zero.
        gradients: Number of gradients that the Fisher information is the mean of.
        passes: Passes over the data, in all rounds.
        precision: Bits of the numbers in which the Fisher information was inverted.
    """

    block: int
    kept: list[dict[str, int]]
    sparsity: float
    gradients: int
    passes: int
    precision: int


@dataclass
class PruneReport:
    """What pruning did.

    Attributes:
        plan: What each matrix keeps; for sparse models what each matrix was before, dense or pruned by another method.
        config: The options.
        samples: Calibration sequences used.
        tokens: Calibration tokens used, padding excluded.
        seconds: Wall-clock time of each step.
        sparse: Only for methods that set weights to zero instead of removing them.
    """

    plan: ModelPlan
    config: PruneConfig
    samples: int
    tokens: int
    seconds: dict[str, float] = field(default_factory=dict)
    sparse: SparseReport | None = None

    @classmethod
    def build(
        cls,
        plan: ModelPlan,
        config: PruneConfig,
        model: "PreTrainedModel",
        batches: Iterable[Batch],
        timings: Timings,
        sparse: SparseReport | None = None,
    ) -> "PruneReport":
        """Makes the report, and counts the calibration data.

        Args:
            plan: See the attribute.
            config: See the attribute.
            model: The dense model; images have as many tokens as it makes of them.
            batches: The calibration data.
            timings: Wall-clock time of the steps.
            sparse: See the attribute.
        """
        batches = list(batches)
        tokens = sum(int(token_mask(model, batch).sum()) for batch in batches)
        return cls(plan, config, sum(map(count_samples, batches)), tokens, timings.seconds, sparse)

    @property
    def sparsity(self) -> float:
        """Share of the encoder's weights that was removed or set to zero."""
        return 1 - self.kept / self.plan.size

    @property
    def kept(self) -> int:
        """Remaining weights of the encoder."""
        return self.plan.kept if self.sparse is None else sum(sum(layer.values()) for layer in self.sparse.kept)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the plan (which the checkpoint holds)."""
        return {
            "config": self.config.to_dict(),
            "encoder_weights": {"dense": self.plan.size, "kept": self.kept},
            "sparsity": self.sparsity,
            "sparse": None if self.sparse is None else asdict(self.sparse),
            "samples": self.samples,
            "tokens": self.tokens,
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
        }


class PruneResult(NamedTuple):
    """A pruned model and the report on how it was made.

    Attributes:
        model: The pruned model, ready for ``save_pretrained`` or further training.
        report: What was done.
    """

    model: "PreTrainedModel"
    report: PruneReport


@dataclass(frozen=True)
class Method:
    """An entry of the table of methods.

    Attributes:
        name: Name in reports and on the command line.
        summary: One line for the command line's help.
        config: Class of its options.
        run: Prunes a model: ``run(model, config, data, tokenizer, teacher)``.
        accepts_teacher: True if gradients can be those of a distillation from another model.
        calibrate: Makes what several budgets can share, which ``run`` accepts as data: ``calibrate(model, config, data,
            tokenizer)``; None if the method has no such step.
    """

    name: str
    summary: str
    config: type[PruneConfig]
    run: "Callable[[PreTrainedModel, Any, Any, PreTrainedTokenizerBase | None, PreTrainedModel | None], PruneResult]"
    accepts_teacher: bool = False
    calibrate: "Callable[[PreTrainedModel, Any, Any, PreTrainedTokenizerBase | None], Any] | None" = None


def check_dense(model: "PreTrainedModel") -> None:
    """Checks that a model is supported, dense and sound.

    Raises:
        ModelError: If it is not.
    """
    if get_plan(model) is not None:
        raise ModelError(
            "The model is pruned already; start from the dense one, or use the method obert, which prunes it further."
        )
    if is_sparse(model):
        raise ModelError("The model is sparse already; only the method obert prunes it further.")
    check_matrices(model)


def check_matrices(model: "PreTrainedModel") -> None:
    """Checks that a model is supported and sound; its matrices may be dense, sparse or pruned by a plan.

    Raises:
        ModelError: If it is not.
    """
    encoder = Encoder(model)
    encoder.architecture.check_config(model.config)
    check_finite(model)
    if get_plan(model) is None:
        _ = encoder.shapes  # raises where a matrix is no linear layer
