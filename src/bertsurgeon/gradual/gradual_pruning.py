"""Gradual pruning: steps of the Optimal BERT Surgeon (Kurtic et al., 2022, arXiv 2203.07259) during training.

The recipe and the step alone decide when and how much is pruned: a run that was killed and resumed prunes at the same
steps, with gradients of the same texts.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from bertsurgeon import distributed, progress
from bertsurgeon.architectures import unfuse_in_place
from bertsurgeon.calibration import make_batches
from bertsurgeon.checkpoint import attach_sparse, check_masked_lm, is_sparse
from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.files import read_json
from bertsurgeon.gradual.recipes import Distillation, Recipe
from bertsurgeon.layers.masks import Masks, masks_of, sparsity_of, unit_mask
from bertsurgeon.methods.obert.patterns import Pattern
from bertsurgeon.methods.obert.step import StepConfig, prune_step
from bertsurgeon.options import check_config
from bertsurgeon.prediction import forked_rng, gradients_enabled
from bertsurgeon.recovery import (
    MaskCallback,
    QuantizationAwareTraining,
    TrainingConfig,
    check_quantizable,
    pruning_loss,
    total_steps,
    train,
)
from bertsurgeon.tasks import Data, TokenMasking, as_dataset, check_same_head, mask_tokens

CALIBRATION_BATCH_SIZE = 32
"""Texts per batch in which gradients are computed."""


class QuantizationSteps(NamedTuple):
    """Steps of quantization-aware training.

    Attributes:
        start: First step with rounding.
        freeze: First step at which the ranges of the inputs no longer follow the data.
    """

    start: int
    freeze: int


class GradualPruning(MaskCallback):
    """Prunes at given steps, and sets pruned weights to zero after every optimizer step.

    Pruning precedes the training step, so a checkpoint holds the model before the pruning of its step, and a resumed
    run repeats that pruning with the same result.

    Args:
        model: The model that is trained; weights that are zero now remain zero.
        data: Tokenized samples from which those for the gradients are drawn.
        tokenizer: Pads the batches.
        targets: Sparsity of the encoder by the step from which it holds.
        options: How each step prunes.
        gradients: Number of gradients of each pruning.
        seed: Fixes, together with the step, which samples are drawn.
        teacher: The model to distill from, which determines the loss (:func:`bertsurgeon.recovery.pruning_loss`); it is
            moved to the device of ``model``. None for the task loss.
        distillation: Weight and temperature of the teacher.
        mlm_collator: Masks tokens for masked language modeling; None for labels.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        data: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        targets: Mapping[int, float],
        options: StepConfig,
        gradients: int,
        *,
        seed: int = 0,
        teacher: PreTrainedModel | None = None,
        distillation: Distillation | None = None,
        mlm_collator: TokenMasking | None = None,
    ) -> None:
        super().__init__(model)
        self.data = data
        self.tokenizer = tokenizer
        self.targets = targets
        self.options = options
        self.gradients = gradients
        self.seed = seed
        self.teacher = teacher
        self.distillation = distillation or Distillation()
        self.mlm_collator = mlm_collator

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Takes the masks from the weights: those of the checkpoint if the run is resumed.

        Raises:
            OptionError: If the training ends before the last pruning.
        """
        if (last := max(self.targets, default=0)) >= state.max_steps:
            raise OptionError(
                f"The last pruning is at step {last}, but the training ends after {state.max_steps} steps; train for "
                "more epochs, and with one device per process."
            )
        self.masks = masks_of(self.model)
        if self.teacher is not None:
            self.teacher.to(self.model.device)  # type: ignore[arg-type]  # transformers wraps Module.to

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prunes if the step has a target that exceeds the current sparsity."""
        target = self.targets.get(state.global_step)
        if target is None or not would_prune(self.masks, target, self.options.pattern):
            return
        per_gradient = self.options.batch_size  # a batch must hold whole gradients
        batches = make_batches(
            self.data,
            self.tokenizer,
            self.gradients * per_gradient,
            max(1, CALIBRATION_BATCH_SIZE // per_gradient) * per_gradient,
            self.seed + state.global_step,
            None if self.mlm_collator is None else replace(self.mlm_collator, epoch=state.global_step),
        )
        loss = pruning_loss(
            self.model, self.teacher, self.distillation.temperature, self.distillation.distillation_weight
        )
        step = prune_step(self.model, batches, target, self.options, self.masks, loss)
        self.masks = step.masks
        progress.note(
            f"Step {state.global_step}: pruned {sparsity_of(self.masks):.2%} of the encoder, using {step.gradients} "
            "gradients."
        )


def would_prune(masks: Masks, sparsity: float, pattern: Pattern) -> bool:
    """Returns True if pruning to ``sparsity`` removes at least one unit, or with N:M one weight of each group of M.

    Close sparsities of a schedule may round to the same number of units.
    """
    if pattern.group:
        return pattern.quota(sparsity) > pattern.quota(sparsity_of(masks))
    remaining = [unit_mask(mask, pattern.width) for mask in masks.values()]
    units = sum(mask.numel() for mask in remaining)
    return round(sparsity * units) > units - sum(int(mask.sum()) for mask in remaining)


def pruning_targets(recipe: Recipe, steps_per_epoch: int) -> dict[int, float]:
    """Returns the sparsity of the encoder by the step from which it holds; the last one is exact.

    If a recipe is so short that several prunings fall on the same step, the last of them applies.
    """
    if recipe.pruning is None:
        return {}
    last = total_steps(recipe.epochs, steps_per_epoch) - 1
    return {
        min(round(epoch * steps_per_epoch), last): recipe.pruning.sparsity_at(epoch) for epoch in recipe.pruning.epochs
    }


def rate_schedule(recipe: Recipe, steps_per_epoch: int) -> Callable[[int], float]:
    """Returns the learning rate as a function of the step, relative to its start: linear between two rewinds."""
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


def quantization_steps(recipe: Recipe, steps_per_epoch: int) -> QuantizationSteps:
    """Returns the steps of a recipe's quantization; at least one step observes ranges, however short the recipe is."""
    assert recipe.quantization is not None
    total = total_steps(recipe.epochs, steps_per_epoch)
    freeze = recipe.quantization.freeze
    start = min(round(recipe.quantization.start * steps_per_epoch), total - 1)
    return QuantizationSteps(start, total if freeze is None else max(start + 1, round(freeze * steps_per_epoch)))


@gradients_enabled()
@forked_rng()
def train_gradually(
    model: PreTrainedModel,
    recipe: Recipe,
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    *,
    teacher: PreTrainedModel | None = None,
    work_dir: str | Path | None = None,
    resume: bool = False,
    memory_gb: float = 4.0,
    bf16: bool = False,
    seed: int = 0,
    description: str = "Training",
) -> None:
    """Trains and prunes a model in place by a recipe, and marks it as sparse, so that zeros take no space in its file.

    Pruning uses gradients of the loss that is trained: with a teacher the distillation loss, unless the model still
    equals the teacher (:func:`bertsurgeon.recovery.pruning_loss`).

    Args:
        model: A dense model, or a sparse one, whose zeros are kept. Matrices that another method reduced are pruned
            further.
        recipe: What is trained, pruned and quantized, and when.
        data: Texts, a dataset, or batches; labels are optional if only the teacher counts, or for masked language
            modeling.
        tokenizer: Tokenizes texts and pads the batches.
        teacher: The dense model to distill from, or None.
        work_dir: Folder for the Trainer's checkpoints; None for a temporary one.
        resume: Continue from the last checkpoint in ``work_dir``; ``model`` must be the one the run began with.
        memory_gb: Memory for inverse Fisher blocks, in 10⁹ bytes; if it is too small, the data is read several times.
        bf16: See :class:`bertsurgeon.TrainingConfig`.
        seed: Fixes every random choice.
        description: Label of the progress bar.

    Raises:
        OptionError: If the model is already as sparse as the recipe demands, an option does not fit, or the resumed run
            was started with another recipe.
        ModelError: If a recipe without pruning is given a dense model, or the heads of model and teacher differ.
    """
    work_dir = None if work_dir is None else Path(work_dir)
    check_config(recipe, Recipe, "train_gradually")
    if teacher is not None:
        check_same_head(model, teacher)
    if not 0 < memory_gb < float("inf"):
        raise OptionError(f"The memory for Fisher blocks must be greater than 0, not {memory_gb:g}.")
    if resume and work_dir is None:
        raise OptionError("Resuming needs the folder of the checkpoints; name it as work_dir.")
    data = as_dataset(data, tokenizer, model)
    unfuse_in_place(model)
    steps_per_epoch = -(-len(data) // recipe.batch_size)
    distillation = recipe.distillation
    mlm_collator: TokenMasking | None = None
    if recipe.masked_lm is not None:
        check_masked_lm(model)
        mlm_collator = mask_tokens(tokenizer, recipe.masked_lm.probability, seed)
        data = data.select_columns([name for name in data.column_names if name in tokenizer.model_input_names])
    if recipe.quantization is not None:
        check_quantizable(model)
    masking = MaskCallback(model)
    if (pruning := recipe.pruning) is None:
        if not is_sparse(model) and recipe.quantization is None:
            raise ModelError("The recipe keeps the zeros of a sparse model, but this model is dense; prune it first.")
    else:
        options = pruning.step_config(int(memory_gb * 1e9), seed)
        for mask in masking.masks.values():
            options.pattern.check(mask.shape[1], options.block_size)
        if not would_prune(masking.masks, pruning.sparsity, options.pattern):
            raise OptionError(
                f"The model is {sparsity_of(masking.masks):.2%} sparse already; the recipe's sparsity must be greater, "
                f"not {pruning.sparsity:.2%}."
            )
        masking = GradualPruning(
            model,
            data,
            tokenizer,
            pruning_targets(recipe, steps_per_epoch),
            options,
            pruning.gradients,
            seed=seed,
            teacher=teacher,
            distillation=distillation,
            mlm_collator=mlm_collator,
        )
        attach_sparse(model, options.pattern.width)
    if work_dir is not None:
        settings = {**asdict(recipe), "seed": seed}
        distributed.run_on_main(lambda: _check_resumed(work_dir, settings, resume))
    config = TrainingConfig(
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        micro_batch_size=recipe.micro_batch_size,
        learning_rate=recipe.learning_rate.start,
        warmup=0.0,
        weight_decay=recipe.weight_decay,
        distillation_weight=distillation.distillation_weight,
        temperature=distillation.temperature,
        bf16=bf16,
        dropout=True,
        seed=seed,
    )
    quantizer: QuantizationAwareTraining | None = None
    if recipe.quantization is not None:
        quantizer = QuantizationAwareTraining(model, *quantization_steps(recipe, steps_per_epoch))
    callbacks: list[TrainerCallback] = [masking] if quantizer is None else [masking, quantizer]
    with quantizer or nullcontext():
        train(
            model,
            config,
            data,
            tokenizer,
            teacher=teacher,
            work_dir=work_dir,
            resume=resume,
            callbacks=callbacks,
            schedule=rate_schedule(recipe, steps_per_epoch),
            mlm_collator=mlm_collator,
            description=description,
        )
        if quantizer is not None:
            quantizer.finish()


def _check_resumed(work_dir: Path, settings: dict[str, Any], resume: bool) -> None:
    """Stores the settings of a run beside its checkpoints, and compares them if it is resumed.

    With other settings, a resumed run would continue with another schedule without an error.

    Raises:
        OptionError: If the resumed run was started with other settings.
    """
    path = work_dir / "recipe.json"
    settings = json.loads(json.dumps(settings))
    if resume and path.is_file():
        try:
            stored = read_json(path)
        except (OSError, ValueError) as error:
            raise OptionError(f"{path} is damaged ({error}); run without --resume to start anew.") from error
        if stored != settings:
            raise OptionError(
                f"The run in {work_dir} was started with another recipe or seed; resume it with the same ones."
            )
        return
    work_dir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
