"""``bertsurgeon prune`` and ``bertsurgeon calibrate``."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from bertsurgeon.checkpoint import check_output, load_model
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded_together
from bertsurgeon.cli.groups import Without, grouped
from bertsurgeon.cli.pipeline import load_inputs, run_prune
from bertsurgeon.cli.sources import DataOptions, LossOptions, resolve_model
from bertsurgeon.cli.summary import print_plan, print_sparsity, print_summary
from bertsurgeon.compensation import Compensation, Target
from bertsurgeon.config import Method, Metric, PruneConfig, Structures
from bertsurgeon.errors import OptionError
from bertsurgeon.grouping import Grouping
from bertsurgeon.importance import Importance
from bertsurgeon.pruning import Calibration
from bertsurgeon.pruning import calibrate as calibrate_model
from bertsurgeon.second_order import Scope, Score, Update

_BUDGET = "How much"
_AUTO = "How: --method auto"
_PGB = "How: --method pgb"
_OBERT = "How: --method obert"

Samples = Annotated[
    int | None, typer.Option("--samples", help="Calibration texts; default: enough (auto), or 1024 (pgb, obert).")
]
Damping = Annotated[float, typer.Option("--damping", help="Relative damping of the compensation.")]
MetricName = Annotated[
    str, typer.Option("--metric", help="fisher (weigh errors by what the loss minds) or plain", rich_help_panel=_AUTO)
]
StructureNames = Annotated[
    str, typer.Option("--structures", help="What may be used: removal,low_rank,groups", rich_help_panel=_AUTO)
]
GroupChunk = Annotated[
    int,
    typer.Option(
        "--group-chunk", help="Neighbouring channels that groups take together; 32 is faster.", rich_help_panel=_AUTO
    ),
]
TokenWeighting = Annotated[
    float,
    typer.Option(
        "--token-weighting", help="Share of a text's weight for the tokens the loss minds.", rich_help_panel=_AUTO
    ),
]
UseLabels = Annotated[
    bool,
    typer.Option("--use-labels", help="Take the metric from labels, not from own predictions.", rich_help_panel=_AUTO),
]


@app.command()
@guarded_together
@grouped
def prune(
    *,
    model: opt.Model,
    output: opt.Output,
    data_options: DataOptions,
    sparsity: Annotated[
        str | None,
        typer.Option(
            "--sparsity",
            help="Share of the encoder's weights to remove; several, as 0.5,0.75, make several models.",
            rich_help_panel=_BUDGET,
        ),
    ] = None,
    flops: Annotated[
        float | None,
        typer.Option("--flops", help="Share of the encoder's operations to remove, instead.", rich_help_panel=_BUDGET),
    ] = None,
    speedup: Annotated[
        float | None,
        typer.Option(
            "--speedup",
            help="Make the model this many times as fast, in PyTorch on this machine, instead.",
            rich_help_panel=_BUDGET,
        ),
    ] = None,
    speedup_batch_size: Annotated[
        int, typer.Option("--speedup-batch-size", help="Texts in a batch, for --speedup.", rich_help_panel=_BUDGET)
    ] = 1,
    speedup_length: Annotated[
        int, typer.Option("--speedup-length", help="Tokens of each text, for --speedup.", rich_help_panel=_BUDGET)
    ] = 128,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="pgb: τ of the paper's rule, e.g. 1e-5, instead.", rich_help_panel=_BUDGET),
    ] = None,
    groups: Annotated[
        int | None, typer.Option("--groups", help="pgb: the same G for every matrix, instead.", rich_help_panel=_BUDGET)
    ] = None,
    method: Annotated[str, typer.Option("--method", help="auto, pgb or obert")] = "auto",
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="What 'bertsurgeon calibrate' wrote.", rich_help_panel=_AUTO),
    ] = None,
    structures: StructureNames = "removal,low_rank",
    group_chunk: GroupChunk = 1,
    metric: MetricName = "fisher",
    token_weighting: TokenWeighting = 0.5,
    use_labels: UseLabels = False,
    target: Annotated[
        str, typer.Option("--target", help="What is fitted: dense (outputs) or residual", rich_help_panel=_AUTO)
    ] = "dense",
    importance: Annotated[
        str, typer.Option("--importance", help="fisher, obs or magnitude", rich_help_panel=_PGB)
    ] = "fisher",
    obs_block_size: Annotated[
        int, typer.Option("--obs-block-size", help="Weights per Fisher block (obs).", rich_help_panel=_PGB)
    ] = 32,
    obs_damping: Annotated[
        float, typer.Option("--obs-damping", help="Relative damping of the Fisher (obs).", rich_help_panel=_PGB)
    ] = 1e-2,
    max_groups: Annotated[
        int, typer.Option("--max-groups", help="G_max; beyond it a matrix is dropped.", rich_help_panel=_PGB)
    ] = 6,
    grouping: Annotated[
        str, typer.Option("--grouping", help="sort, assign, none or random", rich_help_panel=_PGB)
    ] = "sort",
    permutation_steps: Annotated[int, typer.Option("--permutation-steps", help="N_perm.", rich_help_panel=_PGB)] = 6,
    compensation: Annotated[
        str, typer.Option("--compensation", help="sequential, independent or none", rich_help_panel=_PGB)
    ] = "sequential",
    pattern: Annotated[
        str,
        typer.Option("--pattern", help="unstructured, block (1x4), 1xN, or N:M such as 2:4", rich_help_panel=_OBERT),
    ] = "unstructured",
    mask_scope: Annotated[
        str,
        typer.Option("--mask-scope", help="global (matrices compete) or matrix (each alike)", rich_help_panel=_OBERT),
    ] = "global",
    score: Annotated[
        str, typer.Option("--score", help="fisher-block or magnitude", rich_help_panel=_OBERT)
    ] = "fisher-block",
    update: Annotated[
        str | None,
        typer.Option(
            "--update",
            help="obert, greedy, woodtaylor or none; default: obert, none with magnitude.",
            rich_help_panel=_OBERT,
        ),
    ] = None,
    recomputations: Annotated[
        int,
        typer.Option("--recomputations", help="Rounds of gradients and pruning, alike shares.", rich_help_panel=_OBERT),
    ] = 1,
    fisher_block_size: Annotated[
        int, typer.Option("--fisher-block-size", help="Weights per Fisher block.", rich_help_panel=_OBERT)
    ] = 32,
    fisher_damping: Annotated[
        float, typer.Option("--fisher-damping", help="λ of the Fisher, absolute.", rich_help_panel=_OBERT)
    ] = 1e-7,
    fisher_batch_size: Annotated[
        int,
        typer.Option("--fisher-batch-size", help="Texts whose mean gradient counts as one.", rich_help_panel=_OBERT),
    ] = 1,
    memory_gb: Annotated[
        float,
        typer.Option(
            "--memory-gb", help="For Fisher blocks; if too little, the data is read again.", rich_help_panel=_OBERT
        ),
    ] = 4.0,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="Take gradients of the distillation from this model.", rich_help_panel=_OBERT),
    ] = None,
    damping: Damping = 1e-3,
    samples: Samples = None,
    recover_epochs: Annotated[
        float, typer.Option("--recover-epochs", help="Epochs of re-finetuning; 0 stays one-shot (the paper: 3).")
    ] = 0.0,
    loss_options: LossOptions,
    trim_vocabulary: Annotated[
        bool,
        typer.Option("--trim-vocabulary", help="Drop embeddings of tokens that the data never uses (trim-vocabulary)."),
    ] = False,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Prunes a fine-tuned model in one shot, optionally recovers it, and compares it with the dense one."""
    shares = _shares(sparsity)
    configs = [
        PruneConfig(
            sparsity=share,
            flops=flops,
            speedup=speedup,
            speedup_batch_size=speedup_batch_size,
            speedup_length=speedup_length,
            threshold=threshold,
            groups=groups,
            method=cast(Method, method),
            structures=cast(tuple[Structures, ...], tuple(structures.split(","))),
            group_chunk=group_chunk,
            metric=cast(Metric, metric),
            token_weighting=token_weighting,
            use_labels=use_labels,
            target=cast(Target, target),
            importance=cast(Importance, importance),
            obs_block_size=obs_block_size,
            obs_damping=obs_damping,
            max_groups=max_groups,
            grouping=cast(Grouping, grouping),
            permutation_steps=permutation_steps,
            compensation=cast(Compensation, compensation),
            damping=damping,
            pattern=pattern,
            mask_scope=cast(Scope, mask_scope),
            score=cast(Score, score),
            update=cast(Update | None, update),
            recomputations=recomputations,
            fisher_block_size=fisher_block_size,
            fisher_damping=fisher_damping,
            fisher_batch_size=fisher_batch_size,
            memory_gb=memory_gb,
            samples=samples,
            seed=seed,
        )
        for share in shares
    ]
    if calibration is not None and configs[0].method != "auto":
        raise OptionError("--calibration serves the method auto only.")
    if teacher is not None and configs[0].method != "obert":
        raise OptionError("--teacher serves the method obert only; recovery's teacher is the dense model.")
    training = None
    if recover_epochs:
        training = loss_options.training(recover_epochs, seed)
    folders = [output] if len(shares) == 1 else [output / f"sparsity-{share:g}" for share in shares]
    for folder in folders:
        check_output(folder, overwrite)
    known = None if calibration is None else Calibration.load(calibration)
    inputs = load_inputs(resolve_model(model), data_options, seed)
    teacher_network = None if teacher is None else load_model(resolve_model(teacher))
    jobs = list(zip(configs, folders, strict=True))
    results = run_prune(inputs, jobs, training, overwrite, known, teacher_network, trim_vocabulary)

    def show(console: Any) -> None:
        for (result, report), folder in zip(results, folders, strict=True):
            if report.sparse is None:
                print_plan(report.plan, console)
            else:
                block = report.config.step_options().pattern.width
                print_sparsity(report.sparse.kept, report.plan, block, console)
            print_summary(result["models"], console)
            console.print(f"Saved {folder}: load it with from_pretrained after 'import bertsurgeon'.", highlight=False)

    found = [result for result, _ in results]
    emit(found[0] if len(found) == 1 else {"models": found}, as_json, show)


@app.command()
@guarded_together
@grouped
def calibrate(
    *,
    model: opt.Model,
    output: opt.Output,
    data_options: Annotated[DataOptions, Without("max_train_samples")],
    structures: StructureNames = "removal,low_rank",
    group_chunk: GroupChunk = 1,
    metric: MetricName = "fisher",
    token_weighting: TokenWeighting = 0.5,
    use_labels: UseLabels = False,
    damping: Damping = 1e-3,
    samples: Samples = None,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Finds out once what every part of a dense model is worth, for 'prune --calibration' at any budget."""
    check_output(output, overwrite)
    # the budget is not used here, but a configuration has one
    config = PruneConfig(
        sparsity=0.5,
        structures=cast(tuple[Structures, ...], tuple(structures.split(","))),
        group_chunk=group_chunk,
        metric=cast(Metric, metric),
        token_weighting=token_weighting,
        use_labels=use_labels,
        damping=damping,
        samples=samples,
        seed=seed,
    )
    inputs = load_inputs(resolve_model(model), data_options, seed)
    result = calibrate_model(inputs.model, inputs.calibration, config, inputs.tokenizer)
    result.save(output, overwrite)
    summary = {"output": str(output), "settings": result.settings, "seconds": result.seconds}
    emit(
        summary, as_json, lambda console: console.print(f"Saved {output}: use it with 'prune --calibration {output}'.")
    )


def _shares(sparsity: str | None) -> list[float | None]:
    """The shares a ``--sparsity`` names, none where it is not given.

    Raises:
        OptionError: If one is not a number, or named twice.
    """
    if sparsity is None:
        return [None]
    try:
        shares = [float(share) for share in sparsity.split(",")]
    except ValueError:
        raise OptionError(
            f"--sparsity must be a number such as 0.5, or several as 0.5,0.75, not {sparsity!r}."
        ) from None
    if len(set(shares)) != len(shares):
        raise OptionError(f"--sparsity names a share twice: {sparsity}.")
    return list(shares)
