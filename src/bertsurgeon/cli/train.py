"""``bertsurgeon finetune`` and ``bertsurgeon recover``."""

from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.console import Console

from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded_together
from bertsurgeon.cli.tables import format_metrics
from bertsurgeon.recovery import LABEL_LEARNING_RATE, TrainingConfig
from bertsurgeon.workflows.inputs import DataConfig
from bertsurgeon.workflows.train_and_save import finetune_and_save, recover_and_save
from bertsurgeon.workflows.training_output import TrainingOutput

TEACHER_ONLY = ("distillation_weight", "temperature", "hidden_weight", "keep_best", "dropout")
"""Training options that fine-tuning a dense model leaves at their defaults."""


@app.command()
@guarded_together
@opt.expand
def finetune(
    *,
    model: opt.Model,
    output: opt.Output,
    data: Annotated[DataConfig, opt.Panel("Data", without=("text_file",))],
    training: Annotated[TrainingConfig, opt.Panel("Training", without=("seed", *TEACHER_ONLY))],
    resume: opt.Resume = False,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Fine-tunes a dense model on a task: the model that is pruned afterwards."""
    config = replace(training, seed=seed, learning_rate=training.learning_rate or LABEL_LEARNING_RATE)
    _, metrics = finetune_and_save(model, config, data, TrainingOutput(output, resume, overwrite))
    show_metrics({"output": str(output), "metrics": metrics}, as_json)


@app.command()
@guarded_together
@opt.expand
def recover(
    *,
    model: Annotated[str, typer.Argument(help="Folder of the pruned model.")],
    output: opt.Output,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="Folder or hub id of the dense model, to distill from.")
    ] = None,
    data: Annotated[DataConfig, opt.Panel("Data")],
    training: Annotated[TrainingConfig, opt.Panel("Training", without=("seed",))],
    refit: opt.Refit = None,
    resume: opt.Resume = False,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Fine-tunes a pruned model again, optionally distilled from its dense original."""
    config = replace(training, seed=seed)
    _, scores = recover_and_save(model, config, data, TrainingOutput(output, resume, overwrite), teacher, refit=refit)
    show_metrics({"output": str(output), **scores}, as_json)


def show_metrics(result: dict[str, Any], as_json: bool) -> None:
    """Prints metrics in one line, after those from before a training if there are any; or the result as JSON."""
    lines = {"": result["metrics"]}
    if "before" in result:
        lines = {"before: ": result["before"], "after:  ": result["metrics"]}

    def show(console: Console) -> None:
        for label, metrics in lines.items():
            console.print(label + format_metrics(metrics), highlight=False)

    emit(result, as_json, show)
