"""transformers' TrainingArguments from training options, the data and the caller's overrides."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from bertsurgeon import distributed
from bertsurgeon.devices import choose_device
from bertsurgeon.errors import OptionError, first_line
from bertsurgeon.options import with_article
from bertsurgeon.recovery.config import TrainingConfig
from bertsurgeon.recovery.selection import SCORE

SET_BY_CONFIG = {
    "num_train_epochs": "epochs",
    "max_steps": "max_steps",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "micro_batch_size",
    "learning_rate": "learning_rate",
    "warmup_steps": "warmup",
    "weight_decay": "weight_decay",
    "bf16": "bf16",
    "seed": "seed",
    "data_seed": "seed",
    "load_best_model_at_end": "keep_best",
    "metric_for_best_model": "keep_best",
    "greater_is_better": "keep_best",
    "eval_strategy": "keep_best",
}
"""TrainingArguments that an option of :class:`TrainingConfig` sets."""

SET_BY_TRAIN = {
    "output_dir": "is the argument work_dir",
    "resume_from_checkpoint": "is the argument resume",
    "label_names": "follows from the columns of the data",
    "prediction_loss_only": "has no effect, as keep_best evaluates by a metric of the task",
}
"""TrainingArguments that :func:`train` sets, and why they cannot be overridden."""


def check_arguments(overrides: Mapping[str, Any] | TrainingArguments) -> Mapping[str, Any]:
    """Checks overrides of TrainingArguments, and returns them by name.

    Args:
        overrides: Arguments by name, or an object, whose fields that differ from the defaults are the overrides.

    Raises:
        OptionError: If transformers has no such argument, an option or :func:`bertsurgeon.train` sets it, or the
            overrides are neither.
    """
    if isinstance(overrides, TrainingArguments):
        overrides = _changed_arguments(overrides)
    if not isinstance(overrides, Mapping):
        raise OptionError(
            "The training arguments are a mapping or a transformers.TrainingArguments, not "
            f"{with_article(type(overrides).__name__)}."
        )
    allowed = {each.name for each in fields(TrainingArguments) if each.init}
    for name in overrides:
        if name in SET_BY_CONFIG:
            raise OptionError(
                f"The training argument {name} is set by an option: use TrainingConfig({SET_BY_CONFIG[name]}=…)."
            )
        if name in SET_BY_TRAIN:
            raise OptionError(f"The training argument {name} cannot be set: it {SET_BY_TRAIN[name]}.")
        if name not in allowed:
            raise OptionError(f"transformers.TrainingArguments has no argument {name}; see its documentation.")
    return overrides


def _changed_arguments(arguments: TrainingArguments) -> dict[str, Any]:
    """Returns the fields that differ from those of an object without arguments, which has replaced some defaults."""
    default = type(arguments)()
    values = {each.name: getattr(arguments, each.name) for each in fields(arguments) if each.init}
    return {name: value for name, value in values.items() if value != getattr(default, name)}


def make_arguments(
    config: TrainingConfig,
    work_dir: Path,
    *,
    steps: int,
    interval: int,
    learning_rate: float,
    label_names: Sequence[str],
    saves: bool,
    overrides: Mapping[str, Any],
) -> TrainingArguments:
    """Makes the arguments of the Trainer.

    Args:
        config: Training options.
        work_dir: Folder for checkpoints.
        steps: Steps of the whole training.
        interval: Steps between checkpoints, and between evaluations with ``keep_best``.
        learning_rate: Peak learning rate.
        label_names: Columns that the Trainer passes on although they are no inputs of the model.
        saves: Whether checkpoints are written; they take seconds each.
        overrides: What :func:`check_arguments` returned.

    Raises:
        OptionError: If transformers refuses the overrides, the processes cannot share a step evenly, or the device is
            not the first of its kind.
    """
    together = micro_batch_size(config)
    device = choose_device()
    if device.index and distributed.world_size() == 1:
        raise OptionError(
            f"Training runs on the first device that the process has, not on {device}; set CUDA_VISIBLE_DEVICES="
            f"{device.index} instead of naming it."
        )
    settings: dict[str, Any] = {
        "output_dir": str(work_dir),
        "max_steps": steps,
        "per_device_train_batch_size": together,
        "gradient_accumulation_steps": config.batch_size // (together * distributed.world_size()),
        "learning_rate": learning_rate,
        "warmup_steps": config.warmup,
        "weight_decay": config.weight_decay,
        "bf16": config.bf16,
        "use_cpu": device.type == "cpu",
        "seed": config.seed,
        **_by_length(),
        "logging_strategy": "no",
        "save_strategy": "steps" if saves else "no",
        "save_steps": interval,
        "save_total_limit": 1,
        "eval_strategy": "steps" if config.keep_best else "no",
        "eval_steps": interval,
        "load_best_model_at_end": config.keep_best,
        "metric_for_best_model": SCORE if config.keep_best else None,
        "greater_is_better": True if config.keep_best else None,
        "report_to": "none",
        "label_names": list(label_names),
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        **overrides,
    }
    try:
        arguments = TrainingArguments(**settings)
    except (ValueError, TypeError, ImportError) as error:
        if not overrides:
            raise
        raise OptionError(
            f"transformers refuses the training arguments {', '.join(overrides)}: {first_line(error)}."
        ) from error
    if arguments.n_gpu > 1:  # DataParallel would multiply the batch size; several processes share a step instead
        arguments._n_gpu = 1
    return arguments


def _by_length() -> dict[str, Any]:
    """Returns the argument that puts texts of similar length into a batch; its name depends on transformers."""
    if any(field.name == "train_sampling_strategy" for field in fields(TrainingArguments)):
        return {"train_sampling_strategy": "group_by_length"}
    return {"group_by_length": True}


def micro_batch_size(config: TrainingConfig) -> int:
    """Returns the samples per forward pass in each process.

    Raises:
        OptionError: If the processes cannot share a step evenly.
    """
    world_size = distributed.world_size()
    per_process, rest = divmod(config.batch_size, world_size)
    if rest:
        raise OptionError(
            f"{world_size} processes cannot share a batch of {config.batch_size} evenly; choose another batch size, or "
            "start another number of processes."
        )
    size = min(config.micro_batch_size or per_process, per_process)
    if per_process % size:
        raise OptionError(
            f"Each of {world_size} processes takes {per_process} samples of a step; micro_batch_size must divide "
            f"that number, and {size} does not."
        )
    return size
