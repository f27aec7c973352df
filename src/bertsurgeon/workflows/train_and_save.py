"""Fine-tuning, recovery and gradual pruning from named models and data to a saved model with a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from bertsurgeon import distributed, progress
from bertsurgeon.checkpoint import (
    check_masked_lm,
    get_plan,
    holds_training,
    is_sparse,
    load_model,
    load_tokenizer,
    locks_output,
    new_work_folder,
    read_config,
    remove_work_folder,
    save_model,
)
from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.evaluation import check_head, evaluate_masked_lm
from bertsurgeon.gradual import MaskedLanguageModeling, Recipe, train_gradually
from bertsurgeon.layers.masks import masks_of, sparsity_of
from bertsurgeon.options import check_not_given
from bertsurgeon.recovery import EmbeddingRefit, TrainingConfig, recover_with_report, train
from bertsurgeon.reporting import CARD, model_card, model_source
from bertsurgeon.tasks import TaskData, align_to_model, recode_labels, tokenize
from bertsurgeon.workflows.inputs import (
    DataConfig,
    check_same_vocabulary,
    input_paths,
    load_data,
    load_network,
    load_texts,
    resolve_model,
)
from bertsurgeon.workflows.jobs import (
    TrainingJob,
    labeled_job,
    selection_arguments,
    training_settings,
    unlabeled_job,
)
from bertsurgeon.workflows.training_output import TrainingOutput

REPORT = "training_report.json"
"""File beside a trained model with the options and the metrics."""


@locks_output
def finetune_and_save(
    name: str, config: TrainingConfig, data: DataConfig, output: TrainingOutput
) -> tuple[PreTrainedModel, dict[str, float]]:
    """Fine-tunes a dense model on a task.

    Args:
        name: Folder or hub id of the model.
        config: The options.
        data: The task and its data.
        output: Where the model goes.

    Returns:
        The model and its metrics, in percent.

    Raises:
        BertSurgeonError: If any of it is missing or broken, or does not fit together.
    """
    folder = resolve_model(name)
    output = output.check(input_paths(folder, data=data))
    set_seed(config.seed)
    loaded = recode_labels(load_data(data, config.seed), read_config(folder), new_head=True)
    model, tokenizer = load_for_finetuning(folder, loaded)
    job = labeled_job(loaded, model, tokenizer, data.max_length)

    def fit(work_dir: Path) -> dict[str, Any]:
        train(
            model, config, job.training, tokenizer, work_dir=work_dir, resume=output.resume, description="Fine-tuning"
        )
        return {"training": asdict(config)}

    return model, _fit_and_save(model, tokenizer, job, fit, "finetune", output, folder)["metrics"]


@locks_output
def recover_and_save(
    name: str,
    config: TrainingConfig,
    data: DataConfig,
    output: TrainingOutput,
    teacher: str | None = None,
    *,
    refit: bool | None = None,
) -> tuple[PreTrainedModel, dict[str, dict[str, float]]]:
    """Fine-tunes a pruned model again.

    Args:
        name: Folder of the pruned model.
        config: The options.
        data: The task and its data, or unlabeled texts (then there must be a teacher).
        output: Where the model goes.
        teacher: Folder or hub id of the dense model, to distill from; None for none.
        refit: Embedders with a teacher: whether to refit the embeddings afterwards
            (:func:`bertsurgeon.refit_embeddings`); None for yes, if there are enough texts.

    Returns:
        The model; its metrics ``before`` the recovery, and its ``metrics`` after it, in percent.

    Raises:
        BertSurgeonError: If any of it is missing or broken, or does not fit together.
    """
    if teacher is None:
        check_not_given(config, "--teacher", ("distillation_weight", "temperature", "hidden_weight"))
    output = output.check(input_paths(name, None if teacher is None else resolve_model(teacher), data=data))
    set_seed(config.seed)
    check_same_vocabulary(name, teacher)
    model, tokenizer = load_model(name), load_tokenizer(name)
    if get_plan(model) is None and not is_sparse(model):
        raise ModelError(f"{name} is a dense model; prune it first, or use 'bertsurgeon finetune'.")
    teacher_model = None if teacher is None else load_network(teacher, data)
    if data.text_file is not None:
        if not data.only_texts or teacher_model is None:
            raise OptionError("--text-file recovers without labels: name a --teacher with it, and no other data.")
        config = replace(config, distillation_weight=1.0)
        texts = load_texts(data)
        job = unlabeled_job(texts, tokenizer, data.max_length, teacher_model, config)
    else:
        loaded = align_to_model(load_data(data, config.seed), model)
        check_head(model, loaded.task)
        if teacher_model is not None:
            check_head(teacher_model, loaded.task)
        if not loaded.task.type.learns_from_labels:
            config = replace(config, distillation_weight=1.0)
        job = labeled_job(loaded, model, tokenizer, data.max_length, config)

    refits = EmbeddingRefit.of(teacher_model, job.training, tokenizer, config.seed, refit)

    def fit(work_dir: Path) -> dict[str, Any]:
        report = recover_with_report(
            model,
            config,
            job.training,
            tokenizer,
            teacher=teacher_model,
            work_dir=work_dir,
            resume=output.resume,
            **selection_arguments(job.selection, job.task),
        )
        settings = training_settings(config, report, job.selection)
        if refits is not None:
            refitted = refits.apply(model)
            progress.note(refitted.sentence)
            settings["refit"] = asdict(refitted)
        return settings

    return model, _fit_and_save(model, tokenizer, job, fit, "recover", output, name, score_before=True)


@locks_output
def prune_gradually_and_save(
    name: str,
    recipe: Recipe,
    data: DataConfig,
    output: TrainingOutput,
    teacher: str | None = None,
    *,
    memory_gb: float = 4.0,
    bf16: bool = False,
    seed: int = 0,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Prunes a model while it is trained.

    Args:
        name: Folder or hub id of a dense or sparse model.
        recipe: What is trained, pruned and quantized, and when.
        data: The task and its data, or unlabeled texts.
        output: Where the model goes.
        teacher: Folder or hub id of a fine-tuned dense model, to distill from; None for none.
        memory_gb: Memory for inverted Fisher blocks, in 10⁹ bytes.
        bf16: Multiply in bfloat16.
        seed: Fixes every random choice.

    Returns:
        The model; its ``sparsity``, the ``recipe`` as it was used, and the ``metrics``, in percent.

    Raises:
        BertSurgeonError: If any of it is missing or broken, or does not fit together.
    """
    check_same_vocabulary(name, teacher)
    folder = resolve_model(name)
    output = output.check(input_paths(folder, None if teacher is None else resolve_model(teacher), data=data))
    set_seed(seed)
    head = AutoModelForMaskedLM if recipe.masked_lm else None
    teacher_model = None if teacher is None else load_model(resolve_model(teacher), head)
    if teacher_model is None and recipe.distillation.distillation_weight > 0:
        target = "masked tokens" if recipe.masked_lm else "labels"
        progress.note(f"No --teacher is named: the model is trained on the {target} alone.")
    if recipe.masked_lm:
        model, tokenizer, job = _masked_lm_job(folder, data, teacher_model, recipe.masked_lm, seed)
    else:
        model, tokenizer, job = _task_job(folder, data, teacher_model, seed)
    if job.task is None and not recipe.masked_lm:  # there are no labels, only the teacher's outputs
        recipe = replace(recipe, distillation=replace(recipe.distillation, distillation_weight=1.0))

    def fit(work_dir: Path) -> dict[str, Any]:
        train_gradually(
            model,
            recipe,
            job.training,
            tokenizer,
            teacher=teacher_model,
            work_dir=work_dir,
            resume=output.resume,
            memory_gb=memory_gb,
            bf16=bf16,
            seed=seed,
            description="Pruning" if recipe.pruning else "Training",
        )
        return {"recipe": asdict(recipe)}

    scores = _fit_and_save(model, tokenizer, job, fit, "gradual", output, folder)
    return model, {"sparsity": sparsity_of(masks_of(model)), "recipe": asdict(recipe), **scores}


def load_for_finetuning(
    name: str, data: TaskData, sparse: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a model with a head for a task: its own if that fits, else a new one.

    Args:
        name: Folder or hub id.
        data: The task and its data.
        sparse: Accept a pruned or sparse model, too.

    Raises:
        BertSurgeonError: If there is no such model, or it cannot learn the task from labels.
    """
    task_type = data.task.type
    if not task_type.learns_from_labels:
        raise OptionError(
            "Embedders are trained by a teacher only; fine-tune the dense one with sentence-transformers first."
        )
    options = task_type.head_options(data.task.labels)
    model = load_model(name, task_type.auto_class, new_head=True, ignore_mismatched_sizes=True, **options)
    if not sparse and (get_plan(model) is not None or is_sparse(model)):
        raise ModelError(f"{name} is pruned; use 'bertsurgeon recover' to train it.")
    return model, load_tokenizer(name)


def _masked_lm_job(
    name: str, data: DataConfig, teacher: PreTrainedModel | None, masked_lm: MaskedLanguageModeling, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, TrainingJob]:
    """Loads a model with a masked-language-model head, and the texts.

    Raises:
        BertSurgeonError: If any of it is missing or broken, or does not fit together.
    """
    if (data.text_file is None) == data.only_texts:
        raise OptionError(
            "Name the texts for masked language modeling: either --text-file, or a --task whose texts are used."
        )
    model, tokenizer = load_model(name, AutoModelForMaskedLM), load_tokenizer(name)
    for checked in (model, teacher):
        if checked is not None:
            check_masked_lm(checked)
    if data.text_file is not None:
        texts = load_texts(data)
    else:
        loaded = load_data(data, seed)
        texts = loaded.train.remove_columns("label"), loaded.validation.remove_columns("label")
    training, held_out = (tokenize(part, tokenizer, data.max_length) for part in texts)

    def score(trained: PreTrainedModel) -> dict[str, float]:
        return evaluate_masked_lm(trained, held_out, tokenizer, probability=masked_lm.probability, seed=seed)

    return model, tokenizer, TrainingJob(None, training, score)


def _task_job(
    name: str, data: DataConfig, teacher: PreTrainedModel | None, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, TrainingJob]:
    """Loads a model with a head for a task, and its data.

    Raises:
        BertSurgeonError: If any of it is missing or broken, or does not fit together.
    """
    if data.text_file is not None:
        if not data.only_texts or teacher is None:
            raise OptionError("--text-file trains without labels: name a --teacher with it, and no other data.")
        model, tokenizer = load_model(name), load_tokenizer(name)
        return model, tokenizer, unlabeled_job(load_texts(data), tokenizer, data.max_length, teacher)
    loaded = load_data(data, seed)
    # a new head numbers its classes as the teacher does; one that exists keeps its own numbers
    aligned = loaded if teacher is None else align_to_model(loaded, teacher)
    aligned = recode_labels(aligned, read_config(name), new_head=True)
    model, tokenizer = load_for_finetuning(name, aligned, sparse=True)
    check_head(model, aligned.task)
    if teacher is not None:
        check_head(teacher, aligned.task)
    return model, tokenizer, labeled_job(aligned, model, tokenizer, data.max_length)


def _fit_and_save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    job: TrainingJob,
    fit: Callable[[Path], dict[str, Any]],
    command: str,
    output: TrainingOutput,
    source: str,
    *,
    score_before: bool = False,
) -> dict[str, dict[str, float]]:
    """Trains a model by ``fit``, scores it, and saves it with its report and card.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        job: What it is trained on, and how it is scored.
        fit: Trains it in a folder for checkpoints, and returns what belongs in the report.
        command: Name of the command, for the report.
        output: Where the model goes.
        source: Folder or hub id of the model before training, for the model card.
        score_before: Whether to score the model before training as well.

    Returns:
        The ``metrics`` and, with ``score_before``, those of the model as it came (``before``).
    """
    with progress.steps(3 if score_before else 2) as begin_step:
        scores = {}
        if score_before:
            begin_step()
            scores["before"] = job.score(model)
        begin_step()
        settings = _fit(fit, output)
        begin_step()
        scores["metrics"] = job.score(model)
    report = {"command": command, "task": None if job.task is None else job.task.name, **settings, **scores}
    base_model, license_name = model_source(source)
    architecture, name = type(model).__name__, Path(source).name
    card = model_card(report, base_model=base_model, license=license_name, architecture=architecture, name=name)
    save_model(model, output.folder, tokenizer, {REPORT: report}, overwrite=output.overwrite, texts={CARD: str(card)})
    distributed.run_on_main(lambda: remove_work_folder(output.work_dir))
    progress.note(f"Saved {output.folder}")
    return scores


def _fit(fit: Callable[[Path], dict[str, Any]], output: TrainingOutput) -> dict[str, Any]:
    """Calls ``fit`` with the folder for checkpoints, which is new unless a training is resumed."""
    work_dir = output.work_dir

    def prepare() -> None:
        if not (output.resume and holds_training(work_dir)):
            new_work_folder(work_dir)

    distributed.run_on_main(prepare)
    try:
        settings = fit(work_dir)
    except BaseException:
        if distributed.is_main():
            remove_work_folder(work_dir, only_if_empty=True)
        raise
    return settings
