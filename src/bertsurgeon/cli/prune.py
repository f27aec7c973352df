"""``bertsurgeon prune``."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from transformers import PreTrainedModel, set_seed

from bertsurgeon.benchmark import environment
from bertsurgeon.checkpoint import check_output, load_model, load_tokenizer, save_model
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded
from bertsurgeon.cli.sources import DataOptions, load_data, resolve_model
from bertsurgeon.cli.summary import print_plan, print_summary, summarise
from bertsurgeon.compensation import Compensation
from bertsurgeon.config import Method, PruneConfig
from bertsurgeon.evaluation import check_head, evaluate
from bertsurgeon.grouping import Grouping
from bertsurgeon.importance import Importance
from bertsurgeon.pruning import PruneReport
from bertsurgeon.pruning import prune as prune_model
from bertsurgeon.recovery import TrainingOptions, train
from bertsurgeon.tasks import tokenize

_BUDGET = "How much"
_METHOD = "How"


@app.command()
@guarded
def prune(
    model: opt.Model,
    output: opt.Output,
    task: opt.TaskName = None,
    data_dir: opt.DataDir = None,
    train_file: opt.TrainFile = None,
    validation_file: opt.ValidationFile = None,
    text_column: opt.TextColumn = "text",
    text_pair_column: opt.TextPairColumn = None,
    label_column: opt.LabelColumn = "label",
    max_length: opt.MaxLength = 128,
    max_train_samples: opt.MaxTrain = None,
    sparsity: Annotated[
        float | None,
        typer.Option("--sparsity", help="Share of the encoder's weights to remove.", rich_help_panel=_BUDGET),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="τ of the paper's rule, e.g. 1e-5, instead.", rich_help_panel=_BUDGET),
    ] = None,
    groups: Annotated[
        int | None, typer.Option("--groups", help="The same G for every matrix, instead.", rich_help_panel=_BUDGET)
    ] = None,
    method: Annotated[str, typer.Option("--method", help="pgb", rich_help_panel=_METHOD)] = "pgb",
    importance: Annotated[
        str, typer.Option("--importance", help="fisher, obs or magnitude", rich_help_panel=_METHOD)
    ] = "fisher",
    obs_block_size: Annotated[
        int, typer.Option("--obs-block-size", help="Weights per Fisher block (obs).", rich_help_panel=_METHOD)
    ] = 32,
    obs_damping: Annotated[
        float, typer.Option("--obs-damping", help="Relative damping of the Fisher (obs).", rich_help_panel=_METHOD)
    ] = 1e-2,
    max_groups: Annotated[
        int, typer.Option("--max-groups", help="G_max; beyond it a matrix is dropped.", rich_help_panel=_METHOD)
    ] = 6,
    grouping: Annotated[
        str, typer.Option("--grouping", help="sort, assign, none or random", rich_help_panel=_METHOD)
    ] = "sort",
    permutation_steps: Annotated[int, typer.Option("--permutation-steps", help="N_perm.", rich_help_panel=_METHOD)] = 6,
    compensation: Annotated[
        str, typer.Option("--compensation", help="sequential, independent or none", rich_help_panel=_METHOD)
    ] = "sequential",
    damping: Annotated[
        float, typer.Option("--damping", help="Relative damping of the compensation.", rich_help_panel=_METHOD)
    ] = 1e-3,
    samples: Annotated[
        int, typer.Option("--samples", help="Calibration texts, from the training data.", rich_help_panel=_METHOD)
    ] = 1024,
    recover_epochs: Annotated[
        float, typer.Option("--recover-epochs", help="Epochs of re-finetuning; 0 stays one-shot (the paper: 3).")
    ] = 0.0,
    batch_size: opt.BatchSize = 32,
    learning_rate: opt.LearningRate = 5e-5,
    hardness: opt.Hardness = 0.9,
    temperature: opt.Temperature = 2.0,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Prunes a fine-tuned model in one shot, optionally recovers it, and compares it with the dense one."""
    config = PruneConfig(
        sparsity=sparsity,
        threshold=threshold,
        groups=groups,
        method=cast(Method, method),
        importance=cast(Importance, importance),
        obs_block_size=obs_block_size,
        obs_damping=obs_damping,
        max_groups=max_groups,
        grouping=cast(Grouping, grouping),
        permutation_steps=permutation_steps,
        compensation=cast(Compensation, compensation),
        damping=damping,
        samples=samples,
        seed=seed,
    )
    training = None
    if recover_epochs:
        training = TrainingOptions(
            epochs=recover_epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            hardness=hardness,
            temperature=temperature,
            seed=seed,
        )
    check_output(output, overwrite)
    data_options = DataOptions(
        task,
        data_dir,
        train_file,
        validation_file,
        text_column,
        text_pair_column,
        label_column,
        max_length,
        max_train_samples,
    )
    result, report = run_prune(resolve_model(model), output, data_options, config, training, overwrite)

    def show(console: Any) -> None:
        print_plan(report.plan, console)
        print_summary(result["models"], console)
        console.print(f"Saved {output}: load it with from_pretrained after 'import bertsurgeon'.", highlight=False)

    emit(result, as_json, show)


def run_prune(
    name: str,
    output: Path,
    data_options: DataOptions,
    config: PruneConfig,
    training: TrainingOptions | None,
    overwrite: bool,
) -> tuple[dict[str, Any], PruneReport]:
    """Loads, prunes, recovers, compares and saves; returns what ``report.json`` holds, and the pruning report."""
    set_seed(config.seed)
    dense = load_model(name)
    tokenizer = load_tokenizer(name)
    data = load_data(data_options, config.seed)
    check_head(dense, data.task)
    train_set = tokenize(data.train, tokenizer, data_options.max_length)
    validation_set = tokenize(data.validation, tokenizer, data_options.max_length)
    pruned, report = prune_model(dense, train_set, config, tokenizer)
    if training is not None:
        _recover(pruned, dense, train_set, tokenizer, training)
    metrics = {
        "dense": evaluate(dense, validation_set, tokenizer, data.task),
        "pruned": evaluate(pruned, validation_set, tokenizer, data.task),
    }
    models = {"dense": dense, "pruned": pruned}
    result: dict[str, Any] = {
        "task": data.task.name,
        "pruning": report.to_dict(),
        "recovery": None if training is None else asdict(training),
        "models": _compare(models, metrics),
        "environment": environment(),
    }
    save_model(pruned, output, tokenizer, {"report.json": result}, overwrite=overwrite)
    return result, report


def _recover(
    pruned: PreTrainedModel, dense: PreTrainedModel, train_set: Any, tokenizer: Any, training: TrainingOptions
) -> None:
    """Re-finetunes in a temporary folder (``bertsurgeon recover`` is the one that can be resumed)."""
    with tempfile.TemporaryDirectory() as work_dir:
        train(pruned, train_set, tokenizer, training, Path(work_dir), teacher=dense, description="Recovering")


def _compare(models: dict[str, PreTrainedModel], metrics: dict[str, dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Both models side by side; their file sizes are those of fresh copies, so that shared files do not count."""
    with tempfile.TemporaryDirectory() as copies:
        folders = {name: Path(copies) / name for name in models}
        for name, model in models.items():
            model.save_pretrained(folders[name])
        return summarise(models, folders, metrics)
