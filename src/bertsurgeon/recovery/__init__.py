"""Recovery: fine-tuning of a pruned model, with the dense model as an optional teacher."""

from bertsurgeon.recovery.config import TrainingConfig
from bertsurgeon.recovery.distillation import (
    DistillationTrainer,
    distillation_loss,
    distilled_loss,
    hidden_state_loss,
    outputs_loss,
    pruning_loss,
)
from bertsurgeon.recovery.masking import MaskCallback
from bertsurgeon.recovery.quantizing import QuantizationAwareTraining
from bertsurgeon.recovery.recover import recover
from bertsurgeon.recovery.training import train

__all__ = [
    "DistillationTrainer",
    "MaskCallback",
    "QuantizationAwareTraining",
    "TrainingConfig",
    "distillation_loss",
    "distilled_loss",
    "hidden_state_loss",
    "outputs_loss",
    "pruning_loss",
    "recover",
    "train",
]
