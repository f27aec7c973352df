"""``bertsurgeon demo``: from a pre-trained to a deployed model, on data and a model that need no hub."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bertsurgeon import progress
from bertsurgeon.budgets import SpeedupRuntime
from bertsurgeon.checkpoint import check_output, lock_outputs
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded
from bertsurgeon.cli.compress import command_line, show_report
from bertsurgeon.compression import CompressConfig
from bertsurgeon.recovery import TrainingConfig
from bertsurgeon.workflows.compress import compress_and_save
from bertsurgeon.workflows.inputs import MINILM, DataConfig
from bertsurgeon.workflows.train_and_save import finetune_and_save
from bertsurgeon.workflows.training_output import TrainingOutput

TASK = "docstrings"
LENGTH = 32
"""Tokens per text: four fifths of the docstrings are shorter."""

CANDIDATES = 4
"""Models that the search tries: dense, dense INT8 and two pruned ones."""

RUNTIME: SpeedupRuntime | None = None
"""Runtime of the search; None for the first that is installed."""


@app.command()
@guarded
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for both models.")] = Path("demo-output"),
    max_train_samples: Annotated[int, typer.Option("--max-train-samples", help="Training texts.")] = 1500,
    minutes: Annotated[
        float, typer.Option("--time", help="Minutes of the search after which no further model is tried.")
    ] = 2.0,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Fine-tunes the packaged MiniLM on docstrings, and compresses it: the fastest deployed model within one point."""
    dense_folder, deployed_folder = output / "dense", output / "deployed"
    config = CompressConfig(
        runtime=RUNTIME, minutes=minutes, length=LENGTH, max_candidates=CANDIDATES, recover=False, seed=seed
    )
    data = DataConfig(TASK, max_length=LENGTH, max_train_samples=max_train_samples)
    training = TrainingConfig(epochs=1, learning_rate=1e-4, seed=seed)
    with lock_outputs(dense_folder, deployed_folder):
        for folder in (dense_folder, deployed_folder):
            check_output(folder, overwrite)
        progress.note("1. Fine-tuning all-MiniLM-L6-v2: which package was a docstring written for?")
        finetune_and_save(MINILM, training, data, TrainingOutput(dense_folder, overwrite=overwrite))
        progress.note("2. Compressing it: dense, INT8 and pruned, each measured where it will run")
        result = compress_and_save(
            str(dense_folder), config, data, deployed_folder, overwrite=overwrite, command=command_line()
        )

    def show(console: Console) -> None:
        show_report(result.report, deployed_folder, console)

    emit(result.report, as_json, show)
