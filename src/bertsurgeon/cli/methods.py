"""The options of pruning on the command line: those of the budget and of each method.

Defaults are those of :class:`bertsurgeon.PruneConfig`, and so are the names.
"""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from bertsurgeon.config import PruneConfig
from bertsurgeon.errors import OptionError

_BUDGET = "How much"
_AUTO = "How: --method auto"
_PGB = "How: --method pgb"
_OBERT = "How: --method obert"


@dataclass(frozen=True)
class BudgetOptions:
    """How much is removed."""

    sparsity: Annotated[
        str | None,
        typer.Option(
            "--sparsity",
            help="Share of the encoder's weights to remove; several, as 0.5,0.75, make several models.",
            rich_help_panel=_BUDGET,
        ),
    ] = None
    flops: Annotated[
        float | None,
        typer.Option("--flops", help="Share of the encoder's operations to remove, instead.", rich_help_panel=_BUDGET),
    ] = PruneConfig.flops
    speedup: Annotated[
        float | None,
        typer.Option(
            "--speedup",
            help="Make the model this many times as fast on this machine, instead.",
            rich_help_panel=_BUDGET,
        ),
    ] = PruneConfig.speedup
    speedup_runtime: Annotated[
        str,
        typer.Option(
            "--speedup-runtime",
            help="Where it will run, for --speedup: pytorch, onnx or openvino.",
            rich_help_panel=_BUDGET,
        ),
    ] = PruneConfig.speedup_runtime
    speedup_precision: Annotated[
        str,
        typer.Option(
            "--speedup-precision",
            help="What it will compute in there: fp32, bf16 (openvino) or int8.",
            rich_help_panel=_BUDGET,
        ),
    ] = PruneConfig.speedup_precision
    speedup_batch_size: Annotated[
        int, typer.Option("--speedup-batch-size", help="Texts in a batch, for --speedup.", rich_help_panel=_BUDGET)
    ] = PruneConfig.speedup_batch_size
    speedup_length: Annotated[
        int, typer.Option("--speedup-length", help="Tokens of each text, for --speedup.", rich_help_panel=_BUDGET)
    ] = PruneConfig.speedup_length
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="pgb: τ of the paper's rule, e.g. 1e-5, instead.", rich_help_panel=_BUDGET),
    ] = PruneConfig.threshold
    groups: Annotated[
        int | None, typer.Option("--groups", help="pgb: the same G for every matrix, instead.", rich_help_panel=_BUDGET)
    ] = PruneConfig.groups

    def each(self) -> list[dict[str, Any]]:
        """The budget of every model that is asked for, in the words of :class:`bertsurgeon.PruneConfig`.

        Raises:
            OptionError: If a share of ``--sparsity`` is not a number, or named twice.
        """
        return [asdict(self) | {"sparsity": share} for share in self._shares()]

    def _shares(self) -> list[float | None]:
        if self.sparsity is None:
            return [None]
        try:
            shares: list[float | None] = [float(share) for share in self.sparsity.split(",")]
        except ValueError:
            raise OptionError(
                f"--sparsity must be a number such as 0.5, or several as 0.5,0.75, not {self.sparsity!r}."
            ) from None
        if len(set(shares)) != len(shares):
            raise OptionError(f"--sparsity names a share twice: {self.sparsity}.")
        return shares


@dataclass(frozen=True)
class AutoOptions:
    """What ``auto`` alone has."""

    structures: Annotated[
        str, typer.Option("--structures", help="What may be used: removal,low_rank,groups", rich_help_panel=_AUTO)
    ] = ",".join(PruneConfig.structures)
    group_chunk: Annotated[
        int,
        typer.Option(
            "--group-chunk",
            help="Neighbouring channels that groups take together; 32 is faster.",
            rich_help_panel=_AUTO,
        ),
    ] = PruneConfig.group_chunk
    metric: Annotated[
        str,
        typer.Option("--metric", help="fisher (weigh errors by what the loss minds) or plain", rich_help_panel=_AUTO),
    ] = PruneConfig.metric
    token_weighting: Annotated[
        float,
        typer.Option(
            "--token-weighting", help="Share of a text's weight for the tokens the loss minds.", rich_help_panel=_AUTO
        ),
    ] = PruneConfig.token_weighting
    use_labels: Annotated[
        bool,
        typer.Option(
            "--use-labels", help="Take the metric from labels, not from own predictions.", rich_help_panel=_AUTO
        ),
    ] = PruneConfig.use_labels
    target: Annotated[
        str, typer.Option("--target", help="What is fitted: dense (outputs) or residual", rich_help_panel=_AUTO)
    ] = PruneConfig.target

    def settings(self) -> dict[str, Any]:
        """In the words of :class:`bertsurgeon.PruneConfig`."""
        return asdict(self) | {"structures": tuple(self.structures.split(","))}


@dataclass(frozen=True)
class PgbOptions:
    """What ``pgb`` alone has."""

    importance: Annotated[str, typer.Option("--importance", help="fisher, obs or magnitude", rich_help_panel=_PGB)] = (
        PruneConfig.importance
    )
    obs_block_size: Annotated[
        int, typer.Option("--obs-block-size", help="Weights per Fisher block (obs).", rich_help_panel=_PGB)
    ] = PruneConfig.obs_block_size
    obs_damping: Annotated[
        float, typer.Option("--obs-damping", help="Relative damping of the Fisher (obs).", rich_help_panel=_PGB)
    ] = PruneConfig.obs_damping
    max_groups: Annotated[
        int, typer.Option("--max-groups", help="G_max; beyond it a matrix is dropped.", rich_help_panel=_PGB)
    ] = PruneConfig.max_groups
    grouping: Annotated[str, typer.Option("--grouping", help="sort, assign, none or random", rich_help_panel=_PGB)] = (
        PruneConfig.grouping
    )
    permutation_steps: Annotated[int, typer.Option("--permutation-steps", help="N_perm.", rich_help_panel=_PGB)] = (
        PruneConfig.permutation_steps
    )
    compensation: Annotated[
        str, typer.Option("--compensation", help="sequential, independent (pgb) or none", rich_help_panel=_PGB)
    ] = PruneConfig.compensation


@dataclass(frozen=True)
class ObertOptions:
    """What ``obert`` alone has."""

    pattern: Annotated[
        str,
        typer.Option("--pattern", help="unstructured, block (1x4), 1xN, or N:M such as 2:4", rich_help_panel=_OBERT),
    ] = PruneConfig.pattern
    mask_scope: Annotated[
        str,
        typer.Option("--mask-scope", help="global (matrices compete) or matrix (each alike)", rich_help_panel=_OBERT),
    ] = PruneConfig.mask_scope
    score: Annotated[str, typer.Option("--score", help="fisher-block or magnitude", rich_help_panel=_OBERT)] = (
        PruneConfig.score
    )
    update: Annotated[
        str | None,
        typer.Option(
            "--update",
            help="obert, greedy, woodtaylor or none; default: obert, none with magnitude.",
            rich_help_panel=_OBERT,
        ),
    ] = PruneConfig.update
    recomputations: Annotated[
        int,
        typer.Option("--recomputations", help="Rounds of gradients and pruning, alike shares.", rich_help_panel=_OBERT),
    ] = PruneConfig.recomputations
    fisher_block_size: Annotated[
        int, typer.Option("--fisher-block-size", help="Weights per Fisher block.", rich_help_panel=_OBERT)
    ] = PruneConfig.fisher_block_size
    fisher_damping: Annotated[
        float, typer.Option("--fisher-damping", help="λ of the Fisher, absolute.", rich_help_panel=_OBERT)
    ] = PruneConfig.fisher_damping
    fisher_batch_size: Annotated[
        int,
        typer.Option("--fisher-batch-size", help="Texts whose mean gradient counts as one.", rich_help_panel=_OBERT),
    ] = PruneConfig.fisher_batch_size
    memory_gb: Annotated[
        float,
        typer.Option(
            "--memory-gb", help="For Fisher blocks; if too little, the data is read again.", rich_help_panel=_OBERT
        ),
    ] = PruneConfig.memory_gb
