"""``bertsurgeon finetune`` and ``bertsurgeon recover``."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from bertsurgeon import progress
from bertsurgeon.checkpoint import check_output, get_plan, load_model, load_tokenizer, save_model
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded
from bertsurgeon.cli.sources import DataOptions, load_data, resolve_model
from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.evaluation import check_head, evaluate
from bertsurgeon.recovery import TrainingOptions, train
from bertsurgeon.tasks import TaskData, tokenize


@app.command()
@guarded
def finetune(
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
    epochs: Annotated[float, typer.Option("--epochs", help="Passes over the training data.")] = 3.0,
    batch_size: opt.BatchSize = 32,
    learning_rate: opt.LearningRate = 5e-5,
    resume: opt.Resume = False,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Fine-tunes a dense model on a task (what you have before you prune)."""
    replace = may_replace(output, overwrite, resume)
    training = TrainingOptions(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
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
    set_seed(seed)
    data = load_data(data_options, seed)
    network, tokenizer = load_for_finetuning(resolve_model(model), data)
    metrics = run_training(network, tokenizer, data, training, output, max_length, resume, replace, "Fine-tuning")
    show_metrics({"output": str(output), "metrics": metrics}, as_json)


@app.command()
@guarded
def recover(
    model: Annotated[str, typer.Argument(help="Folder of the pruned model.")],
    output: opt.Output,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="Folder or hub id of the dense model, to distil from.")
    ] = None,
    task: opt.TaskName = None,
    data_dir: opt.DataDir = None,
    train_file: opt.TrainFile = None,
    validation_file: opt.ValidationFile = None,
    text_column: opt.TextColumn = "text",
    text_pair_column: opt.TextPairColumn = None,
    label_column: opt.LabelColumn = "label",
    max_length: opt.MaxLength = 128,
    max_train_samples: opt.MaxTrain = None,
    epochs: Annotated[float, typer.Option("--epochs", help="Passes over the training data.")] = 3.0,
    batch_size: opt.BatchSize = 32,
    learning_rate: opt.LearningRate = 5e-5,
    hardness: opt.Hardness = 0.9,
    temperature: opt.Temperature = 2.0,
    resume: opt.Resume = False,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Re-finetunes a pruned model, with its dense original as an optional teacher."""
    replace = may_replace(output, overwrite, resume)
    training = TrainingOptions(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        hardness=hardness,
        temperature=temperature,
        seed=seed,
    )
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
    set_seed(seed)
    network = load_model(model)
    if get_plan(network) is None:
        raise ModelError(f"{model} is a dense model; prune it first, or use 'bertsurgeon finetune'.")
    data = load_data(data_options, seed)
    check_head(network, data.task)
    teacher_network = None if teacher is None else load_model(resolve_model(teacher))
    if teacher_network is not None:
        check_head(teacher_network, data.task)
    metrics = run_training(
        network,
        load_tokenizer(model),
        data,
        training,
        output,
        max_length,
        resume,
        replace,
        "Recovering",
        teacher_network,
    )
    show_metrics({"output": str(output), "metrics": metrics}, as_json)


def training_folder(output: Path) -> Path:
    """Where the Trainer keeps its checkpoints until the model is saved."""
    return output.with_name(f"{output.name}.training")


def may_replace(output: Path, overwrite: bool, resume: bool) -> bool:
    """Whether the output folder may be replaced: asked for, or by resuming the run that was to replace it.

    Raises:
        CheckpointError: If the folder cannot be written, or exists and may not be replaced.
        OptionError: If there is an unfinished run and nobody said what to do with it.
    """
    work_dir = training_folder(output)
    unfinished = work_dir.exists()
    check_output(output, overwrite or (resume and unfinished))
    if unfinished and not resume and not overwrite:
        raise OptionError(f"{work_dir} holds an unfinished run; pass --resume to go on or --overwrite to start anew.")
    return overwrite or (resume and unfinished)


def load_for_finetuning(name: str, data: TaskData) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A dense model with a fresh (or its own, if it fits) head for the task."""
    labels: dict[str, Any] = {}
    if data.task.labels:
        labels["id2label"] = dict(enumerate(data.task.labels))
        labels["label2id"] = {label: code for code, label in enumerate(data.task.labels)}
    network = load_model(name, num_labels=data.task.num_labels, ignore_mismatched_sizes=True, new_head=True, **labels)
    if get_plan(network) is not None:
        raise ModelError(f"{name} is pruned; use 'bertsurgeon recover' to train it.")
    return network, load_tokenizer(name)


def run_training(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    training: TrainingOptions,
    output: Path,
    max_length: int,
    resume: bool,
    overwrite: bool,
    description: str,
    teacher: PreTrainedModel | None = None,
) -> dict[str, float]:
    """Trains, evaluates and saves a model; what a killed run left is found by ``--resume``."""
    work_dir = training_folder(output)
    if not resume:
        shutil.rmtree(work_dir, ignore_errors=True)
    train_set = tokenize(data.train, tokenizer, max_length)
    train(model, train_set, tokenizer, training, work_dir, teacher=teacher, resume=resume, description=description)
    metrics = evaluate(model, tokenize(data.validation, tokenizer, max_length), tokenizer, data.task)
    report: dict[str, Any] = {"task": data.task.name, "training": asdict(training), "metrics": metrics}
    save_model(model, output, tokenizer, {"training_report.json": report}, overwrite=overwrite)
    shutil.rmtree(work_dir, ignore_errors=True)
    progress.note(f"Saved {output}")
    return metrics


def show_metrics(result: dict[str, Any], as_json: bool) -> None:
    """Prints metrics in one line, or the result as JSON."""
    line = "  ".join(f"{name} {value:.2f}" for name, value in result["metrics"].items())
    emit(result, as_json, lambda console: console.print(line, highlight=False))
