"""Recovery: ordinary fine-tuning of a pruned model, with the dense model as an optional teacher."""

from bertsurgeon.recovery.distillation import DistillationTrainer, distillation_loss, distilled_loss, hidden_state_loss
from bertsurgeon.recovery.masking import MaskCallback
from bertsurgeon.recovery.training import TrainingOptions, train

__all__ = [
    "DistillationTrainer",
    "MaskCallback",
    "TrainingOptions",
    "distillation_loss",
    "distilled_loss",
    "hidden_state_loss",
    "train",
]
