"""``bertsurgeon demo``: the whole path on data and a model that need no hub."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bertsurgeon import progress
from bertsurgeon.budgets import Sparsity
from bertsurgeon.checkpoint import check_output, lock_outputs
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded
from bertsurgeon.cli.tables import print_metrics_before_recovery, print_plan, print_summary
from bertsurgeon.methods.auto.config import AutoConfig
from bertsurgeon.recovery import TrainingConfig
from bertsurgeon.workflows.inputs import MINILM, DataConfig
from bertsurgeon.workflows.pipeline import load_inputs, prune_to_budgets
from bertsurgeon.workflows.train_and_save import TrainingOutput, finetune_and_save

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
    config = AutoConfig(Sparsity(sparsity), samples=512, seed=seed)
    data = DataConfig(TASK, max_length=LENGTH, max_train_samples=max_train_samples)
    training = TrainingConfig(epochs=1, learning_rate=1e-4, seed=seed)
    with lock_outputs(dense_folder, pruned_folder):
        for folder in (dense_folder, pruned_folder):
            check_output(folder, overwrite)
        progress.note("1. Fine-tuning all-MiniLM-L6-v2: which package was a docstring written for?")
        finetune_and_save(MINILM, training, data, TrainingOutput(dense_folder, overwrite=overwrite))
        progress.note(f"2. Pruning {100 * sparsity:.0f} % of its encoder, then one epoch of recovery")
        inputs = load_inputs(str(dense_folder), data, seed)
        [pruned] = prune_to_budgets(inputs, [(config, pruned_folder)], training, overwrite=overwrite)

    def show(console: Console) -> None:
        print_plan(pruned.report.plan, console)
        print_metrics_before_recovery(pruned.result["before_recovery"], console)
        print_summary(pruned.result["models"], console)
        console.print(
            "Load it in Python:\n"
            "  import bertsurgeon\n"
            "  from transformers import AutoModelForSequenceClassification\n"
            f"  model = AutoModelForSequenceClassification.from_pretrained({str(pruned_folder)!r})",
            highlight=False,
            soft_wrap=True,
        )

    emit(pruned.result, as_json, show)
