"""The options of pruning, checked once."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from bertsurgeon.compensation import Compensation, Target
from bertsurgeon.errors import OptionError
from bertsurgeon.exporting import ExportConfig
from bertsurgeon.methods.obert.patterns import Pattern
from bertsurgeon.methods.obert.selection import Scope
from bertsurgeon.methods.obert.step import Score, StepOptions, Update
from bertsurgeon.methods.pgb.importance import Importance
from bertsurgeon.methods.pgb.permutation import Grouping
from bertsurgeon.runtime import Precision

Method = Literal["auto", "pgb", "obert"]
Metric = Literal["fisher", "plain"]
Structures = Literal["removal", "low_rank", "groups"]
SpeedupRuntime = Literal["pytorch", "onnx", "openvino"]

OPTIONS: dict[Method, tuple[str, ...]] = {
    "auto": (
        "flops",
        "speedup",
        "speedup_runtime",
        "speedup_precision",
        "speedup_batch_size",
        "speedup_length",
        "structures",
        "group_chunk",
        "metric",
        "token_weighting",
        "use_labels",
        "target",
    ),
    "pgb": (
        "threshold",
        "groups",
        "importance",
        "obs_block_size",
        "obs_damping",
        "max_groups",
        "grouping",
        "permutation_steps",
        "compensation",
    ),
    "obert": (
        "pattern",
        "mask_scope",
        "score",
        "update",
        "recomputations",
        "fisher_block_size",
        "fisher_damping",
        "fisher_batch_size",
        "memory_gb",
        "compensation",
    ),
}
"""Options that not all methods have, by method."""


@dataclass(frozen=True)
class PruneConfig:
    """How to prune. Exactly one of ``sparsity``, ``flops``, ``speedup``, ``threshold`` and ``groups`` sets the budget.

    Attributes:
        sparsity: Share of the encoder's weights to remove, between 0 and 1.
        flops: Share of the encoder's floating-point operations (at 128 tokens) to remove, instead (``auto``).
        speedup: How many times as fast the model shall run on this machine, instead (``auto``).
        speedup_runtime: Where it runs, for ``speedup``: ``pytorch``, or ``onnx`` or ``openvino`` after an export.
        speedup_precision: What it computes in there: ``fp32``, ``bf16`` (OpenVINO) or ``int8`` (both after an export).
        speedup_batch_size: Texts in a batch, for ``speedup``.
        speedup_length: Tokens of each text, for ``speedup``.
        threshold: τ of the paper's rule (1e-5 there), instead (``pgb``).
        groups: The same number of groups for every matrix, instead (``pgb``).
        method: ``auto`` searches over removed heads and neurons and low rank; ``pgb`` is the paper's grouping;
            ``obert`` sets single weights or blocks to zero by the inverse Fisher information.
        structures: What ``auto`` may use: ``removal``, ``low_rank``, and (aligned) ``groups``.
        group_chunk: Neighbouring channels of the residual stream that ``auto``'s groups read and write together: with 1
            the groups are best, with 32 runtimes copy memory where they otherwise gather channels one by one.
        metric: What ``auto`` weighs errors by: ``fisher`` (how much the loss minds them) or ``plain`` (all alike).
        token_weighting: Share of a text's weight in ``auto``'s regressions that goes to its tokens by how much the loss
            minds errors there; the rest goes to all tokens alike. Needs ``fisher``.
        use_labels: Take the gradients for ``fisher`` from the data's labels instead of the model's own predictions.
        target: What ``auto`` fits each sub-layer to: the ``dense`` one's output, or the dense ``residual`` stream.
        importance: ``fisher`` (½w²F), ``obs`` (w²/(2[F⁻¹]_ii)) or ``magnitude`` (w²) (``pgb``).
        obs_block_size: Weights per inverted Fisher block, for ``obs``; memory is 4 · this bytes per encoder weight.
        obs_damping: λ relative to the Fisher's mean diagonal, for ``obs``.
        max_groups: G_max; a matrix that would need more groups is dropped (``pgb``).
        grouping: ``sort`` (the paper's), ``assign``, ``none`` or ``random`` (``pgb``).
        permutation_steps: N_perm (``pgb``).
        compensation: ``sequential``, ``independent`` or ``none`` (``pgb``; ``auto`` is always sequential);
            ``sequential`` or the paper's ``none`` (``obert``).
        damping: λ of the compensation, relative to the mean variance of the inputs.
        pattern: ``unstructured``; ``1xN``, N consecutive weights of a row at a time (``block`` is ``1x4``); or ``N:M``,
            N of every M consecutive weights stay (``obert``).
        mask_scope: ``global``: all matrices compete; ``matrix``: each loses the same share (``obert``).
        score: ``fisher-block`` (oBERT's) or ``magnitude``, which needs no gradients (``obert``).
        update: Of the weights that stay: ``obert``; ``greedy`` (prunes each Fisher block weight by weight, with updates
            in between); ``woodtaylor`` (heeds the mean gradient as well); or ``none``. None for ``obert``, and for
            ``none`` with ``magnitude``.
        recomputations: Rounds of gradients and pruning, each with the same share (``obert``).
        fisher_block_size: Weights per inverted Fisher block; the last block of a row is shorter where it does not
            divide the row (``obert``).
        fisher_damping: λ, absolute (``obert``).
        fisher_batch_size: Sequences whose mean gradient counts as one (``obert``).
        memory_gb: What inverted Fisher blocks may take, in 10⁹ bytes; where all of them need more, the data is gone
            over several times (``obert``).
        samples: Calibration sequences; None for 1024 (``pgb``), for 1024 gradients (``obert``), or for as many as make
            enough tokens (``auto``, see :func:`bertsurgeon.calibration.make_batches`).
        batch_size: Calibration sequences per batch.
        seed: Fixes every random choice.

    Example:
        >>> from bertsurgeon import PruneConfig
        >>> PruneConfig(speedup=2).method
        'auto'
        >>> PruneConfig(sparsity=0.5, threshold=1e-5)
        Traceback (most recent call last):
        bertsurgeon.errors.OptionError: Give exactly one of sparsity, flops, speedup, threshold and groups.
    """

    sparsity: float | None = None
    flops: float | None = None
    speedup: float | None = None
    speedup_runtime: SpeedupRuntime = "pytorch"
    speedup_precision: Precision = "fp32"
    speedup_batch_size: int = 1
    speedup_length: int = 128
    threshold: float | None = None
    groups: int | None = None
    method: Method = "auto"
    structures: tuple[Structures, ...] = ("removal", "low_rank")
    group_chunk: int = 1
    metric: Metric = "fisher"
    token_weighting: float = 0.5
    use_labels: bool = False
    target: Target = "dense"
    importance: Importance = "fisher"
    obs_block_size: int = 32
    obs_damping: float = 1e-2
    max_groups: int = 6
    grouping: Grouping = "sort"
    permutation_steps: int = 6
    compensation: Compensation = "sequential"
    damping: float = 1e-3
    pattern: str = "unstructured"
    mask_scope: Scope = "global"
    score: Score = "fisher-block"
    update: Update | None = None
    recomputations: int = 1
    fisher_block_size: int = 32
    fisher_damping: float = 1e-7
    fisher_batch_size: int = 1
    memory_gb: float = 4.0
    samples: int | None = None
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            OptionError: If one is outside its range, or they contradict each other.
        """
        budgets = (self.sparsity, self.flops, self.speedup, self.threshold, self.groups)
        if sum(value is not None for value in budgets) != 1:
            raise OptionError("Give exactly one of sparsity, flops, speedup, threshold and groups.")
        if self.speedup is not None and not 1 < self.speedup < float("inf"):
            raise OptionError(f"The speed-up must be greater than 1, not {self.speedup:g}: 2 halves the time.")
        for name in ("sparsity", "flops"):
            share = getattr(self, name)
            if share is not None and not 0 < share < 1:
                raise OptionError(f"The {name} must lie strictly between 0 and 1, not {share:g}: 0.5 removes half.")
        if self.threshold is not None and not 0 <= self.threshold < float("inf"):
            raise OptionError(f"The threshold must be a number of at least 0, not {self.threshold}.")
        for name, choices in (
            ("method", Method),
            ("speedup_runtime", SpeedupRuntime),
            ("speedup_precision", Precision),
            ("metric", Metric),
            ("target", Target),
            ("importance", Importance),
            ("grouping", Grouping),
            ("compensation", Compensation),
            ("mask_scope", Scope),
            ("score", Score),
            ("update", Update),
        ):
            if getattr(self, name) not in get_args(choices) and (name != "update" or self.update is not None):
                raise OptionError(f"{name} must be one of {', '.join(get_args(choices))}, not {getattr(self, name)!r}.")
        if self.speedup_runtime != "pytorch":
            ExportConfig(self.speedup_runtime, self.speedup_precision)  # says what does not go together
        elif self.speedup_precision != "fp32":
            raise OptionError("In PyTorch the speed-up is measured in fp32; for others name another speedup_runtime.")
        if not self.structures or set(self.structures) - set(get_args(Structures)):
            raise OptionError(f"structures must be some of {', '.join(get_args(Structures))}.")
        if not 0 <= self.token_weighting <= 1:
            raise OptionError(f"The weighting of tokens must lie between 0 and 1, not {self.token_weighting:g}.")
        if self.damping < 0 or self.obs_damping <= 0:
            raise OptionError("The damping must not be negative (and be greater than 0 for obs).")
        for name in (
            "group_chunk",
            "obs_block_size",
            "permutation_steps",
            "batch_size",
            "speedup_batch_size",
            "speedup_length",
            "recomputations",
            "fisher_block_size",
            "fisher_batch_size",
        ):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.samples is not None and self.samples < 1:
            raise OptionError(f"samples must be at least 1, not {self.samples}.")
        self._check_method()

    def _check_method(self) -> None:
        """Refuses options of other methods, or of another budget, which would do nothing."""
        for field in fields(self):
            owners = [method for method, names in OPTIONS.items() if field.name in names]
            if owners and self.method not in owners and getattr(self, field.name) != field.default:
                word = "methods" if len(owners) > 1 else "method"
                raise OptionError(
                    f"{field.name} is an option of the {word} {' and '.join(owners)}, not of {self.method}."
                )
            if (
                field.name.startswith("speedup_")
                and self.speedup is None
                and getattr(self, field.name) != field.default
            ):
                raise OptionError(f"{field.name} says where a speed-up is measured; name the speedup itself as well.")
        for useless, names, where in (
            (self.metric == "plain", ("use_labels", "token_weighting"), "metric plain, which takes no gradients"),
            ("groups" not in self.structures, ("group_chunk",), "structures without groups"),
            (self.groups is not None, ("max_groups",), "groups, which sets their number"),
            (self.grouping == "none", ("permutation_steps",), "grouping none"),
            (self.importance != "obs", ("obs_block_size", "obs_damping"), f"importance {self.importance}"),
            (self.score == "magnitude", ("fisher_block_size", "fisher_batch_size"), "score magnitude"),
        ):
            given = [name for name in names if getattr(self, name) != getattr(PruneConfig, name)]
            if useless and given:
                raise OptionError(f"{given[0]} does nothing with {where}; leave it out.")
        if self.method == "obert":
            self._check_obert()

    def _check_obert(self) -> None:
        if not 0 < self.fisher_damping < float("inf") or not 0 < self.memory_gb < float("inf"):
            raise OptionError("The damping of the Fisher information and its memory must be greater than 0.")
        if self.compensation == "independent":
            raise OptionError("For obert the compensation is sequential or none.")
        pattern = self.step_options().pattern
        if pattern.sparsity is not None and self.sparsity != pattern.sparsity:
            raise OptionError(
                f"The pattern {pattern.name} removes a share of {pattern.sparsity:g}; the sparsity must be that, not "
                f"{self.sparsity:g}."
            )

    def step_options(self) -> StepOptions:
        """How one step of ``obert`` prunes.

        Raises:
            OptionError: If there is no such pattern, or the score knows no updates.
        """
        return StepOptions(
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

    def to_dict(self) -> dict[str, Any]:
        """Plain data for reports."""
        return asdict(self)
