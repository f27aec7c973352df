"""Gradual pruning: the Optimal BERT Surgeon step by step while a model is trained.

Kurtic et al., 2022, arXiv 2203.07259. When and how much is the recipe's and the step's alone: a run that was killed and
resumed prunes at the same steps, by the gradients of the same texts.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from bertsurgeon import distributed, progress
from bertsurgeon.architectures import unfuse_in_place
from bertsurgeon.calibration import make_batches
from bertsurgeon.checkpoint import attach_sparse, check_masked_lm, is_sparse
from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.gradual.recipes import Recipe
from bertsurgeon.layers.masks import Masks, masks_of, sparsity_of, unit_mask
from bertsurgeon.methods.obert.patterns import Pattern
from bertsurgeon.methods.obert.step import StepOptions, prune_step
from bertsurgeon.recovery.config import TrainingConfig, total_steps
from bertsurgeon.recovery.distillation import pruning_loss
from bertsurgeon.recovery.masking import MaskCallback
from bertsurgeon.recovery.quantizing import QuantizationAwareTraining, check_quantizable
from bertsurgeon.recovery.training import train
from bertsurgeon.tasks import TokenMasking, check_same_head, mask_tokens

TEXTS_AT_ONCE = 32
"""Calibration texts in a batch."""


class GradualPruning(MaskCallback):
    """Prunes at given steps, and sets what is pruned to zero after every optimizer step.

    A step is pruned before it is trained, so a checkpoint holds the model as it was before the pruning at its step, and
    whoever resumes from it prunes once more, the same.

    Args:
        model: The model that is trained; what is zero in it stays zero.
        dataset: Tokenized samples, which the gradients are drawn from.
        tokenizer: Pads the batches.
        targets: The share of the encoder's weights that is zero from a step on, by step.
        options: How each step prunes.
        gradients: Of each pruning.
        seed: Fixes, together with the step, which samples are drawn.
        teacher: The model to distil from, whose loss the gradients are of (:func:`pruning_loss`); it goes where the
            trained one is.
        temperature: Of the distillation.
        distillation_weight: The teacher's share of the loss.
        guessing: For masked language modelling: hides tokens of the samples.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        dataset: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        targets: Mapping[int, float],
        options: StepOptions,
        gradients: int,
        seed: int = 0,
        teacher: PreTrainedModel | None = None,
        temperature: float = 2.0,
        distillation_weight: float = 1.0,
        guessing: TokenMasking | None = None,
    ) -> None:
        super().__init__(model)
        self.dataset = dataset
        self.tokenizer = tokenizer
        self.targets = targets
        self.options = options
        self.gradients = gradients
        self.seed = seed
        self.teacher = teacher
        self.temperature = temperature
        self.distillation_weight = distillation_weight
        self.guessing = guessing

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Takes the masks from the weights, which now are those of the checkpoint, if there is one, and in place.

        Raises:
            OptionError: If the training ends before the last pruning.
        """
        if (last := max(self.targets, default=0)) >= state.max_steps:
            raise OptionError(
                f"The last pruning comes at step {last}, but the training ends after {state.max_steps} steps; train "
                "longer, and with one device for each process."
            )
        self.masks = masks_of(self.model)
        if self.teacher is not None:
            self.teacher.to(self.model.device)  # type: ignore[arg-type]  # transformers wraps Module.to

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prunes, if it is time."""
        target = self.targets.get(state.global_step)
        if target is None or not would_prune(self.masks, target, self.options.pattern):
            return
        joined = self.options.batch_size  # a batch holds whole gradients
        batches = make_batches(
            self.dataset,
            self.tokenizer,
            self.gradients * joined,
            max(1, TEXTS_AT_ONCE // joined) * joined,
            self.seed + state.global_step,
            None if self.guessing is None else replace(self.guessing, epoch=state.global_step),
        )
        loss = pruning_loss(self.model, self.teacher, self.temperature, self.distillation_weight)
        step = prune_step(self.model, batches, target, self.options, self.masks, loss)
        self.masks = step.masks
        share = f"{sparsity_of(self.masks):.2%}"
        progress.note(f"Step {state.global_step}: {share} of the encoder is pruned, by {step.gradients} gradients.")


def would_prune(masks: Masks, sparsity: float, pattern: Pattern) -> bool:
    """Whether a unit, or with N:M one of M, is still to go before ``sparsity`` is reached.

    Rounded to units, neighbouring shares of a schedule may be the same.
    """
    if pattern.group:
        return pattern.quota(sparsity) > pattern.quota(sparsity_of(masks))
    kept = [unit_mask(mask, pattern.width) for mask in masks.values()]
    units = sum(mask.numel() for mask in kept)
    return round(sparsity * units) > units - sum(int(mask.sum()) for mask in kept)


def pruning_targets(recipe: Recipe, steps_per_epoch: int) -> dict[int, float]:
    """The share that is zero from a step on, by step; the last one exact.

    Where a recipe is so short that times fall on the same step, the last of them counts.
    """
    if recipe.pruning is None:
        return {}
    last = total_steps(recipe.epochs, steps_per_epoch) - 1
    return {
        min(round(epoch * steps_per_epoch), last): recipe.pruning.sparsity_at(epoch) for epoch in recipe.pruning.epochs
    }


def rate_schedule(recipe: Recipe, steps_per_epoch: int) -> Callable[[int], float]:
    """The learning rate by step, as a factor of its start: it falls linearly between rewinds."""
    rate, total = recipe.learning_rate, total_steps(recipe.epochs, steps_per_epoch)
    if rate.rewinds == "none":
        rewinds = []
    elif rate.rewinds == "pruning":
        rewinds = list(pruning_targets(recipe, steps_per_epoch))
    elif isinstance(rate.rewinds, tuple):
        rewinds = [round(epoch * steps_per_epoch) for epoch in rate.rewinds]
    else:
        count = math.ceil(recipe.epochs / rate.rewinds)
        rewinds = [round(number * rate.rewinds * steps_per_epoch) for number in range(1, count)]
    starts = sorted({0, *(step for step in rewinds if step < total)})
    ends = [*starts[1:], total]

    def factor(step: int) -> float:
        cycle = bisect_right(starts, step) - 1
        x = (step - starts[cycle]) / (ends[cycle] - starts[cycle])
        return 1 + (rate.end / rate.start - 1) * x

    return factor


def train_gradually(
    model: PreTrainedModel,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    work_dir: Path,
    *,
    teacher: PreTrainedModel | None = None,
    resume: bool = False,
    memory_gb: float = 4.0,
    bf16: bool = False,
    seed: int = 0,
    description: str = "Training",
) -> None:
    """Trains and prunes ``model`` in place, as a recipe says; it is marked as sparse, so that its file is small.

    Gradients for the pruning are those of what training minimises: with a teacher of the distillation loss, unless the
    model still is the teacher (:func:`bertsurgeon.recovery.distillation.pruning_loss`).

    Args:
        model: Dense, or sparse: then its zeros stay. What another method left of its matrices is pruned like them.
        dataset: Tokenized samples with labels; without, if the teacher alone is heard, or hidden tokens guessed.
        tokenizer: Pads the batches.
        recipe: What to do when.
        work_dir: Where the Trainer keeps its checkpoints.
        teacher: The dense model to distil from, or None.
        resume: Go on from the last checkpoint in ``work_dir``; ``model`` must be what the killed run began with.
        memory_gb: For inverse Fisher blocks, in 10⁹ bytes; if too little, the data is gone over several times.
        bf16: See :class:`TrainingConfig`.
        seed: Fixes every random choice.
        description: Shown beside the progress bar.

    Raises:
        OptionError: If the model is as sparse already as the recipe shall make it, an option does not fit, or the run
            that is resumed was begun by another recipe.
        ModelError: If there are neither zeros nor a pruning to keep, or the teacher predicts something else.
    """
    if teacher is not None:
        check_same_head(model, teacher)
    if not 0 < memory_gb < float("inf"):
        raise OptionError(f"The memory for Fisher blocks must be greater than 0, not {memory_gb:g}.")
    unfuse_in_place(model)
    steps_per_epoch = -(-len(dataset) // recipe.batch_size)
    heard = recipe.distillation
    guessing: TokenMasking | None = None
    if recipe.masked_lm is not None:
        check_masked_lm(model)
        guessing = mask_tokens(tokenizer, recipe.masked_lm.probability, seed)
        dataset = dataset.select_columns([n for n in dataset.column_names if n in tokenizer.model_input_names])
    if recipe.quantization is not None:
        check_quantizable(model)
    masking = MaskCallback(model)
    if (pruning := recipe.pruning) is None:
        if not is_sparse(model) and recipe.quantization is None:
            raise ModelError("The recipe keeps the zeros of a sparse model, and this one is dense; prune it first.")
    else:
        options = pruning.step_options(int(memory_gb * 1e9), seed)
        for mask in masking.masks.values():
            options.pattern.check(mask.shape[1], options.block_size)
        if not would_prune(masking.masks, pruning.sparsity, options.pattern):
            raise OptionError(
                f"The model is {sparsity_of(masking.masks):.2%} sparse already; the recipe's sparsity must be greater, "
                f"not {pruning.sparsity:.2%}."
            )
        targets = pruning_targets(recipe, steps_per_epoch)
        masking = GradualPruning(
            model,
            dataset,
            tokenizer,
            targets,
            options,
            pruning.gradients,
            seed,
            teacher,
            heard.temperature,
            heard.distillation_weight,
            guessing,
        )
        attach_sparse(model, options.pattern.width)
    distributed.run_on_main(lambda: _check_resumed(work_dir, {**asdict(recipe), "seed": seed}, resume))
    quantizing: QuantizationAwareTraining | None = None
    if recipe.quantization is not None:
        quantizing = QuantizationAwareTraining(model, *quantization_steps(recipe, steps_per_epoch))
    training = TrainingConfig(
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        micro_batch_size=recipe.micro_batch_size,
        learning_rate=recipe.learning_rate.start,
        warmup=0.0,
        weight_decay=recipe.weight_decay,
        distillation_weight=heard.distillation_weight,
        temperature=heard.temperature,
        bf16=bf16,
        dropout=True,
        seed=seed,
    )
    train(
        model,
        dataset,
        tokenizer,
        training,
        work_dir,
        teacher=teacher,
        resume=resume,
        description=description,
        masking=masking,
        schedule=rate_schedule(recipe, steps_per_epoch),
        guessing=guessing,
        quantizing=quantizing,
    )


def quantization_steps(recipe: Recipe, steps_per_epoch: int) -> tuple[int, int]:
    """The steps from which on a model is rounded, and the ranges of its inputs stay.

    At least one step finds ranges, however short the recipe is.
    """
    assert recipe.quantization is not None
    total = total_steps(recipe.epochs, steps_per_epoch)
    start, freeze = recipe.quantization.start, recipe.quantization.freeze
    begin = min(round(start * steps_per_epoch), total - 1)
    return begin, total if freeze is None else max(begin + 1, round(freeze * steps_per_epoch))


def _check_resumed(work_dir: Path, settings: dict[str, Any], resume: bool) -> None:
    """Keeps what a run was begun with beside its checkpoints: by other steps it would go on wrong, and nobody notice.

    Raises:
        OptionError: If a run that is resumed was begun with something else.
    """
    file = work_dir / "recipe.json"
    settings = json.loads(json.dumps(settings))
    if resume and file.is_file():
        if json.loads(file.read_text(encoding="utf-8")) != settings:
            raise OptionError(f"The run in {work_dir} was begun with another recipe or seed; resume it with the same.")
        return
    work_dir.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
