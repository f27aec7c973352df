"""Recovery: ordinary fine-tuning of a pruned model, with the dense model as an optional teacher."""

from bertsurgeon.recovery.distillation import DistillationTrainer, distillation_loss, hidden_state_loss
from bertsurgeon.recovery.training import TrainingOptions, train

__all__ = ["DistillationTrainer", "TrainingOptions", "distillation_loss", "hidden_state_loss", "train"]
