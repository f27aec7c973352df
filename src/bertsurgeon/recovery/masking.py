"""Keeps what was pruned at zero while a model is trained."""

from typing import Any

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from bertsurgeon.layers.masks import Masks, enforce_masks, masks_of


class MaskCallback(TrainerCallback):
    """Sets pruned weights to zero after every optimizer step.

    Args:
        model: The model that is trained; what is zero in it now stays zero.

    Attributes:
        masks: What is left; a callback that prunes while training replaces them.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.masks: Masks = masks_of(model)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the Trainer right after the optimizer."""
        enforce_masks(self.model, self.masks)
