"""``bertsurgeon finetune`` and ``bertsurgeon recover``."""

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from bertsurgeon import distributed, progress
from bertsurgeon.checkpoint import (
    check_output,
    get_plan,
    is_sparse,
    load_model,
    load_tokenizer,
    read_config,
    save_model,
)
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded_together
from bertsurgeon.cli.groups import Without, grouped
from bertsurgeon.cli.sources import (
    DataOptions,
    LossOptions,
    check_same_vocabulary,
    load_data,
    load_network,
    load_texts,
    resolve_model,
)
from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.evaluation import check_head, compare, evaluate
from bertsurgeon.recovery import TrainingConfig, train
from bertsurgeon.recovery import recover as recover_model
from bertsurgeon.tasks import TaskData, align_to_model, recode_labels, task_type_for_texts, tokenize


@app.command()
@guarded_together
@grouped
def finetune(
    *,
    model: opt.Model,
    output: opt.Output,
    data_options: Annotated[DataOptions, Without("text_file")],
    epochs: Annotated[float, typer.Option("--epochs", help="Passes over the training data.")] = 3.0,
    loss_options: Annotated[
        LossOptions, Without("distillation_weight", "temperature", "hidden_weight", "keep_best", "dropout")
    ],
    resume: opt.Resume = False,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Fine-tunes a dense model on a task (what you have before you prune)."""
    may_overwrite = may_replace(output, overwrite, resume)
    training = loss_options.training(epochs, seed)
    set_seed(seed)
    data = recode_labels(load_data(data_options, seed), read_config(resolve_model(model)), new_head=True)
    network, tokenizer = load_for_finetuning(resolve_model(model), data)
    job = labelled_job(data, tokenizer, data_options.max_length)
    metrics = run_training(network, tokenizer, job, training, output, resume, may_overwrite, "Fine-tuning")
    show_metrics({"output": str(output), "metrics": metrics}, as_json)


@app.command()
@guarded_together
@grouped
def recover(
    *,
    model: Annotated[str, typer.Argument(help="Folder of the pruned model.")],
    output: opt.Output,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="Folder or hub id of the dense model, to distil from.")
    ] = None,
    data_options: DataOptions,
    epochs: Annotated[float, typer.Option("--epochs", help="Passes over the training data.")] = 3.0,
    loss_options: LossOptions,
    resume: opt.Resume = False,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Re-finetunes a pruned model, with its dense original as an optional teacher."""
    may_overwrite = may_replace(output, overwrite, resume)
    training = loss_options.training(epochs, seed, taught=teacher is not None)
    set_seed(seed)
    check_same_vocabulary(model, teacher)
    network, tokenizer = load_model(model), load_tokenizer(model)
    if get_plan(network) is None and not is_sparse(network):
        raise ModelError(f"{model} is a dense model; prune it first, or use 'bertsurgeon finetune'.")
    teacher_network = None if teacher is None else load_network(teacher, data_options)
    if data_options.text_file is not None:
        if not data_options.only_texts or teacher_network is None:
            raise OptionError("--text-file recovers without labels: name a --teacher with it, and no other data.")
        training = replace(training, distillation_weight=1.0)  # without labels only the teacher speaks
        job = unlabelled_job(load_texts(data_options, seed), tokenizer, data_options.max_length, teacher_network)
    else:
        data = align_to_model(load_data(data_options, seed), network)
        check_head(network, data.task)
        if teacher_network is not None:
            check_head(teacher_network, data.task)
        if not data.task.type.learns_from_labels:
            training = replace(training, distillation_weight=1.0)
        job = labelled_job(data, tokenizer, data_options.max_length)

    def fit(work_dir: Path) -> None:
        recover_model(network, job.training, tokenizer, training, teacher_network, work_dir=work_dir, resume=resume)

    metrics = fit_and_save(network, tokenizer, job, fit, {"training": asdict(training)}, output, resume, may_overwrite)
    show_metrics({"output": str(output), "metrics": metrics}, as_json)


def training_folder(output: Path) -> Path:
    """Where the Trainer keeps its checkpoints until the model is saved: beside the output folder.

    Raises:
        OptionError: If nothing can be beside it.
    """
    folder = Path(os.path.abspath(output))
    if not folder.name:
        raise OptionError(f"{folder} is the root of the file system; name a folder in it for the output.")
    return folder.with_name(f"{folder.name}.training")


def may_replace(output: Path, overwrite: bool, resume: bool) -> bool:
    """Whether the output folder may be replaced: asked for, or by resuming the run that was to replace it.

    Raises:
        CheckpointError: If the folder cannot be written, or exists and may not be replaced.
        OptionError: If there is an unfinished run and nobody said what to do with it, or it is the root.
    """
    work_dir = training_folder(output)
    unfinished = distributed.run_on_main(work_dir.exists)
    check_output(output, overwrite or (resume and unfinished))
    check_output(work_dir, overwrite=True)
    if unfinished and not resume and not overwrite:
        raise OptionError(f"{work_dir} holds an unfinished run; pass --resume to go on or --overwrite to start anew.")
    return overwrite or (resume and unfinished)


def load_for_finetuning(
    name: str, data: TaskData, sparse: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A dense model with a fresh (or its own, if it fits) head for the task; with ``sparse`` any other model, too."""
    kind = data.task.type
    if not kind.learns_from_labels:
        raise OptionError(
            "Embedders are trained by a teacher only; fine-tune the dense one with sentence-transformers first."
        )
    options = kind.head_options(data.task.labels)
    network = load_model(name, kind.auto_class, new_head=True, ignore_mismatched_sizes=True, **options)
    if not sparse and (get_plan(network) is not None or is_sparse(network)):
        raise ModelError(f"{name} is pruned; use 'bertsurgeon recover' to train it.")
    return network, load_tokenizer(name)


@dataclass(frozen=True)
class Job:
    """What a model is trained on, and how it is scored afterwards."""

    name: str | None
    training: Dataset
    score: Callable[[PreTrainedModel], dict[str, float]]


def labelled_job(data: TaskData, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Job:
    """A task with its metrics."""
    kind = data.task.type
    training, validation = (tokenize(part, tokenizer, max_length, kind) for part in (data.train, data.validation))
    return Job(data.task.name, training, lambda model: evaluate(model, data.task, validation, tokenizer))


def unlabelled_job(
    texts: tuple[Dataset, Dataset], tokenizer: PreTrainedTokenizerBase, max_length: int | None, teacher: PreTrainedModel
) -> Job:
    """Texts alone: the score is how far a model says what its teacher says of the held-out ones."""
    training, held_out = (tokenize(part, tokenizer, max_length, task_type_for_texts(teacher)) for part in texts)
    return Job(None, training, lambda model: compare(teacher, model, held_out, tokenizer))


def run_training(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    job: Job,
    training: TrainingConfig,
    output: Path,
    resume: bool,
    overwrite: bool,
    description: str,
) -> dict[str, float]:
    """Trains, scores and saves a model; what a killed run left is found by ``--resume``."""

    def fit(work_dir: Path) -> None:
        train(model, job.training, tokenizer, training, work_dir, resume=resume, description=description)

    return fit_and_save(model, tokenizer, job, fit, {"training": asdict(training)}, output, resume, overwrite)


def fit_and_save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    job: Job,
    fit: Callable[[Path], None],
    settings: dict[str, Any],
    output: Path,
    resume: bool,
    overwrite: bool,
) -> dict[str, float]:
    """Trains a model by ``fit``, which is given the folder for checkpoints; scores it, and saves it with a report."""
    work_dir = training_folder(output)
    if not resume:
        distributed.run_on_main(lambda: shutil.rmtree(work_dir, ignore_errors=True))
    fit(work_dir)
    metrics = job.score(model)
    report = {"task": job.name, **settings, "metrics": metrics}
    save_model(model, output, tokenizer, {"training_report.json": report}, overwrite=overwrite)
    distributed.run_on_main(lambda: shutil.rmtree(work_dir, ignore_errors=True))
    progress.note(f"Saved {output}")
    return metrics


def show_metrics(result: dict[str, Any], as_json: bool) -> None:
    """Prints metrics in one line, or the result as JSON."""
    line = "  ".join(f"{name} {value:.2f}" for name, value in result["metrics"].items())
    emit(result, as_json, lambda console: console.print(line, highlight=False))
