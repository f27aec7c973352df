"""Trainer callbacks: masks that keep zeros, the order of the data, and the progress bar."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from bertsurgeon import progress
from bertsurgeon.layers.masks import Masks, enforce_masks, masks_of
from bertsurgeon.tasks import TokenMasking


class MaskCallback(TrainerCallback):
    """Sets pruned weights to zero after every optimizer step.

    Args:
        model: The model that is trained; weights that are zero now remain zero.

    Attributes:
        masks: True for the remaining weights; a callback that prunes during training replaces them.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.masks: Masks = masks_of(model)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Applies the masks; the Trainer calls it right after the optimizer."""
        enforce_masks(self.model, self.masks)


class DataOrderCallback(TrainerCallback):
    """Draws the order of each epoch, and its masked tokens, from the seed and the epoch alone.

    The Trainer draws the order from the global random state, which it restores only after it has drawn the order of the
    epoch that it resumes: a resumed run would train on some samples of that epoch twice and on others never.

    Args:
        mlm_collator: Masks tokens; None if the training is no masked language modeling.
    """

    def __init__(self, mlm_collator: TokenMasking | None) -> None:
        self.mlm_collator = mlm_collator

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seeds the sampler and the collator for the epoch."""
        loader = kwargs["train_dataloader"]
        epoch = state.global_step // -(-len(loader) // args.gradient_accumulation_steps)
        batches = loader.batch_sampler
        sampler = getattr(
            batches, "batch_sampler", batches
        ).sampler  # accelerate wraps it if there are several processes
        sampler.generator = torch.Generator().manual_seed(args.seed + epoch)
        # lengths are grouped by whole steps, so the order does not depend on the number of processes
        sampler.batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        if self.mlm_collator is not None:
            self.mlm_collator.epoch = epoch


class ProgressCallback(TrainerCallback):
    """Shows the steps in the library's progress bar instead of the Trainer's.

    Args:
        description: Label of the bar.
    """

    def __init__(self, description: str) -> None:
        self.description = description
        self.last_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Opens the bar."""
        self._bar = progress.bar(self.description, state.max_steps)
        self._advance = self._bar.__enter__()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advances the bar, after a resumed run by several steps at once."""
        self._advance(state.global_step - self.last_step)
        self.last_step = state.global_step

    def close(self) -> None:
        """Closes the bar; the Trainer calls no callback after an interrupt."""
        if hasattr(self, "_bar"):
            self._bar.__exit__(None, None, None)


@contextmanager
def dropout_disabled(model: PreTrainedModel) -> Iterator[None]:
    """Runs every forward pass in evaluation mode, whichever mode the Trainer sets.

    Architectures store their dropout probabilities in too many ways to set all of them to 0.
    """
    hook = model.register_forward_pre_hook(lambda module, _: module.eval() and None)
    try:
        yield
    finally:
        hook.remove()
