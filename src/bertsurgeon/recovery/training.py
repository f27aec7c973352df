"""Fine-tuning and recovery: one call of transformers' Trainer, with progress, checkpoints and resumption."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
)

from bertsurgeon import distributed
from bertsurgeon.checkpoint import check_finite, clear_int8_ranges, get_plan, is_sparse
from bertsurgeon.errors import CheckpointError, ModelError, OptionError
from bertsurgeon.options import check_config
from bertsurgeon.prediction import forked_rng, gradients_enabled, has_inference_tensors, predict_outputs
from bertsurgeon.recovery.arguments import check_arguments, make_arguments, micro_batch_size
from bertsurgeon.recovery.callbacks import DataOrderCallback, MaskCallback, ProgressCallback, dropout_disabled
from bertsurgeon.recovery.config import LABEL_LEARNING_RATE, TrainingConfig
from bertsurgeon.recovery.distillation import TEACHER_PREFIX, DistillationTrainer
from bertsurgeon.recovery.learning_rate import GOOD_START_RATE, measure_recovery_rate
from bertsurgeon.recovery.resumption import last_checkpoint, peak_rate, restore_problem_type
from bertsurgeon.recovery.selection import ScoringTrainer, SelectionReport, Start, make_score
from bertsurgeon.storage import find_failure
from bertsurgeon.tasks import (
    LABELS,
    WORD_STARTS,
    Collator,
    Data,
    Task,
    TokenMasking,
    as_dataset,
    check_same_head,
    has_labels,
    head_of,
)


@dataclass(frozen=True)
class TrainingReport:
    """What a training chose.

    Attributes:
        learning_rate: Peak learning rate.
        selection: How the best weights were chosen; None without ``keep_best``.
    """

    learning_rate: float
    selection: SelectionReport | None


@forked_rng()
def recover(
    model: PreTrainedModel,
    config: TrainingConfig | None,
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    *,
    teacher: PreTrainedModel | None = None,
    validation: Data | None = None,
    task: Task | None = None,
    work_dir: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    arguments: Mapping[str, Any] | TrainingArguments | None = None,
    description: str = "Recovering",
) -> PreTrainedModel:
    """Fine-tunes a pruned or sparse model in place; removed weights stay removed.

    Args:
        model: The pruned model, as :func:`bertsurgeon.prune` returns it.
        config: Training options; None for the defaults. Without labels ``distillation_weight`` is always 1.
        data: Texts, a dataset, or batches; labels are optional if there is a teacher.
        tokenizer: Tokenizes texts and pads the batches.
        teacher: The dense model to distill from, or None.
        validation: Texts by which ``keep_best`` chooses, which neither the teacher was trained on nor the calibration
            has used; see :func:`train`.
        task: Task of these texts, if they are labeled; without one, the agreement with the teacher chooses.
        work_dir: Folder for the Trainer's checkpoints; None for none.
        resume: Continue from the last checkpoint in ``work_dir``.
        callbacks: Further callbacks for the Trainer.
        arguments: Overrides of :class:`transformers.TrainingArguments`; see :func:`train`.
        description: Label of the progress bar.

    Returns:
        The model that was passed.

    Raises:
        ModelError: If the model is dense, the heads of model, teacher and task differ, or the training diverged.
        OptionError: If there are neither labels nor a teacher, ``keep_best`` has no validation texts, or an option does
            not fit.
        CheckpointError: If the run in ``work_dir`` trained another model.

    Example:
        >>> from bertsurgeon import AutoConfig, Sparsity, TrainingConfig, prune, recover
        >>> from bertsurgeon.tasks import tokenize
        >>> from bertsurgeon.testing import toy_classifier
        >>> model, tokenizer, texts = toy_classifier()
        >>> data = tokenize(texts, tokenizer)
        >>> pruned = prune(model, AutoConfig(Sparsity(0.5)), data, tokenizer).model
        >>> pruned = recover(pruned, TrainingConfig(max_steps=2), data, tokenizer, teacher=model)
    """
    recover_with_report(
        model,
        config,
        data,
        tokenizer,
        teacher=teacher,
        validation=validation,
        task=task,
        work_dir=work_dir,
        resume=resume,
        callbacks=callbacks,
        arguments=arguments,
        description=description,
    )
    return model


def recover_with_report(
    model: PreTrainedModel,
    config: TrainingConfig | None,
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    *,
    teacher: PreTrainedModel | None = None,
    description: str = "Recovering",
    **options: Any,
) -> TrainingReport:
    """Recovers a model like :func:`recover`, whose arguments it takes, and returns what the training chose."""
    check_config(config, TrainingConfig, "recover", optional=True)
    if get_plan(model) is None and not is_sparse(model):
        raise ModelError("The model is dense; prune it first, or fine-tune it with 'bertsurgeon.train'.")
    config = config or TrainingConfig()
    data = as_dataset(data, tokenizer, model)
    if teacher is not None:
        check_same_head(model, teacher)
        if not has_labels(data.column_names):
            config = replace(config, distillation_weight=1.0)
    return train(model, config, data, tokenizer, teacher=teacher, description=description, **options)


@gradients_enabled()
@forked_rng()
def train(
    model: PreTrainedModel,
    config: TrainingConfig | None,
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    *,
    teacher: PreTrainedModel | None = None,
    validation: Data | None = None,
    task: Task | None = None,
    work_dir: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    arguments: Mapping[str, Any] | TrainingArguments | None = None,
    schedule: Callable[[int], float] | None = None,
    mlm_collator: TokenMasking | None = None,
    description: str = "Training",
) -> TrainingReport:
    """Trains a model in place; the zeros of a sparse model are kept. Several processes share every step (DDP).

    Args:
        model: Any model with a ``loss`` in its outputs, pruned or dense.
        config: Training options; None for the defaults.
        data: Texts, a dataset, or batches; labels are optional with a teacher and ``distillation_weight`` 1.
        tokenizer: Tokenizes texts and pads the batches.
        teacher: The dense model to distill from, or None.
        validation: Texts by which ``keep_best`` chooses: a dataset, raw or tokenized, or for a comparison with the
            teacher a list of texts or batches. Neither the teacher may have been trained on them nor the calibration
            have used them: on such texts a one-shot pruned model looks better than it is, so training seems to harm it.
            Nor are metrics on the same texts unbiased afterwards. Of equal scores, the later one wins.
        task: Task of these texts, if they are labeled: its primary metric chooses. Without one, the agreement with the
            teacher chooses.
        work_dir: Folder for the Trainer's checkpoints (four an epoch, of which the last one is kept), the same for all
            processes; None for none, except those that ``keep_best`` needs.
        resume: Continue from the last checkpoint in ``work_dir``; if there is none, start from the beginning.
        callbacks: Further callbacks for the Trainer. A :class:`MaskCallback` among them replaces the default one,
            which keeps the zeros of a sparse model.
        arguments: Overrides of :class:`transformers.TrainingArguments` for whatever :class:`TrainingConfig` does not
            name, such as ``{"max_grad_norm": 0.5, "optim": "adafactor"}``, or an object of that class, of
            which the fields that differ from the defaults count.
        schedule: Returns the factor of the learning rate at a step; None for warm-up and linear decay to 0.
        mlm_collator: Masks tokens for masked language modeling, which then provide the labels.
        description: Label of the progress bar.

    Returns:
        The learning rate, and with ``keep_best`` the scores by which the weights were chosen.

    Raises:
        OptionError: If an option does not fit the data, the teacher or the number of processes, or ``keep_best`` has
            nothing to choose by.
        CheckpointError: If the run in ``work_dir`` trained another model, or has another learning rate or number of
            steps.
        ModelError: If the training diverged.
    """
    work_dir = None if work_dir is None else Path(work_dir)
    check_config(config, TrainingConfig, "train", optional=True)
    if resume and work_dir is None:
        raise OptionError("Resuming needs the folder of the checkpoints; name it as work_dir.")
    if has_inference_tensors(model):
        raise ModelError(
            "The model was made under torch.inference_mode, so it cannot be trained; load it outside of it."
        )
    config = config or TrainingConfig()
    data = as_dataset(data, tokenizer, model)
    overrides = check_arguments({} if arguments is None else arguments)
    micro_batch_size(config)  # refuses a number of processes that does not fit before the teacher runs
    if (
        mlm_collator is None
        and not has_labels(data.column_names)
        and (teacher is None or config.distillation_weight < 1)
    ):
        raise OptionError("Unlabeled data requires a teacher and distillation_weight=1.0.")
    if not config.keep_best and (validation is not None or task is not None):
        raise OptionError("validation and task serve keep_best alone; set it in the TrainingConfig, or leave them out.")
    steps_per_epoch = -(-len(data) // config.batch_size)
    steps = config.steps(steps_per_epoch)
    checkpoint = distributed.run_on_main(lambda: last_checkpoint(work_dir)) if resume and work_dir else None
    resumed_rate = None if checkpoint is None else peak_rate(Path(checkpoint), config, steps)
    score = make_score(validation, task, teacher, model, tokenizer, config.bf16) if config.keep_best else None
    if steps < steps_per_epoch:  # the teacher's outputs are needed only for the samples that are used
        data = data.shuffle(seed=config.seed).select(range(steps * config.batch_size))
    distill = teacher is not None and config.uses_teacher
    rate = config.learning_rate if resumed_rate is None else resumed_rate
    if rate is None and distill and mlm_collator is None:
        rate = head_of(model).recovery_rate
    if rate is None and teacher is not None and distill and mlm_collator is None:
        rate = measure_recovery_rate(model, teacher, data, tokenizer, bf16=config.bf16, seed=config.seed)
    elif rate is None:
        rate = GOOD_START_RATE if distill else LABEL_LEARNING_RATE
    if teacher is not None and distill and mlm_collator is None:
        data = _add_teacher_outputs(data, teacher, tokenizer, config)
    label_names = ["labels"] if mlm_collator else [name for name in data.column_names if _is_label(name, distill)]
    if is_sparse(model) and not any(isinstance(callback, MaskCallback) for callback in callbacks):
        callbacks = [MaskCallback(model), *callbacks]
    with distributed.temporary_folder() if work_dir is None else nullcontext(work_dir) as folder:
        training_arguments = make_arguments(
            config,
            folder,
            steps=steps,
            interval=max(1, min(steps, steps_per_epoch) // 4),
            learning_rate=rate,
            label_names=label_names,
            saves=work_dir is not None or config.keep_best,
            overrides=overrides,
        )
        common: dict[str, Any] = {
            "model": model,
            "args": training_arguments,
            "train_dataset": data,
            "score": score,
            "data_collator": mlm_collator or Collator(tokenizer),
            "processing_class": tokenizer,
            "callbacks": [DataOrderCallback(mlm_collator), *callbacks],
        }
        trainer: ScoringTrainer
        if teacher is not None and distill:
            trainer = DistillationTrainer(
                distillation_weight=config.distillation_weight,
                temperature=config.temperature,
                hidden_weight=config.hidden_weight,
                teacher=teacher.eval().to(training_arguments.device),
                compared=_comparable_hidden_states(model),
                **common,
            )
        else:
            trainer = ScoringTrainer(**common)
            trainer.model_accepts_loss_kwargs = False  # encoders' losses are means; the Trainer must divide them itself
        clear_int8_ranges(model)
        if schedule is not None:
            trainer.lr_scheduler = LambdaLR(trainer.create_optimizer(), schedule)
        dropout = not distill if config.dropout is None else config.dropout
        selection = _run(trainer, model, folder, checkpoint, dropout, description)
    if config.bf16:
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        vars(model).pop("forward", None)  # restores the forward of the class, which does not compute in bfloat16
    model.eval()
    return TrainingReport(rate, selection)


def _run(
    trainer: ScoringTrainer,
    model: PreTrainedModel,
    work_dir: Path,
    checkpoint: str | None,
    dropout: bool,
    description: str,
) -> SelectionReport | None:
    """Runs the Trainer, from a checkpoint if there is one, and leaves the best weights in the model.

    Raises:
        CheckpointError: If the run in ``work_dir`` trained another model.
        ModelError: If the training diverged.
    """
    trainer.remove_callback(PrinterCallback)
    progress_callback = ProgressCallback(description)
    trainer.add_callback(progress_callback)
    if checkpoint is not None:
        restore_problem_type(model, Path(checkpoint))
    start = None if trainer.score is None else Start(trainer, model, work_dir, resumed=checkpoint is not None)
    try:
        with nullcontext() if dropout else dropout_disabled(model):
            trainer.train(resume_from_checkpoint=checkpoint)
        selection = None if start is None else start.choose(model, trainer)
        _check_converged(model)
    except BaseException as error:
        if checkpoint is not None and "loading state_dict" in str(error):
            raise CheckpointError(
                f"The unfinished run in {work_dir} trained another model; resume it with that model, or start anew."
            ) from error
        failure = find_failure(error, [work_dir])
        if failure is not None and failure.cause != "memory":
            if distributed.is_main():
                with suppress(OSError):
                    last_checkpoint(work_dir)  # removes the incomplete one, which takes up space
            raise CheckpointError(
                f"The checkpoints in {work_dir} cannot be written: {failure.reason}; {failure.remedy}, and run again."
            ) from error
        raise
    finally:
        progress_callback.close()
    return selection


def _add_teacher_outputs(
    data: Dataset, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: TrainingConfig
) -> Dataset:
    """Adds the teacher's outputs as columns; in evaluation mode they are the same in every epoch."""
    with torch.autocast(teacher.device.type, torch.bfloat16, enabled=config.bf16):
        outputs = predict_outputs(teacher.eval(), data, tokenizer, config.batch_size, "Running the teacher")
    for name in head_of(teacher).outputs:
        rows = [row[name] for row in outputs]
        # an Arrow array of flat rows: lists of Python numbers would take several times the memory
        ends = np.cumsum([0, *(row.numel() for row in rows)])
        values = pa.array(torch.cat([row.flatten() for row in rows]).numpy())
        data = data.add_column(TEACHER_PREFIX + name, pa.LargeListArray.from_arrays(pa.array(ends), values))
    return data


def _is_label(column: str, distill: bool) -> bool:
    """Returns True if the Trainer must pass on a column that is no input of the model."""
    return column in LABELS or (distill and (column == WORD_STARTS or column.startswith(TEACHER_PREFIX)))


def _check_converged(model: PreTrainedModel) -> None:
    """Checks that all weights are finite.

    Raises:
        ModelError: If the training diverged.
    """
    try:
        check_finite(model)
    except ModelError as error:
        raise ModelError(
            "The training diverged and its weights are not finite (NaN or infinity); restart it with a lower learning "
            "rate."
        ) from error


def _comparable_hidden_states(model: PreTrainedModel) -> list[int]:
    """Returns the indices of the hidden states that a pruned model shares with its teacher.

    These are the outputs of all layers, except where the attention that reads them was dropped: there they include
    the constant output of that attention.
    """
    plan = get_plan(model)
    if plan is None:
        return list(range(1, int(model.config.num_hidden_layers) + 1))
    next_is_dropped = [layer.is_dropped("attention") for layer in plan.layers[1:]] + [False]
    return [index + 1 for index, shifted in enumerate(next_is_dropped) if not shifted]
