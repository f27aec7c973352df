"""Fine-tuning and recovery: one call into transformers' Trainer, with progress, checkpoints and resumption."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from bertsurgeon import progress
from bertsurgeon.errors import OptionError
from bertsurgeon.prediction import predict
from bertsurgeon.recovery.distillation import TEACHER_LOGITS, DistillationTrainer


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        epochs: Passes over the training data (3, as the paper's re-finetuning).
        batch_size: Samples per step.
        learning_rate: Peak of AdamW's learning rate, reached after the warm-up, falling linearly to zero.
        warmup: Share of the steps in which the learning rate rises.
        weight_decay: AdamW's.
        hardness: Weight of the teacher in the loss, 0 to 1; used only if a teacher is given.
        temperature: Of the distillation.
        max_steps: Ends earlier than ``epochs`` says, where positive.
        seed: Fixes the order of the data and the dropout.
    """

    epochs: float = 3.0
    batch_size: int = 32
    learning_rate: float = 5e-5
    warmup: float = 0.06
    weight_decay: float = 0.01
    hardness: float = 0.9
    temperature: float = 2.0
    max_steps: int = -1
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            OptionError: If a value makes no sense.
        """
        if self.epochs <= 0 or self.batch_size < 1:
            raise OptionError("Training needs more than 0 epochs and a batch of at least 1.")
        if self.learning_rate <= 0 or self.temperature <= 0:
            raise OptionError("The learning rate and the temperature must be greater than 0.")
        if not 0 <= self.hardness <= 1:
            raise OptionError(f"The distillation hardness must lie between 0 and 1, not {self.hardness}.")


class _DataOrder(TrainerCallback):
    """Draws each epoch's order from the seed and the epoch alone.

    The Trainer draws it from the global random numbers, and restores those only after it has drawn the order of an
    epoch that it resumes: a resumed run would see some samples of that epoch twice and others never.
    """

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        loader = kwargs["train_dataloader"]
        epoch = state.global_step // len(loader)
        loader.batch_sampler.sampler.generator = torch.Generator().manual_seed(args.seed + epoch)


class _ProgressBar(TrainerCallback):
    """Shows the Trainer's steps in the library's own bar, in place of the Trainer's."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.last_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._bar = progress.bar(self.description, state.max_steps)
        self._advance = self._bar.__enter__()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._advance(state.global_step - self.last_step)
        self.last_step = state.global_step

    def close(self) -> None:
        """Takes the bar from the screen; also after an interrupt, when the Trainer calls nothing."""
        if hasattr(self, "_bar"):
            self._bar.__exit__(None, None, None)


def train(
    model: PreTrainedModel,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    options: TrainingOptions,
    work_dir: Path,
    *,
    teacher: PreTrainedModel | None = None,
    resume: bool = False,
    description: str = "Training",
) -> None:
    """Trains ``model`` in place.

    Args:
        model: Any model with a ``loss`` in its outputs, pruned or dense.
        dataset: Tokenized samples with ``labels``.
        tokenizer: Pads the batches.
        options: See :class:`TrainingOptions`.
        work_dir: Where the Trainer keeps its checkpoints (four an epoch, the last one stays).
        teacher: The dense model to distil from, or None.
        resume: Go on from the last checkpoint in ``work_dir``; without one, training starts from the beginning.
        description: Shown beside the progress bar.
    """
    distil = teacher is not None and options.hardness > 0
    if teacher is not None and distil:
        logits = predict(teacher.eval(), dataset, tokenizer, options.batch_size, "Asking the teacher")
        dataset = dataset.add_column(TEACHER_LOGITS, logits.tolist())
    steps_per_epoch = -(-len(dataset) // options.batch_size)
    arguments = TrainingArguments(
        output_dir=str(work_dir),
        num_train_epochs=options.epochs,
        max_steps=options.max_steps,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup_steps=options.warmup,
        weight_decay=options.weight_decay,
        seed=options.seed,
        train_sampling_strategy="group_by_length",
        logging_strategy="no",
        save_strategy="steps",
        save_steps=max(1, steps_per_epoch // 4),
        save_total_limit=1,
        report_to="none",
        label_names=["labels", TEACHER_LOGITS] if distil else ["labels"],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    common: dict[str, Any] = {
        "model": model,
        "args": arguments,
        "train_dataset": dataset,
        "data_collator": DataCollatorWithPadding(tokenizer),
        "processing_class": tokenizer,
    }
    trainer: Trainer
    if distil:
        trainer = DistillationTrainer(hardness=options.hardness, temperature=options.temperature, **common)
    else:
        trainer = Trainer(**common)
    trainer.remove_callback(PrinterCallback)
    bar = _ProgressBar(description)
    trainer.add_callback(bar)
    trainer.add_callback(_DataOrder())
    checkpoint = _last_checkpoint(work_dir) if resume else None
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        bar.close()
    model.eval()


def _last_checkpoint(work_dir: Path) -> str | None:
    """The last complete checkpoint, if any; what a kill cut off in the middle of writing is removed."""
    if not work_dir.is_dir():
        return None
    while (checkpoint := get_last_checkpoint(str(work_dir))) is not None:
        try:
            TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))  # the Trainer writes it last
        except (OSError, ValueError, TypeError):
            shutil.rmtree(checkpoint)
        else:
            return str(checkpoint)
    return None
