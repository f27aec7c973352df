"""Fine-tuning and recovery: one call into transformers' Trainer, with progress, checkpoints and resumption."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
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

from bertsurgeon import distributed, progress
from bertsurgeon.checkpoint import check_finite, clear_int8_ranges, get_plan, is_sparse
from bertsurgeon.errors import CheckpointError, ModelError, OptionError
from bertsurgeon.prediction import predict_outputs
from bertsurgeon.recovery.config import TrainingConfig
from bertsurgeon.recovery.distillation import TEACHER, DistillationTrainer
from bertsurgeon.recovery.masking import MaskCallback
from bertsurgeon.recovery.quantizing import QuantizationAwareTraining
from bertsurgeon.tasks import LABELS, Collator, TokenMasking, has_labels, head_of
from bertsurgeon.tasks.collate import WORD_STARTS

MIN_TO_HOLD_OUT = 20
"""Fewest samples of which a tenth can be held out."""


class _DataOrder(TrainerCallback):
    """Draws each epoch's order, and what is masked in it, from the seed and the epoch alone.

    The Trainer draws it from the global random numbers, and restores those only after it has drawn the order of an
    epoch that it resumes: a resumed run would see some samples of that epoch twice and others never.
    """

    def __init__(self, masking: TokenMasking | None) -> None:
        self.masking = masking

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        loader = kwargs["train_dataloader"]
        epoch = state.global_step // -(-len(loader) // args.gradient_accumulation_steps)
        batches = loader.batch_sampler
        sampler = getattr(batches, "batch_sampler", batches).sampler  # of several processes, behind their shares
        sampler.generator = torch.Generator().manual_seed(args.seed + epoch)
        # lengths are grouped by whole steps, whoever takes part in them
        sampler.batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        if self.masking is not None:
            self.masking.epoch = epoch


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
    options: TrainingConfig,
    work_dir: Path,
    *,
    teacher: PreTrainedModel | None = None,
    resume: bool = False,
    description: str = "Training",
    masking: MaskCallback | None = None,
    schedule: Callable[[int], float] | None = None,
    guessing: TokenMasking | None = None,
    quantizing: QuantizationAwareTraining | None = None,
) -> None:
    """Trains ``model`` in place; the zeros of a sparse one stay. Several processes share every step (DDP).

    Args:
        model: Any model with a ``loss`` in its outputs, pruned or dense.
        dataset: Tokenized samples with labels; without, if a teacher alone is heard (``distillation_weight`` 1).
        tokenizer: Pads the batches.
        options: See :class:`TrainingConfig`.
        work_dir: Where the Trainer keeps its checkpoints (four an epoch, the last one stays); one for all distributed.
        teacher: The dense model to distil from, or None.
        resume: Go on from the last checkpoint in ``work_dir``; without one, training starts from the beginning.
        description: Shown beside the progress bar.
        masking: Keeps the zeros, and may make more of them; None for those that a sparse model has.
        schedule: Factor of the learning rate by step, in place of the warm-up and the fall to zero.
        guessing: For masked language modelling: hides tokens, which the model guesses in place of ``labels``.
        quantizing: Rounds weights and inputs to INT8 meanwhile, and is finished afterwards.

    Raises:
        OptionError: If an option does not fit the data, the teacher or the number of distributed.
        CheckpointError: If the run that is resumed trained another model.
        ModelError: If the training diverged.
    """
    together = _samples_together(options)
    if (
        guessing is None
        and not has_labels(dataset.column_names)
        and (teacher is None or options.distillation_weight < 1)
    ):
        raise OptionError("Texts without labels need a teacher, and a distillation_weight of 1: it alone is heard.")
    if options.keep_best and len(dataset) < MIN_TO_HOLD_OUT:
        raise OptionError(f"Keeping the best weights needs at least {MIN_TO_HOLD_OUT} samples, not {len(dataset)}.")
    aside = min(1000, len(dataset) // 10) if options.keep_best else 0
    steps_per_epoch = -(-(len(dataset) - aside) // options.batch_size)
    steps = options.steps(steps_per_epoch)
    if steps < steps_per_epoch:  # a teacher is not asked about texts that nobody reads
        dataset = dataset.shuffle(seed=options.seed).select(range(aside + steps * options.batch_size))
    distil = teacher is not None and options.uses_teacher
    if teacher is not None and distil and guessing is None:
        with torch.autocast(teacher.device.type, torch.bfloat16, enabled=options.bf16):
            outputs = predict_outputs(teacher.eval(), dataset, tokenizer, options.batch_size, "Asking the teacher")
        for name in head_of(teacher).outputs:
            dataset = dataset.add_column(TEACHER + name, _flat([row[name] for row in outputs]))
    held_out = None
    if aside:
        parts = dataset.train_test_split(test_size=aside, seed=options.seed)
        dataset, held_out = parts["train"], parts["test"]
    often = max(1, min(steps, steps_per_epoch) // 4)
    arguments = TrainingArguments(
        output_dir=str(work_dir),
        max_steps=steps,
        per_device_train_batch_size=together,
        gradient_accumulation_steps=options.batch_size // (together * distributed.world_size()),
        learning_rate=options.peak(teacher is not None),
        warmup_steps=options.warmup,
        weight_decay=options.weight_decay,
        bf16=options.bf16,
        use_cpu=not torch.accelerator.is_available(),
        seed=options.seed,
        train_sampling_strategy="group_by_length",
        logging_strategy="no",
        save_strategy="steps",
        save_steps=often,
        save_total_limit=1,
        eval_strategy="no" if held_out is None else "steps",
        eval_steps=often,
        per_device_eval_batch_size=2 * options.batch_size,
        prediction_loss_only=True,
        load_best_model_at_end=held_out is not None,
        metric_for_best_model="eval_loss" if held_out is not None else None,
        report_to="none",
        label_names=["labels"] if guessing else [name for name in dataset.column_names if _is_label(name, distil)],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    common: dict[str, Any] = {
        "model": model,
        "args": arguments,
        "train_dataset": dataset,
        "eval_dataset": held_out,
        "data_collator": guessing or Collator(tokenizer),
        "processing_class": tokenizer,
    }
    trainer: Trainer
    if distil:
        assert teacher is not None
        trainer = DistillationTrainer(
            distillation_weight=options.distillation_weight,
            temperature=options.temperature,
            hidden_weight=options.hidden_weight,
            teacher=teacher.eval().to(arguments.device),
            compared=_compared(model),
            **common,
        )
    else:
        trainer = Trainer(**common)
        trainer.model_accepts_loss_kwargs = False  # encoders' losses are means; the Trainer must divide them itself
    trainer.remove_callback(PrinterCallback)
    bar = _ProgressBar(description)
    trainer.add_callback(bar)
    trainer.add_callback(_DataOrder(guessing))
    if masking is None and is_sparse(model):
        masking = MaskCallback(model)
    for callback in (masking, quantizing):
        if callback is not None:
            trainer.add_callback(callback)
    clear_int8_ranges(model)
    if schedule is not None:
        trainer.lr_scheduler = LambdaLR(trainer.create_optimizer(), schedule)
    checkpoint = distributed.run_on_main(lambda: _last_checkpoint(work_dir)) if resume else None
    start = None if held_out is None else _Start(trainer, model)
    dropout = not distil if options.dropout is None else options.dropout
    try:
        with nullcontext() if dropout else _without_dropout(model):
            trainer.train(resume_from_checkpoint=checkpoint)
        if start is not None:
            start.restore_if_better(trainer, model)
        _check_converged(model)
    except BaseException as error:
        if quantizing is not None:
            quantizing.withdraw()
        if checkpoint is not None and "loading state_dict" in str(error):
            raise CheckpointError(
                f"The unfinished run in {work_dir} trained another model; resume it with that, or start anew."
            ) from error
        raise
    finally:
        bar.close()
    if quantizing is not None:
        quantizing.finish()
    if options.bf16:
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        vars(model).pop("forward", None)  # the class' own one again, which does not compute in bfloat16
    model.eval()


def _samples_together(config: TrainingConfig) -> int:
    """Samples per forward pass in each process.

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
    micro_batch = min(config.micro_batch_size or per_process, per_process)
    if per_process % micro_batch:
        raise OptionError(
            f"Each of {world_size} processes takes {per_process} samples of a step; micro_batch_size must divide "
            f"that number, and {micro_batch} does not."
        )
    return micro_batch


def _flat(rows: Sequence[Tensor]) -> pa.Array:
    """A column with the entries of each row: lists of Python's numbers would take several times the memory."""
    ends = np.cumsum([0, *(row.numel() for row in rows)])
    return pa.LargeListArray.from_arrays(pa.array(ends), pa.array(torch.cat([row.flatten() for row in rows]).numpy()))


def _is_label(column: str, distil: bool) -> bool:
    """Whether the Trainer is to hand a column on that no model is called with."""
    return column in LABELS or (distil and (column == WORD_STARTS or column.startswith(TEACHER)))


@contextmanager
def _without_dropout(model: PreTrainedModel) -> Iterator[None]:
    """Computes as in evaluation, whatever mode the Trainer sets: families keep their dropouts in too many ways."""
    hook = model.register_forward_pre_hook(lambda module, _: module.eval() and None)
    try:
        yield
    finally:
        hook.remove()


class _Start:
    """The weights before training, which training must beat."""

    def __init__(self, trainer: Trainer, model: PreTrainedModel) -> None:
        self._state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self._loss = trainer.evaluate()["eval_loss"]

    def restore_if_better(self, trainer: Trainer, model: PreTrainedModel) -> None:
        best = trainer.state.best_metric
        if best is None or self._loss <= best:
            model.load_state_dict(self._state)
            progress.note("No step of the training did better on the held-out texts than its start, which is kept.")


def _check_converged(model: PreTrainedModel) -> None:
    """Checks that training left numbers.

    Raises:
        ModelError: If it diverged.
    """
    try:
        check_finite(model)
    except ModelError as error:
        raise ModelError(
            "The training diverged, and its weights are not finite (NaN or infinity); start it anew with a lower "
            "learning rate."
        ) from error


def _compared(model: PreTrainedModel) -> list[int]:
    """Hidden states a pruned model shares with its teacher: the embeddings' and each layer's outputs.

    Where the attention that reads them was dropped, its constant output is part of them; these are left out.
    """
    plan = get_plan(model)
    if plan is None:
        return list(range(1, int(model.config.num_hidden_layers) + 1))
    following = [layer.is_dropped("attention") for layer in plan.layers[1:]] + [False]
    return [index + 1 for index, shifted in enumerate(following) if not shifted]


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
