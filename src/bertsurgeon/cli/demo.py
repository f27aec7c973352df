"""``bertsurgeon demo``: the whole path on data and a model that need no hub."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from transformers import set_seed

from bertsurgeon import progress
from bertsurgeon.checkpoint import check_output
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded
from bertsurgeon.cli.pipeline import load_inputs, run_prune
from bertsurgeon.cli.sources import MINILM, DataOptions, load_data, resolve_model
from bertsurgeon.cli.summary import print_plan, print_summary
from bertsurgeon.cli.train import labelled_job, load_for_finetuning, run_training
from bertsurgeon.config import PruneConfig
from bertsurgeon.recovery import TrainingConfig

TASK = "docstrings"
LENGTH = 64


@app.command()
@guarded
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for both models.")] = Path("demo-output"),
    sparsity: Annotated[float, typer.Option("--sparsity", help="Share of the encoder to remove.")] = 0.5,
    max_train_samples: Annotated[int, typer.Option("--max-train-samples", help="Training texts.")] = 6000,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Fine-tunes the packaged MiniLM on docstrings, prunes it, recovers it briefly, and compares."""
    dense_folder, pruned_folder = output / "dense", output / "pruned"
    config = PruneConfig(sparsity=sparsity, samples=512, seed=seed)
    for folder in (dense_folder, pruned_folder):
        check_output(folder, overwrite)
    data_options = DataOptions(TASK, max_length=LENGTH, max_train_samples=max_train_samples)
    progress.note("1. Fine-tuning all-MiniLM-L6-v2: which package was a docstring written for?")
    set_seed(seed)
    data = load_data(data_options, seed)
    network, tokenizer = load_for_finetuning(resolve_model(MINILM), data)
    training = TrainingConfig(epochs=1, learning_rate=1e-4, seed=seed)
    job = labelled_job(data, tokenizer, LENGTH)
    run_training(network, tokenizer, job, training, dense_folder, False, overwrite, "Fine-tuning")
    progress.note(f"2. Pruning {100 * sparsity:.0f} % of its encoder, then one epoch of recovery")
    inputs = load_inputs(str(dense_folder), data_options, seed)
    [(result, report)] = run_prune(inputs, [(config, pruned_folder)], training, overwrite)

    def show(console: Console) -> None:
        print_plan(report.plan, console)
        print_summary(result["models"], console)
        console.print(
            "Load it in Python:\n"
            "  import bertsurgeon\n"
            "  from transformers import AutoModelForSequenceClassification\n"
            f"  model = AutoModelForSequenceClassification.from_pretrained({str(pruned_folder)!r})",
            highlight=False,
            soft_wrap=True,
        )

    emit(result, as_json, show)
